"""What is no TIFF is said to be what it is."""

from pathlib import Path

import pytest

from worker.errors import BadInput
from worker.tiff_signature import check_is_tiff


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"", r"empty \(0 bytes\)"), (b"\x89PNG\r\n\x1a\n", "it is a PNG"), (b"%PDF-1.7\n", "it is a PDF"),
        (b"\xff\xd8\xff\xe0", "it is a JPEG"), (b"RIFF\0\0\0\0WEBPVP8 ", "it is a WebP"),
        (b"\0\0\0\x20ftypheic", "HEIF"), (b"\n <!doctype html>", "it is an HTML page"), (b"PK\x03\x04", "ZIP"),
        (b"404 Not Found\n", "it is a text"), (b"\0" * 600, "zeros only"), (b"\x01\x02\x03\x04", "01 02 03 04"),
        (b"II\0*", "it begins with the bytes 49 49 00 2a"),
    ],
)  # fmt: skip
def test_other_files_are_named(tmp_path: Path, body: bytes, what: str) -> None:
    """The sentence tells what the file is, so that whoever named it .tif knows."""
    path = tmp_path / "t.tif"
    path.write_bytes(body)
    with pytest.raises(BadInput, match=what):
        check_is_tiff(path)


@pytest.mark.parametrize("mark", [b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"])
def test_tiffs_pass(tmp_path: Path, mark: bytes) -> None:
    """Classic and BigTIFF, both byte orders."""
    path = tmp_path / "t.tif"
    path.write_bytes(mark)
    check_is_tiff(path)
