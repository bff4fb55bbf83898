"""The first directory of a TIFF: what libvips does not tell and Pillow would cost 14 ms to ask.

Reads classic TIFF and BigTIFF, both byte orders. A file that is no TIFF, or whose directory is broken, has no tags: the
decoder says what is wrong with it. Names and defaults are those of TIFF 6.0.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Final

SUBFILE_TYPE: Final = 254
WIDTH: Final = 256
HEIGHT: Final = 257
BITS_PER_SAMPLE: Final = 258
COMPRESSION: Final = 259
PHOTOMETRIC: Final = 262
ORIENTATION: Final = 274
SAMPLES_PER_PIXEL: Final = 277
MIN_SAMPLE_VALUE: Final = 280
MAX_SAMPLE_VALUE: Final = 281
PLANAR: Final = 284
STRIP_OFFSETS: Final = 273
STRIP_BYTE_COUNTS: Final = 279
PREDICTOR: Final = 317
TILE_WIDTH: Final = 322
TILE_OFFSETS: Final = 324
TILE_BYTE_COUNTS: Final = 325
EXTRA_SAMPLES: Final = 338
SAMPLE_FORMAT: Final = 339
S_MIN_SAMPLE_VALUE: Final = 340
S_MAX_SAMPLE_VALUE: Final = 341
JPEG_PROCESS: Final = 512
JPEG_STREAM: Final = 513
JPEG_STREAM_BYTES: Final = 514
JPEG_RESTART_INTERVAL: Final = 515
JPEG_Q_TABLES: Final = 519
JPEG_DC_TABLES: Final = 520
JPEG_AC_TABLES: Final = 521
YCBCR_COEFFICIENTS: Final = 529
YCBCR_SUBSAMPLING: Final = 530
REFERENCE_BLACK_WHITE: Final = 532

SHORT: Final = 3
LONG: Final = 4
_MAX_ENTRIES: Final = 4096
_MAX_VALUES: Final = 64
"""The longest list asked for: one value a sample."""
_CODES: Final = {
    1: "B", SHORT: "H", LONG: "I", 5: "II", 6: "b", 8: "h", 9: "i", 10: "ii", 11: "f", 12: "d", 16: "Q", 17: "q",
}  # fmt: skip
"""How `struct` reads one value of a type; types 5 and 10 are fractions of two integers."""
_UNSIGNED: Final = (1, SHORT, LONG, 16)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One tag: where its entry stands in the file, its type, how many values, and the first of them."""

    offset: int
    kind: int
    count: int
    values: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Directory:
    """The tags of the first page. `order` is `<` or `>`; `big` means BigTIFF."""

    order: str = "<"
    big: bool = False
    entries: Mapping[int, Entry] = field(default_factory=dict)

    def first(self, tag: int, default: int = 0) -> int:
        """The first value of a tag that holds unsigned integers; `default` where it is absent or of another type."""
        entry = self.entries.get(tag)
        return int(entry.values[0]) if entry is not None and entry.values and entry.kind in _UNSIGNED else default

    def values(self, tag: int) -> tuple[float, ...]:
        """All values, at most 64; empty where the tag is absent."""
        entry = self.entries.get(tag)
        return entry.values if entry is not None else ()

    @property
    def bits(self) -> int:
        """Bits of one sample."""
        return self.first(BITS_PER_SAMPLE, 1)

    @property
    def samples(self) -> int:
        """Samples of one pixel, extra ones included."""
        return self.first(SAMPLES_PER_PIXEL, 1)

    @property
    def photometric(self) -> int | None:
        """What the samples mean; None where the file does not say."""
        return self.first(PHOTOMETRIC) if PHOTOMETRIC in self.entries else None

    @property
    def compression(self) -> int:
        """1: none."""
        return self.first(COMPRESSION, 1)

    @property
    def is_planar(self) -> bool:
        """Whether each sample has a plane of its own."""
        return self.samples > 1 and self.first(PLANAR, 1) == 2

    def patch(self, tag: int, value: int) -> tuple[int, bytes]:
        """Where the entry of `tag` stands, and what must stand there for it to have the one value `value`."""
        entry = self.entries[tag]
        kind = SHORT if value < 65536 else LONG
        head = struct.pack(self.order + ("HHQ" if self.big else "HHI"), tag, kind, 1)
        return entry.offset, head + struct.pack(self.order + _CODES[kind], value).ljust(self._field_bytes, b"\0")

    def patch_part(self, path: Path, tag: int, number: int, parts: int) -> tuple[int, bytes]:
        """As `patch`, for the tag to have only the part `number` of its values, which are cut into `parts` equal ones.
        A list that cannot be cut so stays as it is: the decoder finds what is wrong."""
        entry = self.entries[tag]
        size = struct.calcsize(self.order + _CODES.get(entry.kind, "I"))
        count = entry.count // parts
        with path.open("rb") as file:
            file.seek(entry.offset)
            whole = file.read(self._head_bytes + self._field_bytes)
            place = int.from_bytes(whole[self._head_bytes :], "little" if self.order == "<" else "big")
            if entry.count * size <= self._field_bytes:
                place = entry.offset + self._head_bytes
            at = place + number * count * size
            file.seek(at)
            values = file.read(count * size) if count * size <= self._field_bytes else b""
        if not count or entry.count % parts:
            return entry.offset, whole
        head = struct.pack(self.order + ("HHQ" if self.big else "HHI"), tag, entry.kind, count)
        pointer = struct.pack(self.order + ("Q" if self.big else "I"), at)
        return entry.offset, head + (values.ljust(self._field_bytes, b"\0") if values else pointer)

    def with_value(self, tag: int, value: int) -> "Directory":
        """The same tags, of which `tag` has the one value `value`."""
        changed = replace(self.entries[tag], kind=LONG, count=1, values=(value,))
        return replace(self, entries={**self.entries, tag: changed})

    def all_values(self, path: Path, tag: int) -> tuple[int, ...]:
        """All the values of a list of unsigned integers, for instance the offsets of the tiles; empty where the tag is
        absent, of another type or beyond the end of the file."""
        entry = self.entries.get(tag)
        if entry is None or entry.kind not in _UNSIGNED:
            return ()
        code = f"{self.order}{entry.count}{_CODES[entry.kind]}"
        with path.open("rb") as file:
            file.seek(entry.offset + self._head_bytes)
            field_bytes = file.read(self._field_bytes)
            size = struct.calcsize(code)
            if size <= self._field_bytes:
                return struct.unpack_from(code, field_bytes)
            (place,) = struct.unpack(self.order + ("Q" if self.big else "I"), field_bytes)
            if place + size > path.stat().st_size:
                return ()
            file.seek(place)
            return struct.unpack(code, file.read(size))

    @property
    def _head_bytes(self) -> int:
        return 12 if self.big else 8

    @property
    def _field_bytes(self) -> int:
        return 8 if self.big else 4


def read_directory(path: Path) -> Directory:
    """The first directory; an empty one where there is none."""
    with path.open("rb") as file:
        try:
            return _read(file)
        except (struct.error, OSError, OverflowError, ValueError):
            return Directory()


def _read(file: IO[bytes]) -> Directory:
    order = {b"II": "<", b"MM": ">"}.get(file.read(2))
    if order is None:
        return Directory()
    (version,) = _unpack(file, order + "H")
    if version not in (42, 43):
        return Directory()
    big = version == 43
    if big:
        _unpack(file, order + "HH")
    entries: dict[int, Entry] = {}
    for tag, entry in _entries(file, order, big=big):
        entries.setdefault(tag, entry)  # of a tag that is there twice libtiff takes the first
    return Directory(order=order, big=big, entries=entries)


def _entries(file: IO[bytes], order: str, *, big: bool) -> Iterator[tuple[int, Entry]]:
    word, size = ("Q", 8) if big else ("I", 4)
    (offset,) = _unpack(file, order + word)
    file.seek(offset)
    (count,) = _unpack(file, order + ("Q" if big else "H"))
    for _ in range(min(count, _MAX_ENTRIES)):
        here = file.tell()
        tag, kind, length = _unpack(file, f"{order}HH{word}")
        field_bytes = file.read(size)
        values = _values(file, order, kind, length, field_bytes) if tag in _WANTED else ()
        yield tag, Entry(offset=here, kind=kind, count=length, values=values)


def _values(file: IO[bytes], order: str, kind: int, length: int, field_bytes: bytes) -> tuple[float, ...]:
    """The first values, which stand in the entry itself when all fit, else where it points."""
    if kind not in _CODES or not length:
        return ()
    code = f"{order}{min(length, _MAX_VALUES) * _CODES[kind]}"
    if struct.calcsize(order + _CODES[kind]) * length <= len(field_bytes):
        return _numbers(struct.unpack_from(code, field_bytes), kind)
    here = file.tell()
    file.seek(struct.unpack(order + ("Q" if len(field_bytes) == 8 else "I"), field_bytes)[0])
    body = file.read(struct.calcsize(code))
    file.seek(here)
    return _numbers(struct.unpack(code, body), kind) if len(body) == struct.calcsize(code) else ()


def _numbers(raw: tuple[float, ...], kind: int) -> tuple[float, ...]:
    if kind not in (5, 10):
        return raw
    return tuple(over / under if under else 0.0 for over, under in zip(raw[::2], raw[1::2], strict=True))


def _unpack(file: IO[bytes], code: str) -> tuple[int, ...]:
    return struct.unpack(code, file.read(struct.calcsize(code)))


_WANTED: Final = frozenset(
    {SUBFILE_TYPE, WIDTH, HEIGHT, BITS_PER_SAMPLE, COMPRESSION, PHOTOMETRIC, ORIENTATION, SAMPLES_PER_PIXEL,
     MIN_SAMPLE_VALUE, MAX_SAMPLE_VALUE, PLANAR, PREDICTOR, TILE_WIDTH, EXTRA_SAMPLES, SAMPLE_FORMAT,
     S_MIN_SAMPLE_VALUE, S_MAX_SAMPLE_VALUE, JPEG_PROCESS, JPEG_STREAM, JPEG_STREAM_BYTES,
     JPEG_RESTART_INTERVAL, YCBCR_COEFFICIENTS, YCBCR_SUBSAMPLING, REFERENCE_BLACK_WHITE}
)  # fmt: skip
"""The tags whose values are read; of the others only the place is."""
