"""Palettes of 1, 2, 4, 8 and 16 bits."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from tests.corpus import encode
from tests.corpus.base import CLOSE, Array, Entry, axes, plain, shapes
from tests.corpus.encode import PALETTE, Layout
from tests.corpus.writer import Tag

LIMITS = {1: (9.0, 130), 2: (4.0, 60), 4: CLOSE, 8: CLOSE, 16: CLOSE}
"""By depth: few colours have hard edges between them, where 4:2:0 mixes them."""


def entries() -> Iterator[Entry]:
    """All files of this kind."""
    for bits in (1, 2, 4, 8):
        base = Layout(photometric=PALETTE, bits=bits)
        yield _entry(f"palette {bits}-bit raw", base)
        yield _entry(f"palette {bits}-bit LZW", replace(base, compression=encode.LZW))
        yield _entry(f"palette {bits}-bit packbits odd-width", replace(base, compression=encode.PACKBITS), width=61)
        yield _entry(f"palette {bits}-bit deflate big-endian", replace(base, compression=encode.DEFLATE, order=">"))
    yield _entry("palette 8-bit tiled", Layout(photometric=PALETTE, tile=(32, 32)))
    yield _entry("palette 8-bit strips", Layout(photometric=PALETTE, rows=7))
    yield _entry("palette 16-bit raw", Layout(photometric=PALETTE, bits=16))


def ramp(bits: int) -> Array:
    """Colours of the palette, 8 bits, entries × 3: a way through sRGB."""
    t = np.linspace(0, 1, 1 << bits)
    return np.rint(np.stack([30 + 200 * t, 200 - 150 * t, 90 + 60 * t], axis=1)).astype(np.uint8)


def _entry(name: str, layout: Layout, *, width: int = 64) -> Entry:
    table = ramp(layout.bits)
    x, y = axes(width)
    index = np.rint((0.6 * x + 0.4 * y) * (len(table) - 1)).astype(np.uint16 if layout.bits == 16 else np.uint8)
    if layout.bits == 1:
        index = shapes(width)
    colour_map = Tag("H", [int(value) * 257 for value in table.T.reshape(-1)])
    return plain(
        name, index, table[index], f"palette, {layout.bits}-bit", replace(layout, tags={320: colour_map}),
        limits=LIMITS[layout.bits],
    )  # fmt: skip
