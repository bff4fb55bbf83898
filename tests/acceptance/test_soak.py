"""`make soak`: batches of any size, processes killed at any moment, for as long as SOAK_S says (600 s).

Every choice follows from SOAK_SEED, which a failure shows: the same seed makes the same choices again, although what
they meet depends on the machine's speed.
"""

import logging
import os
import random
import secrets
import signal
import time
from collections.abc import Callable
from typing import Final, NamedTuple

import pytest

from tests.acceptance.killing import QUIET, Victim, check_complete, create, role
from tests.acceptance.service import Hands, Service, Traffic, eventually
from tests.stand_ins.receiver import Receiver

SOAK_S: Final = float(os.environ.get("SOAK_S", "600"))
SOAK_SEED: Final = os.environ.get("SOAK_SEED") or secrets.token_hex(4)
MOST_FILES: Final = 400
HELD: Final = 16
LOUD: Final[dict[str, Victim]] = {
    "haproxy": role("haproxy"),
    "gcs_server": role("gcs_server"),
    "raylet": role("raylet"),
}
"""Requests may be refused when one of these dies, but nothing may be lost."""
EVERYTHING: Final = "everything"

log = logging.getLogger("soak")


class Round(NamedTuple):
    """What one round does: the size of its batch, who is killed, and how many tasks are completed when it is."""

    files: int
    kills: tuple[tuple[str, int], ...]

    @property
    def is_quiet(self) -> bool:
        """Whether nobody outside may notice: one kill, of a process whose place another takes at once."""
        return len(self.kills) == 1 and self.kills[0][0] in QUIET


def draw(rng: random.Random) -> Round:
    """A quiet victim most often, since the others take a start each; now and then several in one batch."""
    files = rng.randint(60, MOST_FILES)
    number = rng.choice((1, 1, 1, 2, 3))
    victims = rng.choices([*QUIET, *LOUD, EVERYTHING], [4] * len(QUIET) + [2, 1, 1] + [1], k=number)
    moments = sorted(rng.randint(0, files * 3 // 4) for _ in victims)
    return Round(files, tuple(zip(victims, moments, strict=True)))


@pytest.mark.soak
def test_random_kills(service: Service, receiver: Receiver, tiff: bytes) -> None:
    """Whoever is killed at whatever moment: every batch ends DONE, every result is counted once, told once."""
    log.setLevel(logging.INFO)
    for n in range(MOST_FILES):
        service.put(f"soak/p{n:03}.tif", tiff)
    rng = random.Random(SOAK_SEED)
    begun, number = time.monotonic(), 0
    while time.monotonic() - begun < SOAK_S:
        number += 1
        planned = draw(rng)
        log.info("SOAK_SEED=%s, round %d: %s", SOAK_SEED, number, planned)
        play(service, receiver, f"soak-{number}", planned)
        for path in (service.objects / "soak").glob("*.jpg"):
            path.unlink()
    log.info("%d rounds", number)


def play(service: Service, receiver: Receiver, name: str, planned: Round) -> None:
    """One batch with its kills."""
    keys = [f"soak/p{n:03}.tif" for n in range(planned.files)]
    create(service, name, keys)
    eventually(lambda: service.completed(name) > 0, "the batch is under way")
    done = next(task for task in service.tasks(name) if task["status"] == "completed")
    with Traffic(service, name, done).flowing() as traffic, Hands(service).working() as hands:
        for victim, moment in planned.kills:
            strike(service, name, victim, moment, hands)
        service.until_over(name)
        service.settle()
    if planned.is_quiet:
        assert traffic.not_answered() == []
        assert hands.not_answered() == []
    check_complete(service, receiver, name, keys)
    hands.check_counted(service.tasks(name))


def strike(service: Service, name: str, victim: str, moment: int, hands: Hands) -> None:
    """Kill the victim once `moment` tasks are completed, with results to be reported then, unless the batch is over."""
    eventually(lambda: service.completed(name) >= moment, f"{moment} tasks are completed")
    hands.hold(HELD)
    if service.status(name)["completed_at"] is None:
        _STRIKES.get(victim, _kill_one)(service, name, victim)
    hands.let_go()


def _kill_one(service: Service, name: str, victim: str) -> None:
    pid = (QUIET | LOUD)[victim](service, name)
    log.info("%s of %s: process %s", victim, name, pid)
    if pid is not None:  # it may have died of the kill before, or be done
        os.kill(pid, signal.SIGKILL)


def _kill_vital(service: Service, name: str, victim: str) -> None:
    eventually(lambda: (QUIET | LOUD)[victim](service, name), f"a {victim} runs")
    with service.next_line("Restarted:"):
        _kill_one(service, name, victim)


def _kill_everything(service: Service, _name: str, _victim: str) -> None:
    service.kill_everything()
    service.start()


_STRIKES: Final[dict[str, Callable[[Service, str, str], None]]] = {
    "gcs_server": _kill_vital,
    "raylet": _kill_vital,
    EVERYTHING: _kill_everything,
}
