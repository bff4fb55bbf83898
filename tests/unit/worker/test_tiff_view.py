"""Files that libvips reads with other tags than they have."""

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.corpus.writer import Page, Tag, write
from tests.unit.worker.tiff_files import SIDE, middle, near, strip, tiff
from worker.errors import BadInput
from worker.kinds.tiff import Options, convert
from worker.tiff_tags import read_directory
from worker.tiff_view import choose


def packed(values: "np.ndarray[tuple[int, ...], np.dtype[np.int64]]", bits: int) -> bytes:
    """Rows of values, the highest bit first, each row filled up to whole bytes."""
    places = (values[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(places.reshape(len(values), -1).astype(np.uint8), axis=1).tobytes()


@pytest.mark.parametrize("bits", [6, 10, 12, 14])
@pytest.mark.parametrize("photometric", [0, 1])
def test_grey_of_odd_bits_is_scaled(tmp_path: Path, bits: int, photometric: int) -> None:
    """A ramp stays a ramp over the whole width, whose rows do not end at a group of bytes."""
    most = (1 << bits) - 1
    ramp = np.tile(np.arange(SIDE) * most // (SIDE - 1), (SIDE, 1))
    source = strip(tmp_path / "t.tif", packed(ramp, bits), photometric=photometric, bits=bits)
    _, result = middle(source)
    with Image.open(source.with_suffix(".jpg")) as picture:
        row = np.asarray(picture).astype(int)[SIDE // 2, :, 0]
    right = np.arange(SIDE) * 255 / (SIDE - 1)
    assert np.abs(row - (right if photometric else 255 - right)).max() <= 5
    assert any(f"{bits}-bit samples were scaled" in note for note in result.notes)


@pytest.mark.parametrize("bits", [1, 2, 4, 6, 10, 12, 14])
def test_colours_of_odd_bits(tmp_path: Path, bits: int) -> None:
    """Three channels of a few bits each: full red."""
    most = (1 << bits) - 1
    data = packed(np.tile([most, 0, 0], (SIDE, SIDE)), bits)
    source = strip(tmp_path / "t.tif", data, photometric=2, bits=bits, channels=3)
    assert near(middle(source)[0], (255, 0, 0))


def test_packed_rows_with_a_predictor_are_refused(tmp_path: Path) -> None:
    """Differences of samples cannot be undone as differences of bytes: refused, never noise."""
    data = packed(np.tile(np.arange(SIDE), (SIDE, 1)), 12)
    source = strip(tmp_path / "t.tif", data, photometric=1, bits=12, t317=Tag("H", [2]))
    with pytest.raises(BadInput, match="12-bit samples stored in a way that is not supported"):
        middle(source)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize(("bits", "tile"), [(8, 16), (16, 16), (8, 64)])
def test_planes_in_tiles_are_joined(tmp_path: Path, order: str, big: bool, bits: int, tile: int) -> None:
    """Red, green and blue in tiles of their own; with one tile a plane its place stands in the entry itself or not."""
    letter = order + ("B" if bits == 8 else "H")
    scale = 1 if bits == 8 else 257
    count = (SIDE // tile) ** 2
    chunks = [struct.pack(letter, level * scale) * tile * tile for level in (220, 20, 120) for _ in range(count)]
    tags = {
        256: Tag("I", [SIDE]), 257: Tag("I", [SIDE]), 258: Tag("H", [bits] * 3), 259: Tag("H", [1]),
        262: Tag("H", [2]), 277: Tag("H", [3]), 284: Tag("H", [2]), 322: Tag("I", [tile]), 323: Tag("I", [tile]),
    }  # fmt: skip
    source = tmp_path / "t.tif"
    source.write_bytes(write([Page(tags, chunks, offsets=324, counts=325)], order=order, big=big))
    pixel, result = middle(source)
    assert near(pixel, (220, 20, 120)), pixel
    assert "tiles of separate planes were joined" in result.notes


@pytest.mark.parametrize("turn", [0, 9])
def test_orientation_that_is_none_is_ignored(tmp_path: Path, turn: int) -> None:
    """libtiff refuses the file for it; the picture is as good as any."""
    pixel, result = middle(tiff(tmp_path / "t.tif", b"\x80", photometric=1, t274=Tag("H", [turn])))
    assert near(pixel, (128,) * 3)
    assert f"the orientation tag is not valid ({turn}) and was ignored" in result.notes


@pytest.mark.parametrize(
    "tags",
    [
        {"channels": 3, "photometric": 2},
        {"photometric": 0},
        {"photometric": 1, "bits": 4},
        {"photometric": 0, "bits": 16},
    ],
)
def test_ordinary_files_are_read_plainly(tmp_path: Path, tags: dict[str, int]) -> None:
    """No detour for what libvips reads rightly: its own reader is faster, and its bytes are sharp's."""
    source = tiff(tmp_path / "t.tif", b"\x80" * 4, **tags)  # type: ignore[arg-type]
    assert choose(read_directory(source)) is None


def test_source_is_not_written_to(tmp_path: Path) -> None:
    """The tags are exchanged in what is read only."""
    source = tiff(tmp_path / "t.tif", bytes([75, 68, 144]), photometric=8, channels=3)
    before = source.read_bytes()
    source.chmod(0o444)
    convert(source, tmp_path / "out.jpg", Options())
    assert source.read_bytes() == before


@pytest.mark.parametrize(("tag", "value"), [(277, 65_535), (322, 0xFFFFFFFF), (256, 0xFFFFFFFF)])
def test_senseless_sizes_are_refused(tmp_path: Path, tag: int, value: int) -> None:
    """A damaged size neither opens thousands of planes nor escapes as an error of the program."""
    tags = {f"t{tag}": Tag("I", [value])} | {"t317": Tag("H", [1])}
    source = tiff(tmp_path / "t.tif", b"\x80\x80", photometric=1, bits=12, **tags)
    with pytest.raises(BadInput):
        middle(source)
