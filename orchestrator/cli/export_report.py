"""What `arke export` and `arke zip` show: progress on standard error, and what was done, left out and found wrong."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from orchestrator.cli.remote import visible
from worker.kinds.mods.validation import Report

LINE_EVERY_S: Final = 10.0
TOLD: Final = 20
NAMES: Final = {"mods": "MODS 3.8", "dc": "oai_dc", "marcxml": "MARCXML"}


class Display:
    """How far it is: one line that changes in a terminal, else a line now and then."""

    def __init__(self) -> None:
        self._live = Live(console=Console(stderr=True), transient=True) if sys.stderr.isatty() else None
        self._said_at = time.monotonic()

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, progress: Mapping[str, Any]) -> None:
        """Show these counts."""
        self.show(counted(progress))

    def show(self, line: str) -> None:
        """Show this line."""
        if self._live is not None:
            self._live.update(Text(line))
        elif time.monotonic() - self._said_at >= LINE_EVERY_S:
            self._said_at = time.monotonic()
            click.echo(line, err=True)


def counted(progress: Mapping[str, Any]) -> str:
    """The counts of an export on one line."""
    exported, failed = int(progress.get("entities_exported") or 0), int(progress.get("entities_failed") or 0)
    return f"{exported:,} exported, {failed:,} failed, {int(progress.get('entities_incomplete') or 0):,} incomplete"


def show_metrics(name: str, metrics: Mapping[str, Any]) -> None:
    """Say what was written, and what is not as it was given. On standard error: the other may be the file."""
    seconds = int(metrics.get("total_time_ms") or 0) / 1000
    _say(f"{visible(name)}: {counted(metrics)}, in {seconds:.1f} s.")
    if not metrics.get("validated"):
        _say("Not validated: the schemas are not here. `arke schemas fetch` brings them.")
    for title, reasons in (("Changed", metrics.get("changes")), ("Left out", metrics.get("warnings"))):
        for reason, count in (reasons or {}).items():
            _say(f"  {title.lower()}: {visible(reason)} ({count:,})")
    failures = metrics.get("failures") or []
    for failure in failures[:TOLD]:
        _say(f"  failed: {visible(failure['pi'])}: {visible(failure['reason'])}")
    if int(metrics.get("entities_failed") or 0) > TOLD:
        _say(f"  and {int(metrics['entities_failed']) - TOLD:,} more failed")


def _say(line: str) -> None:
    click.echo(line, err=True)


def show_report(file: Path, report: Report) -> None:
    """Say whether a file is valid, and what is wrong with it."""
    records = f"{report.records:,} record" + ("" if report.records == 1 else "s")
    what = f"{file}: {records} of {NAMES[report.format]}"
    for line, sentence in report.faults[:TOLD]:
        click.echo(f"{file}:{line}: {visible(sentence)}")
    if len(report.faults) > TOLD:
        click.echo(f"and {len(report.faults) - TOLD} more")
    verdict = "valid" if report.is_valid else f"{report.faulty:,} not valid"
    click.echo(f"{what}, {verdict}.")
    if not report.validated:
        click.echo("Only the structure was checked: `arke schemas fetch` brings the schemas.", err=True)
