"""What a run makes of skipped tests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("reason", "no_skips", "code", "told"),
    [
        ("needs shared/data; set ARKE_TEST_DATA", "1", 0, "1 tests were skipped for want of ARKE_TEST_DATA"),
        ("needs npm", "1", 1, "1 tests were skipped, and ARKE_NO_SKIPS is set"),
        ("needs npm", "", 0, "1 skipped"),
    ],
)
def test_a_skip_for_want_of_a_tool_fails_where_none_may(
    tmp_path: Path, reason: str, no_skips: str, code: int, told: str
) -> None:
    """One for want of data, which a clone does not have, is told only."""
    test = tmp_path / "test_skips.py"
    test.write_text(f"import pytest\n\ndef test() -> None:\n    pytest.skip({reason!r})\n")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "--rootdir", str(tmp_path), str(test)],
        cwd=ROOT, env={**os.environ, "ARKE_NO_SKIPS": no_skips}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (run.returncode, told in run.stdout) == (code, True), run.stdout
