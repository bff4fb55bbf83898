"""What Pillow decodes because libvips cannot."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from tests.corpus.writer import Page, Tag, write
from tests.unit.worker.tiff_files import SIDE, middle, near, tiff
from worker.errors import BadInput, LimitExceeded
from worker.kinds.tiff import Options, convert
from worker.limits import MemoryGate

pytestmark = pytest.mark.skipif(not features.check("libtiff"), reason="this Pillow has no libtiff")
RED = (220, 20, 20)


def zstd(path: Path, picture: Image.Image, **more: object) -> Path:
    """Writes a picture with zstd compression."""
    picture.save(path, compression="zstd", **more)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize(
    ("mode", "colour", "right"),
    [
        ("RGB", RED, RED), ("L", 77, (77,) * 3), ("1", 1, (255,) * 3), ("RGBA", (*RED, 128), (110, 10, 10)),
        ("LA", (200, 128), (100,) * 3), ("I;16", 77 * 257, (77,) * 3), ("CMYK", (0, 0, 0, 0), (255,) * 3),
        ("LAB", (128, 128, 128), (119,) * 3),
    ],
)  # fmt: skip
def test_zstd_of_every_mode(tmp_path: Path, mode: str, colour: tuple[int, ...] | int, right: tuple[int, ...]) -> None:
    """The compression that the wheel of libvips lacks; alpha is composed, not dropped."""
    source = zstd(tmp_path / "t.tif", Image.new(mode, (SIDE, SIDE), colour))  # type: ignore[arg-type]
    pixel, result = middle(source)
    assert near(pixel, right), pixel
    assert "decoded by Pillow" in result.notes
    with pytest.raises(BadInput):
        convert(source, tmp_path / "out.jpg", Options(strict_sharp=True))


def test_white_is_zero_in_16_bits(tmp_path: Path) -> None:
    """Pillow does not invert it."""
    source = zstd(tmp_path / "t.tif", Image.new("I;16", (SIDE, SIDE), 50 * 257), tiffinfo={262: 0})
    assert near(middle(source)[0], (205,) * 3)


def test_pillow_turns_once(tmp_path: Path) -> None:
    """Pillow applies the orientation while it loads; the result is turned, once, and says so."""
    picture = Image.new("RGB", (SIDE, 32), RED)
    for turn, size in ((1, (SIDE, 32)), (3, (SIDE, 32)), (6, (32, SIDE))):
        source = zstd(tmp_path / "t.tif", picture, tiffinfo={274: turn})
        result = convert(source, tmp_path / "out.jpg", Options())
        assert (result.width, result.height) == size
        assert any("turned" in note for note in result.notes) == (turn > 1)


def test_pages_are_counted_and_the_first_is_taken(tmp_path: Path) -> None:
    """Asking Pillow for the number of pages must not leave it at the last one."""
    pages = [Image.new("RGB", (SIDE, SIDE), (0, 0, 250))]
    source = zstd(tmp_path / "t.tif", Image.new("RGB", (SIDE, SIDE), RED), save_all=True, append_images=pages)
    pixel, result = middle(source)
    assert near(pixel, RED)
    assert result.pages == 2


def test_profile_survives(tmp_path: Path) -> None:
    """An embedded profile is applied as for any other file."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    source = zstd(tmp_path / "t.tif", Image.new("RGB", (SIDE, SIDE), RED), icc_profile=profile)
    assert near(middle(source)[0], RED)
    assert profile not in source.with_suffix(".jpg").read_bytes()


def test_old_style_jpeg(tmp_path: Path) -> None:
    """Compression 6, the JPEG of TIFF 6.0, as one interchange stream."""
    stream = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), RED).save(stream, "JPEG", quality=95, subsampling=0)
    source = tmp_path / "t.tif"
    write_old_jpeg(source, stream.getvalue())
    pixel, result = middle(source)
    assert near(pixel, RED, 6)
    assert "old-style JPEG was decoded from its stream" in result.notes


def write_old_jpeg(path: Path, stream: bytes) -> None:
    """The stream stands right after the header."""
    entries = [
        (256, 4, 1, SIDE), (257, 4, 1, SIDE), (258, 3, 3, 8 + len(stream)), (259, 3, 1, 6), (262, 3, 1, 6),
        (273, 4, 1, 8), (277, 3, 1, 3), (278, 4, 1, SIDE), (279, 4, 1, len(stream)), (513, 4, 1, 8),
        (514, 4, 1, len(stream)), (530, 3, 2, 0x10001),
    ]  # fmt: skip
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    head = struct.pack("<2sHI", b"II", 42, 8 + len(stream) + 6)
    path.write_bytes(head + stream + struct.pack("<3H", 8, 8, 8) + directory + bytes(4))


def test_signed_bytes_are_not_taken_for_unsigned(tmp_path: Path) -> None:
    """Pillow calls them greys of 0 to 255; they are refused instead."""
    source = zstd(tmp_path / "t.tif", Image.new("L", (SIDE, SIDE), 77), tiffinfo={339: 2})
    with pytest.raises(BadInput, match="ZSTD"):
        middle(source)


def test_damaged_data_is_one_sentence(tmp_path: Path) -> None:
    """Half of the compressed data: not "decoder error -2"."""
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), np.uint8))
    source = zstd(tmp_path / "t.tif", noise)
    body = source.read_bytes()
    source.write_bytes(body[: len(body) - 4000])
    with pytest.raises(BadInput, match=r"^(The file|Read error)"):
        middle(source)


def test_memory_is_asked_for_before_pillow_decodes(tmp_path: Path) -> None:
    """Pillow has the whole picture in memory at once."""
    source = zstd(tmp_path / "t.tif", Image.new("RGB", (SIDE, SIDE), RED))
    with pytest.raises(LimitExceeded):
        middle(source, memory=MemoryGate(1000))


def test_big_endian_bigtiff_is_refused_by_libvips_sentence(tmp_path: Path) -> None:
    """Pillow does not know it; its complaint would not say what is the matter."""
    source = tmp_path / "t.tif"
    tags = {256: Tag("I", [8]), 257: Tag("I", [8]), 258: Tag("H", [8]), 259: Tag("H", [50000]), 262: Tag("H", [1]),
            277: Tag("H", [1]), 278: Tag("I", [8])}  # fmt: skip
    source.write_bytes(write([Page(tags, [bytes(64)])], order=">", big=True))
    with pytest.raises(BadInput, match="ZSTD"):
        convert(source, tmp_path / "out.jpg", Options())


def test_modes_for_which_pillow_is_not_right_are_refused(tmp_path: Path) -> None:
    """32-bit integers come out with the wrong sign."""
    source = tiff(tmp_path / "t.tif", bytes(4), photometric=1, bits=32, t259=Tag("H", [50000]))
    with pytest.raises(BadInput):
        middle(source)
