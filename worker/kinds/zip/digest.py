"""SHA-256 of a large file, whose blocks come one after the other: it cannot be joined from those of blocks, as CRC-32.
It takes longer than all else that is done to what is stored, so it has a thread of its own beside the one that writes.
"""

import hashlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

AHEAD: Final = 4
"""Blocks that may wait for their turn: what is behind is in memory."""


class Digest:
    """Of one file. Blocks are added in their order, by one thread."""

    def __init__(self, thread: ThreadPoolExecutor | None) -> None:
        """`thread`: of one worker, which may serve several files; None: it is computed where blocks are added."""
        self._thread, self._sha256 = thread, hashlib.sha256()
        self._waiting: deque[Future[None]] = deque()

    def update(self, block: bytes) -> None:
        """The next block."""
        if self._thread is None:
            self._sha256.update(block)
            return
        self._waiting.append(self._thread.submit(self._sha256.update, block))
        if len(self._waiting) > AHEAD:
            self._waiting.popleft().result()

    def digest(self) -> bytes:
        """Of all of them."""
        while self._waiting:
            self._waiting.popleft().result()
        return self._sha256.digest()
