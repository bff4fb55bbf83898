"""YCbCr: raw with every subsampling, compressed without JPEG, as JPEG, and as old-style JPEG."""

import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from tests.corpus import colour, encode
from tests.corpus.base import CLOSE, Array, Entry, colours, entry
from tests.corpus.encode import YCBCR, Layout
from tests.corpus.writer import Page, Tag

WHOLE: dict[str, Any] = {"differs": "sharp takes it for RGB", "note": "YCbCr", "limits": CLOSE}
SUBSAMPLED: dict[str, Any] = {"limits": CLOSE}
"""libtiff converts these itself, also for sharp."""
OLD: dict[str, Any] = {"differs": "sharp refuses old-style JPEG", "note": "old-style JPEG", "limits": CLOSE}
HEADROOM = {532: Tag("R", [16, 1, 235, 1, 128, 1, 240, 1, 128, 1, 240, 1])}
"""ReferenceBlackWhite of video: Y 16..235, Cb and Cr 16..240."""
HD = (0.2126, 0.7152, 0.0722)


def entries() -> Iterator[Entry]:
    """All files of this kind."""
    yield from _raw()
    yield from _ranges()
    yield from _jpeg()
    yield from _old_jpeg()


def _raw() -> Iterator[Entry]:
    for across, down in ((1, 1), (2, 1), (1, 2), (2, 2), (4, 1), (4, 2), (4, 4)):
        for number, word in ((encode.NONE, "raw"), (encode.LZW, "LZW"), (encode.DEFLATE, "deflate")):
            name = f"YCbCr {word} {across}x{down}"
            yield entry(name, raw_page(colours(), across, down, compression=number), colours(), _kind(across, down),
                        **(WHOLE if (across, down) == (1, 1) else SUBSAMPLED))  # fmt: skip
    yield entry("YCbCr raw 2x2 odd-size", raw_page(colours(61, 47), 2, 2), colours(61, 47), _kind(2, 2), **SUBSAMPLED)
    yield entry("YCbCr raw 1x1 strips", raw_page(colours(), 1, 1, rows=16), colours(), _kind(1, 1), **WHOLE)
    yield entry("YCbCr raw 2x2 strips", raw_page(colours(), 2, 2, rows=16), colours(), _kind(2, 2), **SUBSAMPLED)


def _kind(across: int, down: int) -> str:
    return "YCbCr without JPEG" if (across, down) == (1, 1) else "YCbCr without JPEG, subsampled"


def raw_page(picture: Array, across: int, down: int, *, luma: Any = None, video: bool = False, **how: Any) -> Page:
    ycc = colour.rgb_to_ycbcr(picture, luma or (0.299, 0.587, 0.114))
    tags = {530: Tag("H", [across, down])} | (HEADROOM if video else {})
    if luma:
        tags[529] = Tag("R", [value for part in luma for value in (round(part * 10000), 10000)])
    if video:
        ycc = np.concatenate([16 + ycc[..., :1] * 219 / 255, 128 + (ycc[..., 1:] - 128) * 224 / 255], axis=-1)
    layout = Layout(photometric=YCBCR, tags=tags, **how)
    rows = layout.rows or picture.shape[0]
    strips = [_units(ycc[top : top + rows], across, down) for top in range(0, picture.shape[0], rows)]
    return encode.wrap([encode.CODECS[layout.compression](strip) for strip in strips], picture.shape, layout)


def _units(ycc: Array, across: int, down: int) -> bytes:
    """TIFF 6.0 section 21: units of across × down luma samples, then one Cb and one Cr."""
    height, width = ycc.shape[:2]
    padded = np.pad(ycc, ((0, -height % down), (0, -width % across), (0, 0)), mode="edge")
    blocks = padded.reshape(padded.shape[0] // down, down, padded.shape[1] // across, across, 3).swapaxes(1, 2)
    luma = blocks[..., 0].reshape(*blocks.shape[:2], -1)
    units = np.concatenate([luma, blocks[..., 1:].mean(axis=(2, 3))], axis=-1)
    return np.clip(np.rint(units), 0, 255).astype(np.uint8).tobytes()


def _ranges() -> Iterator[Entry]:
    kind = "YCbCr without JPEG, other coefficients or range"
    yield entry("YCbCr raw BT.709", raw_page(colours(), 1, 1, luma=HD), colours(), kind, **WHOLE)
    yield entry("YCbCr raw video-range", raw_page(colours(), 1, 1, video=True), colours(), kind, **WHOLE)
    both = raw_page(colours(), 2, 2, luma=HD, video=True)
    yield entry("YCbCr raw BT.709 video-range 2x2", both, colours(), _kind(2, 2), **SUBSAMPLED)


def _jpeg() -> Iterator[Entry]:
    for word, (across, down) in {"444": (1, 1), "422": (2, 1), "420": (2, 2)}.items():
        for name, how in {"one-strip": {}, "strips": {"rows": 16}, "tiled": {"tile": (32, 32)}}.items():
            layout = Layout(photometric=YCBCR, compression=encode.JPEG, tags={530: Tag("H", [across, down])}, **how)
            pieces = list(encode.parts(colours(), layout))
            streams = [encode.jpeg(part, outcolorspace="ycbcr", subsampling=word) for part in pieces]
            page = encode.wrap(streams, (*colours().shape,), layout)
            yield entry(f"YCbCr JPEG {word} {name}", page, colours(), "YCbCr, JPEG inside", limits=CLOSE)


def _old_jpeg() -> Iterator[Entry]:
    for word, (across, down) in {"444": (1, 1), "420": (2, 2)}.items():
        stream = encode.jpeg(colours(), outcolorspace="ycbcr", subsampling=word)
        layout = Layout(photometric=YCBCR, compression=6, tags={530: Tag("H", [across, down])})
        yield entry(f"old-JPEG {word} whole-stream", _whole(stream, layout), colours(), "old-style JPEG", **OLD)
        tables = _tables(stream, layout)
        yield entry(f"old-JPEG {word} tables", tables, colours(), "old-style JPEG, tables apart", **OLD)


def old_jpeg_page(word: str, subsampling: tuple[int, int]) -> Page:
    """A page of a whole old-style stream."""
    stream = encode.jpeg(colours(), outcolorspace="ycbcr", subsampling=word)
    return _whole(stream, Layout(photometric=YCBCR, compression=6, tags={530: Tag("H", list(subsampling))}))


def _whole(stream: bytes, layout: Layout) -> Page:
    """The form that libtiff's notes call the sane one: JPEGInterchangeFormat points to a whole stream. The page is the
    first thing in the file, so its only chunk begins at 8."""
    tags = layout.tags | {512: Tag("H", [1]), 513: Tag("I", [8]), 514: Tag("I", [len(stream)])}
    return encode.wrap([stream], colours().shape, replace(layout, tags=tags))


def _tables(stream: bytes, layout: Layout) -> Page:
    """TIFF 6.0 section 22: quantisation and Huffman tables stand apart, the strip is bare entropy-coded data. They are
    put in front of the strip in one chunk, which begins at 8; StripOffsets is then written by hand."""
    quantisers, direct, alternating, scan = _dissect(stream)
    body, places = b"", []
    for table in [*quantisers, *direct, *alternating]:
        places.append(8 + len(body))
        body += table + bytes(len(table) % 2)
    groups = [len(quantisers), len(quantisers) + len(direct)]
    lists = [places[: groups[0]], places[groups[0] : groups[1]], places[groups[1] :]]
    tags = layout.tags | {512: Tag("H", [1]), 273: Tag("I", [8 + len(body)]), 279: Tag("I", [len(scan)])}
    for number, found in zip((519, 520, 521), lists, strict=True):
        tags[number] = Tag("I", [found[0], found[-1], found[-1]])
    page = encode.wrap([body + scan], colours().shape, replace(layout, tags=tags))
    page.offsets = None
    return page


def _dissect(stream: bytes) -> tuple[list[bytes], list[bytes], list[bytes], bytes]:
    """Tables of quantisation, of DC and AC codes (as TIFF wants them), and the scan without its end mark."""
    quantisers, direct, alternating, at = [], [], [], 2
    while True:
        marker, size = struct.unpack_from(">HH", stream, at)
        body = stream[at + 4 : at + 2 + size]
        at += 2 + size
        if marker == 0xFFDB:
            quantisers += [body[start + 1 : start + 65] for start in range(0, len(body), 65)]
        elif marker == 0xFFC4:
            while body:
                length = 17 + sum(body[1:17])
                (direct if body[0] < 16 else alternating).append(body[1:length])
                body = body[length:]
        elif marker == 0xFFDA:
            return quantisers, direct, alternating, stream[at:-2]
