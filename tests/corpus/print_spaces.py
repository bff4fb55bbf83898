"""CMYK and CIE L*a*b*."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from tests.corpus import colour, encode, profiles
from tests.corpus.base import CLOSE, Array, Entry, axes, colours, plain, shades
from tests.corpus.encode import CIELAB, CMYK, ICCLAB, Layout
from tests.corpus.writer import Tag

NO_PROFILE = (22.0, 110)
"""Without a profile, which inks are meant is a guess: the right picture is the naive one, roughly."""

ALPHA: dict[str, Any] = {
    "differs": "sharp makes it black, or refuses it", "note": "converted from LAB", "limits": CLOSE,
}  # fmt: skip


def entries() -> Iterator[Entry]:
    """All files of this kind."""
    yield from _cmyk()
    yield from _cmyk_extra()
    yield from _lab()


@cache
def inks() -> Array:
    """A gradient of inks, 8 bits."""
    x, y = axes()
    return np.rint(np.stack([150 - 120 * x, 40 + 110 * y, 30 + 100 * x, 20 + 40 * (1 - y)], axis=-1)).astype(np.uint8)


def _right(samples: Array) -> Array:
    return colour.to_bytes(colour.cmyk_to_rgb(samples / 255))


def _cmyk() -> Iterator[Entry]:
    profile = {34675: Tag("x", profiles.cmyk_profile())}
    for word, tags, limits in (("no-profile", {}, NO_PROFILE), ("profile", profile, CLOSE)):
        kind = f"CMYK, {'its own profile' if tags else 'no profile'}"
        for name, how in {
            "raw": {}, "LZW": {"compression": encode.LZW, "predictor": 2}, "planar": {"planar": 2},
            "tiled": {"tile": (32, 32)}, "big-endian": {"order": ">"}, "deflate": {"compression": encode.DEFLATE},
            "JPEG": {"compression": encode.JPEG},
        }.items():  # fmt: skip
            layout = Layout(photometric=CMYK, tags=tags, **how)
            yield plain(f"CMYK 8-bit {word} {name}", inks(), _right(inks()), kind, layout, limits=limits, note="CMYK")
        sixteen = Layout(photometric=CMYK, bits=16, tags=tags)
        samples = inks().astype(np.uint16) * 257
        yield plain(f"CMYK 16-bit {word}", samples, _right(inks()), f"{kind}, 16-bit", sixteen, limits=limits,
                    note="CMYK")  # fmt: skip


def _cmyk_extra() -> Iterator[Entry]:
    profile = {34675: Tag("x", profiles.cmyk_profile())}
    more: dict[str, Any] = {
        "differs": "sharp flattens on black where the extra channel is zero", "note": "extra", "limits": CLOSE,
    }  # fmt: skip
    for word, extra in (("zero", np.zeros_like(shades())), ("gradient", shades())):
        layout = Layout(photometric=CMYK, extra=(0,), tags=profile)
        samples = np.dstack([inks(), extra])
        yield plain(f"CMYK 8-bit extra-channel {word}", samples, _right(inks()), "CMYK with an extra channel", layout,
                    **more)  # fmt: skip
    two = np.dstack([inks(), shades(), shades()])
    layout = Layout(photometric=CMYK, extra=(0, 0), tags=profile)
    yield plain("CMYK 8-bit two-extra-channels", two, _right(inks()), "CMYK with an extra channel", layout, **more)


def _lab() -> Iterator[Entry]:
    lab = colour.xyz_to_lab(colour.rgb_to_xyz(colours()))
    for bits in (8, 16):
        for photometric, word in ((CIELAB, "CIELAB"), (ICCLAB, "ICCLAB")):
            samples = stored_lab(lab, bits, photometric)
            layout = Layout(photometric=photometric, bits=bits)
            kind = f"{word}, {bits}-bit"
            yield plain(f"LAB {word} {bits}-bit", samples, colours(), kind, layout, **_lab_note(bits, photometric))
            packed = replace(layout, compression=encode.LZW, predictor=2)
            yield plain(f"LAB {word} {bits}-bit LZW", samples, colours(), kind, packed, **_lab_note(bits, photometric))
            alpha = np.full(samples.shape[:2], (1 << bits) - 1, samples.dtype)
            for extra in (0, 2):
                both = np.dstack([samples, alpha])
                name, with_alpha = f"LAB {word} {bits}-bit extra{extra}", replace(layout, extra=(extra,))
                yield plain(name, both, colours(), f"{kind}, with alpha", with_alpha, **ALPHA)


def _lab_note(bits: int, photometric: int) -> dict[str, Any]:
    if bits == 8:
        return {"differs": "sharp refuses 8-bit LAB", "note": "converted from LAB", "limits": CLOSE}
    if photometric == ICCLAB:
        return {"differs": "sharp refuses the ICC encoding", "note": "converted from LAB", "limits": CLOSE}
    # libvips takes the white for D65, the tag for D50: colours differ by a few steps, and sharp's bytes are kept.
    return {"limits": (5.0, 70)}


def stored_lab(lab: Array, bits: int, photometric: int) -> Array:
    """TIFF 6.0 section 23: a* and b* signed; the ICC encoding: unsigned with an offset, and L* = 100 is 0xFF00."""
    if bits == 8:
        light, chroma = lab[..., :1] * 2.55, lab[..., 1:]
        offset, kind, span = 128, np.uint8, 256
    else:
        light, chroma = lab[..., :1] * (655.35 if photometric == CIELAB else 652.8), lab[..., 1:] * 256
        offset, kind, span = 32768, np.uint16, 65536
    shifted = chroma + (offset if photometric == ICCLAB else 0)
    return np.concatenate([np.rint(light), np.rint(shifted) % span], axis=-1).astype(kind)
