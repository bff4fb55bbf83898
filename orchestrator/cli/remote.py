"""What all commands share: the service that they talk to, and how answers are shown."""

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table

from actors.rules.model import JOB_ID
from orchestrator.client import ArkeClient

DEFAULT_URL: Final = "http://127.0.0.1:8787"
PATIENCE_S: Final = 10.0
"""How long a command asks again where the service does not answer: a restarting part of it takes seconds."""
LONG_PATIENCE_S: Final = 120.0
"""The same for what should not fail because the service starts again as a whole (90 s at most)."""


@dataclasses.dataclass(frozen=True)
class Remote:
    """The service named on the command line. `make` builds the client; tests hand in another."""

    server: str
    api_key: str | None = dataclasses.field(default=None, repr=False)
    admin_key: str | None = dataclasses.field(default=None, repr=False)
    make: Callable[..., ArkeClient] = ArkeClient

    def client(self, patience_s: float = PATIENCE_S) -> ArkeClient:
        """A client; to be closed. It asks for so many seconds again where the service does not answer, and says so."""
        waiting = Waiting(
            f"{self.server} does not answer: does `arke serve` run there? "
            f"Asking again for {patience_s:.0f} s (Ctrl-C ends that) …"
        )
        return self.make(
            self.server, api_key=self.api_key, admin_key=self.admin_key, patience_s=patience_s, sleep=waiting.sleep
        )

    def hint(self, command: str, argument: str) -> str:
        """A command that asks the same service, as people type it."""
        where = "" if self.server == DEFAULT_URL else f" --server {self.server}"
        return f"`arke{where} {command} {argument}`"


class Waiting:
    """The pauses of a client; the first one is told."""

    def __init__(self, sentence: str) -> None:
        self._sentence = sentence
        self._told = False

    def sleep(self, seconds: float) -> None:
        """Wait; for the first time, say why."""
        if not self._told:
            sys.stderr.write(f"{self._sentence}\n")  # a progress bar stands aside for this, for click.echo it does not
            self._told = True
        time.sleep(seconds)


def batch_id(context: click.Context, parameter: click.Parameter, given: str | None) -> str | None:
    """For `callback` of an option or argument: what cannot be an id is refused, with the form of one."""
    if given and not JOB_ID.fullmatch(given):
        raise click.UsageError(
            f"{given!r} is not the id of a batch: that has 1 to 64 letters, digits, _ or -. `arke list` shows them.",
            context,
        )
    return given


batch_argument = click.argument("batch", callback=batch_id)
as_json = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON, for programs.")


def visible(value: object) -> str:
    """A text that others wrote, on one line: a terminal obeys control characters, so they are shown as escapes."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def show_json(value: Any) -> None:
    """Print JSON for programs; what a terminal would obey is written as an escape."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    click.echo("".join(each if each.isprintable() or each == "\n" else json.dumps(each)[1:-1] for each in text))


LONG: Final = frozenset({"batch", "task", "input", "error"})
"""Columns that go on in the next line where the terminal is narrow: an id that is cut short is no use."""


def show_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print rows under headings; absent values as a dash."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold", no_wrap=name not in LONG)
    for row in rows:
        table.add_row(*("-" if cell is None else _plain(cell) for cell in row))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 10_000  # a file or a pipe has no width to keep to
    console.print(table)


def show_page(page: Mapping[str, Any], columns: Sequence[str], rows: Sequence[Sequence[Any]], nothing: str) -> None:
    """Print a page of a list, or `nothing` where it is empty, and how to see the next one."""
    if rows:
        show_table(columns, rows)
    else:
        click.echo(nothing, err=True)
    if page.get("next"):
        click.echo(f"More: --cursor {visible(page['next'])}", err=True)


def counts(status: Mapping[str, Any]) -> tuple[int, int, int]:
    """Tasks of a status object: total, completed, failed."""
    progress = status.get("progress") or {}
    return (
        int(progress.get("tasks_total") or 0),
        int(progress.get("tasks_completed") or 0),
        int(progress.get("tasks_failed") or 0),
    )


def show_status(status: Mapping[str, Any]) -> None:
    """Print one status object for people: of a batch of files, an archive, an export, or a batch of exports."""
    if "export_id" in status:
        return _show_lines(_archive_lines(status))
    if "task_id" in status:
        return _show_lines(_export_lines(status))
    if "total_tasks" in status:
        return _show_lines({
            "batch": status["batch_id"],
            "state": status.get("state"),
            "exports": f"{status['completed']} of {status['total_tasks']} done, {status['failed']} failed",
            "error": status.get("error"),
        })  # fmt: skip
    total, completed, failed = counts(status)
    lines = {
        "batch": status.get("batch_id"),
        "status": status.get("status"),
        "state": status.get("state"),
        "tasks": f"{completed} of {total} completed, {failed} failed",
        "files": status.get("files_total"),
        "run": status.get("run"),
        "started": status.get("started_at"),
        "updated": status.get("updated_at"),
        "completed": status.get("completed_at"),
        "delivery": status.get("delivery"),
        "costs": costs_line(status.get("costs")),
        "error": status.get("error"),
    }
    _show_lines(lines)


def _show_lines(lines: Mapping[str, Any]) -> None:
    for name, value in lines.items():
        if value is not None:
            click.echo(f"{name:<10} {visible(value)}")


def _archive_lines(status: Mapping[str, Any]) -> dict[str, Any]:
    """Of an archive; what is there of a row of the catalog too."""
    is_done = status["status"] == "completed"
    parts, left = status["parts_total"], status.get("estimate_s")
    missing = status["files_missing"]
    return {
        "archive": status["export_id"],
        "status": "expired" if status.get("expired") else status["status"],
        "phase": None if is_done or status["state"] in ("failed", "cancelled") else status["phase"],
        "user": status.get("user_id"),
        "type": status.get("export_type"),
        "files": f"{status['file_count' if is_done else 'files_verified']:,}"
        + (f", {missing:,} missing" if missing else ""),
        "parts": f"{status['parts_completed']} of {parts}" if parts else None,
        "percent": None if is_done else status.get("percent"),
        "left": f"about {left:.0f} s" if left is not None else None,
        "bytes": status.get("size_bytes"),
        "costs": costs_line(status.get("costs")),
        "error": status.get("error"),
    }


def _export_lines(status: Mapping[str, Any]) -> dict[str, Any]:
    counted = status.get("metrics") or status.get("progress") or {}
    told = [
        f"{counted[name]:,} {word}"
        for name, word in (
            ("entities_exported", "exported"), ("entities_incomplete", "incomplete"), ("entities_failed", "failed"),
        )
        if isinstance(counted.get(name), int)
    ]  # fmt: skip
    return {
        "export": status["task_id"],
        "status": status["status"],
        "entity": status.get("pi"),
        "format": status.get("format"),
        "entities": ", ".join(told) or None,
        "file": status.get("output_file_name"),
        "bytes": status.get("output_file_size"),
        "costs": costs_line(status.get("costs")),
        "error": status.get("error"),
    }


def costs_line(costs: Mapping[str, Any] | None) -> str | None:
    """What a batch has cost, for people; None where a service does not tell, or it has cost nothing yet."""
    if not costs or not costs["machines"]:
        return None
    parts = [
        _many(costs["machines"], "machine"),
        f"{costs['machine_seconds'] / 60:.1f} machine-minutes",
        _many(costs["spawns"], "spawn call"),
        _many(costs["starts"], "start"),
        "1 retry" if costs["retries"] == 1 else f"{costs['retries']:,} retries",
        f"{costs['throttled_ms'] / 1000:.1f} s throttled",
    ]
    if costs.get("usd") is not None:
        parts.append(f"${costs['usd']:.4f}")
    return ", ".join(parts)


def _many(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def _plain(cell: Any) -> str:
    return visible(cell).replace("[", "\\[")
