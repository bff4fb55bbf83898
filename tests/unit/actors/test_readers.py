"""What may be told of a prefix that cannot be read."""

import pytest

from actors import readers
from actors.errors import InvalidInput
from worker import errors as worker_errors


@pytest.mark.parametrize(
    ("error", "told", "permanent"),
    [
        (worker_errors.Unavailable("the object store answered 403 AccessDenied"), "403 AccessDenied", False),
        (worker_errors.BadInput("the prefix is not allowed"), "is not allowed", True),
        (InvalidInput("r2_prefix must be short."), "must be short", True),
        (RuntimeError("boom"), "RuntimeError.", False),
    ],
)
def test_our_own_errors_are_told_and_the_lasting_ones_known(error: Exception, told: str, permanent: bool) -> None:
    """The batch's error says what the object store said; what no try can mend is known as such."""
    assert told in readers.sentence(error)
    assert readers.is_permanent(error) is permanent


def test_what_others_raise_is_told_by_its_kind_alone() -> None:
    """It may hold a path or a key of this machine: that is for the log."""
    assert readers.sentence(FileNotFoundError(2, "No such file", "/srv/private/AKIA123")) == "FileNotFoundError."
