"""A TIFF writer that writes what no library writes: any tag with any type and count, in any order of the entries,
classic and BigTIFF, both byte orders.

It knows nothing about pictures: a page is a list of chunks (strips or tiles, already encoded) and a dict of tags.
Source: TIFF 6.0, section 2; BigTIFF as libtiff documents it.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

TYPES: Final = {
    "B": (1, "B"), "s": (2, "s"), "H": (3, "H"), "I": (4, "I"), "R": (5, "I"), "b": (6, "b"), "x": (7, "s"),
    "h": (8, "h"), "i": (9, "i"), "f": (11, "f"), "d": (12, "d"), "Q": (16, "Q"),
}  # fmt: skip
"""Letter: the type's number in TIFF, and its letter in `struct`. R is a RATIONAL, given as two integers each."""

Values = Sequence[float] | bytes


@dataclass(frozen=True)
class Tag:
    """The type's letter and its values; `count` and `number` lie about how many and of which type when set."""

    letter: str
    values: Values
    count: int | None = None
    number: int | None = None


@dataclass
class Page:
    """One directory. `offsets` and `counts` are the tags that point to the chunks (strips: 273 and 279, tiles: 324 and
    325); None leaves the tag out. `children` become SubIFDs."""

    tags: dict[int, Tag]
    chunks: list[bytes]
    offsets: int | None = 273
    counts: int | None = 279
    children: list["Page"] = field(default_factory=list)
    backwards: bool = False
    """Entries from the highest tag to the lowest, against the standard."""
    again: dict[int, Tag] = field(default_factory=dict)
    """Tags that are there once more, each after the first of its kind."""


def write(pages: Sequence[Page], *, order: str = "<", big: bool = False, loop: bool = False) -> bytes:
    """The bytes of a file. `loop` lets the last directory point to the first."""
    file = _File(order, big)
    link = file.header()
    first = 0
    for page in pages:
        start, following = file.page(page)
        first = first or start
        file.point(link, start)
        link = following
    file.point(link, first if loop else 0)
    return bytes(file.out)


class _File:
    def __init__(self, order: str, big: bool) -> None:
        self.order, self.big = order, big
        self.word = "Q" if big else "I"
        self.out = bytearray()

    def header(self) -> int:
        """Returns where the pointer to the first directory stands."""
        self.out += b"II" if self.order == "<" else b"MM"
        self.out += self.pack("HHH", 43, 8, 0) if self.big else self.pack("H", 42)
        self.out += self.pack(self.word, 0)
        return len(self.out) - struct.calcsize(self.word)

    def pack(self, code: str, *values: float | bytes) -> bytes:
        return struct.pack(self.order + code, *values)

    def point(self, where: int, target: int) -> None:
        struct.pack_into(self.order + self.word, self.out, where, target)

    def append(self, body: bytes) -> int:
        """Puts `body` on an even offset and returns that."""
        self.out += bytes(len(self.out) % 2)
        at = len(self.out)
        self.out += body
        return at

    def page(self, page: Page) -> tuple[int, int]:
        """Returns where the directory begins, and where its pointer to the next one stands."""
        tags = dict(page.tags)
        places = [self.append(chunk) for chunk in page.chunks]
        if page.children:
            tags[330] = Tag(self.word, [self._child(child) for child in page.children])
        if page.offsets is not None:
            tags[page.offsets] = Tag(self.word, places)
        if page.counts is not None:
            tags.setdefault(page.counts, Tag(self.word, [len(chunk) for chunk in page.chunks]))
        entries = [
            self._entry(number, found[number])
            for number in sorted(tags, reverse=page.backwards)
            for found in (tags, page.again)
            if number in found
        ]
        start = self.append(self.pack("Q" if self.big else "H", len(entries)) + b"".join(entries))
        link = len(self.out)
        self.out += self.pack(self.word, 0)
        return start, link

    def _child(self, page: Page) -> int:
        start, _ = self.page(page)
        return start

    def _entry(self, number: int, tag: Tag) -> bytes:
        kind, code = TYPES[tag.letter]
        if isinstance(tag.values, bytes):
            body, count = tag.values, len(tag.values)
        else:
            body = self.pack(f"{len(tag.values)}{code}", *tag.values)
            count = len(tag.values) // (2 if tag.letter == "R" else 1)
        room = struct.calcsize(self.word)
        value = body.ljust(room, b"\0") if len(body) <= room else self.pack(self.word, self.append(body))
        return (
            self.pack(f"HH{self.word}", number, tag.number or kind, count if tag.count is None else tag.count) + value
        )
