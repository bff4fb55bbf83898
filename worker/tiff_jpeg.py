"""The JPEG streams inside of a TIFF: whether the tiles are whole, and old-style ones made into a stream of their own.

Old-style JPEG (compression 6, TIFF 6.0, section 22) comes as a whole stream (JPEGInterchangeFormat), as a stream of
tables with the scan in the strip, or as bare tables with the scan in the strip. In each form the result is one JPEG
that a decoder can be strict about.
"""

import struct
from pathlib import Path
from typing import Final

from worker import tiff_tags
from worker.errors import BadInput
from worker.limits import MAX_SIDE
from worker.tiff_tags import Directory

_JPEG: Final = 7
_START, _END = b"\xff\xd8", b"\xff\xd9"
_TAIL_BYTES: Final = 64
"""How far before the end of a tile its end mark may stand: some writers pad."""
_BASELINE: Final = 1
_YCBCR: Final = 6
_SUPPORTED: Final = {1: 1, _YCBCR: 3}
"""Channels by photometric interpretation. "RGB" is left out: some writers say so of YCbCr."""
_Q_TABLE_BYTES: Final = 64
_CODE_LENGTHS: Final = 16
_NOT_SUPPORTED: Final = "The image is old-style JPEG in a form that is not supported"
_DAMAGED: Final = "The image is old-style JPEG, and its tables or its data are damaged or incomplete"


def check_tiles(source: Path, tags: Directory) -> None:
    """Raises BadInput where a JPEG tile has no end mark: libvips decodes what there is of a tile without a warning.
    Damage before the end mark is not found."""
    if tags.compression != _JPEG or tiff_tags.TILE_WIDTH not in tags.entries:
        return
    size = source.stat().st_size
    with source.open("rb") as file:
        for number, (offset, count) in enumerate(_chunks(source, tags)):
            tail = min(count, _TAIL_BYTES)
            file.seek(min(offset + count, size) - min(tail, offset + count, size))
            if offset + count > size or _END not in file.read(tail):
                raise BadInput(f"The JPEG data of tile {number} is incomplete")


def _chunks(source: Path, tags: Directory) -> list[tuple[int, int]]:
    """Offset and size of each tile or strip; libtiff takes the tags of the ones for the others. Raises BadInput where
    the lists are damaged."""
    for places, sizes in (
        (tiff_tags.TILE_OFFSETS, tiff_tags.TILE_BYTE_COUNTS),
        (tiff_tags.STRIP_OFFSETS, tiff_tags.STRIP_BYTE_COUNTS),
    ):
        offsets, counts = tags.all_values(source, places), tags.all_values(source, sizes)
        if offsets and len(offsets) == len(counts):
            return list(zip(offsets, counts, strict=True))
    raise BadInput("The lists of where the image's JPEG data stands are damaged or missing")


def old_style(source: Path, tags: Directory) -> bytes:
    """The first page as one JPEG stream. Raises BadInput."""
    channels = _SUPPORTED.get(tags.first(tiff_tags.PHOTOMETRIC, _YCBCR))
    if channels != tags.samples or tags.is_planar or tiff_tags.TILE_WIDTH in tags.entries:
        raise BadInput(_NOT_SUPPORTED)
    stream = _interchange(source, tags)
    if stream is None:
        return _tables(source, tags) + _scan(source, tags) + _END
    return stream if _END in stream[-_TAIL_BYTES:] else stream + _scan(source, tags) + _END


def _interchange(source: Path, tags: Directory) -> bytes | None:
    """What JPEGInterchangeFormat points to; None where it is absent or points to no JPEG."""
    offset = tags.first(tiff_tags.JPEG_STREAM)
    if not 0 < offset < source.stat().st_size:
        return None
    with source.open("rb") as file:
        file.seek(offset)
        body = file.read(tags.first(tiff_tags.JPEG_STREAM_BYTES) or -1)
    return body if body.startswith(_START) else None


def _scan(source: Path, tags: Directory) -> bytes:
    """The entropy-coded data of the strip."""
    strips = _chunks(source, tags)
    if len(strips) != 1:
        raise BadInput(_NOT_SUPPORTED)
    body = _read(source, *strips[0])
    return body[: -len(_END)] if body.endswith(_END) else body


def _read(source: Path, offset: int, count: int) -> bytes:
    if offset + count > source.stat().st_size:
        raise BadInput(_DAMAGED)
    with source.open("rb") as file:
        file.seek(offset)
        return file.read(count)


def _tables(source: Path, tags: Directory) -> bytes:
    """The head of a stream, up to the scan."""
    width, height = tags.first(tiff_tags.WIDTH), tags.first(tiff_tags.HEIGHT)
    if tags.first(tiff_tags.JPEG_PROCESS, _BASELINE) != _BASELINE or max(width, height) > MAX_SIDE:
        raise BadInput(_NOT_SUPPORTED)
    places = [
        tags.all_values(source, tag)
        for tag in (tiff_tags.JPEG_Q_TABLES, tiff_tags.JPEG_DC_TABLES, tiff_tags.JPEG_AC_TABLES)
    ]
    if any(len(found) < tags.samples for found in places):
        raise BadInput(_DAMAGED)
    numbers = range(tags.samples)
    quantisers = [_segment(0xDB, bytes([n]) + _read(source, places[0][n], _Q_TABLE_BYTES)) for n in numbers]
    direct = [_segment(0xC4, bytes([n]) + _codes(source, places[1][n])) for n in numbers]
    alternating = [_segment(0xC4, bytes([16 + n]) + _codes(source, places[2][n])) for n in numbers]
    sampling = [_sampling(tags), *[0x11] * (tags.samples - 1)]
    components = b"".join(bytes([n + 1, sampling[n], n]) for n in numbers)
    frame = struct.pack(">BHHB", 8, height, width, tags.samples) + components
    scan = bytes([tags.samples]) + b"".join(bytes([n + 1, n << 4 | n]) for n in numbers) + bytes([0, 63, 0])
    interval = tags.first(tiff_tags.JPEG_RESTART_INTERVAL)
    restart = _segment(0xDD, struct.pack(">H", interval)) if 0 < interval < 1 << 16 else b""
    tables = b"".join([*quantisers, *direct, *alternating])
    return _START + tables + _segment(0xC0, frame) + restart + _segment(0xDA, scan)


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def _codes(source: Path, offset: int) -> bytes:
    """A Huffman table: how many codes there are of each length, and what they mean."""
    lengths = _read(source, offset, _CODE_LENGTHS)
    return lengths + _read(source, offset + _CODE_LENGTHS, min(sum(lengths), 256))


def _sampling(tags: Directory) -> int:
    """The first channel's samples for one of the others, across in the upper four bits."""
    if tags.samples == 1:
        return 0x11
    across, down = (int(value) for value in (*tags.values(tiff_tags.YCBCR_SUBSAMPLING)[:2], 2, 2)[:2])
    if across not in (1, 2, 4) or down not in (1, 2, 4):
        raise BadInput(_DAMAGED)
    return across << 4 | down
