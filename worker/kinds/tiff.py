"""TIFF to JPEG: `convert` follows sharp's steps in libvips, so that the bytes are those of
`sharp(file).jpeg({quality: 95, mozjpeg: true})`; `run` is the glue from download to upload.

Where sharp is wrong this is right and says so in the notes: 16-bit pictures with a profile become sRGB (sharp: untagged
Display P3, or the profile is ignored), the orientation tag is applied, YCbCr and LAB are not taken for RGB, channels
that are not alpha are not flattened on black, and samples of other types are scaled by the range that the file gives
them or refused. STRICT_SHARP=1 gives sharp's bytes, and refuses what sharp refuses.

The order of steps: `convert` tries the decoders, `_encoded` takes one decoded picture to the end.
"""

import re
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from worker import (
    jpeg,
    space,
    tiff_channels,
    tiff_colour,
    tiff_jpeg,
    tiff_rescue,
    tiff_samples,
    tiff_signature,
    tiff_tags,
    tiff_view,
    vips,
)
from worker.contract import IMAGE_JPEG
from worker.errors import BadInput, Cancelled, WorkerError
from worker.kinds.base import Context, Outcome
from worker.limits import MB, PILLOW_BYTES_PER_PIXEL, WHOLE_BYTES_PER_PIXEL, MemoryGate, check_dimensions
from worker.objects.base import check_key
from worker.tiff_tags import Directory

HARMLESS: Final = re.compile(
    r"loop|not sorted|not in ascending|StripByteCounts|Software|ASCII value|unknown field|custom tag|SubIFD"
    r'|incorrect count for (field )?"(PageNumber|HalftoneHints|[XY]Resolution|ResolutionUnit|[XY]Position)"',
    re.IGNORECASE,
)
"""Warnings about tags that do not touch the picture: the file is read once more, failing on errors only, and what is
heard then must be harmless as well. Neither truncated data is among them, since half a picture is no success, nor a tag
of which the decoder must know the value."""
_NO_DIRECTORY: Final = re.compile(r"not (in )?a known (file )?format")
_DAMAGED: Final = re.compile(rf"error:?$|{2**32 - 1}")
"""libtiff without a reason, or with the number of a row or strip that there is not."""
_LOST: Final = re.compile(r"error in tile")
"""libvips, of a piece that it leaves empty."""
_SHORT: Final = re.compile(r"(?:the file: )?(bad seek to \d+)")
_REFUSED: Final = {
    4: "a transparency mask", 10: "ITU LAB", 32803: "a camera's raw data (colour filter array)",
    32844: "LogL", 32845: "LogLuv", 34892: "a camera's raw data (linear)",
}  # fmt: skip
"""Photometric interpretations that no decoder here turns into a picture."""
_KNOWN_PHOTOMETRIC: Final = (0, 1, 2, 3, 5, 6, 8, 9)
_YCBCR: Final = 6
_JPEGS: Final = (6, 7)
_FLOATING_POINT: Final = 3
_COMPLEX: Final = (5, 6)
_KNOWN_INTEGERS, _KNOWN_FLOATS = (1, 2, 4, 8, 16, 32), (16, 32)
"""Bits of a sample that libvips reads by itself."""
_SHARPS_MOST_CHANNELS: Final = 5
_THUMBNAIL: Final = 1


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to convert. `strict_sharp` gives sharp's bytes also where sharp is wrong. Raises BadInput for values that are
    not allowed."""

    strict_sharp: bool = False
    jpeg_quality: int = jpeg.QUALITY
    jpeg_encoder: str = jpeg.MOZJPEG
    memory: MemoryGate | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        jpeg.check(self.jpeg_quality, self.jpeg_encoder)
        if self.strict_sharp and self.jpeg_encoder != jpeg.MOZJPEG:
            raise BadInput(
                f"STRICT_SHARP=1 needs JPEG_ENCODER={jpeg.MOZJPEG}: sharp's bytes come from no other encoder"
            )

    @classmethod
    def from_environment(cls, env: Mapping[str, str], **others: Any) -> "Options":
        """STRICT_SHARP (1), JPEG_QUALITY (1 to 100, 95) and JPEG_ENCODER (mozjpeg or jpegli). Raises BadInput."""
        return cls(
            strict_sharp=env.get("STRICT_SHARP") == "1",
            jpeg_quality=jpeg.quality_of(env.get("JPEG_QUALITY") or str(jpeg.QUALITY)),
            jpeg_encoder=env.get("JPEG_ENCODER") or jpeg.MOZJPEG,
            **others,
        )


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
    options = Options.from_environment(context.env, memory=context.memory, cancelled=context.cancelled)
    source, target = context.folder / "input.tif", context.folder / "output.jpg"
    context.converters.warm()
    with _saying("Failed to download TIFF"):
        context.objects.get_file(key, source, context.until())
    downloaded = time.monotonic()
    context.check_wanted()
    with _saying("Failed to convert TIFF"), space.writing(), space.suspected(target):
        measured = context.converters.measure(source, target, options)
    made: Converted = measured.converted
    converted = time.monotonic()
    context.check_wanted()
    with _saying("Failed to upload JPEG"):
        context.objects.put_file(output_key, target, IMAGE_JPEG, context.until())
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
            "peak_memory_mb": measured.peak_bytes // MB,
        },
        cpu_ms=measured.cpu_ms,
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
    tiff_signature.check_is_tiff(source)
    tags = tiff_tags.read_directory(source)
    view = None
    if not options.strict_sharp:
        view = tiff_view.choose(tags)
        _check_convertible(tags, view)
        tiff_jpeg.check_tiles(source, tags)
    job = _Job(source, target, options, tags, view)
    with vips.listening() as warnings:
        try:
            return job.run(fail_on="warning")
        except vips.load().Error as error:
            told = job.told(error, warnings)
    if options.strict_sharp:
        raise BadInput(_first(told))
    return _tried_again(job, told)


def _tried_again(job: "_Job", told: list[str]) -> Converted:
    """What can still be done after libvips refused the file with the sentences `told`."""
    if told and all(HARMLESS.search(line) for line in told):
        with vips.listening() as warnings:
            try:
                made = job.run(fail_on="error", note=f"read in spite of a warning: {told[0]}")
            except vips.load().Error as error:
                told = job.told(error, warnings)
            else:
                _check_harmless(job, warnings)
                return made
    try:
        if tiff_rescue.is_old_jpeg(job.tags):
            return job.run_old_jpeg()
        if tiff_rescue.is_for_pillow(job.tags):
            return job.run_with_pillow()
    except vips.load().Error as error:
        told = job.told(error, [])
    raise BadInput(_first([line for line in told if not HARMLESS.search(line)] or told))


def _check_harmless(job: "_Job", warnings: list[str]) -> None:
    """Raises BadInput, and removes the JPEG, where the pass that fails on errors only was warned of anything else: it
    writes half a picture as well."""
    told = [line for line in job.told("", warnings) if not HARMLESS.search(line)]
    pieces = [line for line in warnings if _LOST.search(line)]
    if told or pieces or len(warnings) >= vips.MAX_HEARD:
        job.target.unlink(missing_ok=True)
        raise BadInput(_first(told))


def _first(told: list[str]) -> str:
    """The decoder's first sentence. libvips does not say what it could not read of a file that begins like a TIFF."""
    if not told:
        return "The file cannot be decoded: its data is damaged or incomplete"
    if _DAMAGED.search(told[0]):
        return "The file cannot be decoded: its compressed data is damaged or incomplete"
    if _NO_DIRECTORY.search(told[0]):
        return "The file begins like a TIFF, but its directory cannot be read: it is damaged or incomplete"
    if (seek := _SHORT.match(told[0])) is not None:
        return f"The file is shorter than its directory says ({seek[1]})"
    if told[0].startswith("no known route"):
        return "The image's channels are not those of any kind of picture that is known"
    return told[0]


def _check_convertible(tags: Directory, view: tiff_view.View | None) -> None:
    """Raises BadInput for what would be decoded wrongly, or refused with a sentence that nobody understands."""
    meaning = tags.photometric
    if meaning is not None and meaning not in _KNOWN_PHOTOMETRIC:
        what = _REFUSED.get(meaning, "of an unknown kind")
        raise BadInput(f"The image is {what} (photometric interpretation {meaning}), which is not supported")
    if meaning == _YCBCR:
        _check_ycbcr(tags)
    form = tags.first(tiff_tags.SAMPLE_FORMAT, 1)
    if form in _COMPLEX:
        raise BadInput("The image has complex samples, which are not supported")
    known = _KNOWN_FLOATS if form == _FLOATING_POINT else _KNOWN_INTEGERS
    if view is None and tags.bits not in known:
        name = " floating point" if form == _FLOATING_POINT else ""
        raise BadInput(f"The image has {tags.bits}-bit{name} samples stored in a way that is not supported")


def _check_ycbcr(tags: Directory) -> None:
    """Raises BadInput where libtiff makes noise of planes, or takes levels that mean nothing."""
    if tags.is_planar:
        raise BadInput("The image is YCbCr in separate planes, which is not supported")
    subsampled = tags.values(tiff_tags.YCBCR_SUBSAMPLING)[:2] != (1, 1)
    if subsampled and tags.compression not in _JPEGS and tiff_colour.has_invalid_levels(tags):
        raise BadInput("The image is YCbCr, and the levels that the file gives for black and white are not valid")


@dataclass(frozen=True)
class _Job:
    """One file on its way: `tags` are those of its first page; `view` is None where libvips reads it rightly."""

    source: Path
    target: Path
    options: Options
    tags: Directory
    view: tiff_view.View | None

    def run(self, *, fail_on: str, note: str | None = None) -> Converted:
        """libvips decodes. Raises pyvips.Error."""
        image = self._decoded(fail_on)
        check_dimensions(image.width, image.height)
        if self.options.strict_sharp and image.bands > _SHARPS_MOST_CHANNELS:
            raise BadInput("Input image exceeds channel limit")
        turned = not self.options.strict_sharp and bool(_turning(_orientation(image)))
        with self._reserved(image.width * image.height, WHOLE_BYTES_PER_PIXEL if turned else 0.0):
            notes = [note, self.view.note if self.view is not None else None]
            return self._encoded(image, fail_on, [each for each in notes if each])

    def run_with_pillow(self) -> Converted:
        """Pillow decodes, all at once, and also turns the picture. Raises pyvips.Error."""
        width, height = self.tags.first(tiff_tags.WIDTH), self.tags.first(tiff_tags.HEIGHT)
        check_dimensions(width, height)
        with self._reserved(width * height, PILLOW_BYTES_PER_PIXEL):
            image = tiff_rescue.open_with_pillow(self.source, self.tags)
            decoded = replace(self, tags=tiff_rescue.as_decoded(self.tags))
            notes = ["decoded by Pillow", *_turning(self.tags.first(tiff_tags.ORIENTATION, 1))]
            return decoded._encoded(image, "error", notes)

    def run_old_jpeg(self) -> Converted:
        """libvips decodes the stream that was taken out of the file. Raises pyvips.Error."""
        width, height = self.tags.first(tiff_tags.WIDTH), self.tags.first(tiff_tags.HEIGHT)
        check_dimensions(width, height)
        turned = bool(_turning(self.tags.first(tiff_tags.ORIENTATION, 1)))
        with self._reserved(width * height, WHOLE_BYTES_PER_PIXEL if turned else 0.0):
            image = tiff_rescue.open_old_jpeg(self.source, self.tags)
            return self._encoded(image, "warning", ["old-style JPEG was decoded from its stream"])

    def _decoded(self, fail_on: str) -> Any:
        """The picture in libvips' hands: read plainly, or with other tags where it would misread the samples."""
        if self.view is not None:
            try:
                return self.view.open(self.source, self.tags, fail_on)
            except (struct.error, OverflowError, ValueError) as error:
                raise BadInput("The file's tags are damaged: what they say of its sizes cannot be") from error
        return vips.load().Image.new_from_file(str(self.source), access="sequential", fail_on=fail_on)

    def _encoded(self, image: Any, fail_on: str, notes: list[str]) -> Converted:
        """The colour steps and the encoder."""
        pages = image.get("n-pages") if image.get_typeof("n-pages") else 1
        with _stoppable(self.options.cancelled):
            image = self._in_srgb(image, fail_on, notes)
            _stop_when(image, self.options.cancelled)
            if not self.options.strict_sharp:
                image = _turned(image, notes)
                _mention_thumbnail(self.tags, pages, notes)
            size = self._written(image, notes)
        return Converted(size=size, width=image.width, height=image.height, pages=pages, notes=tuple(notes))

    def _in_srgb(self, image: Any, fail_on: str, notes: list[str]) -> Any:
        """What sharp gets wrong is put right first; then its own steps."""
        strict = self.options.strict_sharp
        if not strict:
            image = self._put_right(image, fail_on, notes)
        return tiff_colour.to_srgb(image, strict_sharp=strict, notes=notes)

    def _written(self, image: Any, notes: list[str]) -> int:
        quality, encoder = self.options.jpeg_quality, self.options.jpeg_encoder
        if encoder != jpeg.MOZJPEG:
            notes.append(f"encoded by {encoder}")
        return jpeg.encode(image, self.target, quality=quality, encoder=encoder)

    def _put_right(self, image: Any, fail_on: str, notes: list[str]) -> Any:
        image = tiff_colour.put_right(image, self.tags, notes)
        if tiff_samples.needs_range(image):
            image, note = tiff_samples.scaled(image, self.tags, lambda: self._extremes(fail_on))
            notes.append(note)
        return image

    def _extremes(self, fail_on: str) -> tuple[float, float]:
        """The lowest and the highest sample of the colours; decodes the picture once more."""
        image = tiff_colour.put_right(self._decoded(fail_on), self.tags, [])
        statistics = image.extract_band(0, n=tiff_channels.colours(self.tags, image.bands)).stats()
        return statistics(0, 0)[0], statistics(1, 0)[0]

    def told(self, error: Exception | str, warnings: list[str]) -> list[str]:
        """What libvips said of the file. Raises WorkerError where it could not write the JPEG."""
        if vips.is_not_written(error):
            raise WorkerError("The JPEG cannot be written: the disk may be full, or the place is not writable")
        return vips.told(error, warnings, self.source, self.target)

    @contextmanager
    def _reserved(self, pixels: int, extra: float) -> Iterator[None]:
        """Memory for so many pixels, with `extra` bytes for each beyond what mozjpeg takes."""
        if self.options.jpeg_encoder != jpeg.MOZJPEG:
            extra += WHOLE_BYTES_PER_PIXEL
        if self.options.memory is None:
            yield
        else:
            with self.options.memory.hold(pixels, self.options.cancelled, extra=extra):
                yield


def _turning(turn: int) -> list[str]:
    return [f"turned as its orientation tag says ({turn})"] if 2 <= turn <= 8 else []


def _orientation(image: Any) -> int:
    """What libvips read, which need not be what the tag says: it ignores a damaged one."""
    return image.get("orientation") if image.get_typeof("orientation") else 1


def _turned(image: Any, notes: list[str]) -> Any:
    """The picture as its orientation tag wants it. Turning reads the rows in another order, which a decoder that goes
    from top to bottom cannot: so it comes last, when a pixel has three bytes."""
    turning = _turning(_orientation(image))
    if not turning:
        return image
    notes.extend(turning)
    return image.copy_memory().autorot()


def _mention_thumbnail(tags: Directory, pages: int, notes: list[str]) -> None:
    """The first page stays the one that is converted, as sharp does; but the result says when it is a small version of
    another page (NewSubfileType, bit 0)."""
    if pages > 1 and tags.first(tiff_tags.SUBFILE_TYPE) & _THUMBNAIL:
        notes.append("the first page, which was converted, is marked as a reduced version of another page")


def _stop_when(image: Any, cancelled: threading.Event) -> None:
    """Makes libvips give up soon after `cancelled` is set."""

    def look(picture: Any, progress: Any) -> None:
        if cancelled.is_set():
            picture.set_kill(True)

    image.set_progress(True)
    image.signal_connect("eval", look)


@contextmanager
def _stoppable(cancelled: threading.Event) -> Iterator[None]:
    """Raises Cancelled for whatever libvips says when it was made to give up, and also where the picture was so small
    that it did not notice."""
    try:
        yield
    except vips.load().Error:
        if not cancelled.is_set():
            raise
    if cancelled.is_set():
        raise Cancelled("the task is no longer wanted")


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


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
