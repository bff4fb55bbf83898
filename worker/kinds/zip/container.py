"""The ZIP format (APPNOTE.TXT 6.3.10): headers, descriptors, the directory at the end. Pure.

Names are UTF-8 and say so, times are UTC, files are regular ones with mode 0644, and no extra field is written but
Zip64's: the same input gives the same bytes.
"""

import struct
from datetime import UTC, datetime
from typing import Final, NamedTuple

STORED: Final = 0
DEFLATED: Final = 8
LARGE: Final = 0xF0000000
"""From this size on a file that is written as it is read has Zip64 sizes: deflate may add a little to the 4 GiB."""

_UTF8: Final = 0x800
_DESCRIPTOR: Final = 0x8
_UNIX: Final = 3
_FILE_MODE: Final = 0o100644 << 16
_FULL32: Final = 0xFFFFFFFF
_FULL16: Final = 0xFFFF
_ZIP64: Final = 45
_PLAIN: Final = 20
_EARLIEST: Final = datetime(1980, 1, 1, tzinfo=UTC)
_LATEST: Final = datetime(2107, 12, 31, 23, 59, 58, tzinfo=UTC)
_LOCAL: Final = struct.Struct("<4sHHHHHIIIHH")
_CENTRAL: Final = struct.Struct("<4sHHHHHHIIIHHHHHII")
_END: Final = struct.Struct("<4sHHHHIIH")
_END64: Final = struct.Struct("<4sQHHIIQQQQ")
_LOCATOR: Final = struct.Struct("<4sIQI")


class Entry(NamedTuple):
    """One file as the directory has it. Sizes and offset in bytes; `changed_s` is seconds since 1970 UTC.

    `is_streamed`: CRC and sizes follow the data, since they were not known before.
    """

    name: str
    method: int
    changed_s: float
    offset: int
    crc: int = 0
    size: int = 0
    packed_size: int = 0
    is_streamed: bool = False


def local_header(entry: Entry) -> bytes:
    """What stands before the data. Of a streamed entry `size` is what is expected: by it the width is chosen."""
    name = entry.name.encode()
    crc, size, packed, extra = entry.crc, entry.size, entry.packed_size, b""
    is_wide = entry.size >= LARGE
    if entry.is_streamed:
        crc = size = packed = 0
    if is_wide:
        extra = struct.pack("<HHQQ", 1, 16, size, packed)
        size = packed = _FULL32
    return (
        _LOCAL.pack(
            b"PK\x03\x04", _ZIP64 if is_wide else _PLAIN, _flags(entry), entry.method, *_dos_time(entry.changed_s),
            crc, packed, size, len(name), len(extra),
        ) + name + extra
    )  # fmt: skip


def descriptor(entry: Entry, *, is_wide: bool) -> bytes:
    """What follows the data of a streamed entry."""
    return struct.pack("<4sIQQ" if is_wide else "<4sIII", b"PK\x07\x08", entry.crc, entry.packed_size, entry.size)


def directory_entry(entry: Entry) -> bytes:
    """The same file in the directory."""
    name = entry.name.encode()
    fields = (entry.size, entry.packed_size, entry.offset)
    wide = [field for field in fields if field >= _FULL32]
    extra = struct.pack(f"<HH{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
    size, packed, offset = (min(field, _FULL32) for field in fields)
    needed = _ZIP64 if wide or entry.size >= LARGE else _PLAIN
    return (
        _CENTRAL.pack(
            b"PK\x01\x02", _UNIX << 8 | _ZIP64, needed, _flags(entry), entry.method, *_dos_time(entry.changed_s),
            entry.crc, packed, size, len(name), len(extra), 0, 0, 0, _FILE_MODE, offset,
        ) + name + extra
    )  # fmt: skip


def end(entries: int, directory_offset: int, directory_size: int) -> bytes:
    """What stands after the directory."""
    told = b""
    if entries >= _FULL16 or directory_offset >= _FULL32 or directory_size >= _FULL32:
        told = _END64.pack(
            b"PK\x06\x06", 44, _UNIX << 8 | _ZIP64, _ZIP64, 0, 0, entries, entries, directory_size, directory_offset
        ) + _LOCATOR.pack(b"PK\x06\x07", 0, directory_offset + directory_size, 1)
    count = min(entries, _FULL16)
    return told + _END.pack(
        b"PK\x05\x06", 0, 0, count, count, min(directory_size, _FULL32), min(directory_offset, _FULL32), 0
    )


def _flags(entry: Entry) -> int:
    return _UTF8 | (_DESCRIPTOR if entry.is_streamed else 0)


def _dos_time(changed_s: float) -> tuple[int, int]:
    """Time and date, to two seconds, within the years that there are."""
    try:
        moment = datetime.fromtimestamp(changed_s, UTC)
    except (ValueError, OverflowError, OSError):
        moment = _EARLIEST
    moment = max(_EARLIEST, min(_LATEST, moment))
    return (
        moment.hour << 11 | moment.minute << 5 | moment.second // 2,
        (moment.year - 1980) << 9 | moment.month << 5 | moment.day,
    )
