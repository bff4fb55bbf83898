"""One bit a sample: fax codes and others, both meanings of zero, both orders of the bits."""

import io
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import numpy as np
from PIL import Image

from tests.corpus import encode
from tests.corpus.base import HARD, Array, Entry, entry, plain, shapes
from tests.corpus.encode import BLACK_IS_ZERO, WHITE_IS_ZERO, Layout
from tests.corpus.writer import Page, Tag

FAX: Final = {
    "RLE": ("tiff_ccitt", 2, {}),
    "G3": ("group3", 3, {}),
    "G3-2D": ("group3", 3, {292: 1}),
    "G4": ("group4", 4, {}),
}
"""Name: what Pillow calls it, the number of the compression, options."""
SIMPLE: Final = {
    "raw": encode.NONE, "LZW": encode.LZW, "deflate": encode.DEFLATE, "packbits": encode.PACKBITS,
    "zstd": encode.ZSTD,
}  # fmt: skip


def entries() -> Iterator[Entry]:
    """All files of this kind."""
    for photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO):
        word = "WhiteIsZero" if photometric == WHITE_IS_ZERO else "BlackIsZero"
        for fill in (1, 2):
            for code in FAX:
                yield _fax(f"1-bit {code} {word} fill{fill}", shapes(), code, photometric, fill)
        for code, number in SIMPLE.items():
            layout = Layout(photometric=photometric, bits=1, compression=number)
            yield _simple(f"1-bit {code} {word}", shapes(), layout)
        yield _simple(f"1-bit raw {word} fill2", shapes(), Layout(photometric=photometric, bits=1, fill_order=2))
    yield from _shapes_of_storage()


def _shapes_of_storage() -> Iterator[Entry]:
    for code in FAX:
        yield _fax(f"1-bit {code} odd-width", shapes(61, 47), code, WHITE_IS_ZERO, 1)
    for code in ("G3", "G4"):
        yield _fax(f"1-bit {code} strips", shapes(), code, WHITE_IS_ZERO, 1, rows=16)
    yield _fax("1-bit G4 big-endian", shapes(), "G4", WHITE_IS_ZERO, 1, order=">")
    yield _fax("1-bit G4 BigTIFF", shapes(), "G4", WHITE_IS_ZERO, 1, big=True)
    yield _simple("1-bit raw tiled", shapes(), Layout(photometric=BLACK_IS_ZERO, bits=1, tile=(32, 16)))
    yield _simple("1-bit LZW tiled", shapes(61, 47), Layout(photometric=0, bits=1, compression=5, tile=(32, 16)))
    yield _simple("1-bit raw odd-width", shapes(61, 47), Layout(photometric=BLACK_IS_ZERO, bits=1))
    yield _simple("1-bit raw 1xN", np.array([[1], [0], [1]] * 7, np.uint8), Layout(photometric=BLACK_IS_ZERO, bits=1))


def _simple(name: str, picture: Array, layout: Layout) -> Entry:
    stored = 1 - picture if layout.photometric == WHITE_IS_ZERO else picture
    return plain(name, stored, picture * np.uint8(255), "1-bit", layout, limits=HARD)


def _fax(
    name: str, picture: Array, code: str, photometric: int, fill: int, *, rows: int = 0, order: str = "<",
    big: bool = False,
) -> Entry:  # fmt: skip
    page = fax_page(picture, code, photometric, fill, rows=rows)
    kind = f"1-bit fax, {code}"
    return entry(name, page, picture * np.uint8(255), kind, order=order, big=big, limits=HARD)


def fax_page(picture: Array, code: str, photometric: int, fill: int, *, rows: int = 0) -> Page:
    """A page whose strips libtiff has coded, by way of Pillow."""
    stored = 1 - picture if photometric == WHITE_IS_ZERO else picture
    _, number, options = FAX[code]
    layout = Layout(photometric=photometric, bits=1, compression=number, fill_order=fill, rows=rows)
    layout = replace(layout, tags={tag: Tag("I", [value]) for tag, value in options.items()})
    height = picture.shape[0]
    strips = [_strip(stored[top : top + (rows or height)], code) for top in range(0, height, rows or height)]
    return encode.wrap(
        [strip if fill == 1 else encode.reverse_bits(strip) for strip in strips], (*picture.shape, 1), layout
    )


def _strip(bits: Array, code: str) -> bytes:
    name, _, options = FAX[code]
    file = io.BytesIO()
    Image.fromarray(bits * np.uint8(255)).convert("1").save(file, "TIFF", compression=name, tiffinfo=dict(options))
    with Image.open(file) as made:
        (offset,), (size,) = made.tag_v2[273], made.tag_v2[279]  # type: ignore[attr-defined]
    return file.getvalue()[offset : offset + size]
