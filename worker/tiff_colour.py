"""From decoded samples to sRGB: sharp's steps (`to_srgb`), and before them what sharp gets wrong (`put_right`)."""

import math
from typing import Any, Final

from worker import tiff_channels, tiff_tags, vips
from worker.tiff_tags import Directory

_YCBCR, _CIELAB, _ICCLAB = 6, 8, 9
_JPEG: Final = (6, 7)
_D50: Final = [96.4250, 100.0, 82.4680]
"""The white that libvips calls D50."""
_D50_TO_D65: Final = [
    [0.9555766, -0.0230393, 0.0631636], [-0.0282895, 1.0099416, 0.0210077], [0.0122982, -0.0204830, 1.3299098],
]  # fmt: skip
"""Bradford's adaptation."""


def to_srgb(image: Any, *, strict_sharp: bool, notes: list[str]) -> Any:
    """sharp's steps from a decoded picture to sRGB."""
    sixteen = image.interpretation in ("rgb16", "grey16")
    wrong = strict_sharp and image.interpretation == "rgb16"
    profile = "p3" if wrong else "srgb"
    skipped = ("labs", "grey16") if strict_sharp else ("labs",)
    if image.get_typeof("icc-profile-data") and image.interpretation not in skipped:
        image = _by_embedded_profile(image, profile, 16 if sixteen else 8, notes)
    elif image.interpretation == "cmyk":
        image = image.icc_transform(profile, input_profile="cmyk", intent="perceptual")
        notes.append("converted from CMYK without a profile")
    if image.interpretation in ("rgb16", "grey16"):
        image = image.cast("ushort")
    if image.interpretation != "srgb":
        image = image.colourspace("srgb", source_space=image.interpretation)
    return image


def _by_embedded_profile(image: Any, profile: str, depth: int, notes: list[str]) -> Any:
    """A profile that does not fit the picture is ignored, as sharp does."""
    try:
        changed = image.icc_transform(profile, embedded=True, depth=depth, intent="perceptual")
    except vips.load().Error:
        notes.append("the embedded colour profile is not valid and was ignored")
        return image
    if image.interpretation == "cmyk":
        notes.append("converted from CMYK by its embedded profile")
    elif depth == 16:
        notes.append("converted to sRGB by the embedded profile")
    return changed


def put_right(image: Any, tags: Directory, notes: list[str]) -> Any:
    """Drops channels that are neither colour nor alpha, and turns YCbCr and LAB, read as plain channels, into sRGB."""
    image = _without_extra_channels(image, tags, notes)
    if is_plain_lab(tags):
        notes.append("converted from LAB")
        return _from_lab(image, tags)
    if _is_plain_ycbcr(image, tags):
        notes.append("converted from YCbCr")
        return _from_ycbcr(image, tags)
    return image


def _without_extra_channels(image: Any, tags: Directory, notes: list[str]) -> Any:
    """ExtraSamples (tag 338) decides: sharp takes any channel after the colours for alpha, and flattens on black."""
    colours = tiff_channels.colours(tags, image.bands)
    if image.bands != tags.samples or image.bands <= colours:
        return image
    alpha = tiff_channels.alpha(tags)
    kept = [*range(colours), *([alpha] if alpha is not None else [])]
    if len(kept) == image.bands:
        return image
    count = image.bands - len(kept)
    notes.append(
        f"{count} extra channel{'s' if count > 1 else ''} that {'are' if count > 1 else 'is'} not alpha left out"
    )
    chosen = [image[band] for band in kept]
    return (chosen[0].bandjoin(chosen[1:]) if len(chosen) > 1 else chosen[0]).copy(interpretation=image.interpretation)


def is_plain_lab(tags: Directory) -> bool:
    """Whether LAB is read as plain channels. libvips itself reads 16-bit CIELAB of three channels in one plane, and
    floating point. It takes their white for D65, all others here are taken for D50: sharp's bytes are kept there."""
    if tags.photometric not in (_CIELAB, _ICCLAB) or tags.bits not in (8, 16) or tags.samples < 3:
        return False
    return tags.photometric == _ICCLAB or tags.bits == 8 or tags.samples != 3 or tags.is_planar


def _from_lab(image: Any, tags: Directory) -> Any:
    """LAB of D50, perhaps with alpha, to sRGB. CIELAB has signed a and b; ICCLAB has an offset, and in 16 bits white at
    0xFF00 (TIFF 6.0, section 23, and Adobe's notes)."""
    lightness, a, b = image[0].copy(format="uchar" if tags.bits == 8 else "ushort"), image[1], image[2]
    steps = 1 if tags.bits == 8 else 256
    if tags.photometric == _ICCLAB:
        white = 255 * steps
        a, b = (channel.copy(format=lightness.format) / steps - 128 for channel in (a, b))
    else:
        white = 255 if tags.bits == 8 else 65535
        a, b = (channel.copy(format="char" if tags.bits == 8 else "short") / steps for channel in (a, b))
    xyz = (lightness * (100 / white)).bandjoin([a, b]).copy(interpretation="lab").Lab2XYZ(temp=_D50)
    rgb = xyz.recomb(vips.load().Image.new_from_array(_D50_TO_D65)).copy(interpretation="xyz").colourspace("srgb")
    if image.bands > 3:
        alpha = image[3].copy(format=lightness.format) / (1 if tags.bits == 8 else 257)
        rgb = rgb.bandjoin(alpha.rint().cast("uchar"))
    return _without_profile(rgb)


def _is_plain_ycbcr(image: Any, tags: Directory) -> bool:
    """Subsampled YCbCr is converted by libtiff, JPEG by its decoder; what is left is taken for RGB by sharp."""
    return (
        tags.photometric == _YCBCR
        and tags.compression not in _JPEG
        and tags.values(tiff_tags.YCBCR_SUBSAMPLING)[:2] == (1, 1)
        and image.format in ("uchar", "ushort")
        and image.bands >= 3
    )


def _from_ycbcr(image: Any, tags: Directory) -> Any:
    """By the file's coefficients and reference levels; the defaults are BT.601 at full range (TIFF 6.0, section 21)."""
    wide = image.format == "ushort"
    full, middle = (65535, 32768) if wide else (255, 128)
    levels = tags.values(tiff_tags.REFERENCE_BLACK_WHITE)
    low, high, *chroma = levels if _are_valid(levels) else (0, full, middle, full, middle, full)
    factors = [
        full / (high - low),
        *[(full - middle) / (most - least) for least, most in zip(chroma[::2], chroma[1::2], strict=True)],
    ]
    coefficients = tags.values(tiff_tags.YCBCR_COEFFICIENTS)
    red, green, blue = coefficients if len(coefficients) == 3 and all(coefficients) else (0.299, 0.587, 0.114)
    to_red, to_blue = 2 - 2 * red, 2 - 2 * blue
    matrix = [[1, 0, to_red], [1, -to_blue * blue / green, -to_red * red / green], [1, to_blue, 0]]
    colour = image[0].bandjoin([image[1], image[2]])
    centred = (colour - [low, chroma[0], chroma[2]]) * factors
    rgb = centred.recomb(vips.load().Image.new_from_array(matrix)).rint().cast(image.format)
    rgb = rgb.bandjoin(image[3]) if image.bands > 3 else rgb
    return rgb.copy(interpretation="rgb16" if wide else "srgb")


def has_invalid_levels(tags: Directory) -> bool:
    """Whether ReferenceBlackWhite is there and says nothing."""
    return tiff_tags.REFERENCE_BLACK_WHITE in tags.entries and not _are_valid(
        tags.values(tiff_tags.REFERENCE_BLACK_WHITE)
    )


def _are_valid(levels: tuple[float, ...]) -> bool:
    """Six numbers, of which each black is below its white."""
    pairs = zip(levels[::2], levels[1::2], strict=False)
    return len(levels) == 6 and all(math.isfinite(high - low) and low < high for low, high in pairs)


def _without_profile(image: Any) -> Any:
    image = image.copy()
    if image.get_typeof("icc-profile-data"):
        image.remove("icc-profile-data")
    return image
