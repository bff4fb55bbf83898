"""Several things at once: what each is done to rightly alone may still go wrong together."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import numpy as np

from tests.corpus import colour, encode, profiles
from tests.corpus.base import CLOSE, NOT_BUILT_IN, Array, Entry, colours, entry, plain, shades, wide
from tests.corpus.encode import BLACK_IS_ZERO, CIELAB, CMYK, PALETTE, RGB, SIGNED, Layout
from tests.corpus.indexed import ramp
from tests.corpus.print_spaces import inks, stored_lab
from tests.corpus.structure import TURNS
from tests.corpus.writer import Page, Tag
from tests.corpus.ycbcr import HD, old_jpeg_page, raw_page

P3: Final = {34675: Tag("x", profiles.matrix_profile(colour.P3_XY, profiles.sampled(colour.srgb_to_linear)))}
NOTES: Final = {
    "LAB 8-bit": "converted from LAB", "RGB 16-bit profile": "by the embedded profile",
    "planar tiled 16-bit": "tiles of separate planes", "grey 12-bit": "12-bit samples",
    "signed 16-bit": "signed 16-bit samples", "grey extra-channel": "extra channel",
    "YCbCr raw BT.709": "YCbCr", "YCbCr raw 1x1 LZW": "YCbCr",
}  # fmt: skip
"""What the result must say of each of `_pages` that is not sharp's."""


def entries() -> Iterator[Entry]:
    """All files of this kind."""
    for number, (word, (page, right)) in zip((2, 3, 4, 5, 6, 7, 8, 5, 6, 7, 8), _pages().items(), strict=True):
        page.tags[274] = Tag("H", [number])
        name = f"turned{number} {word}"
        yield entry(name, page, TURNS[number](right), "orientation, and more", differs="sharp drops the orientation",
                    note="turned", limits=CLOSE)  # fmt: skip
    yield from _big()
    yield from _deep_colours()
    yield from _foreign_profiles()
    yield from _extra_channels()


def _pages(order: str = "<") -> dict[str, tuple[Page, Array]]:
    """Pages of which each needs something of its own, and their pictures."""
    lab = colour.xyz_to_lab(colour.rgb_to_xyz(colours()))
    table = {320: Tag("H", [int(value) * 257 for value in ramp(8).T.reshape(-1)])}
    p3 = np.rint(_p3() * 65535).astype(np.uint16)
    profile = {34675: Tag("x", profiles.cmyk_profile())}
    ink = colour.to_bytes(colour.cmyk_to_rgb(inks() / 255))
    signed = np.rint(shades(top=65535) - 32768.0).astype(np.int16)
    twelve, both = shades(top=4095), np.dstack([shades(), shades()])
    made: dict[str, tuple[Array, Layout, Array]] = {
        "LAB 8-bit": (stored_lab(lab, 8, CIELAB), Layout(photometric=CIELAB), colours()),
        "CMYK": (inks(), Layout(photometric=CMYK, tags=profile, compression=encode.LZW), ink),
        "palette": (shades(), Layout(photometric=PALETTE, tags=table), ramp(8)[shades()]),
        "RGB 16-bit profile": (p3, Layout(photometric=RGB, bits=16, tags=P3, rows=16), colours()),
        "planar tiled 16-bit": (wide(colours()), Layout(photometric=RGB, bits=16, planar=2, tile=(32, 16)), colours()),
        "grey 12-bit": (twelve, Layout(photometric=BLACK_IS_ZERO, bits=12), np.rint(twelve / 4095 * 255)),
        "signed 16-bit": (signed, Layout(photometric=BLACK_IS_ZERO, bits=16, sample_format=SIGNED), shades()),
        "grey extra-channel": (both, Layout(photometric=BLACK_IS_ZERO, extra=(0,)), shades()),
        "zstd": (wide(colours()), Layout(photometric=RGB, bits=16, compression=encode.ZSTD), colours()),
    }
    pages = {
        word: (encode.page(samples, replace(layout, order=order)), right.astype(np.uint8))
        for word, (samples, layout, right) in made.items()
    }
    pages["YCbCr raw BT.709"] = raw_page(colours(), 1, 1, luma=HD), colours()
    if order == "<":  # it holds an offset, written for the classic form
        pages["old-JPEG"] = old_jpeg_page("420", (2, 2)), colours()
    else:
        pages["YCbCr raw 1x1 LZW"] = raw_page(colours(), 1, 1, compression=encode.LZW), colours()
    return pages


def _p3() -> Array:
    linear = colour.rgb_to_xyz(colours()) @ np.linalg.inv(colour.matrix_d50(colour.P3_XY)).T
    return colour.linear_to_srgb(linear)


def _big() -> Iterator[Entry]:
    """All of it in a BigTIFF of the other byte order."""
    for word, (page, right) in _pages(">").items():
        kind = "BigTIFF, big-endian"
        more: dict[str, Any] = {"limits": CLOSE}
        if word == "zstd":
            kind = f"{kind}, zstd"
            more = {"differs": NOT_BUILT_IN[encode.ZSTD], "refusal": "zstd"}
        elif word not in ("CMYK", "palette"):
            kind = f"{kind}, needs more"
            more |= {"differs": "as in a classic TIFF", "note": NOTES[word]}
        yield entry(f"BigTIFF big-endian {word}", page, right, kind, order=">", big=True, **more)
    layout = Layout(photometric=RGB, bits=16, compression=encode.ZSTD, order=">", rows=16)
    yield plain("RGB 16-bit zstd big-endian", wide(colours()), colours(), "RGB, 16-bit", layout)


def _deep_colours() -> Iterator[Entry]:
    for bits in (4, 10, 12, 14):
        top = (1 << bits) - 1
        samples = np.rint(colours() / 255 * top).astype(np.uint16)
        right = np.rint(samples / top * 255).astype(np.uint8)
        for number, word in ((encode.NONE, "raw"), (encode.LZW, "LZW")):
            layout = Layout(photometric=RGB, bits=bits, compression=number)
            yield plain(f"RGB {bits}-bit {word}", samples, right, f"RGB, {bits}-bit", layout,
                        differs="sharp refuses this depth", note="-bit samples were scaled", limits=CLOSE)  # fmt: skip


def _foreign_profiles() -> Iterator[Entry]:
    kind = "a profile of another colour space"
    yield plain("grey 8-bit RGB-profile", shades(), shades(), kind, Layout(photometric=BLACK_IS_ZERO, tags=P3))
    cmyk = {34675: Tag("x", profiles.cmyk_profile())}
    yield plain("RGB 8-bit CMYK-profile", colours(), colours(), kind, Layout(photometric=RGB, tags=cmyk))
    grey = {34675: Tag("x", profiles.grey_profile(profiles.gamma(1.8)))}
    yield plain("RGB 8-bit grey-profile", colours(), colours(), kind, Layout(photometric=RGB, tags=grey))
    alpha = np.full(shades().shape, 255, np.uint8)
    layout = Layout(photometric=RGB, extra=(2,), tags=P3)
    samples = np.dstack([np.rint(_p3() * 255).astype(np.uint8), alpha])
    yield plain("RGBA 8-bit DisplayP3 profile", samples, colours(), "RGB with alpha, profile", layout)
    sixteen = np.dstack([np.rint(_p3() * 65535).astype(np.uint16), wide(alpha)])
    more = {"differs": "sharp writes Display P3 without saying so", "note": "profile"}
    kind, deep = "RGB with alpha, 16-bit, profile", replace(layout, bits=16)
    yield plain("RGBA 16-bit DisplayP3 profile", sixteen, colours(), kind, deep, **more)


def _extra_channels() -> Iterator[Entry]:
    more: dict[str, Any] = {"differs": "sharp flattens on black where the extra channel is zero", "note": "extra"}
    for bits, samples in ((8, colours()), (16, wide(colours()))):
        both = np.dstack([samples, samples[..., 0]])
        layout = Layout(photometric=RGB, bits=bits, extra=(0,))
        yield plain(f"RGB {bits}-bit extra-channel gradient", both, colours(), "RGB with an extra channel, not full",
                    layout, **more)  # fmt: skip
    two = np.dstack([colours(), np.full(shades().shape, 255, np.uint8), shades()])
    yield plain("RGB 8-bit alpha-and-extra-channel", two, colours(), "RGB with alpha and an extra channel",
                Layout(photometric=RGB, extra=(2, 0)), **more)  # fmt: skip
