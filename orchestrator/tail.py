"""`arke serve --log -`: what the service's processes append to their log is copied to standard error."""

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

LOOK_S: Final = 0.5


class Tail:
    """Reads on in a log file, and in the one that takes its place when it is turned over."""

    def __init__(self, path: Path, out: IO[bytes]) -> None:
        self._path, self._out = path, out
        self._file = self._opened()
        if self._file is not None:
            self._file.seek(0, 2)  # what a former run wrote was shown by that run

    def copy(self) -> None:
        """Copy what has been appended since the last call."""
        if self._file is None:
            self._file = self._opened()
        while self._file is not None:
            is_last = self._has_its_name()  # asked before reading: what is written until it is renamed is read
            self._out.write(self._file.read())
            if is_last:
                break
            self.close()
            self._file = self._opened()
        self._out.flush()

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _opened(self) -> IO[bytes] | None:
        try:
            return open(self._path, "rb")
        except FileNotFoundError:  # nothing has been logged yet
            return None

    def _has_its_name(self) -> bool:
        assert self._file is not None
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), self._path.stat())
        except FileNotFoundError:
            return True  # just being turned over: the next look finds the new one


@contextlib.contextmanager
def followed(path: Path, out: IO[bytes]) -> Iterator[None]:
    """Copy what is appended to `path` to `out`, in a thread, until the end of the block; the last lines too."""
    tail, over = Tail(path, out), threading.Event()

    def follow() -> None:
        while not over.wait(LOOK_S):
            tail.copy()

    thread = threading.Thread(target=follow, name="log-tail", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        tail.copy()
        tail.close()
