"""From an array of samples to a page: bits, byte order, predictors, compression, strips, tiles and planes.

The compressors are zlib, lzma and those of imagecodecs and Pillow; what they are given is laid out here, by TIFF 6.0.
"""

import lzma
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from tests.corpus.writer import Page, Tag

NONE, RLE, LZW, JPEG, DEFLATE, PACKBITS = 1, 2, 5, 7, 8, 32773
OLD_DEFLATE, LZMA, ZSTD, WEBP = 32946, 34925, 50000, 50001
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, CIELAB, ICCLAB = 0, 1, 2, 3, 5, 6, 8, 9
UNSIGNED, SIGNED, FLOAT = 1, 2, 3

Array = NDArray[Any]

CODECS: Final[dict[int, Callable[[bytes], bytes]]] = {
    NONE: bytes,
    LZW: imagecodecs.lzw_encode,
    DEFLATE: zlib.compress,
    OLD_DEFLATE: zlib.compress,
    LZMA: lambda body: lzma.compress(body, format=lzma.FORMAT_XZ, check=lzma.CHECK_NONE),
    ZSTD: imagecodecs.zstd_encode,
}
"""The compressors that see a chunk as mere bytes."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How samples are stored. `rows` is the height of a strip (0: one strip), `tile` the sides of a tile, `planar` 2
    stores each channel alone, `extra` says what the channels beyond the colour are."""

    photometric: int
    bits: int = 8
    compression: int = NONE
    predictor: int = 1
    rows: int = 0
    tile: tuple[int, int] | None = None
    planar: int = 1
    sample_format: int = UNSIGNED
    extra: tuple[int, ...] = ()
    fill_order: int = 1
    order: str = "<"
    tags: dict[int, Tag] = field(default_factory=dict)


def page(samples: Array, layout: Layout) -> Page:
    """A page of `samples`, height × width or height × width × channels."""
    cube = samples if samples.ndim == 3 else samples[:, :, None]
    planes = [cube] if layout.planar == 1 else [cube[:, :, band : band + 1] for band in range(cube.shape[2])]
    chunks = [_chunk(part, layout) for plane in planes for part in parts(plane, layout)]
    return wrap(chunks, cube.shape, layout)


def wrap(chunks: list[bytes], shape: tuple[int, ...], layout: Layout) -> Page:
    """A page of chunks that are encoded already; `shape` is height, width, channels."""
    height, width, bands = shape
    tags = {
        256: Tag("I", [width]), 257: Tag("I", [height]), 258: Tag("H", [layout.bits] * bands),
        259: Tag("H", [layout.compression]), 262: Tag("H", [layout.photometric]), 277: Tag("H", [bands]),
        284: Tag("H", [layout.planar]),
    }  # fmt: skip
    if layout.tile:
        tags |= {322: Tag("I", [layout.tile[0]]), 323: Tag("I", [layout.tile[1]])}
    else:
        tags[278] = Tag("I", [layout.rows or height])
    if layout.predictor != 1:
        tags[317] = Tag("H", [layout.predictor])
    if layout.extra:
        tags[338] = Tag("H", list(layout.extra))
    if layout.sample_format != UNSIGNED:
        tags[339] = Tag("H", [layout.sample_format] * bands)
    if layout.fill_order != 1:
        tags[266] = Tag("H", [layout.fill_order])
    places = (324, 325) if layout.tile else (273, 279)
    return Page(tags | layout.tags, chunks, *places)


def parts(plane: Array, layout: Layout) -> Iterator[Array]:
    """Strips, or tiles padded with their last row and column."""
    height, width = plane.shape[:2]
    if layout.tile is None:
        rows = layout.rows or height
        yield from (plane[top : top + rows] for top in range(0, height, rows))
        return
    across, down = layout.tile
    padded = np.pad(plane, ((0, -height % down), (0, -width % across), (0, 0)), mode="edge")
    for top in range(0, height, down):
        for left in range(0, width, across):
            yield padded[top : top + down, left : left + across]


def _chunk(part: Array, layout: Layout) -> bytes:
    if layout.compression == WEBP:
        return imagecodecs.webp_encode(np.ascontiguousarray(part), lossless=True)
    if layout.compression == JPEG:
        return jpeg(part)
    if layout.compression == PACKBITS:
        return b"".join(imagecodecs.packbits_encode(row) for row in _rows(part, layout))
    body = b"".join(_rows(part, layout))
    return CODECS[layout.compression](body if layout.fill_order == 1 else reverse_bits(body))


def jpeg(part: Array, **options: Any) -> bytes:
    """A whole JPEG stream in the colour space of the samples, without subsampling unless asked for."""
    space = {1: "gray", 3: "rgb", 4: "cmyk"}[part.shape[2]]
    chosen = {"level": 98, "colorspace": space, "outcolorspace": space, "subsampling": "444"} | options
    return imagecodecs.jpeg8_encode(np.ascontiguousarray(part.squeeze()), **chosen)


def _rows(part: Array, layout: Layout) -> Iterator[bytes]:
    flat = part.reshape(part.shape[0], -1)
    if layout.bits not in (8, 16, 32, 64):
        for row in flat:
            yield pack_bits(row, layout.bits)
        return
    typed = flat.astype(flat.dtype.newbyteorder(layout.order))
    if layout.predictor == 2:
        typed = _differences(part).reshape(flat.shape).astype(typed.dtype)
    if layout.predictor == 3:
        yield from (_float_row(row, part.shape[2]) for row in flat)
        return
    yield from (row.tobytes() for row in typed)


def _differences(part: Array) -> Array:
    """Predictor 2: each sample less its left neighbour of the same channel, modulo the type."""
    out = part.copy()
    out[:, 1:] = part[:, 1:] - part[:, :-1]
    return out


def _float_row(row: Array, bands: int) -> bytes:
    """Predictor 3 (TIFF Technical Note 3): the bytes by significance, highest first, then differences of bytes."""
    big = row.astype(row.dtype.newbyteorder(">"))
    planes = np.frombuffer(big.tobytes(), np.uint8).reshape(row.size, row.itemsize).T.reshape(-1).copy()
    planes[bands:] = planes[bands:] - planes[:-bands]
    return planes.tobytes()


def pack_bits(row: Array, bits: int) -> bytes:
    """Samples of fewer or more bits than bytes have, highest bit first, padded to whole bytes."""
    shifts = np.arange(bits - 1, -1, -1)
    return np.packbits(((row.astype(np.int64)[:, None] >> shifts) & 1).astype(np.uint8).reshape(-1)).tobytes()


def reverse_bits(body: bytes) -> bytes:
    """FillOrder 2: the lowest bit of each byte comes first."""
    return np.packbits(np.unpackbits(np.frombuffer(body, np.uint8)).reshape(-1, 8)[:, ::-1]).tobytes()
