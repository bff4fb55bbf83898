"""Samples that are no 8 or 16-bit unsigned integers, scaled to 16 bits by what the file says about their range.

In this order: SMinSampleValue and SMaxSampleValue; MinSampleValue and MaxSampleValue; for integers the range of their
type, which TIFF 6.0 names as the default. That default is taken only where the picture makes use of it: a height map or
counts in 32 bits would become black or posterised. Floating point has no range of its own. What cannot be scaled is
refused with a sentence.
"""

import math
from collections.abc import Callable
from typing import Any, Final

from worker import tiff_channels, tiff_tags
from worker.errors import BadInput
from worker.tiff_tags import Directory

_INTEGERS: Final = {
    "char": (-(2**7), 2**7 - 1), "short": (-(2**15), 2**15 - 1), "int": (-(2**31), 2**31 - 1), "uint": (0, 2**32 - 1),
}  # fmt: skip
_NAMES: Final = {
    "char": "signed 8-bit", "short": "signed 16-bit", "int": "signed 32-bit", "uint": "32-bit",
    "float": "floating point", "double": "floating point",
}  # fmt: skip
LEAST_USE: Final = 0.25
"""The part of its type's range that a picture must use to be scaled by it: a quarter leaves 64 of 256 greys."""
_TAGS: Final = (
    (tiff_tags.S_MIN_SAMPLE_VALUE, tiff_tags.S_MAX_SAMPLE_VALUE),
    (tiff_tags.MIN_SAMPLE_VALUE, tiff_tags.MAX_SAMPLE_VALUE),
)


def needs_range(image: Any) -> bool:
    """Whether the samples must be scaled. Not so LAB, whose signed and floating-point samples are defined."""
    return image.format in _NAMES and image.interpretation not in ("labs", "lab")


def scaled(image: Any, tags: Directory, extremes: Callable[[], tuple[float, float]]) -> tuple[Any, str]:
    """The picture in 16 bits, and the note about it. `extremes` decodes the picture for its lowest and highest sample,
    and is called only where the type's range is the last resort. Raises BadInput."""
    name = _NAMES[image.format]
    if image.format in _INTEGERS and tiff_channels.has_associated_alpha(tags):
        raise BadInput(f"The image has {name} samples multiplied by alpha, which are not supported")
    low, high = _said(tags, _colours(tags)) or _of_type(image.format, name, extremes)
    if not _is_range(low, high):
        raise BadInput(f"The image has {name} samples, and the range that the file gives them is not valid")
    ends = [(low, high)] * image.bands
    if tiff_channels.alpha(tags) is not None:
        ends[-1] = _of_alpha(image.format, tags)
    values = (image - [least for least, _ in ends]) * [65535 / (most - least) for least, most in ends]
    values = tiff_channels.inverted(values, tags, 65535)
    kind = "cmyk" if image.interpretation == "cmyk" else "rgb16" if image.bands >= 3 else "grey16"
    return values.rint().cast("ushort").copy(
        interpretation=kind
    ), f"{name} samples were scaled from {low:g} to {high:g}"


def _colours(tags: Directory) -> slice:
    return slice(0, tiff_channels.colours(tags, tags.samples))


def _of_alpha(kind: str, tags: Directory) -> tuple[float, float]:
    """Alpha has the range that the file names for it, else that of its type, 0 to 1 in floating point: what is said
    once, for all channels, is said of the colours."""
    band = tiff_channels.alpha(tags) or 0
    own = _said(tags, slice(band, band + 1)) if band else None
    return own if own is not None and _is_range(*own) else _INTEGERS.get(kind, (0, 1))


def _said(tags: Directory, channels: slice) -> tuple[float, float] | None:
    """The range that the file names for these channels; one for all, so that the balance of colours stays."""
    for low_tag, high_tag in _TAGS:
        lows, highs = tags.values(low_tag)[channels], tags.values(high_tag)[channels]
        if lows and highs:
            return min(lows), max(highs)
    return None


def _is_range(low: float, high: float) -> bool:
    return math.isfinite(low) and math.isfinite(high) and low < high


def _of_type(kind: str, name: str, extremes: Callable[[], tuple[float, float]]) -> tuple[float, float]:
    if kind not in _INTEGERS:
        raise BadInput(
            f"The image has {name} samples, and the file does not say which values are black and white; "
            "convert it to 8 or 16-bit integers first"
        )
    low, high = _INTEGERS[kind]
    least, most = extremes()
    if most - least < (high - low) * LEAST_USE:
        raise BadInput(
            f"The image has {name} samples from {least:g} to {most:g}, and the file does not say which values are "
            "black and white; convert it to 8 or 16-bit unsigned integers first"
        )
    return low, high
