"""Fly's rate limits, kept on our side: token buckets, and when to try again. Time is handed in, in seconds.

"1 request, per second, per action … with a short-term burst limit up to 3 req/s", except getting a machine: 5 and 10.
Creations and lists count by app, everything else by machine, so several apps multiply how fast machines are made.
"""

import math
import random
from collections.abc import Iterable
from typing import Final, NamedTuple

Key = tuple[str, str]
"""An action, and the app or machine that it counts for."""


class Rate(NamedTuple):
    """So many a second, and so many at once after a rest."""

    per_s: float
    burst: int


USUAL: Final = Rate(1.0, 3)
RATES: Final = {"get": Rate(5.0, 10)}
SLACK_S: Final = 0.05
"""Who has to wait comes so much after its turn: what was sent in time may else arrive a moment too early."""
REMEMBERED: Final = 10_000
FIRST_PAUSE_S: Final = 0.5
MOST_PAUSE_S: Final = 8.0


class Buckets:
    """For each key one number: when its bucket will be full again. Who takes a token has it, and waits for its turn,
    so turns are in the order of asking."""

    def __init__(self, *, creations_per_s: int = 1) -> None:
        """`creations_per_s`: of an app, where Fly permits more than the documented one."""
        self._rates = RATES | {"create": Rate(float(creations_per_s), USUAL.burst * creations_per_s)}
        self._full_at: dict[Key, float] = {}

    def _rate(self, key: Key) -> Rate:
        return self._rates.get(key[0], USUAL)

    def wait_s(self, key: Key, now: float) -> float:
        """How long who took a token now would have to wait."""
        rate = self._rate(key)
        wait_s = self._full_at.get(key, now) - (rate.burst - 1) / rate.per_s - now
        return wait_s + SLACK_S if wait_s > 1e-9 else 0.0

    def take(self, key: Key, now: float) -> float:
        """Take a token; the seconds until it may be used."""
        wait_s = self.wait_s(key, now)
        self._full_at[key] = max(self._full_at.get(key, now), now) + 1 / self._rate(key).per_s
        if len(self._full_at) > REMEMBERED:
            self._full_at = {each: full_at for each, full_at in self._full_at.items() if full_at > now}
        return wait_s

    def grants(self, key: Key, now: float, within_s: float) -> int:
        """How many tokens could be used within that time."""
        rate = self._rate(key)
        return max(0, math.floor((now + within_s - max(self._full_at.get(key, now), now)) * rate.per_s) + rate.burst)

    def close(self, key: Key, now: float, seconds: float) -> None:
        """The API says that there is no token before that time: others use the same app, or the limit is another."""
        rate = self._rate(key)
        until = now + seconds + (rate.burst - 1) / rate.per_s
        self._full_at[key] = max(self._full_at.get(key, now), until)

    def soonest(self, keys: Iterable[Key], now: float) -> Key:
        """The key whose token is to be had first; of several the first."""
        return min(keys, key=lambda key: self.wait_s(key, now))


def pause_s(tries: int, rng: random.Random, retry_after_s: float | None = None) -> float:
    """How long to wait after the n-th try that failed: full jitter, on top of what the API asked for."""
    jitter_s = rng.uniform(0, min(MOST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(tries - 1, 10)))
    return (retry_after_s or 0.0) + jitter_s
