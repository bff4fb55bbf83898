"""The only place of the engine where the time is read."""

import time


class Clock:
    """Milliseconds since 1970 UTC. Between start and end of a process it moves with the monotonic clock."""

    def __init__(self) -> None:
        self._offset_ns = time.time_ns() - time.monotonic_ns()

    def now(self) -> int:
        return (self._offset_ns + time.monotonic_ns()) // 1_000_000
