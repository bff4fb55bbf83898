"""How fast a fleet of Fly machines does a batch, and what it costs in machines, with a stand-in of Fly's API.

    python -m bench.fleet [--tasks 1000] [--only shared,pool] [--svg fleet.svg]

Each row starts the service anew, and the stand-in in a process of its own: documented rate limits, image pull 3 s on
each of eight hosts, boot 0.5 s, tasks of 2 s of which the processor takes one, shared processors that are slowed down
16-fold once their allowance is used up. The machines are simulated: they sleep, count processor time, and talk to the
service over HTTP as the worker does. The time is from POST /batches to the status DONE. Curves: machines alive, tasks
done.
"""

import argparse
import contextlib
import json
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench.curves import Curve, drawn
from bench.service import Broken, Service, cpu_seconds, scratch, table, wait_for
from tests.stand_ins.fly import launched

TOKEN: Final = "bench-token"
WITHIN_S: Final = 1800.0
FILL_APPS: Final = 25
"""A pool is filled before the time begins, through so many apps: through one it would take a second a machine."""
ONE_EACH: Final = 40
"""Tasks of the row for comparison: what its thousand would take follows from the rate."""


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """One row: what is set, and what is asked of it. `of_a_thousand`: only so many tasks are run."""

    name: str
    title: str
    asked_s: float | None
    asked: str
    environment: Mapping[str, str] = field(default_factory=dict)
    stand_in: Sequence[str] = ()
    apps: int = 1
    pool: int = 0
    of_a_thousand: int | None = None


PERFORMANCE: Final = {"WORKER_CPU_KIND": "performance", "WORKER_MEMORY_MB": "4096"}
FLEETS: Final = (
    Fleet(name="each", title="a machine per task", asked_s=None, asked="1,000 s, 1,000 machines, for comparison",
          environment={"WORKER_CONTRACT": "original"}, of_a_thousand=ONE_EACH),
    Fleet(name="shared", title="shared-cpu-2x, reuse", asked_s=115, asked="≤ 115 s, ≤ 115 machines"),
    Fleet(name="performance", title="performance, 2 cpus, reuse", asked_s=58, asked="≤ 58 s, ≤ 58 machines",
          environment=PERFORMANCE),
    Fleet(name="apps", title="three apps, shared", asked_s=48, asked="≤ 48 s, ≤ 125 machines", apps=3),
    Fleet(name="pool", title="pool of 500, shared", asked_s=8, asked="≤ 8 s, 500 started, ≤ 20 created", pool=500,
          apps=FILL_APPS),
    Fleet(name="unlimited", title="no limits, tasks of 1 s", asked_s=5, asked="≤ 5 s",
          environment={"FLY_CREATIONS_PER_S": "10000"},
          stand_in=("--no-limits", "--work", "1", "--cpu", "0.01", "--pull", "0")),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a row took. `log` is the stand-in's journal since the POST, `at` in seconds since then."""

    fleet: Fleet
    seconds: float
    tasks: int
    created: int
    started: int
    machine_s: float
    throttled_s: float
    cpu_s: float
    log: list[dict[str, Any]]

    def cells(self) -> list[str]:
        """A line of the table."""
        of = self.fleet.of_a_thousand
        seconds, machines = self.seconds, self.created
        note = ""
        if of is not None:  # one creation a second after the first three, then the last one boots and works
            seconds, machines = self.seconds + 1000 - self.tasks, 1000 * self.created // self.tasks
            note = f" (from {self.tasks} in {self.seconds:.0f} s)"
        missed = self.fleet.asked_s is not None and self.seconds > self.fleet.asked_s
        return [
            self.fleet.title, f"{seconds:.1f} s{note}" + (" MISSED" if missed else ""), f"{machines:,}",
            f"{self.started:,}", self.fleet.asked, f"{self.machine_s:,.0f} s", f"{self.throttled_s:.1f} s",
            f"{self.cpu_s:.1f} s",
        ]  # fmt: skip

    def curves(self) -> tuple[Curve, Curve]:
        """Machines alive and tasks done, over seconds since the POST."""
        begun, ended = ("start",), ("exit", "destroy", "vanish")
        alive: set[str] = set()
        machines, tasks = [(0.0, 0)], [(0.0, 0)]
        for entry in self.log:
            if entry["what"] in begun:
                alive.add(entry["machine"])
            elif entry["what"] in ended:
                alive.discard(entry["machine"])
            elif entry["what"] == "callback" and entry.get("status") == 200:
                tasks.append((entry["at"], tasks[-1][1] + 1))
                continue
            else:
                continue
            machines.append((entry["at"], len(alive)))
        return Curve("machines", machines), Curve("tasks", tasks)


HEAD: Final = ["fleet", "time", "created", "started", "asked", "machine time", "throttled", "service's processor time"]


class StandIn:
    """The stand-in's own pages."""

    def __init__(self, url: str) -> None:
        self._base = url.removesuffix("/v1")

    def log(self) -> list[dict[str, Any]]:
        """All that happened."""
        return [json.loads(line) for line in self._get("/_log").splitlines()]

    def counters(self) -> dict[str, Any]:
        """Sums over all machines."""
        return dict(json.loads(self._get("/_counters")))

    def _get(self, path: str) -> str:
        asked = urllib.request.Request(self._base + path, headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return str(answer.read().decode())


@contextlib.contextmanager
def running(fleet: Fleet) -> Iterator[tuple[Service, StandIn]]:
    """The service of a row, with its stand-in; a pool is full."""
    apps = [f"app-{n}" for n in range(fleet.apps)]
    options = [word for app in apps for word in ("--app", app)]
    with scratch() as folder, launched((*options, "--token", TOKEN, "--quiet", *fleet.stand_in)) as url:
        environment = {
            "MACHINE_PROVIDER": "fly", "FLY_API_URL": url, "FLY_API_TOKEN": TOKEN, "FLY_APP_NAMES": ",".join(apps),
            "FLY_WORKER_IMAGE": "registry.fly.io/worker:1", "MAX_MACHINES": "1000", "MACHINE_POOL": str(fleet.pool),
            **fleet.environment,
        }  # fmt: skip
        with Service(folder, environment) as service:
            if fleet.pool:
                wait_for("the pool is full", lambda: _ready(service) >= fleet.pool, WITHIN_S)
            yield service, StandIn(url)


def _ready(service: Service) -> int:
    status, pools = service.call("GET", "/admin/machines/pool")
    if status != 200:
        raise Broken(f"GET /admin/machines/pool: {status} {pools}")
    return sum(pool["ready"] for pool in pools["pools"].values())


def warm(service: Service, stand_in: StandIn) -> None:
    """A batch of one task before the time begins: a service that has just started loads much with its first one."""
    service.create("warm", 1)
    wait_for("the first batch is done", lambda: service.state("warm")["status"] == "DONE", WITHIN_S)
    wait_for("its machine has ended", lambda: not stand_in.counters()["states"].get("started"), WITHIN_S)


def measure(fleet: Fleet, tasks: int) -> Measured:
    """One row."""
    with running(fleet) as (service, stand_in):
        warm(service, stand_in)
        before, known = stand_in.counters(), len(stand_in.log())
        processes = [process for some in service.processes().values() for process in some]
        cpu_before_s, begun = cpu_seconds(processes), time.monotonic()
        service.create("fleet", tasks)
        wait_for("the batch is done", lambda: service.state("fleet")["status"] == "DONE", WITHIN_S)
        seconds = time.monotonic() - begun
        processes = [process for some in service.processes().values() for process in some]
        cpu_s = cpu_seconds(processes) - cpu_before_s
        state, after, log = service.state("fleet"), stand_in.counters(), stand_in.log()[known:]
        if state["progress"]["tasks_completed"] != tasks:
            raise Broken(f"not all tasks are done: {state}")
    first_s = log[0]["at"] if log else 0.0
    return Measured(
        fleet=fleet, seconds=seconds, tasks=tasks, cpu_s=cpu_s,
        created=after.get("create", 0) - before.get("create", 0),
        started=after.get("start", 0) - before.get("start", 0),
        machine_s=after["machine_seconds"] - before["machine_seconds"],
        throttled_s=(after["throttled_ms"] - before["throttled_ms"]) / 1000,
        log=[entry | {"at": entry["at"] - first_s} for entry in log],
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, draw the picture."""
    parser = argparse.ArgumentParser("python -m bench.fleet", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--tasks", type=int, default=1000, help="of the batch; default %(default)s")
    names = ",".join(fleet.name for fleet in FLEETS)
    parser.add_argument("--only", default=names, help="rows, separated by commas; default %(default)s")
    parser.add_argument("--svg", type=Path, default=Path("fleet.svg"), help="the picture; default %(default)s")
    options = parser.parse_args(arguments)
    wanted = options.only.split(",")
    if unknown := set(wanted) - {fleet.name for fleet in FLEETS}:
        parser.error(f"no row is called {', '.join(sorted(unknown))}; there are {names}")
    rows = []
    try:
        for fleet in FLEETS:
            if fleet.name in wanted:
                rows.append(measure(fleet, min(options.tasks, fleet.of_a_thousand or options.tasks)))
                print(" | ".join(rows[-1].cells()), file=sys.stderr, flush=True)
    except Broken as error:
        print(f"bench.fleet: {error}", file=sys.stderr)
        return 1
    print(table(HEAD, [row.cells() for row in rows]))
    options.svg.write_text(drawn([(row.fleet.title, row.curves()) for row in rows]))
    print(f"\nCurves: {options.svg}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
