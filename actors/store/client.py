"""The store as the engine and the front use it: writes go to the one writer, reads to the file itself or the writer.

No SQL is imported here: the process of a batch, which needs little of the store, starts sooner without it.
"""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from actors.errors import Unavailable
from actors.rules.costs import Charge
from actors.rules.model import Job, Machine, Task
from actors.store.catalog_rows import CatalogExport, CatalogFile, Selection, StorageFile
from actors.store.commit import Commit
from actors.store.standing import NEVER
from worker.contract import FileRef

_encode = msgspec.msgpack.Encoder().encode
_decode_job = msgspec.msgpack.Decoder(Job).decode
_decode_created = msgspec.msgpack.Decoder(tuple[Job, bool] | None).decode
_decode_recreated = msgspec.msgpack.Decoder(tuple[Job, bool]).decode
_decode_activated = msgspec.msgpack.Decoder(tuple[Job, list[Task]]).decode

_ANSWERS: Final[dict[str, Any]] = {
    "singleton_epoch": int,
    "job": Job | None,
    "costs_of": Charge,
    "open_jobs": set[str],
    "open_archive": str | None,
    "busy_machines": set[str],
    "work_on": dict[str, list[str]],
    "held": list[Task],
    "some_tasks": list[Task],
    "pending": tuple[list[Task], int | None],
    "some_files": list[tuple[int, FileRef, Task | None]],
    "taken_keys": set[str],
    "list_jobs": tuple[list[Job], str | None],
    "reading": tuple[list[Job], str | None],
    "list_tasks": tuple[list[Task], str | None],
    "count_tasks": dict[str, int],
    "overdue": list[Job],
    "waiting": list[Job],
    "stalled": list[Job],
    "expired": list[str],
    "some_machines": list[Machine],
    "storage_files": list[CatalogFile],
    "storage_export": CatalogExport | None,
    "storage_exports": tuple[list[CatalogExport], str | None],
}
"""What the functions of `actors.store.reads` and `actors.store.catalog_reads` answer."""
_decoders: Final = {question: msgspec.msgpack.Decoder(answer).decode for question, answer in _ANSWERS.items()}

FILES_AT_ONCE: Final = 1_000  # of one request, so that a long list holds up no commit

TASKS_AT_ONCE: Final = 1_000

PATIENCE_S: Final = 10.0
PAUSE_S: Final = 0.1


class WriteSide(Protocol):
    """Where writes go: `actors.wire.Client`, `LocalWriter` or `PostgresWriter`."""

    async def call(self, request: dict[str, Any]) -> Any: ...


class ReadSide(Protocol):
    """Where reads go."""

    async def ask(self, question: str, *arguments: Any) -> Any:
        """What the function of that name in `actors.store.reads` or `catalog_reads` answers."""

    async def close(self) -> None:
        """Let go of the file, where there is one."""


class Store:
    """All that is kept about jobs and machines, and the service's own catalog of files.

    A write raises what the writer answered, Unavailable when the disk refused it, or ConnectionError when
    the writer went away: then it may have been applied, and every write may be sent again as it is.
    A read sees every write that was acknowledged before it; it never wakes an actor. With a `path` the file
    is read here (opened at the first read, after the writer has made it; Unavailable before), without one
    the process that owns it is asked. `reads` is who else answers: where the store is Postgres. `end_write` lets go of
    a write side that is of this store alone, and blocks until what has gathered there is written.
    """

    def __init__(
        self,
        write: WriteSide,
        path: Path | None = None,
        *,
        inline: bool = False,
        reads: ReadSide | None = None,
        end_write: Callable[[], None] | None = None,
    ) -> None:
        self._write = write
        self._path, self._inline = path, inline
        self._reads, self._end_write = reads, end_write

    async def close(self) -> None:
        """Close the reading side, and the write side if it is of this store alone. A second time does nothing."""
        if self._reads is not None:
            await self._reads.close()
        if self._end_write is not None:
            await asyncio.to_thread(self._end_write)

    async def _read(self, question: str, *arguments: Any) -> Any:
        if self._reads is None:
            self._reads = _OwnersReads(self._write) if self._path is None else _file_reads(self._path, self._inline)
        return await self._reads.ask(question, *arguments)

    # -- writes: jobs -------------------------------------------------------------------------------

    async def create(self, job: Job, list_digest: str | None = None, *, alone: str | None = None) -> tuple[Job, bool]:
        """Insert a job. Answers its row and True, or the existing row, untouched, and False.

        `list_digest` tells its list from another one of the same body. A job of that id that is being removed is
        removed to the end first. `alone`: raises Conflict while another archive of this user is not over.
        """
        request = {"op": "create", "job": _encode(job), "list_digest": list_digest, "alone": alone}
        while (created := _decode_created(await self._write.call(request))) is None:
            await self.remove(job.id)
        return created

    async def take_in(self, job: Job, tasks: list[Task]) -> None:
        """Insert a job that is complete, with its tasks. The same again changes nothing. Raises Conflict where the id
        is another job's."""
        await self._write.call({"op": "take_in", "job": _encode(job), "tasks": _encode(tasks)})

    async def recreate(self, job: Job, list_digest: str | None = None) -> Job:
        """A new run with a new list over a failed or cancelled job, whose files and tasks go, in several
        transactions if they are many. Over a job that is RECEIVING the same body: its row as it is where the list
        is the same too, else a new run.

        Answers the row as written (run and epoch follow on the old ones). Raises Conflict for another
        state, NotFound.
        """
        request = {"op": "recreate", "job": _encode(job), "list_digest": list_digest}
        row, cleared = _decode_recreated(await self._write.call(request))
        if not cleared:
            await self.clear(row.id, row.run)
        return row

    async def clear(self, job_id: str, run: int) -> None:
        """Delete what is left of the list before the last `recreate`: to be done before the first file is added.
        Raises Conflict unless the job is RECEIVING in this run, NotFound.
        """
        while not await self._write.call({"op": "clear", "job_id": job_id, "run": run}):
            pass

    async def add_files(
        self,
        job_id: str,
        run: int,
        first_n: int,
        files: list[FileRef],
        cursor: str | None,
        alarm_at: int,
        *,
        after: str | None = None,
        missing: int = 0,
        bytes: int = 0,
    ) -> None:
        """A page of intake, numbered from `first_n`; adds to `files_total`, and to `files_missing` and `bytes_total`
        what is given. The same page again adds nothing. `after`: only where the list has been read up to this cursor
        and no further, for one that may change while it is read.

        Raises Conflict unless the job is RECEIVING in this run, and where another reader has gone on; NotFound.
        """
        await self._write.call({
            "op": "add_files", "job_id": job_id, "run": run, "first_n": first_n, "files": _encode(files),
            "cursor": cursor, "alarm_at": alarm_at, "after": after, "missing": missing, "bytes": bytes,
        })  # fmt: skip

    async def add_phase_files(self, job_id: str, run: int, phase: int, first_n: int, files: list[FileRef]) -> None:
        """A page of the files of a later phase; the same page again changes nothing. Of an earlier run, a file
        that has become another is replaced, without its task. Raises Conflict, NotFound.
        """
        await self._write.call({
            "op": "add_phase_files", "job_id": job_id, "run": run, "phase": phase, "first_n": first_n,
            "files": _encode(files),
        })  # fmt: skip

    async def end_phase_files(self, job_id: str, run: int, phase: int, count: int) -> None:
        """The phase has `count` files: what an earlier run had beyond goes. Raises Conflict, NotFound."""
        await self._write.call({"op": "end_phase_files", "job_id": job_id, "run": run, "phase": phase, "count": count})

    async def ping(self) -> None:
        """Returns when the writer has answered."""
        await self._write.call({"op": "ping"})

    async def plan(self, job_id: str, run: int, phase_index: int, tasks: list[Task]) -> None:
        """Insert tasks of a phase; those that exist stay. Counters are the caller's.

        Raises Conflict if the run is another one or over, NotFound, ValueError for a task of another phase.
        """
        if any(task.phase != phase_index or task.job_id != job_id for task in tasks):
            raise ValueError("a task belongs to another phase or job")
        await self._write.call({"op": "plan", "job_id": job_id, "run": run, "tasks": _encode(tasks)})

    async def plan_anew(self, job_id: str, run: int, tasks: list[Task], *, is_first: bool) -> None:
        """Insert tasks of the first phase while its files are still received; with the first of them what a former
        reader has planned goes. Raises Conflict unless the job is RECEIVING in this run, NotFound."""
        await self._write.call({
            "op": "plan_anew", "job_id": job_id, "run": run, "tasks": _encode(tasks), "is_first": is_first,
        })  # fmt: skip

    async def queue(self, job: Job) -> None:
        """Intake is over: write the whole row, if the job is still RECEIVING in this run (else Conflict).

        `queued_at` tells a repetition from another caller. The epoch is raised, the placement kept.
        """
        await self._write.call({"op": "queue", "job": _encode(job)})

    async def admit(self, job_id: str, *, max_active: int, small_tasks: int, shared_hosts: int, now: int) -> str | None:
        """The place of a job: set once, its own actor while fewer than `max_active` jobs that are not over
        have one, else, for at most `small_tasks` tasks, a shared one; None: wait. Raises NotFound.
        """
        place: str | None = await self._write.call({
            "op": "admit", "job_id": job_id, "max_active": max_active, "small_tasks": small_tasks,
            "shared_hosts": shared_hosts, "now": now,
        })  # fmt: skip
        return place

    async def activate(self, job_id: str) -> tuple[Job, list[Task]]:
        """Take over a job: the row with its new epoch, and the tasks in flight of its run and phase."""
        return _decode_activated(await self._write.call({"op": "activate", "job_id": job_id}))

    async def commit(self, commit: Commit) -> None:
        """Write one turn. Raises Fenced if another activation has taken over: nothing was written."""
        await self._write.call({"op": "commit", "commit": _encode(commit)})

    async def remove(self, job_id: str) -> None:
        """Delete a terminal job with all its rows, in several transactions if it is large. Raises Conflict.

        From the first one on it is not found any more; after a crash `expired` still names it.
        """
        while not await self._write.call({"op": "remove", "job_id": job_id}):
            pass

    # -- writes: singletons and machines ------------------------------------------------------------

    async def activate_singleton(self, name: str) -> int:
        """Take over the one actor of this name: its new epoch. Its next commit has seq 1."""
        epoch: int = await self._write.call({"op": "activate_singleton", "name": name})
        return epoch

    async def commit_machines(
        self, name: str, epoch: int, seq: int, machines: list[Machine], charges: Sequence[Charge] = ()
    ) -> None:
        """Insert or replace machines, and add to the costs of jobs. Raises Fenced if another activation of `name` has
        taken over."""
        await self._write.call({
            "op": "commit_machines", "name": name, "epoch": epoch, "seq": seq, "machines": _encode(machines),
            "charges": _encode(charges),
        })  # fmt: skip

    async def forget_machines(self, before: int, limit: int = 10_000) -> int:
        """Delete at most `limit` machines that are gone since before the time `before`; how many."""
        count: int = await self._write.call({"op": "forget_machines", "before": before, "limit": limit})
        return count

    # -- writes: the catalog ------------------------------------------------------------------------

    async def add_storage_files(self, rows: list[StorageFile]) -> None:
        """Insert files, or replace those of the same ids, in several transactions if they are many. A file that was
        deleted stays so unless its row says otherwise. Raises Conflict where another file has a key.
        """
        for first in range(0, len(rows), FILES_AT_ONCE):
            page = rows[first : first + FILES_AT_ONCE]
            await self._write.call({"op": "add_storage_files", "files": _encode(page)})

    async def put_export(self, row: CatalogExport) -> None:
        """Insert the row of an export; of one that exists change `catalog_rows.CHANGES` only."""
        await self._write.call({"op": "put_export", "export": _encode(row)})

    # -- reads --------------------------------------------------------------------------------------

    async def singleton_epoch(self, name: str) -> int:
        """The epoch of the newest activation of the one actor of this name; 0 where there has been none."""
        return await self._read("singleton_epoch", name)

    async def job(self, job_id: str) -> Job | None:
        """The row of a job."""
        return await self._read("job", job_id)

    async def costs(self, job_id: str, now: int) -> Charge:
        """What the machines of a job have cost by the time `now`, those that run included."""
        return await self._read("costs_of", job_id, now)

    async def open_jobs(self, job_ids: list[str]) -> set[str]:
        """Those of the jobs that exist and are not over."""
        return await self._read("open_jobs", job_ids)

    async def open_archive(self, user_id: str) -> str | None:
        """An archive of a user that is not over."""
        return await self._read("open_archive", user_id)

    async def busy_machines(self, job_ids: list[str]) -> set[str]:
        """The machines that have a task of one of the jobs in flight."""
        return await self._read("busy_machines", job_ids)

    async def work_on(self, machine_ids: list[str]) -> dict[str, list[str]]:
        """Of those machines that have tasks in flight, the jobs that these are of, in no order. It costs as much as
        all tasks in flight, however few the machines."""
        return await self._read("work_on", machine_ids)

    async def held(self, job_id: str, machine: str) -> list[Task]:
        """The tasks of a job that are in flight on a machine, in no order."""
        return await self._read("held", job_id, machine)

    async def tasks(self, job_id: str, task_ids: list[str]) -> list[Task]:
        """Those of the tasks that exist, in no order."""
        return await self._read("some_tasks", job_id, task_ids)

    async def pending(self, job_id: str, phase: int, run: int, now: int, limit: int) -> tuple[list[Task], int | None]:
        """Pending tasks that are due, in the order to take them; if there is none, when the next one is.

        `run` is the job's: what earlier runs left to it comes first, as new.
        """
        return await self._read("pending", job_id, phase, run, now, limit)

    async def files(self, job_id: str, phase: int, after_n: int, limit: int) -> list[tuple[int, FileRef, Task | None]]:
        """The files after number `after_n` (-1: from the first) of a phase's list, each with its task."""
        return await self._read("some_files", job_id, phase, after_n, limit)

    async def taken_keys(self, job_id: str, keys: list[str]) -> set[str]:
        """Which of the keys are a file of the job or the output of one of its tasks."""
        return await self._read("taken_keys", job_id, keys)

    async def list_jobs(
        self, *, state: str | None = None, status: str | None = None, limit: int = 50, cursor: str | None = None
    ) -> tuple[list[Job], str | None]:
        """A page of jobs, newest first, and the cursor of the next one. Raises InvalidInput for a wrong cursor.

        `state` is a JobState; `status` what callers see: DONE, ERROR, or the name of a phase.
        """
        return await self._read("list_jobs", state, status, limit, cursor)

    async def list_tasks(
        self, job_id: str, *, status: str | None = None, limit: int = 100, cursor: str | None = None
    ) -> tuple[list[Task], str | None]:
        """A page of tasks and the cursor of the next one. Raises InvalidInput for a wrong cursor."""
        return await self._read("list_tasks", job_id, status, limit, cursor)

    async def all_tasks(self, job_id: str) -> list[Task]:
        """All tasks of a job that has not many, in their order, page by page."""
        found, cursor = await self.list_tasks(job_id, limit=TASKS_AT_ONCE)
        while cursor is not None:
            page, cursor = await self.list_tasks(job_id, limit=TASKS_AT_ONCE, cursor=cursor)
            found += page
        return found

    async def count_tasks(self, job_id: str, phase: int, run: int) -> dict[str, int]:
        """How many tasks of the run have each status: counted, for checks (invariant 7). Of an earlier run there
        are only those that later ones did not take up.
        """
        return await self._read("count_tasks", job_id, phase, run)

    async def overdue(self, now: int, limit: int, far: int = NEVER) -> list[Job]:
        """Placed jobs whose alarm is due, or later than `far`, and finished ones whose delivery is."""
        return await self._read("overdue", now, limit, far)

    async def reading(self, *, limit: int = 50, cursor: str | None = None) -> tuple[list[Job], str | None]:
        """A page of the jobs that read a prefix, newest first, and the cursor of the next one."""
        return await self._read("reading", limit, cursor)

    async def waiting(self, limit: int, most_tasks: int = NEVER) -> list[Job]:
        """Queued jobs without a place and with at most `most_tasks` tasks, oldest first."""
        return await self._read("waiting", limit, most_tasks)

    async def stalled(self, now: int, limit: int, far: int = NEVER) -> list[Job]:
        """Jobs whose intake was not continued in time, or whose alarm is later than `far`."""
        return await self._read("stalled", now, limit, far)

    async def expired(self, before: int, limit: int) -> list[str]:
        """Ids of jobs that ended before the time `before` and have nothing to deliver."""
        return await self._read("expired", before, limit)

    async def machines(self, *, alive: bool = True) -> list[Machine]:
        """All machines, or those that are not gone; oldest first."""
        return await self._read("some_machines", alive)

    async def storage_files(self, selection: Selection, after: str | None, limit: int) -> list[CatalogFile]:
        """The files of a selection that are not deleted, in the order of id, after the id `after`."""
        return await self._read("storage_files", selection.user_id, selection.product, selection.category, after, limit)

    async def storage_export(self, export_id: str) -> CatalogExport | None:
        """The row of an export."""
        return await self._read("storage_export", export_id)

    async def storage_exports(
        self, user_id: str, *, limit: int = 50, cursor: str | None = None
    ) -> tuple[list[CatalogExport], str | None]:
        """A page of a user's exports, newest first, and the cursor of the next one. Raises InvalidInput for a wrong
        cursor."""
        return await self._read("storage_exports", user_id, limit, cursor)


class PatientWriteSide:
    """A write side whose process may be dead for a moment: a request is sent again until it is answered.

    For those who have a caller that waits; who has time repeats by itself. Every write may be sent again.
    """

    def __init__(self, owner: WriteSide, *, patience_s: float = PATIENCE_S) -> None:
        self._owner, self._patience_s = owner, patience_s

    async def call(self, request: dict[str, Any]) -> Any:
        """The answer. Raises Unavailable when there was none for `patience_s` seconds: it may have taken effect."""
        time_s = asyncio.get_running_loop().time
        deadline = time_s() + self._patience_s
        while True:
            try:
                async with asyncio.timeout(deadline - time_s()):  # a store that is stopped answers nothing, and lives
                    return await self._owner.call(request)
            except (ConnectionError, TimeoutError) as error:
                if time_s() + PAUSE_S > deadline:
                    raise Unavailable("The store is being started again.", retry_after_s=1) from error
            await asyncio.sleep(PAUSE_S)


class _OwnersReads:
    """Reads by way of the process that owns the file."""

    def __init__(self, owner: WriteSide) -> None:
        self._owner = owner

    async def ask(self, question: str, *arguments: Any) -> Any:
        request = {"op": "read", "question": question, "arguments": arguments}
        return _decoders[question](await self._owner.call(request))

    async def close(self) -> None:
        """There is nothing to close."""


def _file_reads(path: Path, inline: bool) -> ReadSide:
    from actors.store.file_reads import FileReads

    return FileReads(path, inline=inline)
