"""Hostile files: the corpus, damaged in every way that has broken decoders. The same seed gives the same files."""

import random
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from tests.corpus import encode, entries
from tests.corpus.base import Array, colours, shades, shapes
from tests.corpus.bilevel import FAX, fax_page
from tests.corpus.doubtful import halved, harmless
from tests.corpus.encode import BLACK_IS_ZERO, RGB, YCBCR, Layout
from tests.corpus.writer import Page, Tag, write
from tests.corpus.ycbcr import old_jpeg_page

HEADER_BYTES: Final = 16
LINK_BYTES: Final = 8
EXTREMES: Final = (0, 1, 2, 3, 6, 7, 8, 9, 64, 65535, 65536, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
FIELDS: Final = (254, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 330,
                 338, 339, 347, 529, 530, 532, 34675)  # fmt: skip
Change = Callable[[random.Random, bytearray], bytes]


@dataclass(frozen=True)
class Mutant:
    """A damaged file; the name says of what it was made, and how."""

    name: str
    data: bytes


@dataclass(frozen=True)
class Field:
    """An entry of a directory: where it stands in the file, its tag and the letters of its order and of its words."""

    at: int
    tag: int
    order: str
    word: str


def mutants(seed: int, count: int, way: str | None = None) -> Iterator[Mutant]:
    """`count` files, each damaged in one way, or in the given `way`."""
    rng = random.Random(seed)
    for number in range(count):
        entry, chosen = rng.choice(entries()), way or rng.choice(list(WAYS))
        data = WAYS[chosen](rng, bytearray(entry.data))
        yield Mutant(f"{number} of seed {seed}: {entry.name}, {chosen}", data)


def _truncate(rng: random.Random, data: bytearray) -> bytes:
    """The last eight bytes are always missing: fewer may be the link to a next page only, which nobody needs."""
    return bytes(data[: rng.randrange(len(data) - LINK_BYTES)])


def _flip(data: bytearray, rng: random.Random, begin: int, end: int) -> bytes:
    for _ in range(rng.choice((1, 1, 2, 8))):
        data[rng.randrange(begin, max(end, begin + 1))] ^= 1 << rng.randrange(8)
    return bytes(data)


def _flip_header(rng: random.Random, data: bytearray) -> bytes:
    return _flip(data, rng, 0, min(HEADER_BYTES, len(data)))


def _flip_directory(rng: random.Random, data: bytearray) -> bytes:
    found = list(fields(data))
    if not found:
        return _flip_header(rng, data)
    return _flip(data, rng, found[0].at, min(found[-1].at + 24, len(data)))


def _flip_anywhere(rng: random.Random, data: bytearray) -> bytes:
    return _flip(data, rng, HEADER_BYTES, len(data))


def _zero(rng: random.Random, data: bytearray) -> bytes:
    begin = rng.randrange(len(data))
    size = min(rng.choice((4, 64, 1024)), len(data) - begin)
    data[begin : begin + size] = bytes(size)
    return bytes(data)


def _noise(rng: random.Random, data: bytearray) -> bytes:
    begin = rng.randrange(HEADER_BYTES, len(data))
    size = min(rng.choice((4, 64, 1024)), len(data) - begin)
    data[begin : begin + size] = rng.randbytes(size)
    return bytes(data)


def _nothing_but_noise(rng: random.Random, data: bytearray) -> bytes:
    return bytes(data[: rng.choice((0, 4, 8))]) + rng.randbytes(rng.randrange(2000))


def _cut_out(rng: random.Random, data: bytearray) -> bytes:
    begin = rng.randrange(HEADER_BYTES, len(data))
    return bytes(data[:begin] + data[begin + rng.randrange(1, 200) :])


def _set_value(rng: random.Random, data: bytearray) -> bytes:
    """One field's value, or where it points: dimensions, depths, offsets beyond the end, offsets into the header."""
    for field in _some(rng, data):
        value = rng.choice((*EXTREMES, len(data), len(data) - 1, rng.getrandbits(32)))
        size = struct.calcsize(field.word)
        struct.pack_into(field.order + field.word, data, field.at + 4 + size, value)
    return bytes(data)


def _set_count(rng: random.Random, data: bytearray) -> bytes:
    """One field's count: none, too many, so many that the size overflows."""
    for field in _some(rng, data):
        counts = (*EXTREMES, 0x1FFFFFFF, 0x20000001, 0x2AAAAAAB)
        struct.pack_into(field.order + field.word, data, field.at + 4, rng.choice(counts))
    return bytes(data)


def _set_type(rng: random.Random, data: bytearray) -> bytes:
    """One field's type: another, or none that exists."""
    for field in _some(rng, data):
        struct.pack_into(field.order + "H", data, field.at + 2, rng.choice((*range(20), 255, 65535)))
    return bytes(data)


def _set_tag(rng: random.Random, data: bytearray) -> bytes:
    """One field becomes another: it is missing then, and the other has a wrong value, or is there twice."""
    for field in _some(rng, data):
        struct.pack_into(field.order + "H", data, field.at, rng.choice(FIELDS))
    return bytes(data)


def _cycle(rng: random.Random, data: bytearray) -> bytes:
    """The link after the last entry points back: to this directory, to the header, into its middle."""
    found = list(fields(data))
    if not found:
        return _flip_header(rng, data)
    last, entry_size = found[-1], 20 if found[-1].word == "Q" else 12
    target = rng.choice((found[0].at - (8 if last.word == "Q" else 2), 0, 4, found[0].at, last.at, len(data)))
    struct.pack_into(last.order + last.word, data, last.at + entry_size, target)
    return bytes(data)


WAYS: Final[dict[str, Change]] = {
    "truncated": _truncate, "header flipped": _flip_header, "directory flipped": _flip_directory,
    "flipped anywhere": _flip_anywhere, "zeroed": _zero, "noise inside": _noise, "noise": _nothing_but_noise,
    "piece cut out": _cut_out, "value set": _set_value, "count set": _set_count, "type set": _set_type,
    "tag set": _set_tag, "directories in a circle": _cycle,
}  # fmt: skip


def fields(data: bytearray) -> Iterator[Field]:
    """The entries of the first directory, as far as they lie within the file."""
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    word, entry_size = ("Q", 20) if big else ("I", 12)
    (at,) = struct.unpack_from(order + word, data, 8 if big else 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, at)
    first = at + (8 if big else 2)
    for start in range(first, min(first + count * entry_size, len(data) - 2 * entry_size), entry_size):
        yield Field(start, struct.unpack_from(order + "H", data, start)[0], order, word)


def _some(rng: random.Random, data: bytearray) -> list[Field]:
    found = list(fields(data))
    return rng.sample(found, min(len(found), rng.choice((1, 1, 1, 2, 3))))


def not_tiffs() -> Iterator[Mutant]:
    """Other formats under a TIFF's name, and next to nothing."""
    rgb, mark = colours().tobytes(), b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", 64, 48, 8, 2, 0, 0, 0)
    rows = b"".join(b"\0" + rgb[start : start + 192] for start in range(0, len(rgb), 192))
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    png = mark + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    bodies = {
        "empty": b"", "one byte": b"I", "mark only": b"II", "header cut": b"II*\0\x08",
        "no directory": b"II*\0\0\0\0\0",
        "directory at the end": b"II*\0\x08\0\0\0", "empty directory": b"II*\0\x08\0\0\0\0\0\0\0\0\0",
        "BigTIFF header only": b"II+\0\x08\0\0\0" + bytes(8),
        "BigTIFF of another width": b"II+\0\x04\0\0\0" + bytes(64),
        "PNG": png, "JPEG": encode.jpeg(colours()), "PDF": b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\ntrailer\n<<>>\n%%EOF\n",
        "text": b"This is not the picture that you are looking for.\n" * 20,
        "HTML": b"<!doctype html><title>404 Not Found</title>", "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        "GIF": b"GIF89a\x01\0\x01\0\0\0\0;", "ZIP": b"PK\x05\x06" + bytes(18), "zeros": bytes(5000),
        "PPM": b"P6 64 48 255\n" + rgb, "text of a matrix": b"2 2\n1 2\n3 4\n",
    }  # fmt: skip
    for name, body in bodies.items():
        yield Mutant(name, body)


def halves() -> Iterator[Mutant]:
    """Pictures whose data ends in the middle, in otherwise sound files, for each compression; each of them also with a
    tag that the decoder warns of harmlessly, so that it is read a second time."""
    for name, make in _half_pages():
        yield Mutant(name, write([make]))
        yield Mutant(f"{name}, harmless tag", write([harmless(make)]))


def _half_pages() -> Iterator[tuple[str, Page]]:
    for number, word in {
        encode.NONE: "raw", encode.LZW: "LZW", encode.DEFLATE: "deflate", encode.PACKBITS: "packbits",
        encode.ZSTD: "zstd", encode.LZMA: "LZMA", encode.WEBP: "webp", encode.JPEG: "JPEG",
    }.items():  # fmt: skip
        yield f"half of {word} in one strip", halved(_colours(number))
        yield f"half of {word} in strips", halved(_colours(number, rows=16))
        yield f"half of {word} in tiles", halved(_colours(number, tile=(64, 64)))
        missing = _colours(number, rows=16)
        missing.chunks[-1] = b""
        yield f"{word}, last strip empty", missing
    large = np.repeat(np.repeat(shapes(), 8, axis=0), 8, axis=1)
    for code in FAX:
        for word, rows in (("one strip", 0), ("strips", 16)):
            yield f"half of fax {code} in {word}", halved(fax_page(large, code, 0, 1, rows=rows))
    for subsampling, sides in (("444", (1, 1)), ("420", (2, 2))):
        old = halved(old_jpeg_page(subsampling, sides))
        old.tags[514] = Tag("I", [len(old.chunks[0])])
        yield f"half of old-style JPEG {subsampling}", old


def _colours(compression: int, **how: Any) -> Page:
    """A picture of more than one tile each way, and of more rows than a decoder reads at once."""
    return encode.page(colours(320, 256), Layout(photometric=RGB, compression=compression, **how))


def bombs() -> Iterator[Mutant]:
    """Few bytes that ask for very many: pixels, samples, strips, pages."""
    yield _sides("more pixels than the limit", 60_000, 60_000)
    yield _sides("a side too long for JPEG", 70_000, 1)
    yield _sides("the largest numbers", 0xFFFFFFFF, 0xFFFFFFFF)
    yield _sides("product overflows to small", 0x10000, 0x10001)
    yield _sides("just within the limit", 16_000, 16_000)
    yield _deflate("zeros by deflate", 12_000)
    many = encode.page(colours(), Layout(photometric=RGB))
    many.tags |= {277: Tag("H", [60_000]), 258: Tag("H", [8])}
    yield Mutant("60,000 samples a pixel", write([many]))
    strips = encode.page(shades(), Layout(photometric=BLACK_IS_ZERO))
    strips.tags |= {257: Tag("I", [60_000]), 278: Tag("I", [1])}
    yield Mutant("60,000 strips, one is there", write([strips]))
    tile = encode.page(shades(), Layout(photometric=BLACK_IS_ZERO, tile=(64, 48)))
    tile.tags |= {322: Tag("I", [1 << 30]), 323: Tag("I", [1 << 30])}
    yield Mutant("a tile of an exabyte", write([tile]))
    yield Mutant("20,000 pages", write([encode.page(shades(1, 1), Layout(photometric=BLACK_IS_ZERO))] * 20_000))
    chroma = encode.page(colours(), Layout(photometric=YCBCR))
    chroma.tags[530] = Tag("H", [65535, 65535])
    yield Mutant("subsampling by 65,535", write([chroma]))
    fax = fax_page(np.ones((8, 64), np.uint8), "G4", 0, 1)
    fax.tags |= {256: Tag("I", [16_000]), 257: Tag("I", [16_000]), 278: Tag("I", [16_000])}
    yield Mutant("a large white fax without data", write([fax]))


def _sides(name: str, width: int, height: int) -> Mutant:
    page = encode.page(colours(), Layout(photometric=RGB, compression=encode.LZW))
    page.tags |= {256: Tag("I", [width]), 257: Tag("I", [height]), 278: Tag("I", [height])}
    return Mutant(name, write([page]))


def _deflate(name: str, side: int) -> Mutant:
    row: Array = np.zeros((1, side, 1), np.uint8)
    squeezer = zlib.compressobj(9)
    body = b"".join(squeezer.compress(row.tobytes()) for _ in range(side)) + squeezer.flush()
    layout = replace(Layout(photometric=BLACK_IS_ZERO), compression=encode.DEFLATE)
    return Mutant(name, write([encode.wrap([body], (side, side, 1), layout)]))
