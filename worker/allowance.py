"""What a machine may use of its processors before the host slows it down. Pure.

Shared processors run at full speed until a balance is used up that they had at the start and that grows with time; then
they run at a small fraction of it. So a machine takes no task that would not be done by then.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """Processor seconds: `burst_s` to begin with, and `rate` more in each second. `burst_s` None: without bound."""

    burst_s: float | None = None
    rate: float = 0.0

    def has_room(self, *, used_s: float, age_s: float, taken: int, done: int) -> bool:
        """Whether one more task fits in, after `taken` ones of which `done` are done, at an age of `age_s` seconds.

        `used_s` is all that the machine has used so far, its start included. Those that are not done are reckoned in
        full, as what a done one took on average: which part of it is in `used_s` already is not known. What is saved up
        while they run is left out; both err towards an early end, which costs less than a slow one.
        """
        if self.burst_s is None:
            return True
        each_s = used_s / done if done else 0.0
        return used_s + (taken - done + 1) * each_s <= self.burst_s + self.rate * age_s
