"""Lets libvips decode samples that it would refuse or misread, by showing it the file with other tags.

libtiff then takes strips, tiles, byte order and compression apart as ever, and hands out the samples as they are: LAB
as three plain channels, "white is zero" not inverted, 12 bits as the bytes they are packed in, each plane as a picture
of its own. Nothing is written: the tags are exchanged while the file is read.
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from worker import tiff_channels, tiff_colour, tiff_tags, vips
from worker.limits import MAX_SIDE
from worker.tiff_tags import Directory

_PACKED_BITS: Final = (1, 2, 4, 6, 10, 12, 14)
_WORD: Final = 32
_INTERPRETATIONS: Final = {0: ("b-w", "grey16"), 1: ("b-w", "grey16"), 2: ("srgb", "rgb16"), 5: ("cmyk", "cmyk")}
_JPEG: Final = (6, 7)
_YCBCR: Final = 6
_BLACK_IS_ZERO, _RGB = 1, 2
_FLOATING_POINT: Final = 3
_MOST_SAMPLES: Final = 16
_A_VALUE_FOR_EACH_SAMPLE: Final = (
    tiff_tags.MIN_SAMPLE_VALUE, tiff_tags.MAX_SAMPLE_VALUE, tiff_tags.EXTRA_SAMPLES, tiff_tags.S_MIN_SAMPLE_VALUE,
    tiff_tags.S_MAX_SAMPLE_VALUE,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class View:
    """A way to open the file (source, its tags, libvips' `fail_on`), and the note about it where there is one."""

    open: Callable[[Path, Directory, str], Any]
    note: str | None = None


def choose(tags: Directory) -> View | None:
    """The view for a file that libvips would refuse or misread; None where it reads it rightly."""
    if _is_of_strange_size(tags):
        return None
    if _is_tiled_planes(tags):
        return View(open=_open_planes, note="tiles of separate planes were joined")
    if _is_packed(tags):
        return View(
            open=_open_packed, note=f"{tags.bits}-bit samples were scaled to {8 if tags.bits <= 8 else 16} bits"
        )
    if _is_double(tags):
        return View(open=_open_double)
    if not _has_valid_orientation(tags):
        turn = tags.first(tiff_tags.ORIENTATION)
        return View(open=_open_renamed, note=f"the orientation tag is not valid ({turn}) and was ignored")
    return View(open=_open_renamed) if _renamed(tags) else None


def _is_of_strange_size(tags: Directory) -> bool:
    """Whether the file is damaged so that its sizes mean nothing: libvips will say so."""
    return (
        not 1 <= tags.first(tiff_tags.WIDTH) <= MAX_SIDE
        or not 1 <= tags.samples <= _MOST_SAMPLES
        or tags.first(tiff_tags.TILE_WIDTH) > 2 * MAX_SIDE
        or tags.first(tiff_tags.SAMPLE_FORMAT, 1) > _FLOATING_POINT
    )


def _open(source: Path, tags: Directory, patches: dict[int, bytes], fail_on: str) -> Any:
    shown = _Shown(source, patches)
    pyvips = vips.load()
    reader = pyvips.SourceCustom()
    reader.on_read(shown.read)
    reader.on_seek(shown.seek)
    return pyvips.Image.new_from_source(reader, "", access="sequential", fail_on=fail_on)


def _patches(tags: Directory, changes: dict[int, int]) -> dict[int, bytes]:
    """What stands where, so that each tag in `changes` that the file has has one value. With one sample a pixel, tags
    with a value for each sample must have one as well."""
    if tiff_tags.SAMPLES_PER_PIXEL in changes:
        changes = changes | dict.fromkeys(_A_VALUE_FOR_EACH_SAMPLE, 0)
    return dict(tags.patch(tag, value) for tag, value in changes.items() if tag in tags.entries)


# The same samples under another name


def _renamed(tags: Directory) -> dict[int, int]:
    """The tags that must read otherwise."""
    changes: dict[int, int] = {}
    if not _has_valid_orientation(tags):
        changes[tiff_tags.ORIENTATION] = 1
    if tiff_colour.is_plain_lab(tags):
        changes[tiff_tags.PHOTOMETRIC] = _RGB
    of_other_type = tags.bits == _WORD or tags.first(tiff_tags.SAMPLE_FORMAT, 1) != 1
    if tags.photometric == 0 and of_other_type and tags.bits in (8, 16, _WORD):
        changes[tiff_tags.PHOTOMETRIC] = _BLACK_IS_ZERO  # tiff_samples inverts, when it knows the range
    return changes


def _has_valid_orientation(tags: Directory) -> bool:
    return 1 <= tags.first(tiff_tags.ORIENTATION, 1) <= 8


def _open_renamed(source: Path, tags: Directory, fail_on: str) -> Any:
    return _open(source, tags, _patches(tags, _renamed(tags)), fail_on)


# Planes in tiles


def _is_tiled_planes(tags: Directory) -> bool:
    return (
        tags.is_planar
        and tiff_tags.TILE_WIDTH in tags.entries
        and tags.bits in (8, 16)
        and tags.photometric != _YCBCR
        and all(tag in tags.entries for tag in (tiff_tags.TILE_OFFSETS, tiff_tags.TILE_BYTE_COUNTS))
    )


def _open_planes(source: Path, tags: Directory, fail_on: str) -> Any:
    """Each plane as a grey picture, joined. The tiles of a plane follow on those of the plane before."""
    planes = [_open(source, tags, _plane_patches(source, tags, number), fail_on) for number in range(tags.samples)]
    joined = planes[0].bandjoin(planes[1:])
    kind = "multiband" if tiff_colour.is_plain_lab(tags) else _interpretation(tags, wide=tags.bits > 8)
    full = {"uchar": 255, "ushort": 65535}.get(joined.format)
    if full is None:  # tiff_samples inverts, when it knows the range
        return tiff_channels.divided(joined, tags, 1).copy(interpretation=kind)
    values = tiff_channels.inverted(joined, tags, full).cast(joined.format)
    return tiff_channels.divided(values, tags, full).copy(interpretation=kind)


def _plane_patches(source: Path, tags: Directory, number: int) -> dict[int, bytes]:
    changes = _renamed(tags) | {
        tiff_tags.BITS_PER_SAMPLE: tags.bits,
        tiff_tags.SAMPLES_PER_PIXEL: 1,
        tiff_tags.PLANAR: 1,
        tiff_tags.PHOTOMETRIC: _BLACK_IS_ZERO,
        tiff_tags.SAMPLE_FORMAT: tags.first(tiff_tags.SAMPLE_FORMAT, 1),
    }
    lists = (tiff_tags.TILE_OFFSETS, tiff_tags.TILE_BYTE_COUNTS)
    return _patches(tags, changes) | dict(tags.patch_part(source, tag, number, tags.samples) for tag in lists)


# Samples that libvips does not know, read as rows of bytes or words


def _is_packed(tags: Directory) -> bool:
    """Whether samples do not fill whole bytes, in a way that libvips does not know."""
    known_to_libvips = tags.samples == 1 and tags.bits in (1, 2, 4)
    return (
        tags.bits in _PACKED_BITS
        and not known_to_libvips
        and tags.photometric in _INTERPRETATIONS
        and tags.first(tiff_tags.SAMPLE_FORMAT, 1) == 1
        and _is_plain_rows(tags)
    )


def _is_double(tags: Directory) -> bool:
    return (
        tags.bits == 2 * _WORD
        and tags.first(tiff_tags.SAMPLE_FORMAT) == _FLOATING_POINT
        and tags.photometric in _INTERPRETATIONS
        and _is_plain_rows(tags)
    )


def _is_plain_rows(tags: Directory) -> bool:
    unpredicted = tags.first(tiff_tags.PREDICTOR, 1) == 1
    return unpredicted and tags.compression not in _JPEG and not tags.is_planar


def _open_rows(source: Path, tags: Directory, bits: int, fail_on: str) -> Any:
    """One band of unsigned integers of `bits` bits, as they follow each other in a row."""
    size = tags.samples * tags.bits
    changes = _renamed(tags) | {
        tiff_tags.WIDTH: math.ceil(tags.first(tiff_tags.WIDTH) * size / bits),
        tiff_tags.TILE_WIDTH: tags.first(tiff_tags.TILE_WIDTH) * size // bits,
        tiff_tags.BITS_PER_SAMPLE: bits,
        tiff_tags.SAMPLES_PER_PIXEL: 1,
        tiff_tags.PHOTOMETRIC: _BLACK_IS_ZERO,
        tiff_tags.SAMPLE_FORMAT: 1,
    }
    return _open(source, tags, _patches(tags, changes), fail_on)


def _open_packed(source: Path, tags: Directory, fail_on: str) -> Any:
    """The picture with its samples scaled to 8 bits, or to 16 when there are more than 8."""
    packed = _open_rows(source, tags, 8, fail_on)
    samples = _unpack(packed, tags.bits).crop(0, 0, tags.first(tiff_tags.WIDTH) * tags.samples, packed.height)
    return _scaled(samples.bandfold(factor=tags.samples), tags)


def _unpack(packed: Any, bits: int) -> Any:
    """One band of bytes to one band of samples, row by row, the highest bit first."""
    group = math.lcm(bits, 8)
    size = group // 8
    padded = packed.embed(0, 0, math.ceil(packed.width / size) * size, packed.height)
    octets = padded.bandfold(factor=size).cast("uint")
    return _joined([_sample(octets, start, bits) for start in range(0, group, bits)])


def _sample(octets: Any, start: int, bits: int) -> Any:
    """The `bits` bits from bit `start` of each group of bytes."""
    first, last = start // 8, (start + bits - 1) // 8
    word = octets[first]
    for number in range(first + 1, last + 1):
        word = (word << 8) | octets[number]
    return (word >> ((last + 1) * 8 - start - bits)) & ((1 << bits) - 1)


def _joined(samples: list[Any]) -> Any:
    """Several columns side by side, pixel for pixel, as one band."""
    return samples[0].bandjoin(samples[1:]).bandunfold(factor=len(samples)) if len(samples) > 1 else samples[0]


def _scaled(samples: Any, tags: Directory) -> Any:
    wide = tags.bits > 8
    full, most = 65535 if wide else 255, (1 << tags.bits) - 1
    values = tiff_channels.inverted(samples, tags, most).cast(samples.format)
    values = tiff_channels.divided(values, tags, most)
    scaled = (values * (full / most)).rint().cast("ushort" if wide else "uchar")
    return scaled.copy(interpretation=_interpretation(tags, wide=wide))


def _open_double(source: Path, tags: Directory, fail_on: str) -> Any:
    """64-bit floating point, put together from two words: sign, 11 bits of exponent, 52 of fraction (IEEE 754)."""
    words = _open_rows(source, tags, _WORD, fail_on).bandfold(factor=2)
    high, low = (words[1], words[0]) if tags.order == "<" else (words[0], words[1])
    sign = 1 - 2 * (high >> 31).cast("double")
    exponent = ((high >> 20) & 0x7FF).cast("double") - 1023
    fraction = ((high & 0xFFFFF).cast("double") + low.cast("double") / 2**32) / 2**20
    values = sign * (2**exponent) * (1 + fraction)
    values = tiff_channels.divided(values.bandfold(factor=tags.samples), tags, 1)
    return values.copy(interpretation=_interpretation(tags, wide=True))


def _interpretation(tags: Directory, *, wide: bool) -> str:
    return _INTERPRETATIONS.get(tags.first(tiff_tags.PHOTOMETRIC, 1), ("multiband", "multiband"))[wide]


class _Shown:
    """The file as libvips sees it. It is opened for each piece that is read, so that nothing is left to close."""

    def __init__(self, path: Path, patches: dict[int, bytes]) -> None:
        self._path = path
        self._patches = patches
        self._size = path.stat().st_size
        self._at = 0

    def read(self, size: int) -> bytes:
        """The next bytes."""
        with self._path.open("rb") as file:
            file.seek(self._at)
            piece = bytearray(file.read(size))
        for offset, patch in self._patches.items():
            _lay_over(piece, self._at, patch, offset)
        self._at += len(piece)
        return bytes(piece)

    def seek(self, offset: int, whence: int) -> int:
        """The new position."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at


def _lay_over(piece: bytearray, at: int, patch: bytes, offset: int) -> None:
    """Puts of `patch`, which stands at `offset` in the file, what lies inside of `piece`, which begins at `at`."""
    begin, end = max(at, offset), min(at + len(piece), offset + len(patch))
    if begin < end:
        piece[begin - at : end - at] = patch[begin - offset : end - offset]
