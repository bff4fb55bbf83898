"""What every object store can do, and which keys it takes.

All methods block; call them from a thread. They raise `ObjectMissing` ("404 Not Found") where there is no object,
`BadInput` for a key that is not allowed, and `Unavailable` where the store does not answer; an object appears whole or
not at all.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from worker.errors import BadInput
from worker.until import Until

MAX_KEY_BYTES = 1024
"""The limit of S3."""
ALWAYS: Final = Until()

_NO_CHARACTER: Final = re.compile("[\x00-\x1f\ud800-\udfff]")
_NO_PART: Final = re.compile(r"(?:^|/)\.{0,2}(?:/|$)")


class ObjectInfo(NamedTuple):
    """One object. Size in bytes; the ETag without quotes, empty where the store does not know it without reading
    (lists of a local folder, some presigned URLs)."""

    key: str
    size: int
    etag: str


@dataclass(frozen=True, kw_only=True)
class Opened:
    """An object that is being read: its whole size in bytes, its ETag, the time of its last change (seconds since 1970,
    UTC), and its bytes from where it was opened, in chunks. `close` lets go of it; more than once does no harm."""

    size: int
    etag: str
    changed_s: float
    chunks: Iterator[bytes]
    close: Callable[[], None]


class Part(NamedTuple):
    """Some bytes of an object, with the size of the whole in bytes, its ETag and the time of its last change (seconds
    since 1970, UTC), as in `Opened`."""

    body: bytes
    size: int
    etag: str
    changed_s: float


class ObjectStore(Protocol):
    """The operations; see the module for the errors."""

    def get_file(self, key: str, path: Path, until: Until = ALWAYS) -> ObjectInfo:
        """Writes the object to `path`. Gives up when `until` says so."""

    def read(self, key: str, limit: int) -> bytes:
        """The whole object. Raises BadInput when it is larger than `limit` bytes."""

    def open(self, key: str, start: int = 0) -> Opened:
        """The object from byte `start` on, which is not beyond its end; nothing of it is read yet where the store is a
        folder. What breaks it off later is Unavailable."""

    def read_part(self, key: str, start: int, length: int) -> Part:
        """At most `length` bytes from byte `start` on, fewer where the object ends; at its end, and beyond, none."""

    def put_file(self, key: str, path: Path, content_type: str, until: Until = ALWAYS) -> ObjectInfo:
        """Stores a file; on return it is durable. Gives up when `until` says so."""

    def put(self, key: str, body: bytes, content_type: str) -> ObjectInfo:
        """Stores bytes; on return they are durable."""

    def head(self, key: str) -> ObjectInfo:
        """Size and ETag: the one that `open` and `read_part` have, by which versions are told apart."""

    def delete(self, key: str) -> None:
        """Removes the object; no error where there is none."""

    def list(self, prefix: str, after: str | None = None, limit: int = 1000) -> list[ObjectInfo]:
        """At most `limit` objects whose keys begin with `prefix` and come after `after`, in the store's order: that of
        the keys' UTF-8 bytes, which some S3 servers (SeaweedFS) apply folder by folder. Fewer than `limit` means that
        there are no more."""


def check_key(key: str) -> str:
    """The key itself. Raises BadInput for one that `key_fault` refuses."""
    fault = key_fault(key)
    if fault is not None:
        raise BadInput(f"the key {key[:200]!r} is not allowed: it {fault}")
    return key


def key_fault(key: str) -> str | None:
    """What is wrong with a key, said of it ("must …"); None: nothing. The one rule, for lists and for workers.

    S3 would take more: there `a//b` is an object of its own, in a folder it is the file `a/b`. What a key means must
    not depend on where the objects are, so neither store takes an empty part, and the same holds for '.' and '..'.
    """
    if _NO_CHARACTER.search(key):
        return "must not contain control characters"
    if not 0 < len(key.encode()) <= MAX_KEY_BYTES:
        return f"must have 1 to {MAX_KEY_BYTES} bytes"
    if "\\" in key or _NO_PART.search(key):
        return "must be a relative key without '..', '.', empty parts ('//') or backslashes"
    return None


def too_large(key: str, size: int, limit: int) -> BadInput:
    """The error of `read` for an object over its limit."""
    return BadInput(f"the object {key!r} has {size} bytes; at most {limit} are read")
