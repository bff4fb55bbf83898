"""TIFF to JPEG without any network: the pipeline, what it says about itself, and what it refuses."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orchestrator.cli.samples import write_samples
from tests import oracle
from tests.corpus.base import shapes
from tests.corpus.bilevel import fax_page
from tests.corpus.doubtful import halved, harmless
from tests.corpus.writer import Page, Tag, write
from worker.errors import BadInput, Cancelled, LimitExceeded, WorkerError
from worker.kinds.tiff import Converted, Options, convert, output_key_of
from worker.limits import MemoryGate


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


def test_same_bytes_as_sharp(samples: dict[str, Path]) -> None:
    """Where sharp is right, the JPEG is byte for byte the one that sharp makes; with STRICT_SHARP also elsewhere."""
    if not oracle.is_here():
        pytest.skip(oracle.MISSING)
    expected = oracle.convert(list(samples.values()))
    for name, source in samples.items():
        target = source.with_name(f"{source.name}.jpg")
        convert(source, target, Options(strict_sharp=name == "turned"))
        assert target.read_bytes() == expected[source], name


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


@pytest.mark.parametrize(
    ("cut", "says"),
    [
        (lambda body: body[: len(body) // 2], "directory cannot be read|shorter|Read error"),
        (lambda body: body[:8] + bytes(100) + body[108:], "Using code not yet in table"),
    ],
)
def test_strict_refuses_what_libvips_warns_about(
    samples: dict[str, Path], tmp_path: Path, cut: Callable[[bytes], bytes], says: str
) -> None:
    """With STRICT_SHARP no second attempt is made and nothing is decoded by other means."""
    (tmp_path / "t.tif").write_bytes(cut(samples["rgb-lzw"].read_bytes()))
    with pytest.raises(BadInput, match=says):
        convert(tmp_path / "t.tif", tmp_path / "out.jpg", Options(strict_sharp=True))


def test_harmless_warning_does_not_fail_a_file(tmp_path: Path) -> None:
    """Entries in the wrong order: sharp refuses, this converts and says what it ignored; STRICT_SHARP refuses."""
    source = tmp_path / "t.tif"
    tags = {256: Tag("I", [8]), 257: Tag("I", [8]), 258: Tag("H", [8]), 259: Tag("H", [1]), 262: Tag("H", [1]),
            277: Tag("H", [1]), 278: Tag("I", [8])}  # fmt: skip
    source.write_bytes(write([Page(tags, [bytes(64)], backwards=True)]))
    result, _ = made(source, tmp_path)
    assert any("read in spite of a warning" in note for note in result.notes), result.notes
    with pytest.raises(BadInput):
        convert(source, tmp_path / "out.jpg", Options(strict_sharp=True))


def test_second_reading_must_be_harmless_too(tmp_path: Path) -> None:
    """Half a fax behind a harmless tag: the pass that ignores warnings is judged by them, and no JPEG is left."""
    page = halved(fax_page(np.repeat(np.repeat(shapes(), 8, axis=0), 8, axis=1), "G4", 0, 1))
    (tmp_path / "t.tif").write_bytes(write([harmless(page)]))
    with pytest.raises(BadInput, match="Premature EOF"):
        convert(tmp_path / "t.tif", tmp_path / "out.jpg", Options())
    assert not (tmp_path / "out.jpg").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_full_disk_is_not_the_files_fault(samples: dict[str, Path], tmp_path: Path) -> None:
    """A write error can be tried again, and names no path; nothing is said of damaged data."""
    (tmp_path / "full.jpg").symlink_to("/dev/full")
    for target in (tmp_path / "full.jpg", tmp_path / "no folder" / "out.jpg"):
        with pytest.raises(WorkerError, match=r"^The JPEG cannot be written") as caught:
            convert(samples["rgb"], target, Options())
        assert caught.value.retryable
        assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"JPEG_QUALITY": "0"}, "JPEG_QUALITY must be a whole number from 1 to 100, not '0'"),
        ({"JPEG_QUALITY": "101"}, "from 1 to 100"), ({"JPEG_QUALITY": "9.5"}, "not '9.5'"),
        ({"JPEG_QUALITY": "٣"}, "whole number"), ({"JPEG_ENCODER": "guetzli"}, "must be mozjpeg or jpegli"),
        ({"JPEG_ENCODER": "jpegli", "STRICT_SHARP": "1"}, "STRICT_SHARP=1 needs JPEG_ENCODER=mozjpeg"),
    ],
)  # fmt: skip
def test_wrong_settings_are_told(env: dict[str, str], says: str) -> None:
    """The sentence names the variable, what is allowed and what was found."""
    with pytest.raises(BadInput, match=says):
        Options.from_environment(env)


def test_settings_from_the_environment() -> None:
    """What is not set has the default; an empty variable is not set."""
    plain = Options.from_environment({"JPEG_QUALITY": "", "JPEG_ENCODER": ""})
    assert (plain.strict_sharp, plain.jpeg_quality, plain.jpeg_encoder) == (False, 95, "mozjpeg")
    other = Options.from_environment({"STRICT_SHARP": "1", "JPEG_QUALITY": "80", "JPEG_ENCODER": "mozjpeg"})
    assert (other.strict_sharp, other.jpeg_quality) == (True, 80)


def test_quality_changes_the_size(samples: dict[str, Path], tmp_path: Path) -> None:
    """JPEG_QUALITY reaches the encoder."""
    assert made(samples["rgb"], tmp_path, jpeg_quality=50)[0].size < made(samples["rgb"], tmp_path)[0].size


def test_floats_are_refused_not_guessed(tmp_path: Path) -> None:
    """Samples whose range is unknown are never passed through as black or white."""
    Image.linear_gradient("L").convert("F").save(tmp_path / "float.tif")
    with pytest.raises(BadInput, match="floating point"):
        convert(tmp_path / "float.tif", tmp_path / "out.jpg", Options())


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
