"""Deflate in blocks: the same bytes however it is done, and what every inflater gives back."""

import random
import zlib

import pytest

from worker.errors import BadInput
from worker.kinds.zip.codec import (
    BLOCK_BYTES,
    CODECS,
    DICTIONARY_BYTES,
    codec,
    crc32,
    crc32_combine,
    is_worth_it,
    wrapped,
)

TEXT = b" ".join(random.Random(1).choices([b"to", b"be", b"or", b"not", b"question"], k=900_000))


def in_blocks(deflate, data: bytes) -> list[bytes]:  # type: ignore[no-untyped-def]
    starts = range(0, len(data), BLOCK_BYTES) or (0,)
    return [deflate(data[n : n + BLOCK_BYTES], data[max(0, n - DICTIONARY_BYTES) : n], n == starts[-1]) for n in starts]


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("level", [0, 1, 6, 9])
@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, len(TEXT)])
def test_blocks_are_one_stream(name: str, level: int, size: int) -> None:
    """That zlib inflates, to its very end."""
    packer = zlib.decompressobj(-15)
    data = TEXT[:size]
    assert packer.decompress(b"".join(in_blocks(codec(name, level).deflate, data))) == data
    assert (packer.eof, packer.unused_data) == (True, b"")


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, BLOCK_BYTES, BLOCK_BYTES + 7])
def test_what_is_wrapped_is_one_stream_too(size: int) -> None:
    """Though it is packed already."""
    data = random.Random(2).randbytes(size)
    packer = zlib.decompressobj(-15)
    packed = b"".join(in_blocks(wrapped, data))
    assert packer.decompress(packed) == data
    assert (packer.eof, packer.unused_data) == (True, b"")
    assert len(packed) <= size + 5 * (size // 65_535 + 2)


def test_a_dictionary_is_worth_its_trouble() -> None:
    """Blocks cost next to nothing."""
    deflate = codec().deflate
    with_it = sum(map(len, in_blocks(deflate, TEXT)))
    without = sum(map(len, in_blocks(lambda block, before, is_last: deflate(block, b"", is_last), TEXT)))
    assert with_it < without
    assert with_it < len(deflate(TEXT, b"", True)) * 1.001


def test_checksums_are_joined() -> None:
    """Of blocks that other threads have made."""
    assert crc32_combine(crc32(TEXT[:1000]), crc32(TEXT[1000:]), len(TEXT) - 1000) == zlib.crc32(TEXT)


def test_a_sample_tells() -> None:
    """What is worth packing."""
    assert is_worth_it(TEXT[:16_384], 0.04)
    assert not is_worth_it(random.Random(3).randbytes(16_384), 0.04)


@pytest.mark.parametrize(("name", "level"), [("lzma", 6), ("zlib-ng", 10), ("zlib-ng", -1)])
def test_what_there_is_not(name: str, level: int) -> None:
    """Is told."""
    with pytest.raises(BadInput):
        codec(name, level)
