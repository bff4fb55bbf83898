"""Converts many files on this machine, some at a time: threads, each with a converter of its own.

Every file ends in a `Result`; whatever happens to one, the others go on. Only a full disk ends the work early, because
every further file would fail of it. When it is stopped, what is under way is given up and leaves no trace, and what was
done by then is told.
"""

import contextlib
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum, auto
from pathlib import Path
from typing import Any, Final, Protocol

from worker import space
from worker.errors import BadInput, Cancelled, WorkerError, sentence
from worker.folder import Job
from worker.kinds.tiff import Converted, Options
from worker.ledger import Ledgers, Occupied, Stamp


class Converts(Protocol):
    """What a thread converts with, one file at a time (`worker.isolation.Converter`)."""

    def convert(self, source: Path, target: Path, options: Options) -> Converted:
        """Raises WorkerError."""

    def close(self) -> None:
        """Ends what may be under way, from any thread."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """How it ended for one file: `made`, or the sentence that says why not. Sizes in bytes."""

    job: Job
    size: int = 0
    seconds: float = 0.0
    made: Converted | None = None
    error: str | None = None
    disk_full: bool = False


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is to be done with every file. `force`: also over what is no earlier result."""

    options: Options
    force: bool = False

    @property
    def recorded(self) -> dict[str, Any]:
        """The options on which the picture depends, as the ledger keeps them."""
        names = [field.name for field in fields(self.options) if field.name not in _HERE]
        return {name: getattr(self.options, name) for name in names}


_HERE: Final = ("memory", "cancelled")


@dataclass
class Plan:
    """What is to be done before anything is: what to convert with its size in bytes, what earlier runs have done, and
    what cannot be converted."""

    to_do: list[Job] = field(default_factory=list)
    size: int = 0
    done: list[Job] = field(default_factory=list)
    refused: list[Result] = field(default_factory=list)


def plan_of(jobs: Sequence[Job], order: Order, ledgers: Ledgers) -> Plan:
    """Looks at every source and at what stands where its JPEG would go."""
    made = Plan()
    for job in jobs:
        try:
            size = _look_at(job.source).size
            if not order.force and ledgers.of(job.target).is_done(job.source, job.target, order.recorded):
                made.done.append(job)
            else:
                made.to_do.append(job)
                made.size += size
        except (OSError, Occupied, BadInput) as error:
            made.refused.append(Result(job=job, error=explained(error)))
    return made


class _Sign(Enum):
    """What comes among the results."""

    ENDED = auto()
    """A thread has nothing more to do."""
    STOP = auto()


class Work:
    """The work on many files, which can be stopped."""

    def __init__(
        self, jobs: Sequence[Job], order: Order, ledgers: Ledgers, *, hands: int, make: Callable[[], Converts]
    ) -> None:
        self._hands = min(hands, len(jobs))
        self._make = make
        self._cancelled = order.options.cancelled
        self._crew = _Crew(jobs, order, ledgers)
        self.was_stopped = False
        """Whether `stop` came before the last file had ended."""

    def stop(self) -> None:
        """Ends the work early, from whatever thread; also from a signal handler, since a queue's `put` may interrupt
        its own `get`."""
        self._crew.results.put(_Sign.STOP)

    def results(self) -> Generator[Result, None, None]:
        """In the order in which the files end: all, or those that had ended when the disk was full or the work was
        stopped. To be closed (`contextlib.closing`): that gives up what is under way, and returns when nothing of it is
        left."""
        converters = [self._make() for _ in range(self._hands)]
        threads = [
            threading.Thread(target=self._crew.run, args=(converter,), name=f"convert-{number}")
            for number, converter in enumerate(converters)
        ]
        try:
            for thread in threads:
                thread.start()
            yield from self._until_ended()
        finally:
            self._end(converters, threads)
        yield from self._rest()

    def _until_ended(self) -> Iterator[Result]:
        """The results until all threads have ended, or `stop` was called."""
        at_work = self._hands
        while at_work and not self.was_stopped:
            match self._crew.results.get():
                case Result() as result:
                    yield result
                case _Sign.ENDED:
                    at_work -= 1
                case _Sign.STOP:
                    self.was_stopped = True

    def _end(self, converters: Sequence[Converts], threads: Sequence[threading.Thread]) -> None:
        self._cancelled.set()
        for converter in converters:
            converter.close()
        for thread in threads:
            if thread.ident is not None:
                thread.join()

    def _rest(self) -> Iterator[Result]:
        """What the threads told while they were being stopped: JPEGs that were put in their places all the same."""
        while not self._crew.results.empty():
            told = self._crew.results.get()
            if isinstance(told, Result):
                yield told


class _Crew:
    """What the threads share."""

    def __init__(self, jobs: Sequence[Job], order: Order, ledgers: Ledgers) -> None:
        self.results: queue.SimpleQueue[Result | _Sign] = queue.SimpleQueue()
        self._order = order
        self._ledgers = ledgers
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._enough = threading.Event()
        for job in jobs:
            self._jobs.put(job)

    def run(self, converter: Converts) -> None:
        """One thread: file after file, then the sign that it has ended."""
        try:
            while not (self._enough.is_set() or self._order.options.cancelled.is_set()):
                result = self._one(self._jobs.get_nowait(), converter)
                if result.disk_full:
                    self._enough.set()
                self.results.put(result)
        except (queue.Empty, Cancelled):
            pass  # nothing is left, or nothing more is wanted
        finally:
            self.results.put(_Sign.ENDED)

    def _one(self, job: Job, converter: Converts) -> Result:
        begun, size = time.monotonic(), 0
        try:
            read = _look_at(job.source)
            size = read.size
            made = self._convert(job, read, converter)
            return Result(job=job, size=size, seconds=time.monotonic() - begun, made=made)
        except Cancelled:
            raise
        except Exception as error:  # noqa: BLE001 - one file must not end the others, whatever it is
            seconds = time.monotonic() - begun
            return Result(job=job, size=size, seconds=seconds, error=explained(error), disk_full=space.is_full(error))

    def _convert(self, job: Job, read: Stamp, converter: Converts) -> Converted:
        ledger, options = self._ledgers.of(job.target), self._order.options
        with ledger.draft() as draft, _plain(job.source, draft) as (source, target):
            with space.suspected(target):
                made = converter.convert(source, target, options)
            if options.cancelled.is_set():
                raise Cancelled("stopped")
            recorded = self._order.recorded
            ledger.publish(draft, job.source, job.target, read=read, options=recorded, force=self._order.force)
        return made


def _look_at(source: Path) -> Stamp:
    """Raises BadInput where it cannot be read: the converter's process would say less about it."""
    try:
        if source.exists() and not source.is_file():
            raise BadInput("The file cannot be read: it is no regular file")
        with source.open("rb"):
            return Stamp.of(source)
    except OSError as error:
        raise BadInput(f"The file cannot be read: {error.strerror}") from error


@contextlib.contextmanager
def _plain(source: Path, target: Path) -> Iterator[tuple[Path, Path]]:
    """The two files under names that libvips takes: it knows UTF-8 only, and reads `[...]` at the end as options."""
    with tempfile.TemporaryDirectory(prefix="arke-convert-") as name:
        folder = Path(name)
        (folder / "source.tif").symlink_to(source.absolute())
        (folder / "results").symlink_to(target.parent.absolute(), target_is_directory=True)
        yield folder / "source.tif", folder / "results" / target.name


def explained(error: BaseException) -> str:
    """One sentence, without the path: whoever shows it names the file."""
    if isinstance(error, OSError) and error.strerror:
        return f"The JPEG cannot be written: {error.strerror}"
    return str(error) if isinstance(error, Occupied | WorkerError) else sentence(error)
