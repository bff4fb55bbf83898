"""libvips' errors and warnings as sentences."""

from pathlib import Path

import pytest

from worker import vips

SOURCE = Path("/some where/scan.tif")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("unable to call jpegsave\n  tiff2vips: Using code not yet in table\ntiff2vips: read error\n",
         ["Using code not yet in table"]),
        ('unable to load from file b"x"\n  VipsForeignLoad: "/some where/scan.tif" is not a known file format\n',
         ["the file is not a known file format"]),
        ("unable to copy to memory\n  0: Invalid tile byte count, tile 0.\n", ["Invalid tile byte count, tile 0"]),
        ("source input: Read error at scanline 4294967295; got 1 bytes, expected 2",
         ["Read error; got 1 bytes, expected 2"]),
        ("VipsJpeg: premature end of JPEG image\nVipsJpeg: premature end of JPEG image\n",
         ["premature end of JPEG image"]),
        ("unable to call jpegsave\n  ", []),
        ("unable to call jpegsave\n  tiff2vips: \ntiff2vips: Bad code\n", ["Bad code"]),
    ],
)  # fmt: skip
def test_errors_become_sentences(text: str, told: list[str]) -> None:
    """Without names of functions, paths, repetitions, and lines that say only that something failed."""
    assert vips.told(ValueError(text), [], SOURCE) == told


def test_warnings_come_after_the_error() -> None:
    """A file that fails because of a warning has no other sentence."""
    heard = ["VIPS: TIFF directory loop in /some where/scan.tif", "error in tile 0 x 0"]
    assert vips.told(ValueError("unable to call jpegsave\n"), heard, SOURCE) == ["TIFF directory loop in the file"]


def test_path_of_the_result_is_not_told() -> None:
    """What cannot be written is named "the JPEG": where it lies is nobody's business."""
    text = "unable to call jpegsave\n  /some where/scan.jpg: unable to open for write\n"
    assert vips.told(ValueError(text), [], SOURCE, SOURCE.with_suffix(".jpg")) == ["the JPEG: unable to open for write"]


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("unable to call jpegsave\n  /a/b.jpg: write error\nsystem error: No space left on device\n"
         "VipsJpeg: unable to write to target\nwbuffer_write: write failed\n", False),
        ("unable to call jpegsave\n  /a/b.jpg: unable to open for write\n", False),
        ("unable to call jpegsave\n  tiff2vips: read error\nwbuffer_write: write error\n", True),
    ],
)  # fmt: skip
def test_full_disk_is_no_damage(text: str, written: bool) -> None:
    """A fault of the place for the JPEG is told from one of the file."""
    assert vips.is_not_written(ValueError(text)) is not written


def test_flood_of_one_warning_hides_no_other() -> None:
    """A file can make the decoder say the same a thousand times before it says what matters."""
    with vips.listening() as heard:
        for _ in range(2 * vips.MAX_HEARD):
            vips.load().logger.warning("harmless")
        vips.load().logger.warning("half of it is missing")
    assert heard == ["harmless", "half of it is missing"]


def test_warnings_are_heard_by_those_who_listen() -> None:
    """Each listener hears what is said while it listens."""
    logger = vips.load().logger
    with vips.listening() as outer:
        logger.warning("one")
        with vips.listening() as inner:
            logger.warning("two")
        logger.warning("three")
    logger.warning("four")
    assert (outer, inner) == (["one", "two", "three"], ["two"])


def test_prepared_also_where_it_was_imported_before() -> None:
    """No operation cache: a cached picture would carry the progress handler of an earlier conversion."""
    pyvips = vips.load()
    assert pyvips.vips_lib.vips_cache_get_max() == 0
