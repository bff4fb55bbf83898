"""What a file of the corpus is, and the pictures that the files hold."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tests.corpus import encode
from tests.corpus.encode import Layout
from tests.corpus.writer import Page, write

Array = NDArray[Any]

WIDTH: Final = 64
HEIGHT: Final = 48
SMOOTH: Final = (2.0, 14)
"""Mean and greatest error that JPEG at quality 95 with 4:2:0 may make of a gradient."""
CLOSE: Final = (4.0, 24)
"""Where the way there is lossy or rounds: JPEG inside the TIFF, subsampled chroma, another colour engine."""
HARD: Final = (4.0, 90)
"""Of hard edges in black and white."""
NOT_BUILT_IN: Final = {
    encode.ZSTD: "sharp's decoder is built without zstd",
    encode.LZMA: "sharp's decoder is built without LZMA",
}
"""Compressions that sharp refuses."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file: its bytes, and the picture that it holds (height × width × 3, sRGB bytes).

    `kind` is its row in the reference page. `differs` says why the JPEG is not sharp's; empty: it must be byte-equal.
    `note` is a pattern that the result's notes must match. `refusal` is a pattern that the refusal must match: the file
    must not be converted. `limits` are the mean and the greatest error allowed.
    """

    name: str
    data: bytes
    right: Array
    kind: str
    tags: frozenset[str]
    differs: str = ""
    note: str = ""
    refusal: str = ""
    pages: int = 1
    limits: tuple[float, float] = SMOOTH


def entry(
    name: str, written: Page | Sequence[Page], right: Array, kind: str, *, order: str = "<", big: bool = False,
    loop: bool = False, **more: Any,
) -> Entry:  # fmt: skip
    """An entry written by the project's own writer; its tags are the words of its name."""
    found = [written] if isinstance(written, Page) else list(written)
    data = write(found, order=order, big=big, loop=loop)
    return Entry(name=name, data=data, right=as_rgb(right), kind=kind, tags=frozenset(name.split(" ")), **more)


def as_rgb(picture: Array) -> Array:
    """Grey becomes three equal channels."""
    return picture if picture.ndim == 3 else np.repeat(picture[:, :, None], 3, axis=2)


def axes(width: int = WIDTH, height: int = HEIGHT) -> tuple[Array, Array]:
    """x and y from 0 to 1, height × width each."""
    x = np.linspace(0, 1, width) if width > 1 else np.array([0.5])
    y = np.linspace(0, 1, height) if height > 1 else np.array([0.5])
    across, down = np.meshgrid(x, y)
    return across, down


def colours(width: int = WIDTH, height: int = HEIGHT) -> Array:
    """A gradient of colours, 8 bits: every corner another one, none at the rim of sRGB."""
    x, y = axes(width, height)
    return np.rint(np.stack([40 + 180 * x, 50 + 150 * y, 210 - 90 * x - 70 * y], axis=-1)).astype(np.uint8)


def shades(width: int = WIDTH, height: int = HEIGHT, top: int = 255) -> Array:
    """A grey gradient from nearly black to nearly white of 0..`top`, in the smallest unsigned type."""
    x, y = axes(width, height)
    kind = np.uint8 if top < 256 else np.uint16 if top < 65536 else np.uint32
    return np.rint((0.05 + 0.55 * x + 0.35 * y) * top).astype(kind)


def shapes(width: int = WIDTH, height: int = HEIGHT) -> Array:
    """Black on white (1 is white): bars and a block, not symmetric in any way."""
    picture = np.ones((height, width), np.uint8)
    picture[height // 8 : height // 4, : width // 2] = 0
    picture[height // 3 :, width // 8 : width // 4] = 0
    picture[height // 2 : height * 3 // 4, width // 2 : width * 7 // 8] = 0
    return picture


def wide(eight: Array) -> Array:
    """8 bits to 16: 255 becomes 65535."""
    return eight.astype(np.uint16) * 257


def plain(name: str, samples: Array, right: Array, kind: str, layout: Layout, **more: Any) -> Entry:
    """An entry of one ordinary page."""
    if layout.compression in NOT_BUILT_IN:
        kind = f"{kind}, {'zstd' if layout.compression == encode.ZSTD else 'LZMA'}"
        more = {"differs": NOT_BUILT_IN[layout.compression], "note": "Pillow"} | more
    return entry(name, encode.page(samples, layout), right, kind, order=layout.order, **more)
