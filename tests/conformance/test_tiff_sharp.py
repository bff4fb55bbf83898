"""sharp itself is the oracle: byte-equal wherever sharp is right, and with STRICT_SHARP everywhere."""

import io
import re

import numpy as np
from PIL import Image

from tests.corpus import Entry, entries
from tests.corpus.outcome import Conversion, named
from worker.errors import BadInput

REFUSED = re.compile(
    r"not a whole number of bytes|support is not configured|tiled separate planes|no known route|samples out of range"
    r"|bad labq format|Bad value \d+ for \"Orientation\"|Warning treated as error"
    r"|exceeds channel limit|unsupported image format"
)
"""Why sharp may refuse a file of the corpus: what it cannot read, no mishap of the test."""
IN_OTHER_WORDS = {
    "Warning treated as error": r"count|ByteCounts|looping|not sorted|null byte|Photometric|[Pp]remature|EOL",
    "unsupported image format": "directory cannot be read",
    "no known route": "channels are not those of any kind",
}
"""What is said instead where sharp does not say what is wrong, or nobody would understand it."""


@named([entry for entry in entries() if not entry.differs])
def test_same_bytes_as_sharp(entry: Entry, converted: Conversion, by_sharp: dict[str, bytes | str]) -> None:
    """The JPEG is byte for byte that of `sharp(file).jpeg({quality: 95, mozjpeg: true})`."""
    outcome, expected = converted(entry), by_sharp[entry.name]
    assert isinstance(expected, bytes), expected
    assert outcome.converted is not None, outcome.error
    assert outcome.jpeg == expected


@named([entry for entry in entries() if entry.differs])
def test_sharp_is_really_different(entry: Entry, converted: Conversion, by_sharp: dict[str, bytes | str]) -> None:
    """Where the corpus says that sharp makes another picture, or none, it does: a wrong one, or it says why not."""
    expected = by_sharp[entry.name]
    if isinstance(expected, str):
        assert REFUSED.search(expected), expected
        return
    assert converted(entry).jpeg != expected
    assert not is_right(entry, expected)


def is_right(entry: Entry, jpeg: bytes) -> bool:
    """Whether the picture is the one that was stored, within what the corpus allows."""
    with Image.open(io.BytesIO(jpeg)) as opened:
        pixels = np.asarray(opened.convert("RGB")).astype(float)
    if pixels.shape != entry.right.shape:
        return False
    error = np.abs(pixels - entry.right)
    return bool(error.mean() <= entry.limits[0] and error.max() <= entry.limits[1])


@named(list(entries()))
def test_strict_sharp_is_sharp(entry: Entry, converted: Conversion, by_sharp: dict[str, bytes | str]) -> None:
    """With STRICT_SHARP every file becomes what sharp makes of it, right or wrong, or is refused like there."""
    outcome, expected = converted(entry, strict_sharp=True), by_sharp[entry.name]
    if isinstance(expected, str):
        assert isinstance(outcome.error, BadInput), f"sharp refuses it: {expected}"
        said = next((text for part, text in IN_OTHER_WORDS.items() if part in expected), None)
        assert str(outcome.error) in expected if said is None else re.search(said, str(outcome.error)), expected
    else:
        assert outcome.error is None
        assert outcome.jpeg == expected
