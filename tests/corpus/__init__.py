"""Small TIFFs made from known pixels: every combination of kind, depth, compression and layout that can be written
here, each with the picture that it holds. The same files every time, for the same versions of the libraries.

    python -m tests.corpus FOLDER      # writes them there
"""

from collections.abc import Iterator
from functools import cache

from tests.corpus import (
    alpha,
    bilevel,
    combined,
    doubtful,
    grey,
    indexed,
    libraries,
    print_spaces,
    rgb,
    structure,
    ycbcr,
)
from tests.corpus.base import Entry

__all__ = ["Entry", "entries", "file_name"]
_GROUPS = (bilevel, indexed, grey, rgb, print_spaces, ycbcr, structure, combined, libraries, alpha, doubtful)


@cache
def entries() -> tuple[Entry, ...]:
    """The whole corpus. Names are unique."""
    return tuple(_all())


def _all() -> Iterator[Entry]:
    for group in _GROUPS:
        yield from group.entries()


def file_name(entry: Entry) -> str:
    """A name for the file."""
    return entry.name.replace(" ", "_") + ".tif"
