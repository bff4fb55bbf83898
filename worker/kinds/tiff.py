"""TIFF to JPEG: `convert` follows sharp's steps in libvips, so that the bytes are those of
`sharp(file).jpeg({quality: 95, mozjpeg: true})`; `run` is the glue from download to upload.

Where sharp is wrong this is right and says so in the notes: 16-bit RGB with a profile becomes sRGB (sharp: untagged
Display P3), the orientation tag is applied, YCbCr without JPEG compression is not taken for RGB, and samples without
a known range (signed, float) are refused instead of being guessed. STRICT_SHARP=1 gives sharp's bytes.
"""

import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worker import jpeg, tiff_tags
from worker.contract import IMAGE_JPEG
from worker.errors import BadInput, Cancelled, WorkerError
from worker.kinds.base import Context, Outcome
from worker.limits import MemoryGate, check_dimensions
from worker.objects.base import check_key

HARMLESS = re.compile(
    r"loop|not sorted|not in ascending|PageNumber|StripByteCounts|Software|ASCII value|incorrect count|unknown field",
    re.IGNORECASE,
)
"""Warnings about tags that do not touch the picture: the file is read once more, failing on errors only. Truncated
data is not among them: half a picture is no success."""
_UNCERTAIN = {
    "char": "signed 8-bit", "short": "signed 16-bit", "int": "signed 32-bit", "float": "32-bit floating point",
    "double": "64-bit floating point", "complex": "complex", "dpcomplex": "complex",
}  # fmt: skip
_JPEG_COMPRESSIONS = (6, 7)
_YCBCR, _LAB = 6, 8


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to convert. `strict_sharp` gives sharp's bytes also where sharp is wrong."""

    strict_sharp: bool = False
    memory: MemoryGate | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, kw_only=True)
class Converted:
    """The result: size in bytes, pixels, pages of the source (the first was converted), what was done beyond sharp."""

    size: int
    width: int
    height: int
    pages: int
    notes: tuple[str, ...]


def run(context: Context) -> Outcome:
    """Downloads INPUT_R2_KEY, converts it and uploads the JPEG. Raises WorkerError with the sentence to report."""
    begun = time.monotonic()
    key = check_key(context.env["INPUT_R2_KEY"])
    output_key = check_key(context.env.get("OUTPUT_R2_KEY") or output_key_of(key))
    source, target = context.folder / "input.tif", context.folder / "output.jpg"
    _import_meanwhile()
    with _saying("Failed to download TIFF"):
        context.objects.get_file(key, source)
    downloaded = time.monotonic()
    context.check_wanted()
    options = Options(
        strict_sharp=context.env.get("STRICT_SHARP") == "1", memory=context.memory, cancelled=context.cancelled
    )
    with _saying("Failed to convert TIFF"):
        made = convert(source, target, options)
    converted = time.monotonic()
    context.check_wanted()
    with _saying("Failed to upload JPEG"):
        context.objects.put_file(output_key, target, IMAGE_JPEG)
    done = time.monotonic()
    return Outcome(
        output_r2_key=output_key,
        output_file_name=output_key.rpartition("/")[2],
        output_file_size=made.size,
        performance={
            "total_time_ms": _ms(done - begun),
            "download_time_ms": _ms(downloaded - begun),
            "conversion_time_ms": _ms(converted - downloaded),
            "upload_time_ms": _ms(done - converted),
        },
        pages=made.pages,
        notes=made.notes,
    )


def output_key_of(key: str) -> str:
    """The originals' rule: next to the source, `.tif` or `.tiff` (any case) becomes `.jpg`. A key with another ending
    gets `.jpg` after it, so that the output never overwrites the input."""
    changed = re.sub(r"\.tiff?$", ".jpg", key, flags=re.IGNORECASE)
    return changed if changed != key else f"{key}.jpg"


def convert(source: Path, target: Path, options: Options) -> Converted:
    """Converts the first page of `source` into the JPEG `target`. Raises BadInput when the file cannot be converted,
    LimitExceeded when this machine is too small, Cancelled when `options.cancelled` was set meanwhile."""
    pyvips = _pyvips()
    try:
        return _attempt(pyvips, source, target, options, fail_on="warning")
    except pyvips.Error as error:
        problem = _explain(error, source)
    if HARMLESS.search(problem):
        try:
            return _attempt(pyvips, source, target, options, fail_on="error")
        except pyvips.Error as error:
            problem = _explain(error, source)
    rescued = None if options.strict_sharp else _rescue(pyvips, source, target, options)
    if rescued is None:
        raise BadInput(problem)
    return rescued


def _attempt(pyvips: Any, source: Path, target: Path, options: Options, *, fail_on: str) -> Converted:
    image = pyvips.Image.new_from_file(str(source), access="sequential", fail_on=fail_on)
    check_dimensions(image.width, image.height)
    notes: list[str] = []
    if not options.strict_sharp:
        image = _put_right(pyvips, image, source, fail_on, notes)
    return _finish(image, target, options, notes)


def _finish(image: Any, target: Path, options: Options, notes: list[str]) -> Converted:
    """sharp's colour steps and the encoder, with memory reserved and a way to stop."""
    pages = image.get("n-pages") if image.get_typeof("n-pages") else 1
    with _reserved(image.width * image.height, options):
        image = to_srgb(image, strict_sharp=options.strict_sharp, notes=notes)
        _stop_when(image, options.cancelled)
        try:
            size = jpeg.encode(image, target)
        except Exception:
            _check_wanted(options.cancelled)
            raise
        _check_wanted(options.cancelled)  # libvips does not look as often as to notice in a small picture
    return Converted(size=size, width=image.width, height=image.height, pages=pages, notes=tuple(notes))


def to_srgb(image: Any, *, strict_sharp: bool, notes: list[str]) -> Any:
    """sharp's steps from a decoded picture to sRGB."""
    sixteen = image.interpretation in ("rgb16", "grey16")
    profile = "p3" if strict_sharp and image.interpretation == "rgb16" else "srgb"
    if image.get_typeof("icc-profile-data") and image.interpretation not in ("labs", "grey16"):
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
    except _pyvips().Error:
        notes.append("the embedded colour profile is not valid and was ignored")
        return image
    if image.interpretation == "cmyk":
        notes.append("converted from CMYK by its embedded profile")
    return changed


def _put_right(pyvips: Any, image: Any, source: Path, fail_on: str, notes: list[str]) -> Any:
    """Where sharp is wrong: see the module."""
    if image.format in _UNCERTAIN:
        raise BadInput(
            f"The image has {_UNCERTAIN[image.format]} samples, whose range is not known; "
            "convert it to 8 or 16 bits first"
        )
    if image.format == "uint":
        image = (image / 65537).cast("ushort").copy(interpretation="rgb16" if image.bands >= 3 else "grey16")
        notes.append("32-bit samples were scaled to 16 bits")
    tags = tiff_tags.read_tags(source)
    raw_ycbcr = tags.get(tiff_tags.PHOTOMETRIC) == _YCBCR and tags.get(tiff_tags.COMPRESSION) not in _JPEG_COMPRESSIONS
    if raw_ycbcr and image.bands == 3 and image.format == "uchar":
        image = _from_ycbcr(pyvips, image)
        notes.append("converted from YCbCr")
    turn = image.get("orientation") if image.get_typeof("orientation") else 1
    if 2 <= turn <= 8:
        # Turning reads the rows in another order, which a sequential decoder cannot.
        image = image.copy_memory().autorot()
        notes.append(f"turned as its orientation tag says ({turn})")
    return image


def _from_ycbcr(pyvips: Any, image: Any) -> Any:
    """BT.601 at full range, the TIFF standard's default coefficients."""
    matrix = pyvips.Image.new_from_array([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]])
    return (image - [0, 128, 128]).recomb(matrix).rint().cast("uchar").copy(interpretation="srgb")


def _rescue(pyvips: Any, source: Path, target: Path, options: Options) -> Converted | None:
    """Lets Pillow decode what libvips cannot: 8-bit LAB, old-style JPEG, tiled planar, 2 and 4 bits. None where the
    file is of no class for which Pillow is known to be right."""
    tags = tiff_tags.read_tags(source)
    if not _is_for_pillow(tags):
        return None
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(source, formats=["TIFF"]) as picture:
            check_dimensions(*picture.size)
            with _reserved(picture.width * picture.height, options):
                pages = getattr(picture, "n_frames", 1)
                decoded = _pillow_rgb(picture)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, KeyError, Image.DecompressionBombError):
        return None
    if decoded is None:
        return None
    image = pyvips.Image.new_from_memory(decoded.tobytes(), decoded.width, decoded.height, 3, "uchar")
    made = _finish(image.copy(interpretation="srgb"), target, options, ["decoded by Pillow"])
    return Converted(size=made.size, width=made.width, height=made.height, pages=pages, notes=made.notes)


def _is_for_pillow(tags: dict[int, int]) -> bool:
    bits = tags.get(tiff_tags.BITS_PER_SAMPLE, 1)
    tiled_planar = tags.get(tiff_tags.PLANAR) == 2 and tiff_tags.TILE_WIDTH in tags and bits == 8
    lab = tags.get(tiff_tags.PHOTOMETRIC) == _LAB and bits == 8
    return lab or tiled_planar or tags.get(tiff_tags.COMPRESSION) == 6 or bits in (2, 4)


def _pillow_rgb(picture: Any) -> Any:
    """The first page as RGB, or None for a mode for which Pillow is not known to be right."""
    if picture.mode == "LAB":
        from PIL import ImageCms

        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(picture, lab, srgb, outputMode="RGB")
    return picture.convert("RGB") if picture.mode in ("1", "L", "P", "RGB", "YCbCr") else None


@contextmanager
def _reserved(pixels: int, options: Options) -> Iterator[None]:
    if options.memory is None:
        yield
    else:
        with options.memory.hold(pixels, options.cancelled):
            yield


def _stop_when(image: Any, cancelled: threading.Event) -> None:
    """Makes libvips give up soon after `cancelled` is set."""

    def look(picture: Any, progress: Any) -> None:
        if cancelled.is_set():
            picture.set_kill(True)

    image.set_progress(True)
    image.signal_connect("eval", look)


def _check_wanted(cancelled: threading.Event) -> None:
    if cancelled.is_set():
        raise Cancelled("the task is no longer wanted") from None


@contextmanager
def _saying(what: str) -> Iterator[None]:
    """Puts the step that failed before the sentence: "Failed to download TIFF: 404 Not Found"."""
    try:
        yield
    except Cancelled:
        raise
    except WorkerError as error:
        error.args = (f"{what}: {error}",)
        raise


def _explain(error: Exception, source: Path) -> str:
    """The decoder's first sentence, without paths."""
    lines = [line.strip() for line in str(error).splitlines()]
    telling = [line for line in lines if line and not line.startswith("unable to call")]
    text = re.sub(r"^(tiff2vips|VipsForeignLoad|VipsJpeg): ", "", telling[0] if telling else "")
    text = text.replace(f'"{source}"', "the file").replace(str(source), "the file")
    return text[:500] or "the file cannot be decoded"


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _import_meanwhile() -> None:
    """Loads libvips while the bytes arrive."""
    if "pyvips" not in sys.modules:
        threading.Thread(target=_pyvips, name="import-pyvips", daemon=True).start()


_prepared = threading.Lock()


def _pyvips() -> Any:
    """The module, prepared once: one thread an image (mozjpeg keeps one core busy anyway), no cache of results, and no
    loader that libvips itself does not trust with foreign files."""
    with _prepared:
        first = "pyvips" not in sys.modules
        os.environ.setdefault("VIPS_CONCURRENCY", "1")
        os.environ.setdefault("VIPS_WARNING", "0")
        import pyvips

        if first:
            pyvips.cache_set_max(0)
            pyvips.block_untrusted_set(True)
        return pyvips
