"""Fault switches: each is a rate from 0 to 1, of the requests, starts or tasks that it may hit.

`no_capacity@ord` is the rate in one region. A task or start meets one fault at most: the first in the order below whose
draw says so. Draws depend on the seed and on who is hit, not on the order in which things happen.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from tests.stand_ins.fly.chance import Chance

REQUEST: Final[dict[str, str]] = {
    "rate_limited": "any request is answered 429, below the limits too",
    "server_error": "any request is answered 500, 502, 503 or 504, or 500 with the text of a rate limit",
    "no_capacity": "create and start are answered 412: insufficient resources",
    "no_memory": "create and start are answered 409: could not reserve memory",
    "quota": "create is answered 403: over the quota in this region",
    "create_times_out": "the machine is created, but the answer never comes",
    "start_times_out": "the machine is started, but the answer never comes",
}
START: Final[dict[str, str]] = {
    "never_boots": "the machine stays in `starting`",
    "never_runs": "the machine is started, but its program does nothing",
}
TASK: Final[dict[str, str]] = {
    "bad_input": "the callback is an error that no other try can cure",
    "error": "the callback is an error that another try may cure",
    "dies": "in the middle of the task the machine exits with 1, without a callback",
    "oom": "in the middle of the task the machine runs out of memory: exit code 137, oom_killed",
    "vanishes": "in the middle of the task the machine is gone, without an exit event",
    "runs_forever": "the task never ends; a worker of ours gives signs of life",
    "freezes": "the task never ends, and nothing comes from the machine any more",
    "callback_twice": "the callback is sent twice, byte for byte",
    "callback_late": "the callback is sent too late",
    "callback_garbage": "what is sent in place of the callback is no callback of this task",
}
FAULTS: Final = REQUEST | START | TASK


class Faults:
    """The rates, and the draws. Raises ValueError for an unknown name or an impossible rate."""

    def __init__(self, chance: Chance, rates: Mapping[str, float] | None = None) -> None:
        self._chance = chance
        self.rates: dict[str, float] = {}
        self.set(rates or {})

    def set(self, rates: Mapping[str, float]) -> None:
        """Change these, and leave the others as they are."""
        for name, rate in rates.items():
            if name.partition("@")[0] not in FAULTS:
                raise ValueError(f"{name!r} is no fault; there are {', '.join(FAULTS)}")
            if not 0 <= rate <= 1:
                raise ValueError(f"the rate of {name} is from 0 to 1, not {rate!r}")
        self.rates |= rates

    def hits(self, name: str, *subject: object, region: str = "") -> bool:
        """Whether this fault hits this subject."""
        rate = self.rates.get(f"{name}@{region}", self.rates.get(name, 0.0))
        return self._chance.happens(rate, name, *subject)

    def first(self, names: Iterable[str], *subject: object, region: str = "") -> str | None:
        """The fault of these, in order, that hits the subject."""
        return next((name for name in names if self.hits(name, *subject, region=region)), None)
