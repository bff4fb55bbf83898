"""The folder of a task while it runs. Its name says whose it is, so that what a killed worker left can be removed."""

import contextlib
import os
import re
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from worker import space

PREFIX: Final = "arke-worker-"
_HOST: Final = re.sub(r"[^A-Za-z0-9.]", "_", socket.gethostname())
"""Containers may share a folder for temporary files, but not their numbers of processes."""
_NAME: Final = re.compile(rf"{PREFIX}{re.escape(_HOST)}-(?P<pid>[1-9][0-9]{{0,9}})-[^-]+")


@contextmanager
def folder() -> Iterator[Path]:
    """An empty folder that is removed with all it holds. Raises Unavailable where none can be made."""
    with space.writing():
        made = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{_HOST}-{os.getpid()}-"))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def sweep() -> None:
    """Removes the folders that workers of this user and machine left who are no more. What cannot be looked at or
    removed stays: no task depends on it."""
    with contextlib.suppress(OSError), os.scandir(tempfile.gettempdir()) as entries:
        for entry in entries:
            if (found := _NAME.fullmatch(entry.name)) and _is_my_folder(entry) and _is_over(int(found["pid"])):
                shutil.rmtree(entry.path, ignore_errors=True)


def _is_my_folder(entry: "os.DirEntry[str]") -> bool:
    """Links are none."""
    found = entry.stat(follow_symlinks=False)
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()


def _is_over(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:  # it is, and another user's
        return False
    return False
