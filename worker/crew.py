"""Converts many files on this machine, some at a time: threads, each with a converter of its own.

Every file ends in a `Result`; whatever happens to one, the others go on. Only a full disk ends the work early, because
every further file would fail of it. When the caller stops listening, what is under way is given up and leaves no trace.
"""

import contextlib
import errno
import os
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Protocol

from worker.errors import BadInput, Cancelled, WorkerError, sentence
from worker.folder import Job
from worker.kinds.tiff import Converted, Options
from worker.ledger import Ledgers, Occupied, Stamp

FULL: Final = (errno.ENOSPC, errno.EDQUOT)
SPACE_BYTES: Final = 256 * 1024
"""Where so much cannot be written any more, the disk is full."""


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


def work(
    jobs: Sequence[Job], order: Order, ledgers: Ledgers, *, hands: int, make: Callable[[], Converts]
) -> Generator[Result, None, None]:
    """The results, in the order in which the files end. Fewer than there are jobs where the disk is full. To be closed
    (`contextlib.closing`): that stops what is under way, and returns when nothing of it is left."""
    crew = _Crew(jobs, order, ledgers)
    converters = [make() for _ in range(min(hands, len(jobs)))]
    threads = [
        threading.Thread(target=crew.run, args=(converter,), name=f"convert-{number}")
        for number, converter in enumerate(converters)
    ]
    try:
        for thread in threads:
            thread.start()
        for _ in threads:
            yield from iter(crew.results.get, None)
    finally:
        order.options.cancelled.set()
        for converter in converters:
            converter.close()
        for thread in threads:
            if thread.ident is not None:
                thread.join()


class _Crew:
    """What the threads share."""

    def __init__(self, jobs: Sequence[Job], order: Order, ledgers: Ledgers) -> None:
        self.results: queue.SimpleQueue[Result | None] = queue.SimpleQueue()
        self._order = order
        self._ledgers = ledgers
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._enough = threading.Event()
        for job in jobs:
            self._jobs.put(job)

    def run(self, converter: Converts) -> None:
        """One thread: file after file, then None."""
        try:
            while not (self._enough.is_set() or self._order.options.cancelled.is_set()):
                result = self._one(self._jobs.get_nowait(), converter)
                if result.disk_full:
                    self._enough.set()
                self.results.put(result)
        except (queue.Empty, Cancelled):
            pass  # nothing is left, or nothing more is wanted
        finally:
            self.results.put(None)

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
            return Result(job=job, size=size, seconds=seconds, error=explained(error), disk_full=_is_full(error))

    def _convert(self, job: Job, read: Stamp, converter: Converts) -> Converted:
        ledger, options = self._ledgers.of(job.target), self._order.options
        with ledger.draft() as draft, _plain(job.source, draft) as (source, target):
            try:
                made = converter.convert(source, target, options)
            except Cancelled:
                raise
            except WorkerError as error:
                _check_space(draft)
                error.args = (str(error).replace(str(target), "the JPEG"),)
                raise
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


def _check_space(draft: Path) -> None:
    """After a failure: raises the OSError that libvips hides behind "write error" where the disk is full, or the user's
    share of it. What the failed conversion has written still takes its space."""
    with draft.open("ab") as file:
        file.write(bytes(SPACE_BYTES))
        file.flush()
        os.fsync(file.fileno())


def _is_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in FULL
