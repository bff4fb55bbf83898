"""Whether a file is a TIFF at all, and what it is when it is none."""

from pathlib import Path
from typing import Final

from worker.errors import BadInput

_TIFF: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_OTHERS: Final = {
    b"\x89PNG": "a PNG", b"\xff\xd8\xff": "a JPEG", b"%PDF": "a PDF", b"GIF8": "a GIF", b"BM": "a BMP",
    b"PK\x03\x04": "a ZIP archive", b"\x1f\x8b": "a gzip archive", b"7z\xbc\xaf": "a 7z archive",
    b"8BPS": "a Photoshop document", b"%!PS": "a PostScript file", b"\xff\x0a": "a JPEG XL",
    b"\0\0\0\x0cjP  ": "a JPEG 2000", b"\xff\x4f\xff\x51": "a JPEG 2000", b"AT&TFORM": "a DjVu",
    b"<?xml": "an XML document", b"<svg": "an SVG", b"<!DOCTYPE": "an HTML page", b"<html": "an HTML page",
}  # fmt: skip
_HEAD_BYTES: Final = 512


def check_is_tiff(path: Path) -> None:
    """Raises BadInput for a file that is no TIFF, and says what it is."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head:
        raise BadInput("The file is empty (0 bytes)")
    if not head.startswith(_TIFF):
        raise BadInput(f"The file is not a TIFF: {_what(head)}")


def _what(head: bytes) -> str:
    for mark, name in _OTHERS.items():
        if head.lstrip().lower().startswith(mark.lower()):
            return f"it is {name}"
    if head[:4] == b"RIFF":
        return "it is a WebP" if head[8:12] == b"WEBP" else "it is a RIFF file"
    if head[4:8] == b"ftyp":
        return "it is a HEIF, AVIF or video file"
    if head[:4] in (b"II\x2a\x01", b"IIU\0", b"IIRO", b"IIRS"):
        return "it is a camera's raw file"
    if not head.strip(b"\0"):
        return "it begins with zeros only"
    return "it is a text" if _is_text(head) else f"it begins with the bytes {head[:4].hex(' ')}"


def _is_text(head: bytes) -> bool:
    printable = sum(byte >= 32 or byte in b"\t\n\r\f" for byte in head)
    return printable == len(head) and b"\x7f" not in head
