"""Where everything that is not determined comes from: one seed, a stream of numbers for each purpose.

A fault happens at a point of the program with some likelihood. Which one happened is known by its name and its
number; a run can be told to leave some out, which is how a history is shortened. Since each purpose has a stream of
its own, what is left out of one changes nothing in the numbers of another.
"""

import random
from collections.abc import Callable, Collection
from typing import Final, NamedTuple


class Happened(NamedTuple):
    """The n-th draw of a fault, which hit."""

    fault: str
    n: int

    def __str__(self) -> str:
        """As the command takes it: `frame.lost:17`."""
        return f"{self.fault}:{self.n}"

    @classmethod
    def parse(cls, text: str) -> "Happened":
        """Raises ValueError where it is not `name:number`."""
        fault, _, n = text.rpartition(":")
        return cls(fault, int(n))


FAULTS: Final[dict[str, float]] = {
    # frames between processes
    "frame.lost": 0.01,  # the connection breaks, what was on its way is gone
    "frame.late": 0.01,  # by up to 20 s
    "kill.before": 0.006,  # the sender dies before its request is taken
    "kill.after": 0.006,  # the sender dies when it was carried out, before the answer
    # processes
    "process.stops": 0.006,  # and goes on later
    "process.doubled": 0.004,  # another one takes its name while it runs on
    "store.dies": 0.004,  # with the requests that it has, carried out or not
    "disk.full": 0.01,
    "disk.fails": 0.006,  # a transaction, for another reason than want of room
    "store.read_fails": 0.004,
    # HTTP
    "http.lost": 0.02,  # the request, or the answer
    "http.late": 0.02,
    "http.twice": 0.03,
    # callbacks that no honest worker sends
    "callback.forged": 0.03,
    "callback.garbage": 0.03,
    "claim.forged": 0.03,  # with the name of another machine
    "callback.again_later": 0.03,
    "callback.contradicts": 0.5,  # of those that failed: its machine says that it was done after all
    # the provider
    "spawn.refused": 0.04,  # 429: too many at once
    "spawn.full": 0.03,  # 412: no place for it
    "spawn.over_quota": 0.02,  # 403: the account may have no more
    "spawn.refused_for_good": 0.01,  # 422: not this machine, now or later
    "spawn.not_let_in": 0.003,  # 401: none at all, until somebody changes the token
    "spawn.lost": 0.03,  # asked, never made, no answer
    "spawn.made_unanswered": 0.05,
    "spawn.made_late": 0.03,  # when it was asked whether it is there, and was not
    "stop.ignored": 0.6,  # the machine goes on; few are told to stop
    "provider.away": 0.02,
    "fleet.dies_before": 0.01,  # the effect
    "fleet.dies_after": 0.01,
    # machines
    "machine.never_boots": 0.06,
    "machine.dies": 0.03,
    "machine.oom": 0.02,  # unless it has much memory
    "machine.hangs": 0.02,  # and wakes when its task is long over
    "machine.vanishes": 0.01,  # dies, and the provider forgets it
    "machine.gives_back": 0.03,
    "machine.is_slow": 0.03,
    "work.fails": 0.05,
    "work.fails_for_good": 0.03,
    "claim.forgotten": 0.02,  # the answer to a claim is lost, and the worker does not ask again
    # the receiver
    "receiver.fails": 0.05,
    "receiver.answer_lost": 0.05,
    "host.dies_before": 0.05,  # the final callback
    "host.dies_after": 0.05,
    # the object store
    "objects.fail": 0.1,  # when a file is to be removed; where there are archives, whatever is asked
    "objects.late": 0.03,
    "catalog.fail": 0.2,
}
"""The highest rate of each in a usual run. A seed draws which of them it has at all, and how often."""


class Chance:
    """The randomness of one run. With `only`, nothing happens but that; what is in `without` never does."""

    def __init__(
        self, seed: int, *, without: Collection[Happened] = (), only: Collection[Happened] | None = None,
        faults: bool = True,
    ) -> None:  # fmt: skip
        self.seed = seed
        self.happened: list[Happened] = []
        self.is_calm = not faults
        self.on_hit: Callable[[Happened], None] | None = None
        self._without = frozenset(without)
        self._only = None if only is None else frozenset(only)
        self._streams: dict[str, random.Random] = {}
        self._counts: dict[str, int] = {}
        intensity = self.stream("intensity").choice((0.5, 1.0, 2.0, 4.0))
        self._rates = {name: self._rate(name, intensity * most) for name, most in FAULTS.items()}

    def stream(self, purpose: str) -> random.Random:
        """The numbers for one purpose."""
        found = self._streams.get(purpose)
        if found is None:
            found = self._streams[purpose] = random.Random(f"{self.seed}:{purpose}")
        return found

    def _rate(self, fault: str, most: float) -> float:
        """Of this run. From the fault's own stream, so that a new fault changes nothing about the others."""
        stream = self.stream(fault)
        return most * stream.random() if stream.random() < 0.5 else 0.0

    def hits(self, fault: str) -> bool:
        """Whether the fault happens here and now."""
        rate = self._rates[fault]
        if rate == 0.0 or self.is_calm:
            return False
        n = self._counts[fault] = self._counts.get(fault, -1) + 1
        if self.stream(fault).random() >= rate:
            return False
        return self.may_happen(Happened(fault, n))

    def may_happen(self, event: Happened) -> bool:
        """Whether a fault that hit, or an event of the plan (what operators do), is not left out. Then it happens."""
        if event in self._without or (self._only is not None and event not in self._only):
            return False
        self.happened.append(event)
        if self.on_hit is not None:
            self.on_hit(event)
        return True
