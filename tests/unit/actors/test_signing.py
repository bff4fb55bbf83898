"""Secrets that sign."""

from pathlib import Path

import pytest

from actors.signing import load_or_make_secret


def test_a_secret_is_made_once(tmp_path: Path) -> None:
    """The second process reads what the first has made; nobody else may read the file."""
    path = tmp_path / "callback.secret"
    assert load_or_make_secret(path) == load_or_make_secret(path)
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_empty_secret_is_refused(tmp_path: Path) -> None:
    """With an empty key everybody could sign: the service does not start with one."""
    path = tmp_path / "callback.secret"
    path.touch()
    with pytest.raises(ValueError, match=r"callback\.secret is empty"):
        load_or_make_secret(path)
