"""Objects in a folder: `{root}/{bucket}/{key}`, so that a person can drop files in and look at results.

A put writes a draft in `{root}/.incoming`, flushes it to disk and renames it. One thing that S3 can do and a folder
cannot: hold both `a` and `a/b`; the second put is refused.
"""

import hashlib
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO

from worker import space
from worker.errors import BadInput, ObjectMissing, Unavailable
from worker.objects.base import ALWAYS, ObjectInfo, Opened, Part, check_key, too_large
from worker.objects.local_uploads import LocalUploads
from worker.until import Until

CHUNK_BYTES = 1024 * 1024


class LocalObjects(LocalUploads):
    """A store in the folder `root`; several processes may use it at once."""

    def __init__(self, root: Path, bucket: str) -> None:
        if not bucket or bucket.startswith(".") or "/" in bucket:
            raise BadInput(f"{bucket!r} is no name of a bucket")
        self._bucket = root / bucket
        self._incoming = root / ".incoming"
        self._begun = root / ".uploads" / bucket

    def get_file(self, key: str, path: Path, until: Until = ALWAYS) -> ObjectInfo:
        digest = _new_md5()
        try:
            with self._open(key) as source:
                size = space.save(_hashed(until.each(_chunks(source)), digest), path)
        except OSError as error:
            raise Unavailable(f"the object cannot be read: {error.strerror}") from error
        return ObjectInfo(key, size, digest.hexdigest())

    def read(self, key: str, limit: int) -> bytes:
        with self._open(key) as source:
            body = source.read(limit + 1)
            if len(body) > limit:
                raise too_large(key, os.fstat(source.fileno()).st_size, limit)
            return body

    def open(self, key: str, start: int = 0) -> Opened:
        """The ETag is that of size and time: to make one of the contents, all of them would have to be read first."""
        source = self._open(key)
        found = os.fstat(source.fileno())
        source.seek(start)
        return Opened(
            size=found.st_size,
            etag=_etag(found),
            changed_s=found.st_mtime,
            chunks=_readable(source),
            close=source.close,
        )

    def read_part(self, key: str, start: int, length: int) -> Part:
        try:
            with self._open(key) as source:
                found = os.fstat(source.fileno())
                source.seek(start)
                return Part(source.read(length), found.st_size, _etag(found), found.st_mtime)
        except OSError as error:
            raise Unavailable(f"the object cannot be read: {error.strerror}") from error

    def put_file(self, key: str, path: Path, content_type: str, until: Until = ALWAYS) -> ObjectInfo:
        def fill(target: IO[bytes]) -> str:
            digest = _new_md5()
            with path.open("rb") as source:
                target.writelines(_hashed(until.each(_chunks(source)), digest))
            return digest.hexdigest()

        return self._put(key, fill)

    def put(self, key: str, body: bytes, content_type: str) -> ObjectInfo:
        def fill(target: IO[bytes]) -> str:
            target.write(body)
            return _md5(body)

        return self._put(key, fill)

    def head(self, key: str) -> ObjectInfo:
        with self._open(key) as source:
            found = os.fstat(source.fileno())
            return ObjectInfo(key, found.st_size, _etag(found))

    def delete(self, key: str) -> None:
        path = self._path(key)
        if path.is_file():
            path.unlink(missing_ok=True)
            self._remove_empty(path.parent)

    def _remove_empty(self, folder: Path) -> None:
        """S3 has no folders, so none stays behind. A put that is about to use one makes it again."""
        while folder != self._bucket and self._bucket in folder.parents:
            try:
                folder.rmdir()
            except OSError:
                return
            folder = folder.parent

    def list(self, prefix: str, after: str | None = None, limit: int = 1000) -> list[ObjectInfo]:
        if ".." in prefix.split("/") or prefix.startswith("/"):
            raise BadInput(f"the prefix {prefix!r} is not allowed")
        folder, _, _ = prefix.rpartition("/")
        begin = f"{folder}/" if folder else ""
        return list(islice(self._walk(begin, prefix, (after or "").encode()), limit))

    def _walk(self, folder: str, prefix: str, after: bytes) -> Iterator[ObjectInfo]:
        """The objects below `folder` ('' or ending in '/'), in the order of their keys' bytes. A folder sorts as its
        name with '/', which is where its keys belong: `a.txt` comes before `a/b`."""
        for name, entry in sorted(_entries(self._bucket / folder), key=lambda pair: pair[0].encode()):
            key = folder + name
            if not (key.startswith(prefix) or prefix.startswith(key)):
                continue
            if name.endswith("/"):
                if key.encode() > after or after.startswith(key.encode()):
                    yield from self._walk(key, prefix, after)
            elif key.startswith(prefix) and key.encode() > after:
                yield ObjectInfo(key, entry.stat().st_size, "")

    def _open(self, key: str) -> IO[bytes]:
        path = self._path(key)
        try:
            if not stat.S_ISREG(path.stat().st_mode):  # to open a pipe would wait for a writer, for ever
                raise ObjectMissing
            return path.open("rb")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise ObjectMissing() from error
        except OSError as error:
            raise Unavailable(f"the object cannot be read: {error.strerror}") from error

    def _put(self, key: str, fill: Callable[[IO[bytes]], str]) -> ObjectInfo:
        path = self._path(key)
        self._incoming.mkdir(parents=True, exist_ok=True)
        draft = self._incoming / f"{os.getpid()}-{secrets.token_hex(8)}"
        try:
            with draft.open("xb") as target:
                etag = fill(target)
                size = target.tell()
                target.flush()
                os.fsync(target.fileno())
            _move(draft, path)
            _flush_folder(path.parent)
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise BadInput(f"the key {key!r} cannot be stored: another key is a folder in its way") from error
        except OSError as error:
            raise Unavailable(f"the object cannot be written: {error.strerror}") from error
        finally:
            draft.unlink(missing_ok=True)
        return ObjectInfo(key, size, etag)

    def _path(self, key: str) -> Path:
        return self._bucket / check_key(key)


def _move(draft: Path, path: Path, tries: int = 5) -> None:
    """Into a folder that may be removed, since it is empty, at the moment when it was made."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        tries -= 1
        try:
            draft.replace(path)
        except FileNotFoundError:
            if not tries:
                raise
        else:
            return


def _entries(folder: Path) -> list[tuple[str, os.DirEntry[str]]]:
    """The files of a folder, and its folders with '/' after their names; none where there is no folder."""
    try:
        with os.scandir(folder) as entries:
            return [
                (entry.name + ("/" if entry.is_dir(follow_symlinks=False) else ""), entry)
                for entry in entries
                if (entry.is_dir(follow_symlinks=False) or entry.is_file()) and _is_unicode(entry.name)
            ]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _chunks(source: IO[bytes]) -> Iterator[bytes]:
    while chunk := source.read(CHUNK_BYTES):
        yield chunk


def _etag(found: os.stat_result) -> str:
    return f"{found.st_size:x}-{found.st_mtime_ns:x}"


def _readable(source: IO[bytes]) -> Iterator[bytes]:
    try:
        yield from _chunks(source)
    except OSError as error:
        raise Unavailable(f"the object cannot be read: {error.strerror}") from error


def _hashed(chunks: Iterable[bytes], digest: "hashlib._Hash") -> Iterator[bytes]:
    """The chunks, each of which also goes into the digest."""
    for chunk in chunks:
        digest.update(chunk)
        yield chunk


def _new_md5() -> "hashlib._Hash":
    return hashlib.md5(usedforsecurity=False)


def _md5(body: bytes) -> str:
    digest = _new_md5()
    digest.update(body)
    return digest.hexdigest()


def _is_unicode(name: str) -> bool:
    """Keys are Unicode; a file whose name is not cannot be one."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _flush_folder(folder: Path) -> None:
    """Makes a rename durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
