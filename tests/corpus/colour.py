"""Colour by the formulas of the standards, in numpy: what the right picture is, independent of the code under test.

Sources: IEC 61966-2-1 (sRGB), CIE 15 (L*a*b*), ICC.1 (D50, Bradford), TIFF 6.0 section 21 (YCbCr).
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

D50: Final = np.array([0.9642, 1.0, 0.8249])
_BRADFORD: Final = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
D65_XY: Final = (0.3127, 0.3290)
SRGB_XY: Final = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
ADOBE_XY: Final = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
P3_XY: Final = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))


def _xyz(xy: tuple[float, float]) -> Array:
    x, y = xy
    return np.array([x / y, 1.0, (1 - x - y) / y])


def matrix_d50(primaries: tuple[tuple[float, float], ...], white: tuple[float, float] = D65_XY) -> Array:
    """Linear RGB to XYZ of the profile connection space: the primaries scaled to the white, adapted to D50."""
    columns = np.stack([_xyz(xy) for xy in primaries], axis=1)
    scaled = columns * np.linalg.solve(columns, _xyz(white))
    cone = _BRADFORD @ D50 / (_BRADFORD @ _xyz(white))
    return np.linalg.inv(_BRADFORD) @ np.diag(cone) @ _BRADFORD @ scaled


SRGB: Final = matrix_d50(SRGB_XY)


def srgb_to_linear(value: Array) -> Array:
    """0..1 to 0..1."""
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(value: Array) -> Array:
    """Any to 0..1, clipped."""
    value = np.clip(value, 0, 1)
    return np.where(value <= 0.0031308, value * 12.92, 1.055 * value ** (1 / 2.4) - 0.055)


def to_bytes(unit: Array) -> Array:
    """0..1 to 0..255."""
    return np.rint(np.clip(unit, 0, 1) * 255).astype(np.uint8)


def xyz_to_rgb(xyz: Array) -> Array:
    """XYZ (D50) to sRGB bytes."""
    return to_bytes(linear_to_srgb(xyz @ np.linalg.inv(SRGB).T))


def rgb_to_xyz(rgb: Array) -> Array:
    """sRGB bytes to XYZ (D50)."""
    return srgb_to_linear(rgb / 255) @ SRGB.T


def lab_to_rgb(lab: Array) -> Array:
    """L* 0..100, a*, b* of D50 to sRGB bytes."""
    fy = (lab[..., 0] + 16) / 116
    f = np.stack([fy + lab[..., 1] / 500, fy, fy - lab[..., 2] / 200], axis=-1)
    return xyz_to_rgb(np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * D50)


def xyz_to_lab(xyz: Array) -> Array:
    """XYZ (D50) to L*, a*, b*."""
    t = xyz / D50
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)


def rgb_to_ycbcr(rgb: Array, luma: tuple[float, float, float] = (0.299, 0.587, 0.114)) -> Array:
    """sRGB bytes to Y, Cb, Cr at full range, 0..255 with 128 for no colour. Floats."""
    red, green, blue = (rgb[..., band].astype(float) for band in range(3))
    y = luma[0] * red + luma[1] * green + luma[2] * blue
    return np.stack([y, (blue - y) / (2 - 2 * luma[2]) + 128, (red - y) / (2 - 2 * luma[0]) + 128], axis=-1)


def cmyk_to_rgb(cmyk: Array) -> Array:
    """Ink 0..1 to sRGB 0..1 by the naive rule; the project's own CMYK profile is made from it."""
    return (1 - cmyk[..., :3]) * (1 - cmyk[..., 3:])
