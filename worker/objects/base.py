"""What every object store can do, and which keys it takes.

All methods block; call them from a thread. They raise `ObjectMissing` ("404 Not Found") where there is no object,
`BadInput` for a key that is not allowed, and `Unavailable` where the store does not answer; an object appears whole or
not at all.
"""

from pathlib import Path
from typing import NamedTuple, Protocol

from worker.errors import BadInput

MAX_KEY_BYTES = 1024
"""The limit of S3."""


class ObjectInfo(NamedTuple):
    """One object. Size in bytes; the ETag without quotes, empty where the store does not know it without reading
    (lists of a local folder, some presigned URLs)."""

    key: str
    size: int
    etag: str


class ObjectStore(Protocol):
    """The operations; see the module for the errors."""

    def get_file(self, key: str, path: Path) -> ObjectInfo:
        """Writes the object to `path`."""

    def read(self, key: str, limit: int) -> bytes:
        """The whole object. Raises BadInput when it is larger than `limit` bytes."""

    def put_file(self, key: str, path: Path, content_type: str) -> ObjectInfo:
        """Stores a file; on return it is durable."""

    def put(self, key: str, body: bytes, content_type: str) -> ObjectInfo:
        """Stores bytes; on return they are durable."""

    def head(self, key: str) -> ObjectInfo:
        """Size and ETag."""

    def delete(self, key: str) -> None:
        """Removes the object; no error where there is none."""

    def list(self, prefix: str, after: str | None = None, limit: int = 1000) -> list[ObjectInfo]:
        """At most `limit` objects whose keys begin with `prefix` and come after `after`, in the store's order: that of
        the keys' UTF-8 bytes, which some S3 servers (SeaweedFS) apply folder by folder. Fewer than `limit` means that
        there are no more."""


def check_key(key: str) -> str:
    """The key itself. Raises BadInput for an absolute one, one with `.` or `..` or empty parts, or over 1,024 bytes."""
    parts = key.split("/")
    if not key or "\0" in key or any(part in ("", ".", "..") for part in parts):
        raise BadInput(f"the key {key[:200]!r} is not allowed: no leading or double '/', no '.' or '..' in it")
    try:
        size = len(key.encode())
    except UnicodeEncodeError as error:
        raise BadInput("the key is not valid Unicode") from error
    if size > MAX_KEY_BYTES:
        raise BadInput(f"the key has {size} bytes; at most {MAX_KEY_BYTES} are allowed")
    return key


def too_large(key: str, size: int, limit: int) -> BadInput:
    """The error of `read` for an object over its limit."""
    return BadInput(f"the object {key!r} has {size} bytes; at most {limit} are read")
