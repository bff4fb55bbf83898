"""TIFF to JPEG without any network: the pipeline, what it says about itself, and what it refuses."""

import os
import shutil
import struct
import subprocess
import threading
from pathlib import Path

import pytest
from PIL import Image

from orchestrator.cli.samples import write_samples
from worker.errors import BadInput, Cancelled, LimitExceeded
from worker.kinds.tiff import Converted, Options, convert, output_key_of
from worker.limits import MemoryGate
from worker.tiff_tags import COMPRESSION, PHOTOMETRIC, read_tags

SHARP = """
const sharp = require('sharp');
(async () => {
  for (const path of process.argv.slice(1))
    await sharp(path).jpeg({quality: 95, mozjpeg: true}).toFile(path + '.sharp.jpg');
})().catch(error => { console.error(error); process.exit(1); });
"""


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The product's own samples by their names without number and ending."""
    return {path.stem.split("-", 1)[1]: path for path in write_samples(tmp_path_factory.mktemp("samples"))}


def made(source: Path, folder: Path, **options: object) -> tuple[Converted, Image.Image]:
    """The result and the picture of one conversion."""
    target = folder / "out.jpg"
    result = convert(source, target, Options(**options))  # type: ignore[arg-type]
    with Image.open(target) as picture:
        picture.load()
        return result, picture.copy()


def sharp_environment() -> dict[str, str] | None:
    """An environment in which node finds sharp (NODE_PATH), or None."""
    node = shutil.which("node")
    if node is None:
        return None
    found = subprocess.run([node, "-e", "require('sharp')"], capture_output=True, check=False)
    return dict(os.environ) if found.returncode == 0 else None


def test_same_bytes_as_sharp(samples: dict[str, Path]) -> None:
    """Where sharp is right, the JPEG is byte for byte the one that sharp makes; with STRICT_SHARP also elsewhere."""
    environment = sharp_environment()
    if environment is None:
        pytest.skip("node with sharp is not here: npm install sharp, then set NODE_PATH")
    subprocess.run(["node", "-e", SHARP, *map(str, samples.values())], env=environment, check=True)
    for name, source in samples.items():
        target = source.with_name(f"{source.name}.jpg")
        convert(source, target, Options(strict_sharp=name == "turned"))
        assert target.read_bytes() == source.with_name(f"{source.name}.sharp.jpg").read_bytes(), name


def test_every_sample_is_converted(samples: dict[str, Path], tmp_path: Path) -> None:
    """Each kind becomes a JPEG of three channels whose size and pixels are what the result says."""
    assert len(samples) == 13
    for name, source in samples.items():
        result, picture = made(source, tmp_path)
        assert (picture.format or "JPEG", picture.mode) == ("JPEG", "RGB"), name
        assert picture.size == (result.width, result.height), name
        assert result.size == (tmp_path / "out.jpg").stat().st_size, name


@pytest.mark.parametrize("name", ["rgb", "rgb-lzw", "rgb-16-bit", "rgb-jpeg"])
def test_colours_are_right(samples: dict[str, Path], tmp_path: Path, name: str) -> None:
    """The red rectangle is red, within what JPEG loses."""
    _, picture = made(samples[name], tmp_path)
    pixel = picture.getpixel((60, 60))
    assert isinstance(pixel, tuple)
    assert all(abs(one - other) <= 6 for one, other in zip(pixel, (220, 20, 20), strict=True)), pixel


def test_first_page_is_converted_and_pages_are_counted(samples: dict[str, Path], tmp_path: Path) -> None:
    """A file of three pages gives its first one and says three."""
    result, picture = made(samples["three-pages"], tmp_path)
    assert result.pages == 3
    assert picture.size == (480, 320)


def test_orientation_is_applied_and_said(samples: dict[str, Path], tmp_path: Path) -> None:
    """A scan that lies on its side stands upright afterwards; sharp's own way is there on request."""
    result, picture = made(samples["turned"], tmp_path)
    assert picture.size == (480, 320)
    assert any("turned" in note for note in result.notes)
    strict, lying = made(samples["turned"], tmp_path, strict_sharp=True)
    assert lying.size == (320, 480)
    assert strict.notes == ()


def test_broken_files_are_refused_in_one_sentence(samples: dict[str, Path], tmp_path: Path) -> None:
    """Half a picture, no picture and an empty file are errors of the input, and no path is in the message."""
    whole = samples["rgb-lzw"].read_bytes()
    directory_first = samples["rgb-16-bit"].read_bytes()
    fax = samples["fax-g4"].read_bytes()
    for body in (b"", b"II*\0", b"no picture at all", whole[: len(whole) // 2], directory_first[:100_000], fax[:3000]):
        source = tmp_path / "broken.tif"
        source.write_bytes(body)
        with pytest.raises(BadInput) as caught:
            convert(source, tmp_path / "out.jpg", Options())
        assert str(tmp_path) not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_floats_are_refused_not_guessed(tmp_path: Path) -> None:
    """Samples whose range is unknown are never passed through as black or white."""
    Image.linear_gradient("L").convert("F").save(tmp_path / "float.tif")
    with pytest.raises(BadInput, match="floating point"):
        convert(tmp_path / "float.tif", tmp_path / "out.jpg", Options())


def test_ycbcr_without_jpeg_is_not_taken_for_rgb(tmp_path: Path) -> None:
    """Raw YCbCr (photometric 6) has its colours back: what went in as red comes out as red."""
    red = Image.new("RGB", (64, 64), (220, 20, 20)).convert("YCbCr")
    source = tmp_path / "ycbcr.tif"
    _write_raw(source, 64, 64, red.tobytes(), photometric=6)
    result, picture = made(source, tmp_path)
    pixel = picture.getpixel((32, 32))
    assert isinstance(pixel, tuple)
    assert all(abs(one - other) <= 4 for one, other in zip(pixel, (220, 20, 20), strict=True)), pixel
    assert any("YCbCr" in note for note in result.notes)


def test_lab_is_converted_rightly(tmp_path: Path) -> None:
    """8-bit LAB, which sharp refuses, keeps its grey: L of 50% with no colour is about (119, 119, 119)."""
    Image.merge("LAB", [Image.new("L", (64, 64), value) for value in (128, 128, 128)]).save(tmp_path / "lab.tif")
    _, picture = made(tmp_path / "lab.tif", tmp_path)
    pixel = picture.getpixel((32, 32))
    assert isinstance(pixel, tuple)
    assert all(abs(channel - 119) <= 4 for channel in pixel), pixel


def test_too_large_for_this_machine_says_what_would_do(samples: dict[str, Path], tmp_path: Path) -> None:
    """Memory is checked before a pixel is decoded; the error can be retried on a larger machine."""
    with pytest.raises(LimitExceeded, match="MB would do") as caught:
        convert(samples["rgb"], tmp_path / "out.jpg", Options(memory=MemoryGate(1_000_000)))
    assert caught.value.retryable


def test_too_many_pixels_a_side(tmp_path: Path) -> None:
    """JPEG has 65,535 pixels a side; more is said so."""
    Image.new("1", (65_536, 2)).save(tmp_path / "wide.tif")
    with pytest.raises(BadInput, match="65535 a side"):
        convert(tmp_path / "wide.tif", tmp_path / "out.jpg", Options())


def test_cancelled_conversion_ends(samples: dict[str, Path], tmp_path: Path) -> None:
    """A conversion whose task is no longer wanted stops by itself."""
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(Cancelled):
        convert(samples["rgb"], tmp_path / "out.jpg", Options(cancelled=cancelled))


@pytest.mark.parametrize(
    ("key", "output"),
    [("a/p.tif", "a/p.jpg"), ("a/P.TIFF", "a/P.jpg"), ("a.tif/p.Tiff", "a.tif/p.jpg"), ("a/p", "a/p.jpg")],
)
def test_output_key_by_the_originals_rule(key: str, output: str) -> None:
    """`.tif` and `.tiff` in any case become `.jpg` at the end only; another ending is never overwritten."""
    assert output_key_of(key) == output


@pytest.mark.parametrize("order", ["<", ">"])
def test_tags_are_read_in_both_byte_orders(tmp_path: Path, order: str) -> None:
    """The small reader finds what it is asked for, and finds nothing in what is no TIFF."""
    path = tmp_path / "t.tif"
    entries = b"".join(
        struct.pack(order + "HHIHH", tag, 3, 1, value, 0) for tag, value in ((COMPRESSION, 5), (PHOTOMETRIC, 6))
    )
    mark = b"II" if order == "<" else b"MM"
    path.write_bytes(mark + struct.pack(order + "HI", 42, 8) + struct.pack(order + "H", 2) + entries)
    assert read_tags(path) == {COMPRESSION: 5, PHOTOMETRIC: 6}
    path.write_bytes(b"II*\0\xff\xff\xff\xff")
    assert read_tags(path) == {}


def _write_raw(path: Path, width: int, height: int, pixels: bytes, *, photometric: int) -> None:
    """An uncompressed 8-bit TIFF of three samples, without subsampling."""
    values = [(256, width), (257, height), (258, 8), (259, 1), (262, photometric), (273, 8), (277, 3), (278, height),
              (279, len(pixels)), (284, 1)]  # fmt: skip
    bits_at = 8 + len(pixels)
    entries = b""
    for tag, value in values:
        entries += struct.pack("<HHII", tag, 3 if tag == 258 else 4, 3 if tag == 258 else 1,
                               bits_at if tag == 258 else value)  # fmt: skip
    count = len(values)
    if photometric == 6:
        entries += struct.pack("<HHIHH", 530, 3, 2, 1, 1)
        count += 1
    path.write_bytes(
        struct.pack("<2sHI", b"II", 42, bits_at + 6) + pixels + struct.pack("<3H", 8, 8, 8)
        + struct.pack("<H", count) + entries + bytes(4)
    )  # fmt: skip
