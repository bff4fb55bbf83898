"""Which channels of a picture are colour, which is alpha, and what is done to the ones without the others."""

from typing import Any, Final

from worker import tiff_tags
from worker.tiff_tags import Directory

_COLOURS: Final = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3, 9: 3}
"""Channels that make the colour, by the photometric interpretation; all others are extra ones."""
_ASSOCIATED, _UNASSOCIATED = 1, 2
"""Of ExtraSamples: alpha by which the colours are multiplied, and alpha by which they are not. 0 is data of any
meaning."""


def colours(tags: Directory, bands: int) -> int:
    """How many of `bands` channels are colour: all where the file does not say what they mean."""
    return _COLOURS.get(tags.photometric if tags.photometric is not None else -1, bands)


def alpha(tags: Directory) -> int | None:
    """The number of the first channel that is alpha; None where there is none."""
    meanings = tags.values(tiff_tags.EXTRA_SAMPLES)
    found = (place for place, meaning in enumerate(meanings) if meaning in (_ASSOCIATED, _UNASSOCIATED))
    first = next(found, None)
    band = None if first is None else colours(tags, tags.samples) + first
    return band if band is not None and band < tags.samples else None


def has_associated_alpha(tags: Directory) -> bool:
    """Whether the colours are multiplied by alpha."""
    band = alpha(tags)
    return band is not None and _meaning(tags, band) == _ASSOCIATED


def _meaning(tags: Directory, band: int) -> float:
    return tags.values(tiff_tags.EXTRA_SAMPLES)[band - colours(tags, tags.samples)]


def inverted(image: Any, tags: Directory, most: float) -> Any:
    """The colours, 0 to `most`, turned round where white is zero. Extra channels stay; the format need not."""
    if tags.photometric != 0:
        return image
    kept = colours(tags, image.bands)
    turned = most - image.extract_band(0, n=kept)
    return turned if kept >= image.bands else turned.bandjoin(image.extract_band(kept, n=image.bands - kept))


def divided(image: Any, tags: Directory, most: float) -> Any:
    """The colours divided by associated alpha of 0..`most`, as libvips does with files that it reads by itself. The
    format stays."""
    if not has_associated_alpha(tags):
        return image
    return image.unpremultiply(max_alpha=most, alpha_band=alpha(tags)).cast(image.format)
