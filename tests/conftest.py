"""What all tests share."""

import os

import pytest


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """With ARKE_NO_SKIPS (set by .ci/run) a test that skips for want of a tool fails the run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter is not None else []
    if skipped and os.environ.get("ARKE_NO_SKIPS"):
        reporter.write_line(f"{len(skipped)} tests were skipped, and ARKE_NO_SKIPS is set.", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
