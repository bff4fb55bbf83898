"""`arke convert`: the TIFFs of folders become JPEGs on this machine, without a service.

The same core as on the machines. It imports neither ray nor anything else of the service, so that it runs where only
the worker's dependencies, click and rich are installed.
"""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import click

from orchestrator.cli.convert_report import Report
from worker import jpeg
from worker.crew import Order, Plan, Result, plan_of, work
from worker.errors import BadInput
from worker.folder import Job, conflicts, find, shown
from worker.isolation import Converter
from worker.kinds.tiff import Options
from worker.ledger import Ledgers
from worker.limits import MemoryGate, cores, memory_for_pictures
from worker.settings import InvalidSetting, WorkerSettings

ENCODERS: Final = (jpeg.MOZJPEG, jpeg.JPEGLI)
MAX_JOBS: Final = 256
TOLD_CONFLICTS: Final = 20
INTERRUPTED: Final = 130


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="DIR|FILE...", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", "results", type=click.Path(path_type=Path), help="Folder of the JPEGs.  [beside each TIFF]"
)
@click.option(
    "--jobs", type=click.IntRange(1, MAX_JOBS), help="Files at once, as far as memory allows.  [one per core]"
)
@click.option("--force", is_flag=True, help="Convert again what is done, and replace files that were made otherwise.")
@click.option("-v", "--verbose", is_flag=True, help="A line for each file: sizes before and after, what was done.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each file, then one for all.")
@click.option(
    "--quality",
    type=click.IntRange(1, 100),
    default=jpeg.QUALITY,
    envvar="JPEG_QUALITY",
    show_default=True,
    help="JPEG quality.",
)
@click.option(
    "--encoder", type=click.Choice(ENCODERS), default=jpeg.MOZJPEG, envvar="JPEG_ENCODER", show_default=True,
    help="What makes the JPEGs.",
)  # fmt: skip
@click.option("--strict-sharp", is_flag=True, envvar="STRICT_SHARP", help="sharp's bytes, also where sharp is wrong.")
def convert(
    sources: tuple[Path, ...],
    results: Path | None,
    jobs: int | None,
    force: bool,
    verbose: bool,
    as_json: bool,
    quality: int,
    encoder: str,
    strict_sharp: bool,
) -> None:
    """Convert TIFFs to JPEGs on this machine, without a service.

    Of a DIR, every .tif and .tiff is converted, to any depth. The JPEG is written beside its TIFF, or with -o at the
    same place below that folder. What an earlier run has done is not done again, so a run that was stopped is
    continued by the same command.

    \b
      arke convert ~/scans
      arke convert ~/scans -o ~/jpegs --jobs 4
      arke convert page1.tif page2.tif -v

    The exit code is 0 when all are converted, 1 when any failed, 2 when nothing was begun because of how it was
    called, and 130 after Ctrl-C.
    """
    settings = _settings()
    memory_bytes = memory_for_pictures(settings.memory_mb)
    options = _options(quality, encoder, strict_sharp, MemoryGate(memory_bytes))
    order, ledgers, report = Order(options=options, force=force), Ledgers(), Report(as_json=as_json, verbose=verbose)
    plan = _planned(sources, results, order, ledgers)
    hands = jobs or cores()
    report.begin(plan, hands)
    make = partial(Converter, memory_bytes=memory_bytes, timeout_s=settings.task_max_s)
    with (
        _stoppable(report),
        report.progress(),
        closing(work(plan.to_do, order, ledgers, hands=hands, make=make)) as done,
    ):
        for result in done:
            report.add(result)
    report.end()
    if report.totals.failed or report.totals.left:
        raise SystemExit(1)


def _planned(sources: Sequence[Path], results: Path | None, order: Order, ledgers: Ledgers) -> Plan:
    """Raises UsageError where it is not clear what should be done; then nothing was."""
    _check_named(sources, results)
    found = find(sources, results)
    for link in found.links:
        click.echo(f"{shown(link)} is a link to a folder, and is not followed.", err=True)
    if sentences := conflicts(found.jobs):
        raise click.UsageError(_told(sentences))
    if not found.jobs and not found.problems:
        raise click.UsageError(f"There is no TIFF (.tif, .tiff) in {', '.join(map(shown, sources))}.")
    made = plan_of(found.jobs, order, ledgers)
    made.refused += [Result(job=Job(problem.path, problem.path), error=problem.sentence) for problem in found.problems]
    return made


def _check_named(sources: Sequence[Path], results: Path | None) -> None:
    for source in sources:
        if not os.path.lexists(source):
            raise click.UsageError(f"{shown(source)} does not exist.")
    if results is None:
        return
    if results.exists() and not results.is_dir():
        raise click.UsageError(f"-o names a folder for the JPEGs; {shown(results)} is a file.")
    if results.suffix.lower() in (".jpg", ".jpeg") and not results.exists():
        raise click.UsageError(f"-o names a folder for the JPEGs; {shown(results)} looks like a file.")


def _told(sentences: Sequence[str]) -> str:
    more = len(sentences) - TOLD_CONFLICTS
    lines = [*sentences[:TOLD_CONFLICTS], *([f"and {more} more"] if more > 0 else [])]
    return "\n  ".join(
        ["Nothing was done, because of files in each other's way:", *lines, "Rename or move one of them."]
    )


def _options(quality: int, encoder: str, strict_sharp: bool, memory: MemoryGate) -> Options:
    if encoder == jpeg.JPEGLI and find_spec("pyjpegli") is None:
        raise click.UsageError("The encoder jpegli is not installed: pip install 'arke-orchestrator[jpegli]'.")
    try:
        return Options(strict_sharp=strict_sharp, jpeg_quality=quality, jpeg_encoder=encoder, memory=memory)
    except BadInput as error:
        raise click.UsageError(f"{error}.") from None


def _settings() -> WorkerSettings:
    try:
        return WorkerSettings.load(os.environ)
    except InvalidSetting as error:
        raise click.UsageError(f"{error}.") from None


@contextmanager
def _stoppable(report: Report) -> Iterator[None]:
    """Ctrl-C stops the work, and so do SIGTERM and a terminal that is closed. What was done is told."""
    kept = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    except KeyboardInterrupt:
        report.end(interrupted=True)
        raise SystemExit(INTERRUPTED) from None
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
