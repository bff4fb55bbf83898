"""The small reader of a TIFF's first directory."""

from pathlib import Path

import pytest

from tests.corpus.writer import Page, Tag, write
from worker.tiff_tags import (
    BITS_PER_SAMPLE,
    COMPRESSION,
    PHOTOMETRIC,
    REFERENCE_BLACK_WHITE,
    S_MIN_SAMPLE_VALUE,
    TILE_BYTE_COUNTS,
    TILE_OFFSETS,
    WIDTH,
    read_directory,
)

TAGS = {
    256: Tag("I", [70_000]), 257: Tag("H", [1]), 258: Tag("H", [8, 8, 8]), 259: Tag("H", [5]), 262: Tag("H", [6]),
    277: Tag("H", [3]), 284: Tag("H", [2]), 340: Tag("f", [-1.5, 0, 2]), 532: Tag("R", [0, 1, 255, 2, 128, 1] * 2),
}  # fmt: skip


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
def test_values_are_read_in_both_orders_and_both_sizes(tmp_path: Path, order: str, big: bool) -> None:
    """Values that stand in the entry and values that it points to, integers, floats and fractions."""
    path = tmp_path / "t.tif"
    path.write_bytes(write([Page(TAGS, [b"x"])], order=order, big=big))
    tags = read_directory(path)
    assert (tags.order, tags.big, tags.bits, tags.samples, tags.photometric) == (order, big, 8, 3, 6)
    assert (tags.compression, tags.is_planar, tags.first(WIDTH)) == (5, True, 70_000)
    assert tags.values(BITS_PER_SAMPLE) == (8, 8, 8)
    assert tags.values(S_MIN_SAMPLE_VALUE) == (-1.5, 0, 2)
    assert tags.values(REFERENCE_BLACK_WHITE) == (0, 127.5, 128) * 2


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
def test_patched_tag_reads_as_its_new_value(tmp_path: Path, order: str, big: bool) -> None:
    """What `patch` says, put where it says, is one value, whatever the tag had before."""
    path = tmp_path / "t.tif"
    path.write_bytes(write([Page(TAGS, [b"x"])], order=order, big=big))
    tags = read_directory(path)
    changed = bytearray(path.read_bytes())
    for tag, value in ((BITS_PER_SAMPLE, 16), (WIDTH, 3), (COMPRESSION, 70_000)):
        offset, patch = tags.patch(tag, value)
        changed[offset : offset + len(patch)] = patch
    path.write_bytes(changed)
    after = read_directory(path)
    assert after.values(BITS_PER_SAMPLE) == (16,)
    assert (after.first(WIDTH), after.compression, after.photometric) == (3, 70_000, 6)


def test_first_of_two_tags_counts(tmp_path: Path) -> None:
    """As in libtiff: else the samples would be taken for others than those that are decoded."""
    path = tmp_path / "t.tif"
    path.write_bytes(write([Page(TAGS, [b"x"], again={258: Tag("H", [12]), 256: Tag("I", [1])})]))
    tags = read_directory(path)
    assert (tags.bits, tags.first(WIDTH)) == (8, 70_000)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
def test_long_lists_are_read_whole(tmp_path: Path, order: str, big: bool) -> None:
    """A thousand tiles have a thousand offsets; one tile has its offset in the entry itself."""
    path = tmp_path / "t.tif"
    for count in (1, 1000):
        page = Page(TAGS, [b"x"] * count, offsets=324, counts=325)
        path.write_bytes(write([page], order=order, big=big))
        tags = read_directory(path)
        assert tags.all_values(path, TILE_BYTE_COUNTS) == (1,) * count
        assert len(set(tags.all_values(path, TILE_OFFSETS))) == count


def test_list_beyond_the_end_is_empty(tmp_path: Path) -> None:
    """A count that lies asks for no memory."""
    path = tmp_path / "t.tif"
    path.write_bytes(write([Page(TAGS | {325: Tag("I", [1, 1], count=0x3FFFFFFF)}, [b"x"])]))
    assert read_directory(path).all_values(path, TILE_BYTE_COUNTS) == ()


def test_changed_tags_are_others(tmp_path: Path) -> None:
    """The directory that was read stays as it is."""
    path = tmp_path / "t.tif"
    path.write_bytes(write([Page(TAGS, [b"x"])]))
    tags = read_directory(path)
    assert (tags.with_value(PHOTOMETRIC, 2).photometric, tags.photometric) == (2, 6)


def test_what_has_no_directory_has_no_tags(tmp_path: Path) -> None:
    """No TIFF, a directory beyond the end, and a file that ends inside of it: the defaults, and no error."""
    path = tmp_path / "t.tif"
    for body in (b"", b"no TIFF", b"II*\0\xff\xff\xff\xff", write([Page(TAGS, [b"x"])])[:20]):
        path.write_bytes(body)
        tags = read_directory(path)
        assert (tags.bits, tags.samples, tags.photometric, tags.values(PHOTOMETRIC)) == (1, 1, None, ())


def test_number_of_a_senseless_type_is_not_believed(tmp_path: Path) -> None:
    """A damaged type must not make a number of bits out of a float."""
    path = tmp_path / "t.tif"
    path.write_bytes(write([Page(TAGS | {258: Tag("d", [1e300])}, [b"x"])]))
    assert read_directory(path).bits == 1
