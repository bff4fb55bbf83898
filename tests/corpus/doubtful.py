"""Files from which a decoder makes a wrong picture, or half of one, and says little or nothing: tags of which the
picture depends with values that cannot be, and data that ends too early behind a harmless warning."""

from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np

from tests.corpus import colour, encode
from tests.corpus.base import CLOSE, NOT_BUILT_IN, Array, Entry, colours, entry, plain, shades, shapes
from tests.corpus.bilevel import fax_page
from tests.corpus.encode import BLACK_IS_ZERO, CIELAB, FLOAT, PALETTE, RGB, SIGNED, YCBCR, Layout
from tests.corpus.indexed import ramp
from tests.corpus.print_spaces import stored_lab
from tests.corpus.structure import TURNS
from tests.corpus.writer import Page, Tag
from tests.corpus.ycbcr import old_jpeg_page, raw_page

ONE_NUMBER_WRONG: Final = {297: Tag("H", [0])}
"""PageNumber with one value of two: a warning that says nothing about the picture."""
WARNED: Final = "sharp refuses it for a warning"


def entries() -> Iterator[Entry]:
    """All files of this kind."""
    yield from _counts()
    yield from _halves()
    yield from _ycbcr()
    yield from _by_pillow()
    yield from _lab()
    yield _twice()


def harmless(page: Page) -> Page:
    """The page with a tag that libtiff warns of, and that does not matter."""
    page.tags |= ONE_NUMBER_WRONG
    return page


def _counts() -> Iterator[Entry]:
    """The decoder warns, ignores the tag, and makes another picture."""
    for word, make in _WRONG_COUNTS.items():
        page, right, says = make()
        yield entry(f"wrong-count {word}", page, right, "tags of which the picture depends, damaged", differs=WARNED,
                    refusal=says)  # fmt: skip
    grey = encode.page(colours(), Layout(photometric=BLACK_IS_ZERO))
    yield entry("grey 8-bit three-samples", grey, colours(), "more samples than the kind of picture has",
                differs=WARNED, refusal="Photometric")  # fmt: skip


def _predictor() -> tuple[Page, Array, str]:
    page = encode.page(colours(), Layout(photometric=RGB, compression=encode.LZW, predictor=2))
    page.tags[317] = Tag("H", [2, 2, 2])
    return page, colours(), "Predictor"


def _palette() -> tuple[Page, Array, str]:
    table = [int(value) * 257 for value in ramp(8).T.reshape(-1)]
    page = encode.page(shades(), Layout(photometric=PALETTE, tags={320: Tag("H", [*table, 0])}))
    return page, ramp(8)[shades()].astype(np.uint8), "ColorMap"


def _subsampling() -> tuple[Page, Array, str]:
    page = raw_page(colours(), 1, 1)
    page.tags[530] = Tag("H", [1])
    return page, colours(), "YCbCrSubsampling"


def _levels() -> tuple[Page, Array, str]:
    page = raw_page(colours(), 1, 1, video=True)
    page.tags[532] = Tag("R", [16, 1, 235, 1, 128, 1, 240, 1])
    return page, colours(), "ReferenceBlackWhite"


def _orientation() -> tuple[Page, Array, str]:
    page = encode.page(colours(), Layout(photometric=RGB))
    page.tags[274] = Tag("H", [6, 6])
    return page, TURNS[6](colours()), "Orientation"


_WRONG_COUNTS: Final[dict[str, Callable[[], tuple[Page, Array, str]]]] = {
    "predictor": _predictor, "palette": _palette, "subsampling": _subsampling, "levels": _levels,
    "orientation": _orientation,
}  # fmt: skip


def _halves() -> Iterator[Entry]:
    """Only the warning that is harmless stands between sharp and half a picture."""
    kind = "half a picture"
    large = np.repeat(np.repeat(shapes(), 8, axis=0), 8, axis=1)
    for code in ("RLE", "G3", "G4"):
        fax = harmless(halved(fax_page(large, code, 0, 1)))
        yield entry(
            f"half fax {code} harmless-tag",
            fax,
            large * np.uint8(255),
            kind,
            differs=WARNED,
            refusal="Premature|without EOL",
        )
    strips = encode.page(colours(256, 192), Layout(photometric=RGB, compression=encode.JPEG, rows=32))
    strips.chunks[-2] = strips.chunks[-2][: len(strips.chunks[-2]) // 2]
    yield entry("half JPEG strips harmless-tag", harmless(strips), colours(256, 192), kind, differs=WARNED,
                refusal="premature end")  # fmt: skip
    tiles = encode.page(colours(256, 192), Layout(photometric=RGB, compression=encode.JPEG, tile=(64, 64)))
    tiles.chunks = [chunk[: len(chunk) // 2] for chunk in tiles.chunks]
    yield entry("half JPEG tiles", tiles, colours(256, 192), "half a picture, JPEG tiles",
                differs="sharp makes up what is missing", refusal="tile 0 is incomplete")  # fmt: skip
    yield entry("half old-JPEG", _half_old(), colours(), "half a picture, old-style JPEG",
                differs="sharp refuses old-style JPEG", refusal="premature end")  # fmt: skip


def _half_old() -> Page:
    page = halved(old_jpeg_page("444", (1, 1)))
    page.tags[514] = Tag("I", [len(page.chunks[0])])
    return page


def halved(page: Page) -> Page:
    """The page, of which half of the last strip or tile is missing."""
    last = page.chunks[-1]
    page.chunks[-1] = last[: len(last) // 2]
    return page


def _ycbcr() -> Iterator[Entry]:
    ycc = np.clip(np.rint(colour.rgb_to_ycbcr(colours())), 0, 255).astype(np.uint8)
    planes = encode.page(ycc, Layout(photometric=YCBCR, planar=2, tags={530: Tag("H", [1, 1])}))
    yield entry("YCbCr planar 1x1", planes, colours(), "YCbCr in separate planes", differs="sharp makes it noise",
                refusal="separate planes")  # fmt: skip
    zeros = {532: Tag("R", [0, 1] * 6)}
    whole, half = raw_page(colours(), 1, 1), raw_page(colours(), 2, 2)
    whole.tags |= zeros
    half.tags |= zeros
    yield entry("YCbCr raw 1x1 levels-of-zero", whole, colours(), "YCbCr without JPEG, levels not valid",
                differs="sharp takes it for RGB", note="YCbCr", limits=CLOSE)  # fmt: skip
    yield entry("YCbCr raw 2x2 levels-of-zero", half, colours(), "YCbCr without JPEG, subsampled, levels not valid",
                differs="sharp takes the levels", refusal="levels")  # fmt: skip


def _by_pillow() -> Iterator[Entry]:
    for number, word in ((encode.ZSTD, "zstd"), (encode.LZMA, "LZMA")):
        more: dict[str, Any] = {"differs": NOT_BUILT_IN[number]}
        for across, down in ((1, 1), (2, 2)):
            page = raw_page(colours(), across, down, compression=number)
            yield entry(f"YCbCr {word} {across}x{down}", page, colours(), f"YCbCr, {word}", note="Pillow",
                        limits=CLOSE, **more)  # fmt: skip
        sixteen = Layout(photometric=BLACK_IS_ZERO, bits=16, compression=number, order=">")
        yield plain(f"grey 16-bit {word} big-endian", shades(top=65535), shades(), "grey, 16-bit", sixteen)
        said = {340: Tag("f", [0]), 341: Tag("f", [1])}
        for order, name, fate in (("<", "little-endian", {"note": "Pillow"}), (">", "big-endian", {"refusal": word})):
            floats = Layout(photometric=BLACK_IS_ZERO, bits=32, sample_format=FLOAT, compression=number, order=order,
                            tags=said)  # fmt: skip
            yield plain(f"grey float32 {word} {name}", (shades() / 255).astype(np.float32), shades(),
                        f"grey, floating point, range said, {name}", floats, **fate)  # fmt: skip


def _lab() -> Iterator[Entry]:
    samples = stored_lab(colour.xyz_to_lab(colour.rgb_to_xyz(colours())), 8, CIELAB)
    layout = Layout(photometric=CIELAB, sample_format=SIGNED)
    yield plain("LAB CIELAB 8-bit signed", samples, colours(), "CIELAB, 8-bit, called signed", layout,
                differs="sharp takes it for bytes of no meaning", note="LAB", limits=CLOSE)  # fmt: skip


def _twice() -> Entry:
    """BitsPerSample is there once more, behind; libtiff takes the first."""
    page = encode.page(shades(), Layout(photometric=BLACK_IS_ZERO))
    page.again = {258: Tag("H", [12])}
    return entry("odd tag-twice", page, shades(), "a tag that is there twice", differs=WARNED, note="warning")
