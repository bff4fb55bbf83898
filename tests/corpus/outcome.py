"""What became of an entry, and how tests ask for it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from tests.corpus import Entry
from worker.errors import WorkerError
from worker.kinds.tiff import Converted


@dataclass(frozen=True)
class Outcome:
    """The result with the JPEG's bytes, or the error."""

    converted: Converted | None
    jpeg: bytes
    error: WorkerError | None


Conversion = Callable[..., Outcome]
"""The fixture `converted`: `converted(entry, strict_sharp=False)`."""


def named(chosen: Sequence[Entry]) -> pytest.MarkDecorator:
    """One test an entry, named like it."""
    return pytest.mark.parametrize("entry", chosen, ids=[entry.name.replace(" ", "-") for entry in chosen])
