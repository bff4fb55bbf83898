"""What is around the picture: orientation, resolution, pages, SubIFDs, and tags that break the rules harmlessly."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

import numpy as np

from tests.corpus import encode
from tests.corpus.base import HARD, Array, Entry, colours, entry, shades, shapes, wide
from tests.corpus.bilevel import fax_page
from tests.corpus.encode import BLACK_IS_ZERO, RGB, Layout
from tests.corpus.writer import Page, Tag

TURNS: Final[dict[int, Callable[[Array], Array]]] = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: np.rot90(p, 2),
    4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: np.rot90(p.swapaxes(0, 1), 2),
    8: lambda p: np.rot90(p, 1),
}
"""Orientation (tag 274): from the stored picture to the upright one. TIFF 6.0, page 36."""


def entries() -> Iterator[Entry]:
    """All files of this kind."""
    yield from _turned()
    yield from _resolution()
    yield from _pages()
    yield from _odd_tags()


def _rgb(tags: dict[int, Tag] | None = None, picture: Array | None = None, **how: Any) -> Page:
    layout = Layout(photometric=RGB, compression=encode.LZW, rows=16, tags=tags or {})
    return encode.page(colours() if picture is None else picture, replace(layout, **how))


def _turned() -> Iterator[Entry]:
    for number, turn in TURNS.items():
        more = {"differs": "sharp drops the orientation", "note": "turned"} if number > 1 else {}
        kind = "orientation 1" if number == 1 else "orientation 2 to 8"
        tags = {274: Tag("H", [number])}
        yield entry(f"turned{number} RGB 8-bit", _rgb(tags), turn(colours()), kind, **more)
        sixteen = _rgb(tags, wide(colours()), bits=16)
        yield entry(f"turned{number} RGB 16-bit", sixteen, turn(colours()), kind, **more)
    more = {"differs": "sharp drops the orientation", "note": "turned"}
    tags = {274: Tag("H", [6])}
    grey = encode.page(shades(), Layout(photometric=BLACK_IS_ZERO, tags=tags, tile=(16, 16)))
    yield entry("turned6 grey 8-bit tiled", grey, TURNS[6](shades()), "orientation 2 to 8", **more)
    fax = fax_page(shapes(), "G4", 0, 1)
    fax.tags[274] = Tag("H", [8])
    right = TURNS[8](shapes() * np.uint8(255))
    yield entry("turned8 1-bit G4", fax, right, "orientation 2 to 8", limits=HARD, **more)
    for number in (0, 9):
        page = _rgb({274: Tag("H", [number])})
        yield entry(f"turned{number} RGB", page, colours(), "orientation not valid", differs="sharp refuses it",
                    note="orientation")  # fmt: skip


def _resolution() -> Iterator[Entry]:
    for unit in (1, 2, 3):
        tags = {282: Tag("R", [300, 1]), 283: Tag("R", [300, 1]), 296: Tag("H", [unit])}
        yield entry(f"resolution unit{unit}", _rgb(tags), colours(), "resolution units")
    tags = {282: Tag("R", [204, 1]), 283: Tag("R", [98, 1]), 296: Tag("H", [2])}
    yield entry("resolution not-square", _rgb(tags), colours(), "resolution, pixels not square")
    zero = {282: Tag("R", [0, 0]), 283: Tag("R", [1, 0]), 296: Tag("H", [2])}
    yield entry("resolution zero", _rgb(zero), colours(), "resolution of zero")


def _pages() -> Iterator[Entry]:
    other = colours()[::-1]
    numbers = [{297: Tag("H", [page, 3]), 254: Tag("I", [2])} for page in range(3)]
    yield entry("pages 2", [_rgb(), _rgb(picture=other)], colours(), "more than one page", pages=2)
    three = [_rgb(tags, picture) for tags, picture in zip(numbers, (colours(), other, other), strict=True)]
    yield entry("pages 3 numbered", three, colours(), "more than one page", pages=3)
    mixed = [_rgb(), encode.page(shades(30, 20), Layout(photometric=BLACK_IS_ZERO))]
    yield entry("pages 2 of-other-kinds", mixed, colours(), "more than one page", pages=2)
    faxes = [fax_page(shapes(), "G4", 0, 1), fax_page(1 - shapes(), "G4", 0, 1)]
    right = shapes() * np.uint8(255)
    yield entry("pages 2 G4", faxes, right, "more than one page", pages=2, limits=HARD)
    parent = _rgb()
    parent.children = [_rgb({254: Tag("I", [1])}, colours(32, 24)), _rgb({254: Tag("I", [1])}, colours(16, 12))]
    yield entry("SubIFDs 2", parent, colours(), "SubIFDs")
    yield entry("pages 2 BigTIFF", [_rgb(), _rgb(picture=other)], colours(), "more than one page", pages=2, big=True)


def _odd_tags() -> Iterator[Entry]:
    kind = "odd tags, harmless"
    once_more: dict[str, Any] = {"differs": "sharp refuses it for a warning", "note": "warning"}
    yield entry("odd unknown-tag", _rgb({65000: Tag("B", b"anything at all")}), colours(), kind)
    yield entry("odd text-without-end", _rgb({270: Tag("s", b"no zero at the end")}), colours(), f"{kind}, warned of",
                **once_more)  # fmt: skip
    yield entry("odd software-as-bytes", _rgb({305: Tag("B", b"scanner 1.0\0")}), colours(), kind)
    yield entry("odd page-number-count", _rgb({297: Tag("H", [0])}), colours(), f"{kind}, warned of", **once_more)
    yield entry("odd unsorted", _unsorted(), colours(), f"{kind}, warned of", **once_more)
    yield entry("odd loop", [_rgb()], colours(), f"{kind}, warned of", loop=True, **once_more)
    yield entry("odd no-byte-counts", _raw(279), colours(), f"{kind}, warned of", **once_more)
    yield entry("odd no-rows-per-strip", _raw(278), colours(), kind)
    zero = _raw()
    zero.tags[279] = Tag("I", [0])
    yield entry("odd byte-counts-zero", zero, colours(), f"{kind}, warned of", **once_more)
    long_sides = _rgb()
    long_sides.tags |= {256: Tag("H", [64]), 257: Tag("H", [48]), 259: Tag("I", [5])}
    yield entry("odd types-of-numbers", long_sides, colours(), kind)


def _unsorted() -> Page:
    page = _rgb()
    page.backwards = True
    return page


def _raw(without: int = 0) -> Page:
    """An uncompressed page in one strip, less one tag."""
    page = encode.page(colours(), Layout(photometric=RGB))
    page.tags.pop(without, None)
    if without == 279:
        page.counts = None
    return page
