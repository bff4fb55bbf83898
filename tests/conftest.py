"""What all tests share."""

import os
from typing import Final

import pytest

DATA: Final = "ARKE_TEST_DATA"
"""A test that needs data which is not part of this repository names it in the reason of its skip."""


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """With ARKE_NO_SKIPS (set by .ci/run) a test that skips for want of a tool fails the run; for want of data it is
    told only."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter is not None else []
    if not skipped or not os.environ.get("ARKE_NO_SKIPS"):
        return
    for_data = [report for report in skipped if DATA in str(report.longrepr)]
    if for_data:
        reporter.write_line(f"\n{len(for_data)} tests were skipped for want of {DATA}.", yellow=True)
    if len(for_data) < len(skipped):
        reporter.write_line(f"\n{len(skipped) - len(for_data)} tests were skipped, and ARKE_NO_SKIPS is set.", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
