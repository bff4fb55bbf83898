"""The disk of this machine: writing to it, and telling its faults from the file's and the network's.

No sentence here holds a path: they are reported to others, who know nothing of this machine's folders.
"""

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from worker.errors import Cancelled, Unavailable, WorkerError

FULL: Final = (errno.ENOSPC, errno.EDQUOT)
"""No space is left, or nothing of the user's share of it."""
SPACE_BYTES: Final = 256 * 1024
"""Where so much cannot be written any more, the disk is full."""
DISK_FULL: Final = "the disk of this machine is full"


def is_full(error: BaseException) -> bool:
    """Whether an error says that the disk is full."""
    return isinstance(error, OSError) and error.errno in FULL


@contextmanager
def writing() -> Iterator[None]:
    """Turns an OSError into Unavailable: another machine, or this one later, may have space."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise Unavailable(DISK_FULL if is_full(error) else f"a file cannot be written here: {reason}") from error


def save(chunks: Iterable[bytes], path: Path) -> int:
    """Writes `chunks` to a file; returns its bytes. Raises Unavailable where that fails; what `chunks` raises stays as
    it is. Unbuffered, so that nothing is left to write, and to fail, when the file is closed."""
    with writing():
        file = path.open("wb", buffering=0)
    with file:
        for chunk in chunks:
            left = memoryview(chunk)
            while left:
                with writing():
                    left = left[file.write(left) :]
        return file.tell()


@contextmanager
def suspected(target: Path) -> Iterator[None]:
    """Around a conversion into `target`: libvips hides a full disk behind "write error". When the conversion fails, the
    disk is looked at, and its OSError is raised if it takes no more; else the sentence loses the path of `target`."""
    try:
        yield
    except Cancelled:
        raise
    except WorkerError as error:
        _check_takes_more(target)
        error.args = (str(error).replace(str(target), "the JPEG"),)
        raise


def _check_takes_more(target: Path) -> None:
    """Raises OSError where nothing more can be written. What the failed conversion has written still takes space."""
    with target.open("ab") as file:
        file.write(bytes(SPACE_BYTES))
        file.flush()
        os.fsync(file.fileno())
