"""One service for all acceptance tests, as users run it; each test gets it whole."""

import io
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.acceptance.service import Service
from tests.stand_ins.arke_api import launched
from tests.stand_ins.receiver import Receiver

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here is slow."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.acceptance)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With a failure, show what the service said and logged: its folder is deleted at the end."""
    report = yield
    used = getattr(item, "funcargs", {}).get("service")
    if report.failed and isinstance(used, Service):
        report.sections.append(("arke serve", used.last_words()))
    return report


@pytest.fixture(scope="session")
def receiver() -> Iterator[Receiver]:
    """Where the final callbacks arrive."""
    made = Receiver()
    yield made
    made.close()


@pytest.fixture(scope="session")
def archive() -> Iterator[str]:
    """The sample archive, at the pace of a real one; its address."""
    with launched(["--latency-ms", "30"]) as url:
        yield url


@pytest.fixture(scope="session")
def _shared(receiver: Receiver, archive: str) -> Iterator[Service]:
    made = Service(receiver, ARKE_API_URL=archive, IPFS_GATEWAY=archive, EXPORT_REMOVAL_DELAY_S="1")
    try:
        made.start()
        yield made
    finally:
        made.remove()


@pytest.fixture
def service(_shared: Service) -> Service:
    """The running service. What a test before has left in pieces is started again, so that one failure stays one."""
    if not _shared.runs():
        _shared.start()
    elif _shared.roles_missing():
        try:
            _shared.settle(20)
        except AssertionError:
            _shared.kill_everything()
            _shared.start()
    return _shared


@pytest.fixture(scope="session")
def tiff() -> bytes:
    """A tiny picture."""
    content = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(content, "TIFF")
    return content.getvalue()
