"""`arke export`: the metadata of entities as MODS, Dublin Core or MARCXML, here or by a service; and `arke schemas`.

Here it needs no more than the worker does, click and rich.
"""

import asyncio
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Final

import click
import msgspec

from orchestrator.cli import archiving
from orchestrator.cli.export_report import Display, show_metrics, show_report
from orchestrator.cli.output import check as check_output
from orchestrator.cli.output import shown, written
from orchestrator.cli.remote import LONG_PATIENCE_S, PATIENCE_S, Remote, visible
from orchestrator.client import Unreachable
from worker.errors import WorkerError
from worker.kinds.mods.entity import is_pi
from worker.kinds.mods.options import FORMATS, MOST_AT_ONCE, MOST_DEPTH, Format, Options

POLL_S: Final = 1.0


class _Group(click.Group):
    """`arke export PI` is short for `arke export entity PI`."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = ["entity", *args]
        return super().parse_args(context, args)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
def export() -> None:
    """Export metadata of the Arke archive.

    \b
      arke export PI                               one record, into PI-collection.xml
      arke export PI --recursive -o tree.xml       the whole tree below it
      arke export PI --format marcxml -o - | …     to standard output
      arke export PI --server URL --wait           by a service
      arke export validate FILE                    check a file that is there

    ARKE_API_URL and IPFS_GATEWAY name the archive. `arke export entity --help` lists the options.
    """


@export.command()
@click.argument("pi")
@click.option("--format", type=click.Choice(FORMATS), default="mods", show_default=True, help="What is written.")
@click.option("--recursive", is_flag=True, help="Also all entities below it, each as a record of the same file.")
@click.option(
    "--max-depth", type=click.IntRange(0, MOST_DEPTH), default=10, show_default=True, help="How far down; 0 is PI."
)
@click.option(
    "--at-once", type=click.IntRange(1, MOST_AT_ONCE), default=10, show_default=True, help="Entities read at once."
)
@click.option("--no-ocr", is_flag=True, help="Leave the text of scanned pages out.")
@click.option(
    "--graph", type=click.Choice(("full", "minimal", "skip")), default="full", show_default=True,
    help="What is told of cheimarros.json: all, its subjects, nothing.",
)  # fmt: skip
@click.option("-o", "--output", help="File that is written; - is standard output.  [PI-collection.xml]")
@click.option("--server", help="Have the service at this address do it.")
@click.option("--wait", is_flag=True, help="With --server: wait for the end, and download the file.")
@click.pass_obj
def entity(
    remote: Remote, pi: str, format: str, recursive: bool, max_depth: int, at_once: int, no_ocr: bool, graph: str,
    output: str | None, server: str | None, wait: bool,
) -> None:  # fmt: skip
    """Export the entity PI, and with --recursive all below it.

    Runs here, unless --server names a service. The exit code is 0 when every entity is in the file, 1 when any failed.
    """
    if not is_pi(pi):
        raise click.UsageError(f"{pi!r} is no entity id: those have 26 digits and capitals without I, L, O and U.")
    options = msgspec.convert(
        {"recursive": recursive, "maxDepth": max_depth, "parallelBatchSize": at_once, "includeOcr": not no_ocr,
         "cheimarrosMode": graph}, Options,
    )  # fmt: skip
    if server is None:
        if wait:
            raise click.UsageError("--wait is for --server: what runs here is waited for anyway.")
        metrics = _here(pi, format, options, output)
    else:
        if output is not None and not wait:
            raise click.UsageError("-o with --server needs --wait: without it nothing is downloaded.")
        told = _there(replace(remote, server=server), pi, format, options, output, wait)
        if told is None:
            return
        metrics = told
    if metrics.get("entities_failed"):
        raise SystemExit(1)


@export.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def validate(file: Path) -> None:
    """Check FILE: MODS, oai_dc or MARCXML, against the official schema and what schemas do not check.

    The exit code is 0 when it is valid, 1 when it is not.
    """
    from worker.kinds.mods.schemas import find
    from worker.kinds.mods.validation import validate as check

    try:
        report = check(file, find(os.environ))
    except WorkerError as error:
        raise click.ClickException(f"{file}: {_sentence(error)}") from error
    show_report(file, report)
    if not report.is_valid:
        raise SystemExit(1)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def schemas() -> None:
    """The official XML schemas, against which exports are validated."""


@schemas.command()
@click.option("--folder", type=click.Path(path_type=Path), help="Where to.  [ARKE_SCHEMAS, else the cache folder]")
def fetch(folder: Path | None) -> None:
    """Bring the schemas from their official addresses.

    Each is checked by its SHA-256 where a copy of it is known. The sums are those of published copies: they were never
    compared with what is at the addresses.
    """
    from worker.kinds.mods.fetching import fetch as bring
    from worker.kinds.mods.schemas import FOLDER, Schemas, cache_folder

    named = os.environ.get(FOLDER)
    target = folder or (Path(named) if named else cache_folder(os.environ))
    try:
        bring(target, lambda line: click.echo(line, err=True))
        Schemas(target).check()
    except WorkerError as error:
        raise click.ClickException(_sentence(error)) from error
    click.echo(f"The schemas are in {target}.")


def _here(pi: str, format: str, options: Options, output: str | None) -> Mapping[str, Any]:
    """Export in this process. The file appears when it is complete."""
    named = output or f"{pi}-collection.xml"
    with written(named) as opened:
        metrics = _written(pi, format, options, opened)
    show_metrics(shown(named), metrics)
    return metrics


def _written(pi: str, format: str, options: Options, target: BinaryIO) -> Mapping[str, Any]:
    from worker.kinds.mods.arke_api import API_URL, GATEWAY, ArkeApi
    from worker.kinds.mods.crosswalk import Sites
    from worker.kinds.mods.export import Metrics
    from worker.kinds.mods.export import export as run
    from worker.kinds.mods.schemas import find

    api_url, gateway = os.environ.get("ARKE_API_URL") or API_URL, os.environ.get("IPFS_GATEWAY") or GATEWAY

    async def running(display: Display) -> Metrics:
        async with ArkeApi(api_url, gateway) as archive:
            return await run(
                pi, format=msgspec.convert(format, Format), options=options, archive=archive,
                sites=Sites(ipfs_gateway=gateway.rstrip("/")), schemas=find(os.environ), target=target,
                tell=lambda progress: display.update(msgspec.to_builtins(progress)),
            )  # fmt: skip

    try:
        with Display() as display:
            metrics: dict[str, Any] = msgspec.to_builtins(asyncio.run(running(display)))
    except WorkerError as error:
        raise click.ClickException(_sentence(error)) from error
    return metrics


def _sentence(error: WorkerError) -> str:
    text = visible(error)
    return text if text.endswith(("?", ".")) else f"{text}."


def _there(
    remote: Remote, pi: str, format: str, options: Options, output: str | None, wait: bool
) -> Mapping[str, Any] | None:
    """Have a service export. Without `wait` it is only asked to."""
    if output is not None:
        check_output(output)  # not when all is done
    with remote.client(LONG_PATIENCE_S if wait else PATIENCE_S) as arke:
        task_id = arke.export(pi, format=format, options=msgspec.to_builtins(options))["task_id"]
        if not wait:
            click.echo(f"{task_id} is under way.")
            ask, download_it = remote.hint("status", task_id), remote.hint("download", task_id)
            click.echo(f"{ask} tells how far; {download_it} gets it.", err=True)
            return None
        click.echo(f"{task_id} is under way.", err=True)
        try:
            with Display() as display:
                while (status := arke.status(task_id))["status"] == "processing":
                    display.update(status.get("progress") or {})
                    time.sleep(POLL_S)
        except (KeyboardInterrupt, Unreachable):
            click.echo(f"\n{task_id} goes on there; {remote.hint('download', task_id)} gets it.", err=True)
            raise
        if status["status"] != "success":
            raise click.ClickException(f"{task_id} failed: {visible(status['error'])}")
        name = download_to(arke, task_id, output or f"{pi}-collection.xml")
    metrics: Mapping[str, Any] = status["metrics"] or {}
    show_metrics(name, metrics)
    return metrics


def download_to(arke: Any, task_id: str, output: str) -> str:
    """Download the file of an export; its name as people know it. It appears when it is complete."""
    with written(output) as opened:
        arke.download(task_id, opened)
    return shown(output)


@click.command()
@click.argument("task")
@click.option("-o", "--output", help="File that is written; - is standard output.  [as the service names it]")
@click.pass_obj
def download(remote: Remote, task: str, output: str | None) -> None:
    """Download what TASK, an export, has made; of a batch of exports a ZIP with all files; of an archive of several
    parts each, as FILE-1, FILE-2, …"""
    with remote.client() as arke:
        status = arke.status(task)
        if "export_id" in status:
            for each in archiving.download(arke, status, output or f"{task}.zip"):
                click.echo(f"{each} is written.", err=True)
            return
        is_batch = "batch_id" in status
        named = Path(str(status.get("output_file_name") or f"{task}.xml")).name  # whatever a service says
        name = output or (f"{task}.zip" if is_batch else named)
        written = download_to(arke, f"batch/{task}" if is_batch else task, name)
    click.echo(f"{written} is written.", err=True)
