"""What is told at the end of a run: how long it took to go on."""

import io

import pytest
from PIL import Image

from tests.acceptance.cluster import matrix

RECOVERIES: pytest.StashKey[list[matrix.Recovery]] = pytest.StashKey()


@pytest.fixture(scope="session")
def picture() -> bytes:
    """The least that is converted."""
    content = io.BytesIO()
    Image.linear_gradient("L").resize((16, 16)).convert("RGB").save(content, "TIFF")
    return content.getvalue()


@pytest.fixture(scope="session")
def recoveries(pytestconfig: pytest.Config) -> list[matrix.Recovery]:
    """Who measures adds to it."""
    return pytestconfig.stash.setdefault(RECOVERIES, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print them."""
    if found := config.stash.get(RECOVERIES, []):
        terminalreporter.section("a cluster goes on")
        for line in matrix.table(found):
            terminalreporter.write_line(line)
