"""`arke watch`: a batch's progress until its end."""

import threading
import time
from typing import Any, Final

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from orchestrator.cli.remote import LONG_PATIENCE_S, Remote, batch_argument, counts, show_status, visible
from orchestrator.client import ArkeClient

POLL_S: Final = 0.5
LINE_EVERY_S: Final = 10.0
ENDED: Final = ("DONE", "ERROR")

Status = dict[str, Any]


@click.command()
@batch_argument
@click.pass_obj
def watch(remote: Remote, batch: str) -> None:
    """Show the progress of BATCH until it ends.

    The exit code is 0 when the batch is DONE and 1 when it ends in ERROR, so a script can wait for it:

    \b
      arke watch my-batch && echo converted
    """
    with remote.client(LONG_PATIENCE_S) as arke:
        status = follow(arke, batch)
    if status is not None:
        finish(status)


def finish(status: Status) -> None:
    """Show how a batch ended; exit code 1 for ERROR."""
    show_status(status)
    batch, (_, _, failed) = status["batch_id"], counts(status)
    if failed:
        click.echo(f"Why: arke tasks {batch} --status failed. Once more, only these: arke retry {batch}.", err=True)
    if status["status"] != "DONE":
        raise SystemExit(1)


def follow(arke: ArkeClient, batch: str, *, stop: threading.Event | None = None) -> Status | None:
    """Show progress until the batch ends; its last status, or None when `stop` was set before."""
    stop = stop or threading.Event()
    console = Console(stderr=True)
    if console.is_terminal:
        return _follow_bar(arke, batch, stop, console)
    return _follow_lines(arke, batch, stop)


def _follow_bar(arke: ArkeClient, batch: str, stop: threading.Event, console: Console) -> Status | None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("[red]{task.fields[failed]}"),
    )
    with Progress(*columns, console=console) as progress:
        shown = progress.add_task("", total=None, rate="", failed="")
        begun = time.monotonic()
        begun_at: int | None = None
        while not stop.is_set():
            status = arke.status(batch)
            total, completed, failed = counts(status)
            ended = completed + failed
            begun_at = ended if begun_at is None else begun_at
            progress.update(
                shown,
                description=escape(visible(status["status"])),
                total=total or None,
                completed=ended,
                rate=rate(ended - begun_at, time.monotonic() - begun),
                failed=f"{failed} failed" if failed else "",
            )
            if status["status"] in ENDED:
                return status
            stop.wait(POLL_S)
    return None


def _follow_lines(arke: ArkeClient, batch: str, stop: threading.Event) -> Status | None:
    """For a file or a pipe: a line when the status changes, and now and then between."""
    said, said_at = "", 0.0
    while not stop.is_set():
        status = arke.status(batch)
        total, completed, failed = counts(status)
        if status["status"] != said or time.monotonic() - said_at >= LINE_EVERY_S:
            stands = f"{completed} of {total} completed, {failed} failed"
            click.echo(f"{batch}: {visible(status['status'])}, {stands}", err=True)
            said, said_at = status["status"], time.monotonic()
        if said in ENDED:
            return status
        stop.wait(POLL_S)
    return None


def rate(ended: int, seconds: float) -> str:
    """Tasks per second since the watching began, for people; empty while nothing has ended."""
    return f"{ended / seconds:.1f}/s" if ended > 0 and seconds > 0 else ""
