"""The files of a folder on this machine, as what goes into an archive."""

import os
import stat
from collections.abc import Collection, Iterator
from contextlib import suppress
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
        self.changed_s = 0.0
        """When the newest of its members was changed, in seconds since 1970 UTC."""

    def members(self, names: Names, *, without: Collection[tuple[int, int]] = ()) -> list[Member]:
        """In the order of their names' bytes; not those files, each by its device and inode. Links to files are their
        files. What cannot be read, a link to a folder and what else is no file, is a member all the same, so that it is
        told of. Raises Unavailable where the folder itself cannot be read."""
        try:
            found = sorted((os.fsencode(key), key, size) for key, size in self._walk("", without))
        except OSError as error:
            raise Unavailable(f"the folder cannot be read: {error.strerror}") from error
        return [Member(key=key, path=names.give(key), size=size) for _, key, size in found]

    def _walk(self, folder: str, without: Collection[tuple[int, int]]) -> Iterator[tuple[str, int]]:
        with os.scandir(self._path(folder)) as entries:
            for entry in entries:
                key = folder + entry.name
                if entry.is_dir(follow_symlinks=False):
                    try:
                        yield from self._walk(f"{key}/", without)
                    except PermissionError:
                        yield key, 0
                    continue
                size = 0
                with suppress(OSError):  # a link that leads nowhere, a file that has just gone
                    found = entry.stat()
                    if (found.st_dev, found.st_ino) in without:
                        continue
                    self.changed_s = max(self.changed_s, found.st_mtime)
                    size = found.st_size if stat.S_ISREG(found.st_mode) else 0
                yield key, size

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
