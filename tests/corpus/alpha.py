"""Alpha, and other channels beyond the colour, where samples need more than a copy: "white is zero", odd depths, planes
in tiles, ranges. The colours are changed, alpha is not, and each is divided and scaled once."""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from tests.corpus.base import Array, Entry, colours, plain, shades
from tests.corpus.encode import FLOAT, RGB, WHITE_IS_ZERO, Layout
from tests.corpus.writer import Tag

DEPTH: Final = "sharp refuses this depth"
PLANES: Final = "sharp refuses tiled planes"
RANGE: Final = "sharp clips or wraps it"
TILED: Final[dict[str, Any]] = {"planar": 2, "tile": (32, 32)}


def entries() -> Iterator[Entry]:
    """All files of this kind."""
    yield from _white_is_zero()
    yield from _associated()
    yield from _ranges()


def _white_is_zero() -> Iterator[Entry]:
    """Opaque grey: with alpha inverted as well it would be black."""
    kind = "grey with alpha, white is zero"
    for bits, how, more in (
        (8, {}, {}),
        (12, {}, {"differs": DEPTH, "note": "12-bit samples"}),
        (8, TILED, {"differs": PLANES, "note": "tiles"}),
        (32, {}, {"differs": RANGE, "note": "32-bit samples"}),
    ):
        top = (1 << bits) - 1
        grey = shades(top=top)
        both = np.dstack([(top - grey).astype(grey.dtype), np.full_like(grey, top)])
        layout = Layout(photometric=WHITE_IS_ZERO, bits=bits, extra=(2,), **how)
        name = f"grey {bits}-bit WhiteIsZero alpha{' tiled-planar' if how else ''}"
        yield plain(name, both, shades(), f"{kind}, {more.get('differs', 'plain')}", layout, **more)


def _associated() -> Iterator[Entry]:
    """Half-transparent, stored multiplied: on black it is as it is stored."""
    kind = "RGB with associated alpha"
    half = np.rint(colours() * (128 / 255)).astype(np.uint8)
    eight = _with(half, 128)
    for word, how in {"chunky": {}, "tiled": {"tile": (32, 32)}, "planar": {"planar": 2}}.items():
        yield plain(f"RGBA 8-bit associated {word}", eight, half, kind, Layout(photometric=RGB, extra=(1,), **how))
    yield plain("RGBA 8-bit associated tiled-planar", eight, half, f"{kind}, tiles of planes",
                Layout(photometric=RGB, extra=(1,), **TILED), differs=PLANES, note="tiles")  # fmt: skip
    twelve = _with(half.astype(np.uint16) * 16, 128 * 16)
    yield plain("RGBA 12-bit associated", twelve, half, f"{kind}, 12-bit",
                Layout(photometric=RGB, bits=12, extra=(1,)), differs=DEPTH, note="12-bit samples")  # fmt: skip
    double = _with(half / 255, 128 / 255)
    layout = Layout(photometric=RGB, bits=64, sample_format=FLOAT, extra=(1,), tags=_said(1))
    yield plain("RGBA float64 associated", double, half, f"{kind}, floating point", layout, differs=RANGE,
                note="floating point")  # fmt: skip
    word = _with(half.astype(np.uint32) << 24, 128 << 24)
    yield plain("RGBA 32-bit associated", word, half, f"{kind}, 32-bit", Layout(photometric=RGB, bits=32, extra=(1,)),
                differs="sharp makes it of one colour", refusal="multiplied by alpha")  # fmt: skip


def _ranges() -> Iterator[Entry]:
    """Alpha of 1 is opaque, though the colours go to 255."""
    kind = "RGB with alpha, floating point, range said"
    samples = _with(colours().astype(np.float32), 1)
    layout = Layout(photometric=RGB, bits=32, sample_format=FLOAT, extra=(2,), tags=_said(255, 255, 255, 1))
    yield plain("RGBA float32 range-for-each", samples, colours(), kind, layout, differs=RANGE, note="from 0 to 255")


def _said(*highs: float) -> dict[int, Tag]:
    return {340: Tag("f", [0] * len(highs)), 341: Tag("f", list(highs))}


def _with(picture: Array, alpha: float) -> Array:
    return np.dstack([picture, np.full(picture.shape[:2], alpha, picture.dtype)])
