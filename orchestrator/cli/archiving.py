"""`arke zip --server`: a service makes the archive; it is waited for, and downloaded."""

import time
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, Final

import click

from orchestrator.cli.export_report import Display
from orchestrator.cli.output import STDOUT, check, shown, written
from orchestrator.cli.remote import LONG_PATIENCE_S, PATIENCE_S, Remote, visible
from orchestrator.client import ArkeClient, Unreachable

POLL_S: Final = 0.5
MEGABYTE: Final = 1_000_000
OPEN: Final = ("pending", "processing")


def there(remote: Remote, body: Mapping[str, Any], output: str | None) -> bool:
    """Have a service make the archive; without `output` it is only asked to. Whether every file is in it, as far as
    that is known by now."""
    if output is not None:
        check(output)  # not when all is done
    with remote.client(PATIENCE_S if output is None else LONG_PATIENCE_S) as arke:
        export_id = arke.archive(body)["export_id"]
        click.echo(f"{export_id} is under way.", err=output is not None)
        if output is None:
            ask, download_it = remote.hint("status", export_id), remote.hint("download", export_id)
            click.echo(f"{ask} tells how far; {download_it} gets it.", err=True)
            return True
        status = _waited_for(remote, arke, export_id)
        if status["status"] != "completed":
            raise click.ClickException(f"{export_id} failed: {visible(status['error'])}")
        if not status["parts_total"]:
            raise click.ClickException("There is no such file, so there is no archive.")
        names = download(arke, status, output)
    missing = sum(part["missing"] for part in status["parts"])
    click.echo(
        f"{', '.join(names)}: {_files(status['file_count'], missing)}, {status['bytes'] / MEGABYTE:,.1f} MB in "
        f"{status['size_bytes'] / MEGABYTE:,.1f} MB.", err=True,
    )  # fmt: skip
    return not missing


def _waited_for(remote: Remote, arke: ArkeClient, export_id: str) -> Mapping[str, Any]:
    try:
        with Display() as display:
            while (status := arke.status(export_id))["status"] in OPEN:
                display.show(progress_line(status))
                time.sleep(POLL_S)
    except (KeyboardInterrupt, Unreachable):
        click.echo(f"\n{export_id} goes on there; {remote.hint('download', export_id)} gets it.", err=True)
        raise
    return status


def download(arke: ArkeClient, status: Mapping[str, Any], output: str) -> list[str]:
    """The archive, or each of its parts, as `output` or `output-1`, `output-2`, …; their names, as people know them."""
    export_id, parts = status["export_id"], status["parts_total"]
    if status["status"] != "completed" or not parts:
        why = status["error"] or ("it has no file" if status["status"] == "completed" else status["status"])
        raise click.ClickException(f"{export_id} cannot be downloaded: {visible(why)}.")
    if parts == 1:
        return [_downloaded(arke, export_id, output)]
    if output == STDOUT:
        raise click.UsageError(
            f"The archive has {parts} parts, which is too many for one output: -o must name a file. "
            f"`arke download {export_id} -o FILE` gets them."
        )
    return [_downloaded(arke, f"{export_id}/{part}", numbered(output, part)) for part in range(1, parts + 1)]


def _downloaded(arke: ArkeClient, path: str, output: str) -> str:
    with written(output) as opened:
        arke.download(path, opened)
    return visible(shown(output))


def numbered(output: str, part: int) -> str:
    """`a/scans.zip`, 2 → `a/scans-2.zip`."""
    path = PurePath(output)
    return str(path.with_name(f"{path.stem}-{part}{path.suffix}"))


def progress_line(status: Mapping[str, Any]) -> str:
    """How far it is, on one line."""
    if status["phase"] == "VERIFYING":
        return f"verifying: {_files(status['files_verified'], status['files_missing'])}"
    parts = f", {status['parts_completed']} of {status['parts_total']} parts" if status["parts_total"] > 1 else ""
    left = f", about {status['estimate_s']:.0f} s left" if status["estimate_s"] is not None else ""
    return f"archiving: {status['percent'] or 0:.0f} % of {status['bytes'] / MEGABYTE:,.0f} MB{parts}{left}"


def _files(files: int, missing: int) -> str:
    return f"{files:,} file{'' if files == 1 else 's'}" + (f", {missing:,} left out" if missing else "")
