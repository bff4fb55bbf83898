"""What Pillow decodes in libvips' stead: compressions that the wheel of libvips lacks (zstd, lzma), and old-style JPEG.
Its picture goes through the same steps as libvips' own.

Pillow's traps are kept out: `Image.open` would load every plug-in and refuse what is within our own limit; its 16-bit
planes come out as noise, its 16-bit "white is zero" is not inverted, it takes signed bytes for unsigned ones, and it
drops alpha without composing it. It does not know big-endian BigTIFF.
"""

import struct
from pathlib import Path
from typing import Any, Final

from worker import vips
from worker.errors import BadInput
from worker.limits import check_dimensions
from worker.tiff_tags import SAMPLE_FORMAT, Directory

_ZSTD, _LZMA, _OLD_JPEG = 50000, 34925, 6
_CIELAB = 8
_INTERPRETATIONS: Final = {"L": "b-w", "LA": "b-w", "RGB": "srgb", "RGBA": "srgb", "CMYK": "cmyk", "F": "b-w"}
_CONVERTED: Final = {"1": "L", "P": "RGB", "RGBX": "RGB", "YCbCr": "RGB", "La": "LA", "RGBa": "RGBA"}
"""Modes that Pillow turns rightly into one of those above."""


def is_for_pillow(tags: Directory) -> bool:
    """Whether the file is of a class for which Pillow is known to be right."""
    if tags.big and tags.order == ">":
        return False
    planes_of_16_bits = tags.is_planar and tags.bits == 16
    signed = tags.first(SAMPLE_FORMAT, 1) == 2
    lacking = tags.compression in (_ZSTD, _LZMA) and not planes_of_16_bits and not signed
    return lacking or tags.compression == _OLD_JPEG


def open_with_pillow(source: Path, tags: Directory) -> Any:
    """The first page as a pyvips.Image with profile, orientation and number of pages. Raises BadInput with Pillow's
    sentence, or where Pillow is not known to be right."""
    from PIL import Image, TiffImagePlugin

    Image.MAX_IMAGE_PIXELS = None  # its own limit is lower than ours, which is checked here
    try:
        with TiffImagePlugin.TiffImageFile(source) as picture:
            check_dimensions(*picture.size)
            return _as_vips(picture, tags)
    except OSError as error:
        raise BadInput(_sentence(error, source)) from error
    except (SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, EOFError, struct.error) as error:
        raise BadInput("The image is stored in a way that cannot be decoded, or its tags are damaged") from error


def _sentence(error: OSError, source: Path) -> str:
    """Pillow's, except where it tells only the number of an error."""
    told = vips.told(error, [], source)
    if not told or told[0].startswith(("decoder error", "-")):
        return "The file cannot be decoded: its compressed data is damaged or incomplete"
    return told[0]


def _as_vips(picture: Any, tags: Directory) -> Any:
    pages = picture.n_frames
    picture.seek(0)
    profile = picture.info.get("icc_profile")
    if picture.mode in _CONVERTED:
        image = _from_memory(picture.convert(_CONVERTED[picture.mode]), "uchar")
    elif picture.mode == "I;16":
        image = _grey16(picture, tags)
    elif picture.mode in _INTERPRETATIONS or (picture.mode == "LAB" and not tags.is_planar):
        image = _from_memory(picture, "float" if picture.mode == "F" else "uchar")
    else:
        raise BadInput(f"The image is of a kind ({picture.mode}) that cannot be decoded rightly")
    image.set_type(vips.load().GValue.gint_type, "n-pages", pages)
    if profile and tags.photometric != _CIELAB:
        image.set_type(vips.load().GValue.blob_type, "icc-profile-data", profile)
    return image


def _grey16(picture: Any, tags: Directory) -> Any:
    """12 bits come out as they are, and "white is zero" too."""
    image = _from_memory(picture, "ushort")
    most = (1 << tags.bits) - 1
    values = most - image if tags.photometric == 0 else image
    return (values * (65535 / most)).rint().cast("ushort").copy(interpretation="grey16")


def _from_memory(picture: Any, kind: str) -> Any:
    bands = len(picture.getbands())
    image = vips.load().Image.new_from_memory(picture.tobytes(), picture.width, picture.height, bands, kind)
    return image.copy(interpretation=_INTERPRETATIONS.get(picture.mode, "srgb"))
