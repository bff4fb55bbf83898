"""How long nothing is asked of a provider that has refused."""

import random

from actors.fleet.activity import Activity
from actors.rules import fleet as rules


class Refusals:
    """By kind of work: how often in a row, and until when."""

    def __init__(self, activity: Activity, rng: random.Random) -> None:
        self._activity, self._random = activity, rng
        self._of: dict[str, tuple[int, int]] = {}  # in a row, not before

    def note(self, kind: str) -> None:
        """A machine of this kind was refused."""
        count = self._of.get(kind, (0, 0))[0] + 1
        self._of[kind] = (count, self._activity.now() + rules.backoff_ms(count, self._random.random()))

    def forget(self, kind: str) -> None:
        """One was made."""
        self._of.pop(kind, None)

    def closes(self, kind: str) -> bool:
        """Whether machines of this kind are not asked for now."""
        return self._of.get(kind, (0, 0))[1] > self._activity.now()
