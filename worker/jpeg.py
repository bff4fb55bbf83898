"""The one JPEG encoder: libvips with mozjpeg, with the parameters that make it byte-equal to
`sharp(...).jpeg({quality: 95, mozjpeg: true})`.

pyvips is imported when first needed, so that a download can begin before it.
"""

from pathlib import Path
from typing import Any, Final

QUALITY: Final = 95
PARAMETERS: Final[dict[str, Any]] = {
    "Q": QUALITY,
    "interlace": True,
    "optimize_coding": True,
    "trellis_quant": True,
    "overshoot_deringing": True,
    "optimize_scans": True,
    "quant_table": 3,
    "subsample_mode": "on",
    "keep": "none",
}


def encode(image: Any, target: Path) -> int:
    """Writes `image` (a pyvips image in sRGB) to `target`; alpha is flattened on black, no metadata is kept. Returns
    the size in bytes. Raises pyvips.Error, also for what the decoder finds while it streams."""
    image.jpegsave(str(target), **PARAMETERS)
    return target.stat().st_size
