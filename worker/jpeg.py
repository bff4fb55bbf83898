"""The JPEG encoders. The default is libvips with mozjpeg, with the parameters that make it byte-equal to
`sharp(...).jpeg({quality: 95, mozjpeg: true})`. jpegli (the extra `jpegli`) takes 0.6 of the time for
files of about the same size and look, but other bytes.
"""

from pathlib import Path
from typing import Any, Final

from worker.errors import BadInput, WorkerError

QUALITY: Final = 95
MOZJPEG: Final = "mozjpeg"
JPEGLI: Final = "jpegli"
PARAMETERS: Final[dict[str, Any]] = {
    "interlace": True,
    "optimize_coding": True,
    "trellis_quant": True,
    "overshoot_deringing": True,
    "optimize_scans": True,
    "quant_table": 3,
    "subsample_mode": "on",
    "keep": "none",
}


def quality_of(text: str) -> int:
    """JPEG_QUALITY as a number. Raises BadInput."""
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text[:9]) <= 100:
        raise BadInput(f"JPEG_QUALITY must be a whole number from 1 to 100, not {text[:40]!r}")
    return int(text)


def check(quality: int, encoder: str) -> None:
    """Raises BadInput for a quality or an encoder that does not exist."""
    if not 1 <= quality <= 100:
        raise BadInput(f"JPEG_QUALITY must be a whole number from 1 to 100, not {quality}")
    if encoder not in (MOZJPEG, JPEGLI):
        raise BadInput(f"JPEG_ENCODER must be {MOZJPEG} or {JPEGLI}, not {encoder[:40]!r}")


def encode(image: Any, target: Path, *, quality: int = QUALITY, encoder: str = MOZJPEG) -> int:
    """Writes `image` (a pyvips image in sRGB) to `target`; alpha is flattened on black, no metadata is kept. Returns
    the size in bytes. Raises pyvips.Error, also for what the decoder finds while it streams."""
    if encoder == JPEGLI:
        target.write_bytes(_by_jpegli(image, quality))
    else:
        image.jpegsave(str(target), Q=quality, **PARAMETERS)
    return target.stat().st_size


def _by_jpegli(image: Any, quality: int) -> bytes:
    """Needs the whole picture in memory, three bytes a pixel. jpegli chooses the coefficients; mozjpeg then stores the
    same ones as a progressive JPEG, a fifth smaller."""
    try:
        import mozjpeg_lossless_optimization
        import pyjpegli
    except ImportError as error:
        raise WorkerError(
            f"JPEG_ENCODER=jpegli needs the package {error.name}, which is not installed: "
            "pip install 'arke-orchestrator[jpegli]'"
        ) from error
    opaque = image.flatten() if image.hasalpha() else image
    encoded: bytes = pyjpegli.encode(opaque.write_to_memory(), opaque.width, opaque.height, quality=quality)
    smaller: bytes = mozjpeg_lossless_optimization.optimize(encoded)
    return smaller
