"""What `arke convert` shows: progress on standard error, results on standard output.

In a terminal the progress is a bar; elsewhere a line now and then. The results are, for people, a summary with what
failed, and with -v a line for each file; for programs (--json) one line of JSON for each file and one for all.
"""

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from worker.crew import Plan, Result
from worker.folder import Job, shown

LINE_EVERY_S: Final = 10.0
UNITS: Final = ("KB", "MB", "GB", "TB")


@dataclass
class Totals:
    """Counts of files, and bytes of those that were converted: of the TIFFs, and of their JPEGs. `left` were not
    tried."""

    converted: int = 0
    skipped: int = 0
    left: int = 0
    before: int = 0
    after: int = 0
    several_pages: int = 0
    noted: int = 0
    failures: list[Result] = field(default_factory=list)

    @property
    def failed(self) -> int:
        return len(self.failures)

    def add(self, result: Result) -> None:
        """Counts one file."""
        if result.made is None:
            self.failures.append(result)
            return
        self.converted += 1
        self.before += result.size
        self.after += result.made.size
        self.several_pages += result.made.pages > 1
        self.noted += bool(result.made.notes)


class Report:
    """From `begin` over `add` for each result to `end`."""

    def __init__(self, *, as_json: bool, verbose: bool) -> None:
        self.totals = Totals()
        self._as_json = as_json
        self._verbose = verbose
        self._begun = self._said_at = time.monotonic()
        self._to_do = 0
        self._bar: _Bar | None = None
        self._disk_full = False

    def begin(self, plan: Plan, hands: int) -> None:
        """Says what will be done, and what will not."""
        self._to_do = plan.size
        self.totals.left = len(plan.to_do)
        self.totals.skipped = len(plan.done)
        for job in plan.done:
            self._show(_named(job, "skipped"), f"{shown(job.source)}: done before")
        for result in plan.refused:
            self._count(result)
        if plan.to_do and not _is_terminal():
            click.echo(f"Converting {_files(len(plan.to_do))} ({size_text(plan.size)}), {hands} at once.", err=True)

    @contextlib.contextmanager
    def progress(self) -> Iterator[None]:
        """Shows a bar meanwhile, where there is a terminal."""
        if not (self.totals.left and _is_terminal()):
            yield
            return
        with _Bar(self._to_do, self.totals.left) as self._bar:
            try:
                yield
            finally:
                self._bar.update(self.totals, 0)
        self._bar = None

    def add(self, result: Result) -> None:
        """One file has ended."""
        self.totals.left -= 1
        self._disk_full |= result.disk_full
        self._count(result)
        if self._bar is not None:
            self._bar.update(self.totals, result.size)
        elif time.monotonic() - self._said_at >= LINE_EVERY_S:
            self._said_at = time.monotonic()
            click.echo(_standing(self.totals), err=True)

    def end(self, *, interrupted: bool = False) -> None:
        """The summary."""
        seconds = time.monotonic() - self._begun
        if self._as_json:
            _print(json.dumps({"summary": _summary_fields(self.totals, seconds, interrupted)}))
        else:
            for line in _summary(self.totals, seconds):
                _print(line)
        if interrupted:
            click.echo(f"Stopped. {_go_on(self.totals)}", err=True)
        elif self._disk_full:
            click.echo(f"The disk is full. {_go_on(self.totals)}", err=True)

    def _count(self, result: Result) -> None:
        self.totals.add(result)
        self._show(_fields(result), _line(result))

    def _show(self, fields: dict[str, Any], line: str) -> None:
        if self._as_json:
            self._say(json.dumps(fields))
        elif self._verbose:
            self._say(line)

    def _say(self, line: str) -> None:
        """Above the bar, where both are on a terminal."""
        if self._bar is not None and sys.stdout.isatty():
            self._bar.say(line)
        else:
            _print(line)


class _Bar:
    """The progress in a terminal, by bytes of the TIFFs: they differ in size more than in number."""

    def __init__(self, size: int, count: int) -> None:
        self._count = count
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("[red]{task.fields[failed]}"),
            console=Console(stderr=True),
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._progress.add_task(f"0 of {count}", total=size or None, failed="")
        self._seen = 0

    def __enter__(self) -> "_Bar":
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def update(self, totals: Totals, size: int) -> None:
        """One more file, of so many bytes, has ended."""
        ended = self._count - totals.left
        failed = f"{totals.failed} failed" if totals.failed else ""
        self._progress.update(self._task, description=f"{ended} of {self._count}", advance=size, failed=failed)

    def say(self, line: str) -> None:
        """A line above the bar."""
        self._progress.console.print(Text(line), soft_wrap=True)


def refuse(sentence: str) -> None:
    """For programs: the summary of a run in which nothing was begun."""
    _print(json.dumps({"summary": _summary_fields(Totals(), 0.0, interrupted=False) | {"error": sentence}}))


def size_text(size: float) -> str:
    """Bytes for people, three figures: "0 bytes", "999 bytes", "1.20 KB", "45.1 MB"."""
    if size < 1000:
        return f"{size:.0f} bytes"
    for unit in UNITS:
        size /= 1000
        if size < 999.5 or unit == UNITS[-1]:
            return f"{size:.{2 if size < 9.995 else 1 if size < 99.95 else 0}f} {unit}"
    raise AssertionError("unreachable: the last unit is taken")


def time_text(seconds: float) -> str:
    """Seconds for people: "4.2 s", "3 min 20 s", "2 h 5 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def change_text(before: int, after: int) -> str:
    """By how much so many bytes changed: "92% less"; fax pages grow, for instance."""
    if not before or before == after:
        return "as large as before"
    return f"{abs(before - after) / before:.0%} {'less' if after < before else 'more'}"


def saved_text(before: int, after: int) -> str:
    """The bytes saved, or spent."""
    verb = "saved" if after <= before else "more than before"
    return f"{size_text(abs(before - after))} {verb} ({change_text(before, after)})"


def _summary(totals: Totals, seconds: float) -> Iterator[str]:
    yield f"{_standing(totals)}, in {time_text(seconds)}."
    if totals.converted:
        before, after = size_text(totals.before), size_text(totals.after)
        yield f"{before} became {after}: {saved_text(totals.before, totals.after)}."
    if totals.several_pages:
        yield f"{_files(totals.several_pages)} with more than one page: the first page was converted."
    if totals.failures:
        yield "Failed:"
    for result in totals.failures:
        yield f"  {shown(result.job.source)}: {result.error}"


def _standing(totals: Totals) -> str:
    skipped = f", {totals.skipped} done before" if totals.skipped else ""
    left = f", {totals.left} left" if totals.left else ""
    return f"{totals.converted} converted{skipped}, {totals.failed} failed{left}"


def _go_on(totals: Totals) -> str:
    done = totals.converted + totals.skipped
    return f"{done} of {_files(done + totals.failed + totals.left)} are done; the same command goes on from there."


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


def _line(result: Result) -> str:
    if result.made is None:
        return f"{shown(result.job.source)}: failed: {result.error}"
    before, after = size_text(result.size), size_text(result.made.size)
    pages = (f"the first of {result.made.pages} pages",) if result.made.pages > 1 else ()
    noted = "".join(f"; {note}" for note in (*pages, *result.made.notes))
    return f"{shown(result.job.source)}: {before} → {after} ({change_text(result.size, result.made.size)}){noted}"


def _fields(result: Result) -> dict[str, Any]:
    """A file for programs. Sizes in bytes."""
    if result.made is None:
        return _named(result.job, "failed") | {"error": result.error}
    made = result.made
    return _named(result.job, "converted") | {
        "bytes_before": result.size,
        "bytes_after": made.size,
        "seconds": round(result.seconds, 3),
        "width": made.width,
        "height": made.height,
        "pages": made.pages,
        "notes": list(made.notes),
    }


def _named(job: Job, status: str) -> dict[str, Any]:
    """`output` is None where the source is a folder that cannot be read."""
    return {
        "source": str(job.source),
        "output": str(job.target) if job.target != job.source else None,
        "status": status,
    }


def _summary_fields(totals: Totals, seconds: float, interrupted: bool) -> dict[str, Any]:
    return {
        "converted": totals.converted,
        "skipped": totals.skipped,
        "failed": totals.failed,
        "left": totals.left,
        "bytes_before": totals.before,
        "bytes_after": totals.after,
        "bytes_saved": totals.before - totals.after,
        "seconds": round(seconds, 3),
        "interrupted": interrupted,
    }


def _is_terminal() -> bool:
    return Console(stderr=True).is_terminal


def _print(line: str) -> None:
    """To standard output at once, in what characters it has."""
    encoding = sys.stdout.encoding or "ascii"
    click.echo(line.encode(encoding, "backslashreplace").decode(encoding))
