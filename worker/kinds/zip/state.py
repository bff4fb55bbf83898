"""How far an archive is, so that another process can go on: which bytes of it are safe, and what was before them."""

import zlib
from typing import Any

import msgspec

from worker.errors import BadInput


class Done(msgspec.Struct, frozen=True, array_like=True):
    """A member that is behind: where and how it is in the archive, or why it is not."""

    offset: int = 0
    method: int = 0
    changed_s: float = 0.0
    crc: int = 0
    packed_size: int = 0
    is_streamed: bool = False
    sha256: bytes = b""
    reason: str | None = None


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """A place at which the writing can begin again: `offset` in the archive, before block `block` of the member after
    the first `members`. Of a member that is begun: where its header is, the sums of its blocks so far, and which
    object it was."""

    offset: int = 0
    members: int = 0
    block: int = 0
    begun_at: int = 0
    crc: int = 0
    size: int = 0
    packed_size: int = 0
    etag: str = ""


class Saved(msgspec.Struct, kw_only=True):
    """A checkpoint. `made_by` says of what and how the archive is made: where that is another, it cannot be gone on
    with. `etags` are those of the parts that are uploaded, each of `part_bytes`."""

    made_by: str
    upload: str
    part_bytes: int
    etags: list[str]
    mark: Mark
    done: list[Done]
    unfit: dict[str, str]


def packed(saved: Saved) -> bytes:
    """As an object."""
    return zlib.compress(msgspec.msgpack.encode(saved), 1)


def unpacked(body: bytes) -> Saved:
    """Raises BadInput where it is none."""
    try:
        found: Any = msgspec.msgpack.decode(zlib.decompress(body), type=Saved)
    except (zlib.error, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInput("The checkpoint cannot be read.") from error
    return found  # type: ignore[no-any-return]
