"""Three channels: depths, compressions, layouts, alpha, profiles."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from tests.corpus import colour, encode, profiles
from tests.corpus.base import CLOSE, Array, Entry, colours, entry, plain, shades, wide
from tests.corpus.encode import FLOAT, RGB, SIGNED, Layout
from tests.corpus.grey import CODECS, RANGE
from tests.corpus.writer import Tag

LAYOUTS: dict[str, dict[str, Any]] = {
    "one-strip": {}, "strips": {"rows": 10}, "tiled16": {"tile": (16, 16)}, "tiled-padded": {"tile": (48, 32)},
}  # fmt: skip
P3 = "sharp writes Display P3 without saying so"


def entries() -> Iterator[Entry]:
    """All files of this kind."""
    yield from _compressions()
    yield from _layouts()
    yield from _orders()
    yield from _sizes()
    yield from _alpha()
    yield from _profiles()
    yield from _numbers()


def stored(bits: int, picture: Array | None = None) -> Array:
    """The gradient in 8 or 16 bits."""
    picture = colours() if picture is None else picture
    return picture if bits == 8 else wide(picture)


def _compressions() -> Iterator[Entry]:
    for bits in (8, 16):
        kind = f"RGB, {bits}-bit"
        for word, number in CODECS.items():
            layout = Layout(photometric=RGB, bits=bits, compression=number, rows=16)
            yield plain(f"RGB {bits}-bit {word}", stored(bits), colours(), kind, layout)
            if number not in (encode.NONE, encode.PACKBITS):
                predicted = replace(layout, predictor=2)
                yield plain(f"RGB {bits}-bit {word} predictor2", stored(bits), colours(), kind, predicted)
    webp = Layout(photometric=RGB, compression=encode.WEBP, rows=16)
    yield plain("RGB 8-bit webp", colours(), colours(), "RGB, webp", webp)
    yield plain("RGB 8-bit webp tiled", colours(), colours(), "RGB, webp", replace(webp, rows=0, tile=(32, 32)))
    jpeg = Layout(photometric=RGB, compression=encode.JPEG, rows=16)
    yield plain("RGB 8-bit JPEG", colours(), colours(), "RGB, JPEG inside", jpeg, limits=CLOSE)
    tiled = replace(jpeg, rows=0, tile=(32, 32))
    yield plain("RGB 8-bit JPEG tiled", colours(), colours(), "RGB, JPEG inside", tiled, limits=CLOSE)


def _layouts() -> Iterator[Entry]:
    for bits in (8, 16):
        for word, how in LAYOUTS.items():
            for planar in (1, 2):
                for number, code in ((encode.NONE, "raw"), (encode.LZW, "LZW")):
                    layout = Layout(photometric=RGB, bits=bits, planar=planar, compression=number, **how)
                    name = f"RGB {bits}-bit {word} planar{planar} {code}"
                    yield plain(name, stored(bits), colours(), *_layout_kind(layout), layout, **_tiled_planar(layout))


def _layout_kind(layout: Layout) -> tuple[str]:
    plane = "planar" if layout.planar == 2 else "chunky"
    return (f"RGB, {layout.bits}-bit, {'tiled' if layout.tile else 'strips'}, {plane}",)


def _tiled_planar(layout: Layout) -> dict[str, Any]:
    refused = layout.planar == 2 and layout.tile
    return {"differs": "sharp refuses tiled planes", "note": "tiles of separate planes"} if refused else {}


def _orders() -> Iterator[Entry]:
    for bits in (8, 16):
        for order, word in (("<", "little-endian"), (">", "big-endian")):
            for big in (False, True):
                layout = Layout(photometric=RGB, bits=bits, order=order, compression=encode.LZW, predictor=2)
                name = f"RGB {bits}-bit {word} {'BigTIFF' if big else 'classic'}"
                page = encode.page(stored(bits), layout)
                yield entry(name, page, colours(), "RGB, byte orders, BigTIFF", order=order, big=big)


def _sizes() -> Iterator[Entry]:
    for width, height in ((1, 1), (1, 50), (50, 1), (2, 2), (7, 5), (9, 9), (17, 33), (200, 150)):
        picture = colours(200, 150)[:height, :width]  # a gradient over few pixels would be none
        layout = Layout(photometric=RGB, compression=encode.DEFLATE)
        yield plain(f"RGB {width}x{height}", picture, picture, "RGB, odd sizes", layout)


def _alpha() -> Iterator[Entry]:
    for bits in (8, 16):
        alpha = shades(top=255)
        part = alpha[:, :, None] / 255
        black = np.rint(colours() * part).astype(np.uint8)
        for extra, word in ((1, "associated"), (2, "unassociated")):
            picture = black if extra == 1 else colours()
            samples = stored(bits, np.dstack([picture, alpha]))
            for planar in (1, 2):
                layout = Layout(photometric=RGB, bits=bits, extra=(extra,), planar=planar)
                yield plain(f"RGBA {bits}-bit {word} planar{planar}", samples, black, "RGB with alpha", layout,
                            limits=CLOSE)  # fmt: skip
        samples = stored(bits, np.dstack([colours(), np.full_like(alpha, 255)]))
        layout = Layout(photometric=RGB, bits=bits, extra=(0,), compression=encode.LZW)
        yield plain(f"RGB {bits}-bit extra-channel full", samples, colours(), "RGB with an extra channel", layout)


def _profiles() -> Iterator[Entry]:
    table = {
        "sRGB": (colour.SRGB_XY, profiles.sampled(colour.srgb_to_linear), colour.linear_to_srgb),
        "AdobeRGB": (colour.ADOBE_XY, profiles.gamma(563 / 256), lambda v: np.clip(v, 0, 1) ** (256 / 563)),
        "DisplayP3": (colour.P3_XY, profiles.sampled(colour.srgb_to_linear), colour.linear_to_srgb),
    }
    for word, (primaries, curve, encoded) in table.items():
        linear = colour.rgb_to_xyz(colours()) @ np.linalg.inv(colour.matrix_d50(primaries)).T
        tag = {34675: Tag("x", profiles.matrix_profile(primaries, curve))}
        for bits in (8, 16):
            samples = np.rint(encoded(linear) * ((1 << bits) - 1)).astype(f"u{bits // 8}")
            more = {"differs": P3, "note": "profile"} if bits == 16 else {}
            for number, code in ((encode.NONE, "raw"), (encode.LZW, "LZW")):
                layout = Layout(photometric=RGB, bits=bits, compression=number, tags=tag)
                kind = f"RGB, {bits}-bit, profile"
                yield plain(f"RGB {bits}-bit {word} profile {code}", samples, colours(), kind, layout, **more)
    broken = Layout(photometric=RGB, tags={34675: Tag("x", b"no profile at all" * 20)})
    yield plain("RGB 8-bit broken-profile", colours(), colours(), "RGB, profile not valid", broken)


def _numbers() -> Iterator[Entry]:
    unit = colours() / 255
    for bits in (16, 32, 64):
        layout = Layout(photometric=RGB, bits=bits, sample_format=FLOAT)
        samples = unit.astype(f"f{bits // 8}")
        yield plain(f"RGB float{bits}", samples, colours(), "RGB, floating point, no range", layout,
                    differs="sharp makes it black or posterised", refusal="floating point")  # fmt: skip
        said = replace(layout, tags={340: Tag("f", [0] * 3), 341: Tag("f", [1] * 3)})
        yield plain(f"RGB float{bits} range0to1", samples, colours(), "RGB, floating point, range said", said,
                    differs=RANGE, note="scaled")  # fmt: skip
    thirty_two = Layout(photometric=RGB, bits=32)
    samples = (colours().astype(np.uint32) * 16843009).astype(np.uint32)
    yield plain("RGB 32-bit", samples, colours(), "RGB, 32-bit", thirty_two, differs=RANGE, note="32-bit")
    for bits in (8, 16):
        layout = Layout(photometric=RGB, bits=bits, sample_format=SIGNED)
        low, span = -(1 << (bits - 1)), (1 << bits) - 1
        samples = np.rint(low + unit * span).astype(f"i{bits // 8}")
        yield plain(f"RGB {bits}-bit signed", samples, colours(), "RGB, signed", layout, differs=RANGE,
                    note="signed|scaled")  # fmt: skip
