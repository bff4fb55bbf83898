"""One channel of 2 to 64 bits: unsigned, signed, floating point; with a second channel; with a profile."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from tests.corpus import colour, encode, profiles
from tests.corpus.base import Entry, plain, shades
from tests.corpus.encode import BLACK_IS_ZERO, FLOAT, SIGNED, WHITE_IS_ZERO, Layout
from tests.corpus.writer import Tag

CODECS = {
    "raw": encode.NONE, "LZW": encode.LZW, "deflate": encode.DEFLATE, "old-deflate": encode.OLD_DEFLATE,
    "packbits": encode.PACKBITS, "zstd": encode.ZSTD, "LZMA": encode.LZMA,
}  # fmt: skip
RANGE = "sharp clips or wraps it"
DEPTH = "sharp refuses this depth"


def entries() -> Iterator[Entry]:
    """All files of this kind."""
    yield from _depths()
    yield from _compressions()
    yield from _signed()
    yield from _floats()
    yield from _second_channel()
    yield from _profiles()


def _depths() -> Iterator[Entry]:
    for bits in (2, 4, 6, 8, 10, 12, 14, 16, 32):
        for photometric in (BLACK_IS_ZERO, WHITE_IS_ZERO):
            word = "WhiteIsZero" if photometric == WHITE_IS_ZERO else "BlackIsZero"
            yield _unsigned(f"grey {bits}-bit raw {word}", Layout(photometric=photometric, bits=bits))
    for bits in (2, 4, 12):
        yield _unsigned(f"grey {bits}-bit LZW", Layout(photometric=1, bits=bits, compression=encode.LZW))
        yield _unsigned(f"grey {bits}-bit odd-width", Layout(photometric=1, bits=bits), width=61)
    for bits in (16, 32):
        yield _unsigned(f"grey {bits}-bit big-endian", Layout(photometric=1, bits=bits, order=">"))
        yield _unsigned(f"grey {bits}-bit tiled LZW", Layout(photometric=1, bits=bits, compression=5, tile=(16, 16)))


def _unsigned(name: str, layout: Layout, *, width: int = 64) -> Entry:
    top = (1 << layout.bits) - 1
    samples = shades(width, top=top)
    right = np.rint(samples / top * 255).astype(np.uint8)
    stored = top - samples if layout.photometric == WHITE_IS_ZERO else samples
    return plain(name, stored.astype(samples.dtype), right, f"grey, {layout.bits}-bit", layout, **_depth(layout.bits))


def _depth(bits: int) -> dict[str, Any]:
    if bits == 32:
        return {"differs": RANGE, "note": "32-bit"}
    return {"differs": DEPTH, "note": "-bit samples were scaled"} if bits in (6, 10, 12, 14) else {}


def _compressions() -> Iterator[Entry]:
    for bits in (8, 16):
        for word, number in CODECS.items():
            layout = Layout(photometric=BLACK_IS_ZERO, bits=bits, compression=number, rows=16)
            yield _unsigned(f"grey {bits}-bit {word} strips", layout)
            if number not in (encode.NONE, encode.PACKBITS):
                yield _unsigned(f"grey {bits}-bit {word} predictor2", replace(layout, predictor=2))


def _signed() -> Iterator[Entry]:
    for bits in (8, 16, 32):
        low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
        unit = shades(top=65535) / 65535
        samples = np.rint(low + unit * (high - low)).astype(f"i{bits // 8}")
        right = colour.to_bytes(unit)
        layout = Layout(photometric=BLACK_IS_ZERO, bits=bits, sample_format=SIGNED)
        yield plain(f"grey {bits}-bit signed", samples, right, "grey, signed", layout, **_by_type())
        said = replace(layout, tags={340: _number(bits, low), 341: _number(bits, high)})
        yield plain(f"grey {bits}-bit signed with-range", samples, right, "grey, signed, range said", said, **_scaled())
        halves = replace(layout, tags={340: _number(bits, 0), 341: _number(bits, high)})
        positive = np.rint(unit * high).astype(samples.dtype)
        yield plain(f"grey {bits}-bit signed from-0", positive, right, "grey, signed, range said", halves, **_scaled())


def _number(bits: int, value: int) -> Tag:
    return Tag({8: "b", 16: "h", 32: "i"}[bits], [value])


def _by_type() -> dict[str, Any]:
    return {"differs": RANGE, "note": "signed|scaled"}


def _scaled() -> dict[str, Any]:
    return {"differs": RANGE, "note": "scaled"}


def _floats() -> Iterator[Entry]:
    unit = shades(top=65535) / 65535
    right = colour.to_bytes(unit)
    for bits in (16, 32, 64):
        layout = Layout(photometric=BLACK_IS_ZERO, bits=bits, sample_format=FLOAT)
        samples = unit.astype(f"f{bits // 8}")
        yield plain(
            f"grey float{bits}", samples, right, "grey, floating point, no range", layout,
            differs="sharp makes it black or posterised", refusal="floating point",
        )  # fmt: skip
        kind = "grey, floating point, range said"
        for low, high in ((0, 1), (-2, 6)):
            said = replace(layout, tags={340: Tag("f", [low]), 341: Tag("f", [high])})
            stored = (low + unit * (high - low)).astype(samples.dtype)
            yield plain(f"grey float{bits} range{low}to{high}", stored, right, kind, said, **_scaled())
    said = Layout(
        photometric=BLACK_IS_ZERO, bits=32, sample_format=FLOAT, compression=encode.DEFLATE, predictor=3,
        tags={340: Tag("d", [0]), 341: Tag("d", [1])},
    )  # fmt: skip
    yield plain("grey float32 deflate predictor3", unit.astype("f4"), right, "grey, floating point, range said", said,
                **_scaled())  # fmt: skip


def _second_channel() -> Iterator[Entry]:
    for bits in (8, 16):
        grey = shades(top=(1 << bits) - 1)
        right = np.rint(grey / ((1 << bits) - 1) * 255)
        other = shades(top=(1 << bits) - 1)[:, ::-1]
        part = other / ((1 << bits) - 1)
        both = np.stack([grey, other], axis=-1)
        for extra, word in ((1, "associated"), (2, "unassociated")):
            layout = Layout(photometric=BLACK_IS_ZERO, bits=bits, extra=(extra,))
            stored = np.stack([np.rint(grey * part).astype(grey.dtype), other], axis=-1) if extra == 1 else both
            flat = np.rint(right * part).astype(np.uint8)
            yield plain(f"grey {bits}-bit alpha {word}", stored, flat, "grey with alpha", layout)
        layout = Layout(photometric=BLACK_IS_ZERO, bits=bits, extra=(0,))
        yield plain(
            f"grey {bits}-bit extra-channel", both, right.astype(np.uint8), "grey with an extra channel", layout,
            differs="sharp flattens on black where the extra channel is zero", note="extra",
        )  # fmt: skip


def _profiles() -> Iterator[Entry]:
    linear = colour.srgb_to_linear(shades(top=255) / 255)
    right = shades(top=255)
    for bits in (8, 16):
        top = (1 << bits) - 1
        samples = np.rint(linear ** (1 / 1.8) * top).astype(f"u{bits // 8}")
        tag = Tag("x", profiles.grey_profile(profiles.gamma(1.8)))
        layout = Layout(photometric=BLACK_IS_ZERO, bits=bits, tags={34675: tag})
        more = {"differs": "sharp ignores the profile", "note": "profile"} if bits == 16 else {}
        yield plain(f"grey {bits}-bit gamma-1.8 profile", samples, right, f"grey, {bits}-bit, profile", layout, **more)
