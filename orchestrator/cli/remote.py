"""What all commands share: the service that they talk to, and how answers are shown."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from orchestrator.client import ArkeClient


@dataclasses.dataclass(frozen=True)
class Remote:
    """The service named on the command line. `make` builds the client; tests hand in another."""

    server: str
    api_key: str | None = dataclasses.field(default=None, repr=False)
    admin_key: str | None = dataclasses.field(default=None, repr=False)
    make: Callable[..., ArkeClient] = ArkeClient

    def client(self) -> ArkeClient:
        """A client; to be closed."""
        return self.make(self.server, api_key=self.api_key, admin_key=self.admin_key)


as_json = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON, for programs.")


def show_json(value: Any) -> None:
    """Print JSON for programs."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def show_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print rows under headings; absent values as a dash."""
    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*("-" if cell is None else _plain(cell) for cell in row))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 10_000  # a file or a pipe has no width to keep to
    console.print(table)


def counts(status: Mapping[str, Any]) -> tuple[int, int, int]:
    """Tasks of a status object: total, completed, failed."""
    progress = status.get("progress") or {}
    return (
        int(progress.get("tasks_total") or 0),
        int(progress.get("tasks_completed") or 0),
        int(progress.get("tasks_failed") or 0),
    )


def show_status(status: Mapping[str, Any]) -> None:
    """Print one status object for people."""
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
        "error": status.get("error"),
    }
    for name, value in lines.items():
        if value is not None:
            click.echo(f"{name:<10} {value}")


def _plain(cell: Any) -> str:
    return str(cell).replace("[", "\\[")
