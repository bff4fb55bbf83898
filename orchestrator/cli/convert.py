"""`arke convert`: the TIFFs of folders become JPEGs on this machine, without a service.

The same core as on the machines. It imports neither ray nor anything else of the service, so that it runs where only
the worker's dependencies, click and rich are installed.
"""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any, Final

import click
from click.core import ParameterSource

from orchestrator.cli.convert_report import Report, refuse
from worker import jpeg
from worker.crew import Order, Plan, Result, Work, plan_of
from worker.errors import BadInput
from worker.folder import Job, conflicts, find, shown
from worker.isolation import Converter
from worker.kinds.tiff import Options
from worker.ledger import Ledgers
from worker.limits import MemoryGate, base_bytes, cores, memory_for_pictures
from worker.settings import InvalidSetting, WorkerSettings

ENCODERS: Final = (jpeg.MOZJPEG, jpeg.JPEGLI)
MAX_JOBS: Final = 256
TOLD_CONFLICTS: Final = 20
INTERRUPTED: Final = 130
AS_JSON: Final = "--json"


class _Command(click.Command):
    """Tells programs (--json) why nothing was begun where they read the rest."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        with _refusing(AS_JSON in args):
            return super().parse_args(context, args)

    def invoke(self, context: click.Context) -> Any:
        with _refusing(context.params["as_json"]):
            return super().invoke(context)


class _Named(click.Path):
    """A path. An empty text is none: pathlib takes it for the current folder, and so would a script's unset
    variable be."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        if value == "":
            self.fail("it is empty; the current folder is called `.`", param, context)
        return super().convert(value, param, context)


class _Setting(click.Option):
    """An option with a variable, which is named where its value is at fault."""

    def process_value(self, context: click.Context, value: Any) -> Any:
        try:
            return super().process_value(context, value)
        except click.BadParameter as error:
            if context.get_parameter_source(self.name or "") is ParameterSource.ENVIRONMENT:
                error.param_hint = f"{self.envvar} in the environment"
            raise


@click.command(cls=_Command)
@click.argument("sources", nargs=-1, required=True, metavar="DIR|FILE...", type=_Named())
@click.option("-o", "--output", "results", type=_Named(), help="Folder of the JPEGs.  [beside each TIFF]")
@click.option(
    "--jobs", type=click.IntRange(1, MAX_JOBS), help="Files at once, as far as memory allows.  [one per core]"
)
@click.option("--force", is_flag=True, help="Convert again what is done, and replace files that were made otherwise.")
@click.option("-v", "--verbose", is_flag=True, help="A line for each file: sizes before and after, what was done.")
@click.option(AS_JSON, "as_json", is_flag=True, help="Print a line of JSON for each file, then one for all.")
@click.option(
    "--quality",
    cls=_Setting,
    type=click.IntRange(1, 100),
    default=jpeg.QUALITY,
    envvar="JPEG_QUALITY",
    show_default=True,
    help="JPEG quality.",
)
@click.option(
    "--encoder",
    cls=_Setting,
    type=click.Choice(ENCODERS),
    default=jpeg.MOZJPEG,
    envvar="JPEG_ENCODER",
    show_default=True,
    help="What makes the JPEGs.",
)
@click.option(
    "--strict-sharp",
    cls=_Setting,
    is_flag=True,
    envvar="STRICT_SHARP",
    help="sharp's bytes, also where sharp is wrong.",
)
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
    options = _options(quality, encoder, strict_sharp)
    order, ledgers, report = Order(options=options, force=force), Ledgers(), Report(as_json=as_json, verbose=verbose)
    plan = _planned(sources, results, order, ledgers)
    hands = max(1, min(jobs or cores(), len(plan.to_do)))
    report.begin(plan, hands)
    memory_bytes = memory_for_pictures(settings.memory_mb, hands)
    order = replace(order, options=replace(options, memory=MemoryGate(memory_bytes, base_bytes=base_bytes(hands))))
    make = partial(Converter, memory_bytes=memory_bytes, timeout_s=settings.task_max_s)
    work = Work(plan.to_do, order, ledgers, hands=hands, make=make)
    with _stoppable(work.stop):
        with report.progress(), closing(work.results()) as ended:
            for result in ended:
                report.add(result)
        report.end(interrupted=work.was_stopped)
    if work.was_stopped:
        raise SystemExit(INTERRUPTED)
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


def _options(quality: int, encoder: str, strict_sharp: bool) -> Options:
    if encoder == jpeg.JPEGLI and find_spec("pyjpegli") is None:
        raise click.UsageError("The encoder jpegli is not installed: pip install 'arke-orchestrator[jpegli]'.")
    try:
        return Options(strict_sharp=strict_sharp, jpeg_quality=quality, jpeg_encoder=encoder)
    except BadInput as error:
        raise click.UsageError(f"{error}.") from None


def _settings() -> WorkerSettings:
    try:
        return WorkerSettings.load(os.environ)
    except InvalidSetting as error:
        raise click.UsageError(f"{error}.") from None


@contextmanager
def _stoppable(stop: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C stops the work, and so do SIGTERM and a terminal that is closed, unless whoever started it had them
    ignored (nohup). Nothing is raised, so that no result is lost between its thread and the report; asked again, it
    is under way already."""

    def ask(number: int, frame: FrameType | None) -> None:
        stop()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    heeded = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    kept = {number: signal.signal(number, ask) for number in heeded}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


@contextmanager
def _refusing(as_json: bool) -> Iterator[None]:
    """Says on standard output as well why nothing was begun, where programs read that."""
    try:
        yield
    except click.UsageError as error:
        if as_json:
            refuse(error.format_message())
        raise
