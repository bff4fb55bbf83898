"""What all tests share."""

import os
import signal
from typing import Final

import pytest
from hypothesis import HealthCheck, settings

DATA: Final = "ARKE_TEST_DATA"
"""A test that needs data which is not part of this repository names it in the reason of its skip."""

signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
"""A shell starts what runs in its background with SIGINT ignored, `nohup` with SIGHUP, and so would be the commands
that tests interrupt."""
settings.register_profile("arke", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("arke")
"""No test depends on speed: on a fresh clone the first text alone takes seconds, until Hypothesis has its tables."""


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
