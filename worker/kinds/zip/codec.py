"""Deflate in blocks: each is packed by itself, with the 32 KB before it as dictionary, so that many threads work on one
file, work can begin again at any block, and the bytes depend on neither.

zlib gives the same bytes however its input is cut; zlib-ng and ISA-L do not. Blocks of a fixed size, each ended by a
sync flush, are what makes them give the same ones: they cost 0.01 % of the size.
"""

import struct
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any, Final, Literal, NamedTuple

from isal import isal_zlib
from zlib_ng import zlib_ng

from worker.errors import BadInput

BLOCK_BYTES: Final = 1024 * 1024
DICTIONARY_BYTES: Final = 32 * 1024
LEVELS: Final = range(10)
CodecName = Literal["zlib-ng", "isal"]
CODECS: Final[tuple[CodecName, ...]] = ("zlib-ng", "isal")

_RAW: Final = -15
_MEMORY: Final = 8
_PROBE_LEVEL: Final = 1
_STORED_MOST: Final = 0xFFFF

crc32: Final = zlib_ng.crc32
crc32_combine: Final = zlib_ng.crc32_combine

Deflate = Callable[[bytes, bytes, bool], bytes]
"""Packs a block: its bytes, those before it (at most DICTIONARY_BYTES), and whether it is the last one."""


class Codec(NamedTuple):
    """What packs. The version is in the manifest: another one gives other bytes."""

    name: CodecName
    version: str
    level: int
    deflate: Deflate


def codec(name: str = "zlib-ng", level: int = 6) -> Codec:
    """The one of that name. ISA-L has three levels: 0 to 9 are spread over them. Raises BadInput."""
    if level not in LEVELS:
        raise BadInput(f"the level must be 0 to 9, not {level}")
    if name == "zlib-ng":
        return Codec("zlib-ng", version("zlib-ng"), level, _with(zlib_ng, level))
    if name == "isal":
        return Codec("isal", version("isal"), level, _with(isal_zlib, min(3, (level + 2) // 3)))
    raise BadInput(f"the codec must be one of {', '.join(CODECS)}, not {name[:40]!r}")


def _with(library: Any, level: int) -> Deflate:
    def deflate(block: bytes, before: bytes, is_last: bool) -> bytes:
        more = {"zdict": before} if before else {}
        packer = library.compressobj(level, library.DEFLATED, _RAW, _MEMORY, library.Z_DEFAULT_STRATEGY, **more)
        packed: bytes = packer.compress(block)
        rest: bytes = packer.flush(library.Z_FINISH if is_last else library.Z_SYNC_FLUSH)
        return packed + rest

    return deflate


def wrapped(block: bytes, before: bytes, is_last: bool) -> bytes:
    """A `Deflate` that packs nothing: for what is packed already, where a reader must be able to tell the end of it."""
    return b"".join(_wrapped(block, is_last))


def _wrapped(block: bytes, is_last: bool) -> Iterator[bytes]:
    starts = range(0, len(block), _STORED_MOST) or (0,)
    for start in starts:
        piece = block[start : start + _STORED_MOST]
        yield struct.pack("<BHH", is_last and start == starts[-1], len(piece), len(piece) ^ 0xFFFF)
        yield piece


def is_worth_it(sample: bytes, won: float) -> bool:
    """Whether deflate wins at least that part of the sample's size."""
    packer = zlib_ng.compressobj(_PROBE_LEVEL, zlib_ng.DEFLATED, _RAW)
    return len(packer.compress(sample)) + len(packer.flush()) <= len(sample) * (1 - won)
