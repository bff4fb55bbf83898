"""Signed, 32-bit and floating-point samples become what the file says about their range, or are refused."""

import struct
from pathlib import Path

import pytest

from tests.corpus.writer import Tag
from tests.unit.worker.tiff_files import SIDE, middle, near, strip, tiff
from worker.errors import BadInput

FLOAT, SIGNED = Tag("H", [3]), Tag("H", [2])


@pytest.mark.parametrize("letter", ["f", "d", "e"])
@pytest.mark.parametrize("photometric", [0, 1])
def test_floats_are_scaled_by_smin_and_smax(tmp_path: Path, letter: str, photometric: int) -> None:
    """A quarter of the way from SMinSampleValue to SMaxSampleValue is a quarter of white, or of black."""
    sample = struct.pack("<" + letter, -1.0)
    source = tiff(tmp_path / "t.tif", sample, photometric=photometric, bits=8 * len(sample), t339=FLOAT,
                  t340=Tag("f", [-2]), t341=Tag("f", [2]))  # fmt: skip
    pixel, result = middle(source)
    assert near(pixel, (64,) * 3 if photometric else (191,) * 3), pixel
    assert "floating point samples were scaled from -2 to 2" in result.notes


def test_doubles_keep_sign_and_fraction(tmp_path: Path) -> None:
    """Values of every binary exponent, put together from two words, end where they belong."""
    for value in (-7.75, -0.3, 0.0, 1e-9, 0.7, 5.1):
        source = tiff(tmp_path / "t.tif", struct.pack("<d", value), photometric=1, bits=64, t339=FLOAT,
                      t340=Tag("d", [-8.0]), t341=Tag("d", [8.0]))  # fmt: skip
        assert near(middle(source)[0], (round((value + 8) / 16 * 255),) * 3, 1), value


def test_doubles_keep_their_last_bits(tmp_path: Path) -> None:
    """A narrow range far from zero lives in the second word."""
    source = tiff(tmp_path / "t.tif", struct.pack("<d", 2**30 + 0.25), photometric=1, bits=64, t339=FLOAT,
                  t340=Tag("d", [2.0**30]), t341=Tag("d", [2.0**30 + 1]))  # fmt: skip
    assert near(middle(source)[0], (64,) * 3)


def test_range_by_the_old_tags(tmp_path: Path) -> None:
    """MinSampleValue and MaxSampleValue are taken where the newer tags are absent."""
    source = tiff(tmp_path / "t.tif", struct.pack("<I", 500), photometric=1, bits=32, t280=Tag("H", [0]),
                  t281=Tag("H", [1000]))  # fmt: skip
    assert near(middle(source)[0], (128,) * 3)


def test_statistics_of_ordinary_samples_change_nothing(tmp_path: Path) -> None:
    """In 8-bit files the same tags are statistics, and the picture stays as it is."""
    source = tiff(tmp_path / "t.tif", b"\x40", photometric=1, t280=Tag("H", [0]), t281=Tag("H", [64]))
    pixel, result = middle(source)
    assert near(pixel, (64,) * 3)
    assert result.notes == ()


def test_integers_are_scaled_by_their_type_when_they_use_it(tmp_path: Path) -> None:
    """A signed picture that goes over its type's range has its zero in the middle."""
    row = struct.pack(f"<{SIDE}h", *[-30_000] * 8, *[0] * (SIDE - 16), *[30_000] * 8)
    pixel, result = middle(strip(tmp_path / "t.tif", row * SIDE, photometric=1, bits=16, t339=SIGNED))
    assert near(pixel, (128,) * 3)
    assert "signed 16-bit samples were scaled from -32768 to 32767" in result.notes


@pytest.mark.parametrize(
    ("sample", "bits", "form", "says"),
    [
        (struct.pack("<h", 300), 16, 2, "signed 16-bit samples from 300 to 300"),
        (struct.pack("<I", 300), 32, 1, "32-bit samples from 300 to 300"),
        (struct.pack("<f", 0.5), 32, 3, "floating point samples, and the file does not say"),
        (struct.pack("<d", 0.5), 64, 3, "floating point samples, and the file does not say"),
        (struct.pack("<Q", 5), 64, 1, "64-bit samples"),
        (struct.pack("<ff", 1, 1), 64, 6, "complex samples"),
        (b"abc", 24, 1, "24-bit samples"),
    ],
)
def test_unknown_ranges_are_refused_not_guessed(tmp_path: Path, sample: bytes, bits: int, form: int, says: str) -> None:
    """A height map would become black or posterised: the sentence says what is missing."""
    source = tiff(tmp_path / "t.tif", sample, photometric=1, bits=bits, t339=Tag("H", [form]))
    with pytest.raises(BadInput, match=says):
        middle(source)


def test_range_that_is_none_is_refused(tmp_path: Path) -> None:
    """An upper end below the lower one, or not a number."""
    for low, high in ((1.0, 1.0), (2.0, 1.0), (0.0, float("nan"))):
        source = tiff(tmp_path / "t.tif", struct.pack("<f", 0.5), photometric=1, bits=32, t339=FLOAT,
                      t340=Tag("f", [low]), t341=Tag("f", [high]))  # fmt: skip
        with pytest.raises(BadInput, match="not valid"):
            middle(source)
