"""What the kernel says of time that the host has taken."""

import os
from pathlib import Path

from worker.throttling import Throttling

FLY = {"FLY_MACHINE_ID": "d891234"}


def line(steal: int) -> str:
    return f"cpu  10 20 30 40 50 60 70 {steal} 0 0\ncpu0 1 1 1 1 1 1 1 9999 0 0\n"


def test_each_report_tells_what_came_since_the_last(tmp_path: Path) -> None:
    """In milliseconds, of all processors together; nothing is told of nothing."""
    stat, tick_ms = tmp_path / "stat", 1000 // os.sysconf("SC_CLK_TCK")
    stat.write_text(line(100))
    throttling = Throttling(FLY, stat)
    assert throttling.since_last_ms() is None
    stat.write_text(line(105))
    assert throttling.since_last_ms() == 5 * tick_ms
    assert throttling.since_last_ms() is None


def test_where_nobody_counts_nothing_is_told(tmp_path: Path) -> None:
    """Another host's machine, a file that is not there, one that is another."""
    stat = tmp_path / "stat"
    stat.write_text(line(1))
    elsewhere = Throttling({}, stat)
    missing = Throttling(FLY, tmp_path / "none")
    stat.write_text(line(50))
    assert (elsewhere.since_last_ms(), missing.since_last_ms()) == (None, None)
    stat.write_text("intr 1 2 3\n")
    assert Throttling(FLY, stat).since_last_ms() is None
