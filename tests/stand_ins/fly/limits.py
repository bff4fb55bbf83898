"""The documented rate limits: token buckets, one for each action and identifier.

"1 request, per second, per action … with a short-term burst limit up to 3 req/s", except getting a machine, which is
5 and 10. Creations and lists count by app, everything else by machine.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

BY_APP: Final = frozenset({"create", "list", "placements"})


@dataclass(frozen=True)
class Rate:
    """So many a second, and so many at once after a rest."""

    per_s: float
    burst: int


USUAL: Final = Rate(1.0, 3)
RATES: Final = {"get": Rate(5.0, 10)}


class Limits:
    """Counts requests. Time is handed in by `clock`, in seconds."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[tuple[str, str], tuple[float, float]] = {}

    def take(self, action: str, identifier: str) -> float:
        """0 when the request is granted, else the seconds until one will be. A refused request costs nothing."""
        rate, now = RATES.get(action, USUAL), self._clock()
        tokens, since = self._buckets.get((action, identifier), (float(rate.burst), now))
        tokens = min(float(rate.burst), tokens + (now - since) * rate.per_s)
        granted = tokens >= 1 - 1e-9
        self._buckets[action, identifier] = (tokens - 1 if granted else tokens, now)
        return 0.0 if granted else (1 - tokens) / rate.per_s
