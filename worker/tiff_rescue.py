"""What libvips does not decode as it stands. Compressions that its wheel lacks (zstd, lzma) are decoded by Pillow; of
old-style JPEG the stream is taken out, and libvips decodes that: Pillow takes half a stream, or noise, for a picture.
The picture goes through the same steps as any other.

Pillow's traps are kept out: `Image.open` would load every plug-in and refuse what is within our own limit; its 16-bit
planes come out as noise, its 16-bit "white is zero" is not inverted, it takes signed bytes for unsigned ones, and it
drops alpha without composing it. Big-endian floating point comes out with its bytes in the wrong order. It does not
know big-endian BigTIFF.
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from worker import tiff_jpeg, tiff_tags, vips
from worker.errors import BadInput
from worker.limits import check_dimensions
from worker.tiff_tags import Directory

_ZSTD, _LZMA, _OLD_JPEG = 50000, 34925, 6
_RGB, _YCBCR, _CIELAB = 2, 6, 8
_SIGNED, _FLOATING_POINT = 2, 3
_INTERPRETATIONS: Final = {"L": "b-w", "LA": "b-w", "RGB": "srgb", "RGBA": "srgb", "CMYK": "cmyk", "F": "b-w"}
_CONVERTED: Final = {"1": "L", "P": "RGB", "RGBX": "RGB", "YCbCr": "RGB", "La": "LA", "RGBa": "RGBA"}
"""Modes that Pillow turns rightly into one of those above."""


def is_old_jpeg(tags: Directory) -> bool:
    """Whether the file is old-style JPEG."""
    return tags.compression == _OLD_JPEG and not _is_big_endian_bigtiff(tags)


def is_for_pillow(tags: Directory) -> bool:
    """Whether the file is of a class for which Pillow is known to be right."""
    planes_of_16_bits = tags.is_planar and tags.bits == 16
    form = tags.first(tiff_tags.SAMPLE_FORMAT, 1)
    signed = form == _SIGNED
    swapped = tags.order == ">" and (tags.bits > 16 or form == _FLOATING_POINT)
    wrong = planes_of_16_bits or signed or swapped or _is_big_endian_bigtiff(tags)
    return tags.compression in (_ZSTD, _LZMA) and not wrong


def _is_big_endian_bigtiff(tags: Directory) -> bool:
    return tags.big and tags.order == ">"


def as_decoded(tags: Directory) -> Directory:
    """The tags of the picture that Pillow hands out: YCbCr is RGB by then."""
    return tags.with_value(tiff_tags.PHOTOMETRIC, _RGB) if tags.photometric == _YCBCR else tags


def open_with_pillow(source: Path, tags: Directory) -> Any:
    """The first page as a pyvips.Image with profile and number of pages, turned upright. Raises BadInput with Pillow's
    sentence, or where Pillow is not known to be right."""
    with _opened(source) as picture:
        pages = picture.n_frames
        picture.seek(0)
        return _described(_decoded(picture, tags), picture, pages, with_profile=tags.photometric != _CIELAB)


def open_old_jpeg(source: Path, tags: Directory) -> Any:
    """The first page as a pyvips.Image with profile, orientation and number of pages. Raises BadInput, and pyvips.Error
    at the slightest doubt about the stream, also while it is decoded."""
    stream = tiff_jpeg.old_style(source, tags)
    image = vips.load().Image.jpegload_buffer(stream, access="sequential", fail_on="warning").copy()
    if (image.width, image.height) != (tags.first(tiff_tags.WIDTH), tags.first(tiff_tags.HEIGHT)):
        raise BadInput("The image is old-style JPEG, and its stream is of another size than the file says")
    if image.get_typeof("icc-profile-data"):
        image.remove("icc-profile-data")
    image.set_type(vips.load().GValue.gint_type, "orientation", tags.first(tiff_tags.ORIENTATION, 1))
    with _opened(source) as picture:
        pages = picture.n_frames
        picture.seek(0)
        return _described(image, picture, pages, with_profile=True)


@contextmanager
def _opened(source: Path) -> Iterator[Any]:
    """The file in Pillow's hands. Raises BadInput for whatever it complains about meanwhile."""
    from PIL import Image, TiffImagePlugin

    Image.MAX_IMAGE_PIXELS = None  # its own limit is lower than ours, which is checked here
    try:
        with TiffImagePlugin.TiffImageFile(source) as picture:
            check_dimensions(*picture.size)
            yield picture
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


def _described(image: Any, picture: Any, pages: int, *, with_profile: bool) -> Any:
    """The picture with what Pillow knows of it."""
    profile = picture.info.get("icc_profile") if with_profile else None
    image.set_type(vips.load().GValue.gint_type, "n-pages", pages)
    if profile:
        image.set_type(vips.load().GValue.blob_type, "icc-profile-data", profile)
    return image


def _decoded(picture: Any, tags: Directory) -> Any:
    if picture.mode in _CONVERTED:
        return _from_memory(picture.convert(_CONVERTED[picture.mode]), "uchar")
    if picture.mode in ("I;16", "I;16B"):
        return _grey16(picture, tags)
    if picture.mode in _INTERPRETATIONS or (picture.mode == "LAB" and not tags.is_planar):
        return _from_memory(picture, "float" if picture.mode == "F" else "uchar")
    raise BadInput(f"The image is of a kind ({picture.mode}) that cannot be decoded rightly")


def _grey16(picture: Any, tags: Directory) -> Any:
    """12 bits come out as they are, and "white is zero" too."""
    image = _from_memory(picture, "ushort")
    image = image.byteswap() if picture.mode == "I;16B" else image
    most = (1 << tags.bits) - 1
    values = most - image if tags.photometric == 0 else image
    return (values * (65535 / most)).rint().cast("ushort").copy(interpretation="grey16")


def _from_memory(picture: Any, kind: str) -> Any:
    bands = len(picture.getbands())
    image = vips.load().Image.new_from_memory(picture.tobytes(), picture.width, picture.height, bands, kind)
    return image.copy(interpretation=_INTERPRETATIONS.get(picture.mode, "srgb"))
