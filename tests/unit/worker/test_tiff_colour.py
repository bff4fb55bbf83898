"""What sharp gets wrong about channels: extra ones, YCbCr, LAB, and profiles of 16-bit grey."""

import struct
from pathlib import Path

import pytest
from PIL import Image

from tests.corpus.writer import Page, Tag, write
from tests.unit.worker.tiff_files import middle, near, tiff
from worker.errors import BadInput
from worker.kinds.tiff import Options, convert

RED, YCBCR_RED = bytes([220, 20, 20]), bytes([80, 94, 228])


@pytest.mark.parametrize(
    ("photometric", "samples", "right"),
    [(1, b"\x80", (128,) * 3), (0, b"\x80", (127,) * 3), (2, RED, (220, 20, 20)), (5, bytes(4), (255, 255, 255))],
)
@pytest.mark.parametrize("meanings", [[0], [0, 0], [1, 0], [0, 2]])
def test_only_alpha_is_flattened(
    tmp_path: Path, photometric: int, samples: bytes, right: tuple[int, ...], meanings: list[int]
) -> None:
    """A channel that ExtraSamples does not call alpha is left out, though it is zero; alpha of 255 changes nothing."""
    extra = bytes(255 if meaning else 0 for meaning in meanings)
    source = tiff(tmp_path / "t.tif", samples + extra, photometric=photometric,
                  channels=len(samples) + len(extra), t338=Tag("H", meanings))  # fmt: skip
    pixel, result = middle(source)
    assert near(pixel, right), pixel
    assert any("not alpha" in note for note in result.notes)


def test_alpha_is_flattened_on_black_as_sharp_does(tmp_path: Path) -> None:
    """Half-transparent red is half as bright, and no note is needed."""
    pixel, result = middle(tiff(tmp_path / "t.tif", RED + b"\x80", photometric=2, channels=4, t338=Tag("H", [2])))
    assert near(pixel, (110, 10, 10))
    assert result.notes == ()


def test_ycbcr_has_its_colours_back(tmp_path: Path) -> None:
    """BT.601 at full range, the standard's default."""
    source = tiff(tmp_path / "t.tif", YCBCR_RED, photometric=6, channels=3, t530=Tag("H", [1, 1]))
    pixel, result = middle(source)
    assert near(pixel, (220, 20, 20)), pixel
    assert "converted from YCbCr" in result.notes


def test_ycbcr_by_the_coefficients_and_levels_of_the_file(tmp_path: Path) -> None:
    """BT.709 in 16..235: white is white, and red is red."""
    tags = {
        "t530": Tag("H", [1, 1]), "t529": Tag("R", [2126, 10000, 7152, 10000, 722, 10000]),
        "t532": Tag("R", [16, 1, 235, 1, 128, 1, 240, 1, 128, 1, 240, 1]),
    }  # fmt: skip
    white = tiff(tmp_path / "t.tif", bytes([235, 128, 128]), photometric=6, channels=3, **tags)
    assert near(middle(white)[0], (255, 255, 255))
    red = tiff(tmp_path / "t.tif", bytes([63, 102, 240]), photometric=6, channels=3, **tags)
    assert near(middle(red)[0], (255, 0, 0), 6)


@pytest.mark.parametrize(
    ("photometric", "bits", "samples"),
    [
        (8, 8, bytes([75, 68, 144])), (8, 8, bytes([75, 68, 144, 0])), (9, 8, bytes([75, 196, 16])),
        (9, 16, struct.pack("<3H", 19_303, 196 * 256, 16 * 256)),
        (8, 16, struct.pack("<H3h", 19_379, 68 * 256, -112 * 256, 0)),
    ],
)  # fmt: skip
def test_lab_is_lab_of_d50(tmp_path: Path, photometric: int, bits: int, samples: bytes) -> None:
    """L 29.5, a 68, b -112, sRGB's blue by D50, in every way to store it; an extra channel does not hurt."""
    channels = len(samples) * 8 // bits
    tags = {"t338": Tag("H", [0])} if channels > 3 else {}
    pixel, result = middle(
        tiff(tmp_path / "t.tif", samples, photometric=photometric, bits=bits, channels=channels, **tags)
    )
    assert near(pixel, (0, 0, 255), 8), pixel
    assert "converted from LAB" in result.notes


def test_lab_with_alpha(tmp_path: Path) -> None:
    """sharp makes it black."""
    source = tiff(tmp_path / "t.tif", bytes([128, 0, 0, 128]), photometric=8, channels=4, t338=Tag("H", [2]))
    assert near(middle(source)[0], (60, 60, 60))


@pytest.mark.parametrize("photometric", [4, 10, 32803, 32844, 34892, 999])
def test_what_is_no_picture_is_refused_by_name(tmp_path: Path, photometric: int) -> None:
    """Raw data of cameras, masks and unknown kinds: the sentence names the number."""
    with pytest.raises(BadInput, match=rf"\(photometric interpretation {photometric}\)"):
        middle(tiff(tmp_path / "t.tif", b"\x80", photometric=photometric))


def test_profile_of_16_bit_grey_is_applied(tmp_path: Path) -> None:
    """A grey profile of gamma 1: half of the light is 188 of sRGB; sharp's own way is there on request."""
    source = tiff(tmp_path / "t.tif", struct.pack("<H", 32768), photometric=1, bits=16, t34675=Tag("x", linear_grey()))
    pixel, result = middle(source)
    assert near(pixel, (188,) * 3), pixel
    assert any("profile" in note for note in result.notes)
    assert near(middle(source, strict_sharp=True)[0], (128,) * 3)


def linear_grey() -> bytes:
    """The smallest ICC profile for grey: white point D50 and a curve of gamma 1."""
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in (0.9642, 1, 0.8249)))
    curve = b"curv\0\0\0\0" + struct.pack(">I", 0)
    head = 128 + 4 + 2 * 12
    table = struct.pack(">I", 2) + b"wtpt" + struct.pack(">II", head, len(white))
    table += b"kTRC" + struct.pack(">II", head + len(white), len(curve))
    size = head + len(white) + len(curve)
    header = struct.pack(">I4xI", size, 0x02400000) + b"mntrGRAYXYZ " + bytes(12) + b"acsp"
    illuminant = struct.pack(">3i", *(round(value * 65536) for value in (0.9642, 1, 0.8249)))
    return (header + bytes(28) + illuminant).ljust(128, b"\0") + table + white + curve


def test_thumbnail_first_is_said(tmp_path: Path) -> None:
    """The first page is converted, as sharp does, and the result says that it is the small one."""
    page = {
        256: Tag("I", [8]), 257: Tag("I", [8]), 258: Tag("H", [8]), 259: Tag("H", [1]), 262: Tag("H", [1]),
        277: Tag("H", [1]), 278: Tag("I", [8]),
    }  # fmt: skip
    source = tmp_path / "t.tif"
    source.write_bytes(write([Page(page | {254: Tag("I", [1])}, [bytes(64)]), Page(page, [bytes(64)])]))
    target = tmp_path / "t.jpg"
    result = convert(source, target, Options())
    with Image.open(target) as picture:
        assert picture.size == (8, 8)
    assert result.pages == 2
    assert any("reduced version" in note for note in result.notes)
