"""ICC profiles made from numbers: matrix profiles, a grey one, and one for CMYK with a look-up table.

Source: ICC.1:2001-04 (version 2.4), the tag types `XYZ `, `curv`, `desc`, `text`, `mft2`.
"""

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.corpus import colour

Array = NDArray[Any]
GRID = 9
"""Points a side of the CMYK table."""


def matrix_profile(primaries: tuple[tuple[float, float], ...], curve: bytes) -> bytes:
    """A display profile of three primaries (white D65) and one curve for all channels."""
    columns = colour.matrix_d50(primaries).T
    tags = {name: _xyz(column) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns, strict=True)}
    return _profile(b"mntr", b"RGB ", b"XYZ ", tags | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve))


def grey_profile(curve: bytes) -> bytes:
    """A display profile of one channel."""
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": curve})


def cmyk_profile() -> bytes:
    """A printer profile whose table says what `colour.cmyk_to_rgb` says."""
    axis = np.linspace(0, 1, GRID)
    inks = np.stack(np.meshgrid(axis, axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 4)
    lab = colour.xyz_to_lab(colour.srgb_to_linear(colour.cmyk_to_rgb(inks)) @ colour.SRGB.T)
    table = _mft2(4, 3, np.rint(np.stack([lab[:, 0] * 652.8, *(lab[:, 1:].T + 128) * 256], axis=1)))
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": table})


def gamma(exponent: float) -> bytes:
    """A curve that is a power."""
    return b"curv" + struct.pack(">4xIH", 1, round(exponent * 256))


def sampled(function: Callable[[Array], Array], points: int = 1024) -> bytes:
    """A curve by its values at equal distances."""
    values = np.rint(function(np.linspace(0, 1, points)) * 65535).astype(">u2")
    return b"curv" + struct.pack(">4xI", points) + values.tobytes()


def _mft2(inputs: int, outputs: int, table: Array) -> bytes:
    head = struct.pack(">4xBBBx", inputs, outputs, GRID) + struct.pack(">9i", *(65536 * np.eye(3, dtype=int)).ravel())
    straight = struct.pack(">2H", 0, 65535)
    return (
        b"mft2"
        + head
        + struct.pack(">2H", 2, 2)
        + straight * inputs
        + table.astype(">u2").tobytes()
        + (straight * outputs)
    )


def _xyz(values: Array) -> bytes:
    return b"XYZ " + bytes(4) + _fixed(values)


def _fixed(values: Array) -> bytes:
    return struct.pack(">3i", *(round(float(value) * 65536) for value in values))


def _profile(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    name = b"made by the tests\0"
    described = b"desc" + struct.pack(">4xI", len(name)) + name + bytes(4 + 4 + 2 + 1 + 67)
    tags = {b"desc": described, b"cprt": b"text" + bytes(4) + b"public domain\0", b"wtpt": _xyz(colour.D50)} | tags
    at = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for signature, data in tags.items():
        table += struct.pack(">4sII", signature, at + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4xI4s4s4s", at + len(body), 0x02400000, kind, space, connection)
    head += struct.pack(">6H4s", 2020, 1, 1, 0, 0, 0, b"acsp") + bytes(28) + _fixed(colour.D50)
    return head.ljust(128, b"\0") + table + body
