"""Named events with fields become log lines here, and nowhere else in the engine and the front.

(The worker is slim and imports nothing of the engine: it has its own lines, "[Worker] …".)

Prefixes that operators of the originals grep for: [Queue] [DO] [TiffConversion] [Callback] [HTTP]. Fields are
values that may be shown: ids, counts, durations, sentences. Never keys, URLs with signatures, paths.

All processes of a service append to one file, `engine.log`: a batch is read from top to bottom in one place,
though a process of its own decides it, another hands out its machines and a third answers its callbacks.
"""

import fcntl
import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Protocol

_log = logging.getLogger("arke")

FILE: Final = "engine.log"
LIMIT_BYTES: Final = 10_000_000
KEPT: Final = 4
"""Former parts of the log that are kept: `engine.log.1` is the last one."""

PREFIXES: Final = {
    "intake": "[Queue]",
    "export": "[Export]",
    "job": "[DO]",
    "phase": "[DO]",
    "fleet": "[Fleet]",
    "delivery": "[Callback]",
    "callback": "[Callback]",
    "http": "[HTTP]",
    "duty": "[Maintenance]",
    "store": "[Store]",
    "wire": "[Wire]",
}
"""By group. A phase is a group of its own: TIFF_CONVERSION gives [TiffConversion]."""

LEVELS: Final = {  # of libraries that would otherwise log each request, or each file
    "httpx": logging.WARNING,
    "httpcore": logging.WARNING,
    "botocore": logging.WARNING,
    "alembic": logging.WARNING,
    "asyncio": logging.WARNING,
    "uvicorn": logging.WARNING,
    "uvicorn.access": logging.WARNING,
    "worker.web": logging.WARNING,  # each try while the service starts again; the last one is the error of a task
}


def configure(level: str = "INFO", folder: Path | None = None, part: str = "arke") -> None:
    """Send the log lines of this process to the service's log in `folder`, or to standard error without one.

    `part` says in each line who wrote it, beside the process id. Raises OSError where the folder cannot be made.
    """
    handler = logging.StreamHandler(sys.stderr) if folder is None else SharedFile(folder / FILE)
    who = part.replace("%", "%%")
    handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s {who}[%(process)d] %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name, least in LEVELS.items():
        logging.getLogger(name).setLevel(least)


class SharedFile(logging.Handler):
    """A log file that many processes append to, turned over by whichever finds it full. Nothing is lost.

    A record is one write with O_APPEND, so lines do not mix. Turning over renames, under a lock on the folder;
    everyone else sees before the next write that the name now is another file, and opens that. A line that was
    just on its way stands in the former part.
    """

    def __init__(self, path: Path, limit_bytes: int = LIMIT_BYTES, kept: int = KEPT) -> None:
        super().__init__()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._limit_bytes, self._kept = path, limit_bytes, kept
        self._file: int | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Called by logging, under this handler's lock. A full disk must not stop the service: it is told on stderr."""
        try:
            line = (self.format(record) + "\n").encode(errors="backslashreplace")
            os.write(self._current(), line)
        except Exception:  # noqa: BLE001 - what `logging` asks of every handler
            self.handleError(record)

    def close(self) -> None:
        """Called by logging when the process ends or is configured again."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
        super().close()

    def _current(self) -> int:
        """The file that now has the name, opened if it is not the one in hand."""
        if _size(self._path) >= self._limit_bytes:
            self._turn_over()
        if self._file is None or not _has_name(self._file, self._path):
            former, self._file = self._file, os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            if former is not None:
                os.close(former)
        return self._file

    def _turn_over(self) -> None:
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            if _size(self._path) < self._limit_bytes:
                return  # another process was first
            parts = [self._path, *(self._path.with_name(f"{self._path.name}.{n + 1}") for n in range(self._kept))]
            for older, newer in zip(reversed(parts[1:]), reversed(parts[:-1]), strict=True):
                if newer.exists():
                    newer.replace(older)
        finally:
            os.close(folder)  # and with it the lock


def event(name: str, /, **fields: object) -> None:
    """Something happened. `name` is "group.what"; the group gives the prefix."""
    _log.info(_line(name, fields))


def warning(name: str, /, **fields: object) -> None:
    """Something happened that an operator should look at."""
    _log.warning(_line(name, fields))


def detail(name: str, /, **fields: object) -> None:
    """Something that is of interest to who looks for a bug (LOG_LEVEL=DEBUG)."""
    _log.debug(_line(name, fields))


def fault(name: str, /, *, raised: BaseException | None = None, **fields: object) -> None:
    """A bug or a broken part: logged with the traceback of `raised`, or of the exception that is being handled."""
    _log.error(_line(name, fields), exc_info=raised or True)


class PhaseRow(Protocol):
    """The counters of one phase (`actors.rules.model.PhaseCount`)."""

    @property
    def tasks_total(self) -> int: ...
    @property
    def tasks_completed(self) -> int: ...
    @property
    def tasks_failed(self) -> int: ...


class JobRow(PhaseRow, Protocol):
    """What is read of a job's row (`actors.rules.model.Job`, which this layer does not know)."""

    @property
    def id(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def phases(self) -> tuple[str, ...]: ...
    @property
    def phase(self) -> int: ...
    @property
    def run(self) -> int: ...
    @property
    def history(self) -> Sequence[PhaseRow]: ...
    @property
    def code(self) -> str | None: ...
    @property
    def error(self) -> str | None: ...
    @property
    def started_at(self) -> int | None: ...
    @property
    def completed_at(self) -> int | None: ...


class TaskRow(Protocol):
    """What is read of a task's row (`actors.rules.model.Task`)."""

    @property
    def task_id(self) -> str: ...
    @property
    def phase(self) -> int: ...
    @property
    def status(self) -> str: ...
    @property
    def attempt(self) -> int: ...
    @property
    def error(self) -> str | None: ...


class Change(NamedTuple):
    """One event that a commit amounts to."""

    name: str
    fields: dict[str, object]
    is_trouble: bool = False


def job_changed(before: JobRow, after: JobRow, tasks: Iterable[TaskRow]) -> None:
    """Log what a commit changed: the job's row from `before` to `after`, and the rows of `tasks` that it wrote."""
    for change in changes(before, after, tasks):
        (warning if change.is_trouble else event)(change.name, **change.fields)


def changes(before: JobRow, after: JobRow, tasks: Iterable[TaskRow]) -> Iterator[Change]:
    """The events that lie between two states of a job; none for a turn that only counted callbacks. Pure."""
    for task in tasks:
        if task.status == "failed" and task.error != after.error:  # else the end of the job says it once for all
            yield _task_failed(after, task)
    if after.run == before.run and after.phase > before.phase:
        yield _phase_ended(after, before.phase, after.history[-1])
    moved = (after.run, after.state) != (before.run, before.state)
    if moved and after.state == "done":
        yield _phase_ended(after, after.phase, after)
    if moved:
        yield _job_moved(after)
    if after.state == "running" and (moved or after.phase != before.phase):
        named = {"batch": after.id, "run": after.run, "tasks": after.tasks_total}
        yield Change(f"{after.phases[after.phase]}.started", named)


def _task_failed(job: JobRow, task: TaskRow) -> Change:
    fields: dict[str, object] = {"batch": job.id, "task": task.task_id, "attempt": task.attempt, "error": task.error}
    return Change(f"{job.phases[task.phase]}.task_failed", fields, is_trouble=True)


def _phase_ended(job: JobRow, phase: int, count: PhaseRow) -> Change:
    rate = count.tasks_completed / count.tasks_total if count.tasks_total else 1.0
    fields = {"batch": job.id, "run": job.run, **_counts(count), "success_rate": f"{rate:.1%}"}
    return Change(f"{job.phases[phase]}.ended", fields)


def _job_moved(job: JobRow) -> Change:
    if job.state not in ("done", "failed", "cancelled"):
        what = "started" if job.state == "running" else job.state
        return Change(f"job.{what}", {"batch": job.id, "run": job.run})
    fields: dict[str, object] = {"batch": job.id, "run": job.run, **_counts(job)}
    if job.started_at is not None and job.completed_at is not None:
        fields["seconds"] = f"{(job.completed_at - job.started_at) / 1000:.1f}"
    if job.state == "done":
        return Change("job.done", fields)
    return Change(f"job.{job.state}", {**fields, "code": job.code, "error": job.error}, is_trouble=True)


def _counts(row: PhaseRow) -> dict[str, object]:
    return {"completed": row.tasks_completed, "failed": row.tasks_failed, "total": row.tasks_total}


def _line(name: str, fields: dict[str, object]) -> str:
    group, _, what = name.partition(".")
    shown = " ".join(f"{key}={_shown(value)}" for key, value in fields.items())
    return f"{_prefix(group)} {what or group} {shown}".rstrip()


def _prefix(group: str) -> str:
    if group.isupper():
        return f"[{''.join(word.title() for word in group.split('_'))}]"
    return PREFIXES.get(group, "[Arke]")


def _shown(value: object) -> str:
    """A value on one line, in quotes where it is not one word: what workers and callers sent makes no lines."""
    text = str(value)
    return text if text.isprintable() and " " not in text else json.dumps(text, ensure_ascii=not text.isprintable())


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _has_name(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False
