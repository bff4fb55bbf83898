"""The files of a folder on this machine, as what goes into an archive."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from worker.errors import ObjectMissing, Unavailable
from worker.kinds.zip.names import Names
from worker.kinds.zip.source import Member, Unfit
from worker.objects.base import Part

_AT_ONCE: Final = os.O_NONBLOCK | os.O_CLOEXEC
"""To open a pipe would wait for a writer, for ever."""


class Folder:
    """Files below `root`; their keys are their paths from there, with slashes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._base = os.path.join(root, "")

    def members(self, names: Names, *, without: frozenset[Path] = frozenset()) -> list[Member]:
        """In the order of their names' bytes. Links to files are their files, links to folders are not followed; what
        is neither file nor folder is a member that cannot be read, so that it is told of. Raises Unavailable."""
        try:
            found = sorted((os.fsencode(key), key, size) for key, size in self._walk("", without))
        except OSError as error:
            raise Unavailable(f"the folder cannot be read: {error.strerror}") from error
        return [Member(key=key, path=names.give(key), size=size) for _, key, size in found]

    def _walk(self, folder: str, without: frozenset[Path]) -> Iterator[tuple[str, int]]:
        with os.scandir(self.root / folder) as entries:
            for entry in entries:
                key = folder + entry.name
                if entry.is_dir(follow_symlinks=False):
                    yield from self._walk(f"{key}/", without)
                elif Path(entry.path) not in without and not entry.is_dir():
                    yield key, entry.stat().st_size if entry.is_file() else 0

    def changed_s(self, members: list[Member]) -> float:
        """When the newest of them was changed, in seconds since 1970 UTC; 0 without any."""
        try:
            return max((os.stat(self._path(member.key)).st_mtime for member in members), default=0.0)
        except OSError as error:
            raise Unavailable(f"a file is not there any more, or cannot be read: {error.strerror}") from error

    def read_part(self, key: str, start: int, length: int) -> Part:
        """As `ObjectStore.read_part`."""
        try:
            source = os.open(self._path(key), os.O_RDONLY | _AT_ONCE)
        except FileNotFoundError as error:
            raise ObjectMissing from error
        except OSError as error:
            raise Unfit(f"it cannot be read: {error.strerror}") from error
        try:
            found = os.fstat(source)
            if not stat.S_ISREG(found.st_mode):
                raise Unfit("it is no regular file")
            body = os.pread(source, length, start)
        except OSError as error:
            raise Unfit(f"it cannot be read: {error.strerror}") from error
        finally:
            os.close(source)
        return Part(body, found.st_size, f"{found.st_size:x}-{found.st_mtime_ns:x}", found.st_mtime)

    def _path(self, key: str) -> str:
        return f"{self._base}{key}"  # pathlib would take longer than the reading
