"""The JPEG streams inside of a TIFF: the ends of tiles, and old-style JPEG as a stream of its own."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.corpus import encode
from tests.corpus.base import colours
from tests.corpus.encode import RGB, Layout
from tests.corpus.writer import Page, Tag, write
from tests.corpus.ycbcr import entries, old_jpeg_page
from worker import tiff_jpeg, tiff_tags
from worker.errors import BadInput
from worker.kinds.tiff import Options, convert

CLOSE = 4.0


def tiles() -> Page:
    """A picture in 12 JPEG tiles."""
    return encode.page(colours(256, 192), Layout(photometric=RGB, compression=encode.JPEG, tile=(64, 64)))


def put(folder: Path, page: Page) -> Path:
    """Writes a file of one page."""
    path = folder / "t.tif"
    path.write_bytes(write([page]))
    return path


def check(path: Path) -> None:
    """Looks at the tiles of a file."""
    tiff_jpeg.check_tiles(path, tiff_tags.read_directory(path))


def test_whole_tiles_pass_also_with_padding(tmp_path: Path) -> None:
    """A few zeros behind the end mark are no damage."""
    check(put(tmp_path, tiles()))
    page = tiles()
    page.chunks = [chunk + bytes(9) for chunk in page.chunks]
    check(put(tmp_path, page))


@pytest.mark.parametrize("number", [0, 7, 11])
def test_tile_without_end_is_refused_by_number(tmp_path: Path, number: int) -> None:
    """Wherever it is, and however little is missing."""
    for left in (0, 300, -2):
        page = tiles()
        page.chunks[number] = page.chunks[number][:left]
        with pytest.raises(BadInput, match=f"tile {number} is incomplete"):
            check(put(tmp_path, page))


def test_tiles_under_the_tags_of_strips_are_looked_at(tmp_path: Path) -> None:
    """libtiff takes StripOffsets for TileOffsets where the file has tiles."""
    page = tiles()
    page.offsets, page.counts = 273, 279
    page.chunks[3] = page.chunks[3][:200]
    with pytest.raises(BadInput, match="tile 3"):
        check(put(tmp_path, page))


def test_tiles_that_nobody_finds_are_refused(tmp_path: Path) -> None:
    """Lists that are missing, or of different lengths."""
    page = tiles()
    page.counts = None
    with pytest.raises(BadInput, match="lists"):
        check(put(tmp_path, page))
    page = tiles()
    page.tags[325] = Tag("I", [5])
    with pytest.raises(BadInput, match="lists"):
        check(put(tmp_path, page))


@pytest.mark.parametrize("name", ["old-JPEG 420 tables", "old-JPEG 444 tables", "old-JPEG 420 whole-stream"])
def test_stream_is_a_jpeg_of_the_same_picture(tmp_path: Path, name: str) -> None:
    """Put together from tables, or taken as it is: any decoder of JPEG reads it."""
    (entry,) = (entry for entry in entries() if entry.name == name)
    path = tmp_path / "t.tif"
    path.write_bytes(entry.data)
    stream = tiff_jpeg.old_style(path, tiff_tags.read_directory(path))
    with Image.open(io.BytesIO(stream)) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(float)
    assert np.abs(pixels - entry.right).mean() <= CLOSE


def test_half_of_a_scan_behind_tables_is_refused(tmp_path: Path) -> None:
    """An end mark is put behind the scan, but the decoder notices what is missing."""
    (entry,) = (entry for entry in entries() if entry.name == "old-JPEG 444 tables")
    path = tmp_path / "t.tif"
    tags = _tags(path, entry.data)
    (size,) = tags.all_values(path, tiff_tags.STRIP_BYTE_COUNTS)
    offset, patch = tags.patch(tiff_tags.STRIP_BYTE_COUNTS, size // 2)
    path.write_bytes(entry.data[:offset] + patch + entry.data[offset + len(patch) :])
    with pytest.raises(BadInput, match="premature end"):
        convert(path, tmp_path / "out.jpg", Options())


def _tags(path: Path, data: bytes) -> tiff_tags.Directory:
    path.write_bytes(data)
    return tiff_tags.read_directory(path)


def test_stream_of_another_size_is_refused(tmp_path: Path) -> None:
    """Else the result would say another size than the file."""
    page = old_jpeg_page("444", (1, 1))
    page.tags |= {256: Tag("I", [60]), 257: Tag("I", [48])}
    with pytest.raises(BadInput, match="another size"):
        convert(put(tmp_path, page), tmp_path / "out.jpg", Options())


@pytest.mark.parametrize(
    ("tag", "value", "says"),
    [(262, Tag("H", [2]), "not supported"), (284, Tag("H", [2]), "separate planes"), (519, Tag("I", [8]), "tables")],
)
def test_forms_that_are_in_doubt_are_refused(tmp_path: Path, tag: int, value: Tag, says: str) -> None:
    """RGB that may be YCbCr, planes, and too few tables."""
    page = old_jpeg_page("444", (1, 1))
    page.tags[tag] = value
    if tag == 519:
        page.tags = {number: found for number, found in page.tags.items() if number not in (513, 514)}
    with pytest.raises(BadInput, match=says):
        convert(put(tmp_path, page), tmp_path / "out.jpg", Options())
