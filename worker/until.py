"""How long something that waits for others may go on: as long as it is wanted, and has time."""

import math
import threading
import time
from collections.abc import Iterable, Iterator
from typing import IO

from worker.errors import Cancelled, Unavailable


class Until:
    """Until the task is no longer wanted (`cancelled`) or so many `seconds` are over, counted from now."""

    def __init__(self, cancelled: threading.Event | None = None, seconds: float = math.inf) -> None:
        self._cancelled = cancelled or threading.Event()
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    def check(self) -> None:
        """Raises Cancelled or, when the time is over, Unavailable."""
        if self._cancelled.is_set():
            raise Cancelled("the task is no longer wanted")
        if time.monotonic() > self._end:
            raise Unavailable(f"it took longer than {self._seconds:g} s, the limit")

    def pause(self, seconds: float) -> None:
        """Waits. Raises as `check` does, at once when the task is no longer wanted."""
        self._cancelled.wait(min(seconds, max(0.0, self._end - time.monotonic())))
        self.check()

    def each(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """The chunks, looking before each whether to go on."""
        for chunk in chunks:
            self.check()
            yield chunk


class Reading:
    """An open file that an HTTP client reads in order to send it, looking before each part whether to go on."""

    def __init__(self, file: IO[bytes], until: Until) -> None:
        self._file = file
        self._until = until

    def read(self, size: int = -1) -> bytes:
        """As a file's."""
        self._until.check()
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        """As a file's: a request that is sent again begins anew."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """As a file's."""
        return self._file.tell()
