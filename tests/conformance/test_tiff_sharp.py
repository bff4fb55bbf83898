"""sharp itself is the oracle: byte-equal wherever sharp is right, and with STRICT_SHARP everywhere."""

from tests.corpus import Entry, entries
from tests.corpus.outcome import Conversion, named


@named([entry for entry in entries() if not entry.differs])
def test_same_bytes_as_sharp(entry: Entry, converted: Conversion, by_sharp: dict[str, bytes | str]) -> None:
    """The JPEG is byte for byte that of `sharp(file).jpeg({quality: 95, mozjpeg: true})`."""
    outcome, expected = converted(entry), by_sharp[entry.name]
    assert isinstance(expected, bytes), expected
    assert outcome.converted is not None, outcome.error
    assert outcome.jpeg == expected


@named([entry for entry in entries() if entry.differs])
def test_sharp_is_really_different(entry: Entry, converted: Conversion, by_sharp: dict[str, bytes | str]) -> None:
    """Where the corpus says that sharp makes another picture, or none, it does."""
    assert converted(entry).jpeg != by_sharp[entry.name]


@named(list(entries()))
def test_strict_sharp_is_sharp(entry: Entry, converted: Conversion, by_sharp: dict[str, bytes | str]) -> None:
    """With STRICT_SHARP every file becomes what sharp makes of it, right or wrong, or is refused like there."""
    outcome, expected = converted(entry, strict_sharp=True), by_sharp[entry.name]
    if isinstance(expected, str):
        assert outcome.error is not None, f"sharp refuses it: {expected}"
    else:
        assert outcome.error is None
        assert outcome.jpeg == expected
