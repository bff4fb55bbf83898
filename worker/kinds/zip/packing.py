"""Files read and packed, on threads: small ones whole and several in one job, large ones block by block. What comes of
a job depends on its input alone, so any thread may do it, and again.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from worker.kinds.zip import container
from worker.kinds.zip.codec import BLOCK_BYTES, DICTIONARY_BYTES, Codec, Deflate, crc32, is_worth_it, wrapped
from worker.kinds.zip.names import split_ending
from worker.kinds.zip.source import Member, Reads, Unfit, read

JOB_BYTES: Final = 256 * 1024
"""Small files of one job: with less, handing over costs more than the second core brings."""
JOB_FILES: Final = 32
"""At most: each is a request of its own, one after the other."""
SAMPLE_BYTES: Final = 16 * 1024
WON: Final = 0.04
"""Of the sample: where deflate wins less, the file is stored."""
PACKED: Final = frozenset(
    {
        "7z", "aac", "apk", "avif", "br", "bz2", "docx", "epub", "flac", "gif", "gz", "heic", "heif", "jar",
        "jp2", "jpeg", "jpg", "jxl", "lz4", "lzma", "m4a", "m4v", "mkv", "mov", "mp3", "mp4", "odp", "ods",
        "odt", "ogg", "opus", "png", "pptx", "rar", "tbz2", "tgz", "txz", "webm", "webp", "woff", "woff2",
        "xlsx", "xz", "zip", "zst",
    }
)  # fmt: skip
"""Endings of files that are packed already: to deflate a gigabyte of them takes 17 s of a core and wins 0.01 %."""


class Whole(NamedTuple):
    """A file up to one block, ready to be written."""

    member: Member
    method: int
    changed_s: float
    crc: int
    sha256: bytes
    data: bytes


class LeftOut(NamedTuple):
    """A file that cannot be had: why, as a sentence."""

    member: Member
    reason: str


class Begun(NamedTuple):
    """A large file, looked at: how it is packed, and which object it was."""

    member: Member
    deflate: Deflate
    changed_s: float
    etag: str


class Block(NamedTuple):
    """The n-th block of a large file: as it was, for the digest, and packed."""

    begun: Begun
    n: int
    raw: bytes
    crc: int
    data: bytes


def is_large(member: Member) -> bool:
    """Whether it is packed block by block."""
    return member.size > BLOCK_BYTES


def groups(members: Iterable[Member]) -> Iterator[list[Member]]:
    """In their order: small ones together, each large one alone."""
    group: list[Member] = []
    size = 0
    for member in members:
        if group and (is_large(member) or size + member.size > JOB_BYTES or len(group) >= JOB_FILES):
            yield group
            group, size = [], 0
        group.append(member)
        size += member.size
        if is_large(member):
            yield group
            group, size = [], 0
    if group:
        yield group


def small(store: Reads, members: Iterable[Member], codec: Codec, unfit: Mapping[str, str]) -> list[Whole | LeftOut]:
    """Read and pack files up to one block. `unfit`: those that are not even tried, by path, and why."""
    return [
        LeftOut(member, unfit[member.path]) if member.path in unfit else _small(store, member, codec)
        for member in members
    ]


def _small(store: Reads, member: Member, codec: Codec) -> Whole | LeftOut:
    try:
        part = read(store, member, 0, member.size)
    except Unfit as fault:
        return LeftOut(member, str(fault))
    method, data = container.STORED, part.body
    sample = data[_middle(len(data)) :][:SAMPLE_BYTES] if len(data) > SAMPLE_BYTES else None
    if data and codec.level and not _stays(member, sample):
        packed = codec.deflate(data, b"", True)
        if len(packed) < len(data):
            method, data = container.DEFLATED, packed
    digest = hashlib.sha256(part.body).digest()
    return Whole(member, method, part.changed_s, crc32(part.body), digest, data)


def begin(store: Reads, member: Member, codec: Codec) -> Begun | LeftOut:
    """Look at a large file."""
    try:
        part = read(store, member, _middle(member.size), SAMPLE_BYTES)
    except Unfit as fault:
        return LeftOut(member, str(fault))
    stays = not codec.level or _stays(member, part.body)
    return Begun(member, wrapped if stays else codec.deflate, part.changed_s, part.etag)


def blocks(member: Member) -> int:
    """How many it has."""
    return -(-member.size // BLOCK_BYTES)


def block(store: Reads, begun: Begun, n: int) -> Block | LeftOut:
    """Read and pack one of them, with what stands before it."""
    start = n * BLOCK_BYTES
    before = min(start, DICTIONARY_BYTES) if begun.deflate is not wrapped else 0
    try:
        body = read(store, begun.member, start - before, before + BLOCK_BYTES, etag=begun.etag).body
    except Unfit as fault:
        return LeftOut(begun.member, str(fault))
    raw = body[before:]
    data = begun.deflate(raw, body[:before], n == blocks(begun.member) - 1)
    return Block(begun, n, raw, crc32(raw), data)


def raw(store: Reads, begun: Begun, n: int) -> bytes | LeftOut:
    """One of them as it is."""
    try:
        return read(store, begun.member, n * BLOCK_BYTES, BLOCK_BYTES, etag=begun.etag).body
    except Unfit as fault:
        return LeftOut(begun.member, str(fault))


def _middle(size: int) -> int:
    return max(0, (size - SAMPLE_BYTES) // 2)


def _stays(member: Member, sample: bytes | None) -> bool:
    """Whether it is stored as it is: by its ending, else by a sample."""
    ending = split_ending(member.path.rpartition("/")[2])[1].casefold()
    return ending[1:] in PACKED or (sample is not None and not is_worth_it(sample, WON))
