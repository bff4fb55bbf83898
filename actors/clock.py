"""The only place of the engine where the time is read."""

import time
from typing import Protocol


class TimeSource(Protocol):
    """Where the engine reads the time: milliseconds since 1970 UTC."""

    def now(self) -> int: ...


class Clock:
    """Milliseconds since 1970 UTC. Between start and end of a process it moves with the monotonic clock."""

    def __init__(self) -> None:
        self._offset_ns = time.time_ns() - time.monotonic_ns()

    def now(self) -> int:
        return (self._offset_ns + time.monotonic_ns()) // 1_000_000


class WallClock:
    """Milliseconds since 1970 UTC, as the computer has them now: for what others compare with their own clocks."""

    def now(self) -> int:
        return time.time_ns() // 1_000_000
