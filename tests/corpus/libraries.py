"""Files as the well-known libraries write them: Pillow, tifffile and libvips."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyvips
import tifffile
from PIL import Image

from tests.corpus import encode
from tests.corpus.base import CLOSE, HARD, NOT_BUILT_IN, SMOOTH, Array, Entry, as_rgb, colours, shades, shapes, wide

ZSTD: dict[str, Any] = {"differs": NOT_BUILT_IN[encode.ZSTD], "note": "Pillow"}


def entries() -> Iterator[Entry]:
    """All files of this kind."""
    yield from _pillow()
    yield from _tifffile()
    yield from _vips()


def _made(name: str, data: bytes, right: Array, limits: tuple[float, float] = SMOOTH, **more: Any) -> Entry:
    kind = f"written by {name.split(' ')[0]}{', zstd' if more.get('differs') else ''}"
    return Entry(
        name=name, data=data, right=as_rgb(right), kind=kind, tags=frozenset(name.split(" ")), limits=limits, **more
    )


def _pillow() -> Iterator[Entry]:
    pictures: dict[str, tuple[Array, Array, tuple[float, float]]] = {
        "RGB": (colours(), colours(), SMOOTH),
        "grey": (shades(), shades(), SMOOTH),
        "grey-16-bit": (wide(shades()), shades(), SMOOTH),
    }
    for word, (samples, right, limits) in pictures.items():
        for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd"):
            file = io.BytesIO()
            Image.fromarray(samples).save(file, "TIFF", compression=compression)
            more = ZSTD if compression == "zstd" else {}
            yield _made(f"Pillow {word} {compression}", file.getvalue(), right, limits, **more)
    for compression in ("group3", "group4", "tiff_ccitt"):
        file = io.BytesIO()
        bits = shapes() * np.uint8(255)
        Image.fromarray(bits).convert("1").save(file, "TIFF", compression=compression)
        yield _made(f"Pillow 1-bit {compression}", file.getvalue(), bits, HARD)
    for word, samples in (("RGB", colours()), ("grey", shades())):
        file = io.BytesIO()
        Image.fromarray(samples).save(file, "TIFF", compression="jpeg", quality=95)
        yield _made(f"Pillow {word} JPEG-with-tables", file.getvalue(), samples, CLOSE)


def _tifffile() -> Iterator[Entry]:
    rgb: dict[str, dict[str, Any]] = {
        "plain": {}, "lzw": {"compression": "lzw"}, "lzw-predictor": {"compression": "lzw", "predictor": True},
        "zstd": {"compression": "zstd"}, "deflate-tiled": {"compression": "deflate", "tile": (32, 32)},
        "bigtiff": {"bigtiff": True}, "big-endian": {"byteorder": ">"}, "strips": {"rowsperstrip": 5},
    }  # fmt: skip
    for word, how in rgb.items():
        for bits, samples in ((8, colours()), (16, wide(colours()))):
            data = _by_tifffile([samples], photometric="rgb", **how)
            yield _made(f"tifffile RGB {bits}-bit {word}", data, colours(), **(ZSTD if word == "zstd" else {}))
    pages = [shades(), shades()[::-1], shades()]
    yield _made("tifffile grey 3-pages", _by_tifffile(pages, photometric="minisblack"), shades(), pages=3)


def _by_tifffile(pages: list[Array], *, bigtiff: bool = False, byteorder: str = "<", **how: Any) -> bytes:
    file = io.BytesIO()
    with tifffile.TiffWriter(file, bigtiff=bigtiff, byteorder=byteorder) as writer:
        for samples in pages:
            writer.write(samples, metadata=None, software="made by the tests", contiguous=False, **how)
    return file.getvalue()


def _vips() -> Iterator[Entry]:
    ways: dict[str, dict[str, Any]] = {
        "plain": {}, "lzw": {"compression": "lzw", "predictor": "horizontal"}, "deflate": {"compression": "deflate"},
        "webp": {"compression": "webp", "lossless": True},
        "jpeg": {"compression": "jpeg", "Q": 95}, "tiled": {"tile": True, "tile_width": 32, "tile_height": 32},
        "bigtiff": {"bigtiff": True}, "packbits": {"compression": "packbits"},
    }  # fmt: skip
    image = pyvips.Image.new_from_memory(colours().tobytes(), 64, 48, 3, "uchar").copy(interpretation="srgb")
    for word, how in ways.items():
        limits = CLOSE if word == "jpeg" else SMOOTH
        yield _made(f"libvips RGB {word}", image.tiffsave_buffer(**how), colours(), limits)
    pyramid = image.tiffsave_buffer(tile=True, pyramid=True, tile_width=16, tile_height=16, subifd=True)
    yield _made("libvips RGB pyramid-of-SubIFDs", pyramid, colours())
