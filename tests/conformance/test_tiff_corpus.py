"""Every file of the corpus becomes the picture that was put into it, by numbers that the code under test never saw."""

import io
import re
from collections import Counter

import numpy as np
from PIL import Image

from tests.corpus import Entry, entries
from tests.corpus.outcome import Conversion, named
from worker.errors import BadInput

FEWEST = 150
LONGEST_SENTENCE = 300


PICTURES = [entry for entry in entries() if not entry.refusal]
REFUSED = [entry for entry in entries() if entry.refusal]


def test_corpus_is_large_and_without_doubles() -> None:
    """At least 150 files, of different names and different bytes."""
    assert len(entries()) >= FEWEST
    assert Counter(entry.name for entry in entries()).most_common(1)[0][1] == 1
    doubles = [data for data, count in Counter(entry.data for entry in entries()).items() if count > 1]
    assert [[entry.name for entry in entries() if entry.data == data] for data in doubles] == []


def test_corpus_is_the_same_every_time() -> None:
    """Made again, every file has the same bytes."""
    assert [entry.data for entry in entries.__wrapped__()] == [entry.data for entry in entries()]


@named(PICTURES)
def test_picture_is_right(entry: Entry, converted: Conversion) -> None:
    """The JPEG has the size and, within what JPEG loses, the pixels of the picture that was stored; the result says
    its size, and how many pages the file has."""
    outcome = converted(entry)
    assert outcome.converted is not None, outcome.error
    with Image.open(io.BytesIO(outcome.jpeg)) as opened:
        assert opened.mode == "RGB"
        pixels = np.asarray(opened).astype(float)
    assert pixels.shape == entry.right.shape
    error = np.abs(pixels - entry.right)
    assert (error.mean() <= entry.limits[0], error.max() <= entry.limits[1]) == (True, True), (
        f"mean error {error.mean():.1f} of {entry.limits[0]}, greatest {error.max():.0f} of {entry.limits[1]}"
    )
    made = outcome.converted
    height, width = entry.right.shape[:2]
    assert (made.width, made.height, made.pages, made.size) == (width, height, entry.pages, len(outcome.jpeg))


@named([entry for entry in PICTURES if entry.note])
def test_notes_say_what_was_done(entry: Entry, converted: Conversion) -> None:
    """Wherever the picture is not what sharp makes, or inks were guessed, the result says what was done."""
    outcome = converted(entry)
    assert outcome.converted is not None, outcome.error
    assert any(re.search(entry.note, note, re.IGNORECASE) for note in outcome.converted.notes), outcome.converted.notes


@named(REFUSED)
def test_refusal_is_one_clear_sentence(entry: Entry, converted: Conversion) -> None:
    """What cannot be converted rightly is refused for good, with a sentence that names the reason."""
    error = converted(entry).error
    assert isinstance(error, BadInput)
    assert re.search(entry.refusal, str(error), re.IGNORECASE), error
    assert len(str(error).splitlines()) == 1
    assert len(str(error)) <= LONGEST_SENTENCE
