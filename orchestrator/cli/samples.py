"""A dozen small real TIFFs of different kinds, for the first run: `make run` converts them."""

import struct
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageDraw

WIDTH, HEIGHT = 480, 320
"""Pixels: small enough that all of them are made and converted within a second or two."""


def write_samples(folder: Path) -> list[Path]:
    """Writes the samples into `folder`, which is made when missing; returns their paths in the order of their names."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, write in sorted(_SAMPLES.items()):
        path = folder / name
        write(path)
        paths.append(path)
    return paths


def _picture(label: str) -> Image.Image:
    """A gradient with some sharp edges and its own name on it."""
    horizontal = Image.linear_gradient("L").rotate(90).resize((WIDTH, HEIGHT))
    vertical = Image.linear_gradient("L").resize((WIDTH, HEIGHT))
    round_one = Image.radial_gradient("L").resize((WIDTH, HEIGHT))
    picture = Image.merge("RGB", (horizontal, vertical, round_one))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((20, 20, 140, 100), fill=(220, 20, 20), outline=(255, 255, 255), width=3)
    draw.ellipse((300, 160, 440, 300), fill=(20, 120, 220), outline=(0, 0, 0), width=3)
    draw.text((24, HEIGHT - 40), label, fill=(255, 255, 255), font_size=24)
    return picture


def _sixteen_bit(grey: Image.Image) -> Image.Image:
    """The same picture with 16 bits a sample, all of whose values are used."""
    return Image.frombytes("I;16", grey.size, _words(grey.tobytes()))


def _words(samples: bytes) -> bytes:
    """8-bit samples times 257, little-endian: 255 becomes 65535."""
    doubled = bytearray(2 * len(samples))
    doubled[0::2] = samples
    doubled[1::2] = samples
    return bytes(doubled)


def _rgb_16(path: Path) -> None:
    """16-bit RGB, which Pillow cannot write: 48-bit pixels in one uncompressed strip."""
    picture = _picture("16-bit RGB")
    header_bytes, entries = 8, 10
    directory_bytes = 2 + entries * 12 + 4
    bits_at = header_bytes + directory_bytes
    pixels_at = bits_at + 6
    pixels = _words(picture.tobytes())
    values = [
        (256, 4, 1, WIDTH), (257, 4, 1, HEIGHT), (258, 3, 3, bits_at), (259, 3, 1, 1), (262, 3, 1, 2),
        (273, 4, 1, pixels_at), (277, 3, 1, 3), (278, 4, 1, HEIGHT), (279, 4, 1, len(pixels)), (284, 3, 1, 1),
    ]  # fmt: skip
    directory = entries.to_bytes(2, "little") + b"".join(_entry(*value) for value in values) + bytes(4)
    bits = (16).to_bytes(2, "little") * 3
    path.write_bytes(b"II*\0" + header_bytes.to_bytes(4, "little") + directory + bits + pixels)


def _entry(tag: int, kind: int, count: int, value: int) -> bytes:
    """One entry of a TIFF directory; short values stand at the left of their four bytes."""
    return struct.pack("<HHII", tag, kind, count, value)


def _pages(path: Path) -> None:
    first, *others = (_picture(f"page {number} of 3") for number in (1, 2, 3))
    first.save(path, "TIFF", save_all=True, append_images=others, compression="tiff_lzw")


def _turned(path: Path) -> None:
    """A scan that lies on its side; the orientation tag (274) says so."""
    _picture("turned").rotate(90, expand=True).save(path, "TIFF", tiffinfo={274: 6}, compression="tiff_lzw")


def _as(mode: str, label: str, compression: str | None = None) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        _picture(label).convert(mode).save(path, "TIFF", compression=compression)

    return write


def _grey_16(path: Path) -> None:
    _sixteen_bit(_picture("16-bit grey").convert("L")).save(path, "TIFF", compression="tiff_lzw")


_SAMPLES: dict[str, Callable[[Path], None]] = {
    "01-rgb.tif": _as("RGB", "RGB, not compressed"),
    "02-rgb-lzw.tif": _as("RGB", "RGB, LZW", "tiff_lzw"),
    "03-rgb-deflate.tiff": _as("RGB", "RGB, deflate", "tiff_adobe_deflate"),
    "04-rgb-jpeg.tif": _as("RGB", "RGB, JPEG inside", "jpeg"),
    "05-grey.tif": _as("L", "grey"),
    "06-grey-16-bit.tif": _grey_16,
    "07-rgb-16-bit.tif": _rgb_16,
    "08-cmyk.tif": _as("CMYK", "CMYK", "tiff_lzw"),
    "09-fax-g4.tif": _as("1", "fax, group 4", "group4"),
    "10-palette.tif": _as("P", "palette", "tiff_lzw"),
    "11-alpha.tif": _as("RGBA", "with alpha", "tiff_lzw"),
    "12-three-pages.TIFF": _pages,
    "13-turned.tif": _turned,
}
