"""What is written about jobs, their files and their tasks: one function per operation.

Each runs inside the writer's transaction and may be sent again: a second time changes nothing. Each
raises an ArkeError before or after it wrote; the writer takes back what it wrote.
"""

from typing import Any, Final

import msgspec
from sqlalchemy import bindparam, delete, exists, func, null, select, update

from actors.errors import Conflict, Fenced, NotFound
from actors.rules.model import Job, Task
from actors.rules.placement import OWN_ACTOR, shared_host, standing_host
from actors.rules.states import TERMINAL_JOBS, JobState, TaskStatus
from actors.store.catalog_rows import still_open
from actors.store.commit import Commit
from actors.store.reads import open_archive
from actors.store.statements import Db, Sql, delete_some, one_of, upsert
from actors.store.tables import JOBS, TASKS, costs, files, jobs, tasks
from worker.contract import FileRef

REMOVED_AT_ONCE: Final = 20_000  # rows of one request that deletes: about 0.1 s of the writer's time
LIST: Final = "list"
JOB: Final = "job"
"""What `jobs.deleting` says."""

ADMISSION: Final = "admission"
"""What one holds who counts slots and takes one."""

BURST_MS: Final = 10_000
BURST_SHARE: Final = 4
"""Of MAX_ACTIVE_BATCHES, small jobs get a quarter as own actors within BURST_MS; the others of them share."""

_OPEN_STATES: Final = sorted(state.value for state in JobState if state not in TERMINAL_JOBS)


_decode_job = msgspec.msgpack.Decoder(Job).decode
_decode_commit = msgspec.msgpack.Decoder(Commit).decode
_decode_files = msgspec.msgpack.Decoder(list[FileRef]).decode
_decode_tasks = msgspec.msgpack.Decoder(list[Task]).decode
_to_json = msgspec.json.Encoder().encode

_AT_CREATION: Final = {"id", "kind", "message", "body_digest", "owner", "created_at", "placement", "user_id"}
_BY_INTAKE: Final = {"files_total", "files_missing", "bytes_total", "source_cursor"}
TURN_COLUMNS: Final = [name for name in JOBS.columns if name not in _AT_CREATION | _BY_INTAKE]
_QUEUE_COLUMNS: Final = [name for name in JOBS.columns if name not in {"id", "epoch", "seq", "placement"}]
_WHEN_PLANNED: Final = {"job_id", "phase", "n", "task_id", "input_r2_key", "output_r2_key"}
TASK_COLUMNS: Final = [name for name in TASKS.columns if name not in _WHEN_PLANNED]

# Each operation that decides by a job's row holds that row until its transaction ends. NO KEY: charges may refer to it.
_SELECT_JOB = Sql(
    select(*JOBS.select)
    .where(jobs.c.id == bindparam("id"), jobs.c.deleting.is_distinct_from(JOB))
    .with_for_update(key_share=True)
)
_SELECT_DELETING = Sql(
    select(jobs.c.state, jobs.c.deleting).where(jobs.c.id == bindparam("id")).with_for_update(key_share=True)
)
_SELECT_LIST_DIGEST = Sql(select(jobs.c.list_digest).where(jobs.c.id == bindparam("id")))
_INSERT_JOB = Sql(upsert(jobs).on_conflict_do_nothing(), [*JOBS.columns, "list_digest"])
_REPLACE_JOB = Sql(
    update(jobs).where(jobs.c.id == bindparam("key_id")),
    [*(name for name in JOBS.columns if name != "id"), "list_digest", "deleting"],
)
_BEGIN_TO_REMOVE = Sql(
    update(jobs)
    .where(jobs.c.id == bindparam("key_id"))
    .values(deleting=JOB, epoch=jobs.c.epoch + 1, seq=0, alarm_at=null())
)
_IS_CLEARED = Sql(update(jobs).where(jobs.c.id == bindparam("key_id")).values(deleting=null()))
_QUEUE_JOB = Sql(
    update(jobs)
    .where(
        jobs.c.id == bindparam("key_id"),
        jobs.c.run == bindparam("key_run"),
        jobs.c.state == JobState.RECEIVING.value,
    )
    .values(epoch=jobs.c.epoch + 1, seq=0),
    _QUEUE_COLUMNS,
)
_INTAKE = Sql(
    update(jobs)
    .where(jobs.c.id == bindparam("key_id"))
    .values(
        files_total=jobs.c.files_total + bindparam("added"),
        files_missing=jobs.c.files_missing + bindparam("missing"),
        bytes_total=jobs.c.bytes_total + bindparam("bytes"),
        source_cursor=bindparam("cursor"),
        alarm_at=bindparam("alarm"),
    )
)
_INTAKE_ALARM = Sql(update(jobs).where(jobs.c.id == bindparam("key_id")).values(alarm_at=bindparam("alarm")))
_INSERT_FILE = Sql(upsert(files).on_conflict_do_nothing(), [column.name for column in files.c])
_FILE_ROW = _INSERT_FILE.picker([column.name for column in files.c])
_put_file = upsert(files)
_PUT_FILE = Sql(
    _put_file.on_conflict_do_update(
        index_elements=["job_id", "phase", "n"],
        set_={"doc": _put_file.excluded.doc, "r2_key": _put_file.excluded.r2_key},
        where=files.c.doc != _put_file.excluded.doc,
    ),
    [column.name for column in files.c],
)
_PUT_FILE_ROW = _PUT_FILE.picker([column.name for column in files.c])
_DELETE_OUTDATED_TASK = Sql(
    delete(tasks).where(
        tasks.c.job_id == bindparam("job_id"),
        tasks.c.phase == bindparam("phase"),
        tasks.c.n == bindparam("n"),
        exists().where(
            files.c.job_id == tasks.c.job_id,
            files.c.phase == tasks.c.phase,
            files.c.n == tasks.c.n,
            files.c.doc != bindparam("doc"),
        ),
    )
)
_OUTDATED_ROW = _DELETE_OUTDATED_TASK.picker([column.name for column in files.c])
_DELETE_TASKS_BEYOND = Sql(
    delete(tasks).where(
        tasks.c.job_id == bindparam("id"), tasks.c.phase == bindparam("phase"), tasks.c.n >= bindparam("count")
    )
)
_DELETE_FILES_BEYOND = Sql(
    delete(files).where(
        files.c.job_id == bindparam("id"), files.c.phase == bindparam("phase"), files.c.n >= bindparam("count")
    )
)
_INSERT_TASK = Sql(upsert(tasks).on_conflict_do_nothing(index_elements=["job_id", "phase", "n"]), TASKS.columns)
_INSERT_TASK_ROW = _INSERT_TASK.picker(TASKS.columns)
_COUNT_OWN_ACTORS = Sql(
    select(func.count())
    .select_from(jobs)
    .where(
        one_of(jobs.c.state, _OPEN_STATES),
        jobs.c.placement >= OWN_ACTOR,
        jobs.c.placement < OWN_ACTOR[:-1] + chr(ord(OWN_ACTOR[-1]) + 1),
    )
)
_COUNT_NEW_OWN_ACTORS = Sql(
    select(func.count())
    .select_from(jobs)
    .where(
        one_of(jobs.c.state, sorted(state.value for state in JobState)),  # all: so that the index is used
        jobs.c.created_at >= bindparam("since"),
        jobs.c.placement >= OWN_ACTOR,
        jobs.c.placement < OWN_ACTOR[:-1] + chr(ord(OWN_ACTOR[-1]) + 1),
    )
)
_PLACE = Sql(
    update(jobs)
    .where(jobs.c.id == bindparam("key_id"))
    .values(placement=bindparam("place"), alarm_at=bindparam("alarm"), epoch=jobs.c.epoch + 1, seq=0)
)
_UNPLACE = Sql(update(jobs).where(jobs.c.id == bindparam("key_id")).values(placement=null()))
_ACTIVATE = Sql(update(jobs).where(jobs.c.id == bindparam("key_id")).values(epoch=jobs.c.epoch + 1, seq=0))
_IN_FLIGHT = Sql(
    select(*TASKS.select).where(
        tasks.c.job_id == bindparam("job_id"),
        tasks.c.status == TaskStatus.PROCESSING.value,
        tasks.c.phase == bindparam("phase"),
        tasks.c.run == bindparam("run"),
    )
)
_TURN = Sql(
    update(jobs).where(
        jobs.c.id == bindparam("key_id"),
        jobs.c.epoch == bindparam("key_epoch"),
        jobs.c.seq == bindparam("former_seq"),
    ),
    TURN_COLUMNS,
)
_SELECT_FENCE = Sql(select(jobs.c.epoch, jobs.c.seq).where(jobs.c.id == bindparam("id")))
_UPDATE_TASK = Sql(
    update(tasks).where(
        tasks.c.job_id == bindparam("key_job_id"),
        tasks.c.phase == bindparam("key_phase"),
        tasks.c.n == bindparam("key_n"),
    ),
    TASK_COLUMNS,
)
_UPDATE_TASK_ROW = _UPDATE_TASK.picker(TASKS.columns)
_DELETE_COSTS = Sql(delete(costs).where(costs.c.job_id == bindparam("id")))
_DELETE_JOB = Sql(delete(jobs).where(jobs.c.id == bindparam("id")))
_DELETE_SOME_TASKS = Sql(delete_some(tasks, tasks.c.job_id == bindparam("id")))
_DELETE_SOME_FILES = Sql(delete_some(files, files.c.job_id == bindparam("id")))


def _find(db: Db, job_id: str) -> Job:
    row = db.row(_SELECT_JOB, {"id": job_id})
    if row is None:
        raise NotFound(f"No batch has the id {job_id}.")
    return JOBS.struct_of(row)


def create(db: Db, request: dict[str, Any]) -> bytes:
    """Insert a job, or leave the existing one untouched. Answers (row, whether it is new); None while the job that
    had the id is being removed."""
    job = _decode_job(request["job"])
    user = request.get("alone")
    if user is not None:
        db.hold(f"archives of {user}")
        other = open_archive(db, user)
        if other is not None and other != job.id:
            raise Conflict(still_open(other))
    if db.run(_INSERT_JOB, {**JOBS.values(job), "list_digest": request.get("list_digest")}) == 1:
        return msgspec.msgpack.encode((job, True))
    row = db.row(_SELECT_JOB, {"id": job.id})
    return msgspec.msgpack.encode(None if row is None else (JOBS.struct_of(row), False))


def take_in(db: Db, request: dict[str, Any]) -> bytes:
    """Insert a job that is complete, with its tasks. The same again changes nothing. Raises Conflict where the id is
    another job's."""
    job, rows = _decode_job(request["job"]), _decode_tasks(request["tasks"])
    if db.run(_INSERT_JOB, {**JOBS.values(job), "list_digest": None}) == 1:
        db.run_many(_INSERT_TASK, [_INSERT_TASK_ROW(TASKS.row(task)) for task in rows])
        return b""
    found = _find(db, job.id)
    if (found.kind, found.created_at, found.message) != (job.kind, job.created_at, job.message):
        raise Conflict(f"The id {job.id} is in use.")
    return b""


def recreate(db: Db, request: dict[str, Any]) -> bytes:
    """A new run with a new list over a failed or cancelled job, or over one whose intake died and whose manifest is
    another one now. Answers (row, whether nothing of the former list is left to `clear`).

    The files and tasks of the former list go; the counts of its earlier runs are history. Epoch and run go on, so
    that neither a former activation (invariant 2) nor a former intake writes anything; `delivered_run` stays,
    since the receiver has not forgotten either. Where the intake of the same list goes on, the row is untouched.
    """
    job = _decode_job(request["job"])
    old = _find(db, job.id)
    receives = old.state is JobState.RECEIVING and old.body_digest == job.body_digest
    if receives and db.row(_SELECT_LIST_DIGEST, {"id": job.id}) == (request["list_digest"],):
        return msgspec.msgpack.encode((old, _clear(db, job.id)))
    if not receives and old.state not in (JobState.FAILED, JobState.CANCELLED):
        raise Conflict(f"The batch is {old.state}: only a failed or cancelled one can be created again.")
    job = msgspec.structs.replace(
        job, run=old.run + 1, epoch=old.epoch + 1, seq=0, history=old.past, delivered_run=old.delivered_run,
        retries=old.retries, throttled_ms=old.throttled_ms,
    )  # fmt: skip
    values = {**JOBS.values(job), "key_id": job.id, "list_digest": request["list_digest"], "deleting": LIST}
    db.run(_REPLACE_JOB, values)
    return msgspec.msgpack.encode((job, _clear(db, job.id)))


def clear(db: Db, request: dict[str, Any]) -> bool:
    """Delete what `recreate` has left of the former list, at most REMOVED_AT_ONCE rows. Answers whether it is gone."""
    return _clear(db, _receiving(db, request).id)


def _clear(db: Db, job_id: str) -> bool:
    row = db.row(_SELECT_DELETING, {"id": job_id})
    if row is None or row[1] is None:
        return True
    if not _delete_some(db, job_id):
        return False
    db.run(_IS_CLEARED, {"key_id": job_id})
    return True


def _delete_some(db: Db, job_id: str) -> bool:
    """Delete at most REMOVED_AT_ONCE tasks and files of a job. Answers whether none is left."""
    left = REMOVED_AT_ONCE - db.run(_DELETE_SOME_TASKS, {"id": job_id, "most": REMOVED_AT_ONCE})
    left -= db.run(_DELETE_SOME_FILES, {"id": job_id, "most": left}) if left else 0
    return left > 0


def _receiving(db: Db, request: dict[str, Any]) -> Job:
    job = _find(db, request["job_id"])
    if job.state is not JobState.RECEIVING or job.run != request["run"]:
        raise Conflict(f"The batch takes no more files: it is {job.state} in run {job.run}.")
    return job


def add_files(db: Db, request: dict[str, Any]) -> None:
    """A page of intake. A page that is there already moves the alarm only, never the cursor back."""
    job = _receiving(db, request)
    page = _decode_files(request["files"])
    _check_place(job, request, len(page))
    added = db.run_many(
        _INSERT_FILE,
        [
            _FILE_ROW((job.id, 0, n, _to_json(file).decode(), file.r2_key))
            for n, file in enumerate(page, request["first_n"])
        ],
    )
    values = {"key_id": job.id, "alarm": request["alarm_at"]}
    if added or not page:
        found = {"added": added, "missing": request.get("missing", 0), "bytes": request.get("bytes", 0)}
        db.run(_INTAKE, {**values, **found, "cursor": request["cursor"]})
    else:
        db.run(_INTAKE_ALARM, values)


def _check_place(job: Job, request: dict[str, Any], count: int) -> None:
    """Two readers of what changes meanwhile do not see the same pages: between two of different readers a file would
    be lost."""
    after, first = request.get("after"), request["first_n"]
    here, behind = (first, after), (first + count, request["cursor"])
    if after is not None and (job.files_total, job.source_cursor) not in (here, behind):
        raise Conflict("Another reader has gone on with the list.")


def add_phase_files(db: Db, request: dict[str, Any]) -> None:
    """A page of the files of a later phase, numbered from `first_n`.

    A file that an earlier run had in its place is replaced, and its task goes with it; one that is the same
    stays, and so does what was done with it.
    """
    job = _in_run(db, request)
    rows = [
        (job.id, request["phase"], n, _to_json(file).decode(), file.r2_key)
        for n, file in enumerate(_decode_files(request["files"]), request["first_n"])
    ]
    if job.run > 1:
        db.run_many(_DELETE_OUTDATED_TASK, [_OUTDATED_ROW(row) for row in rows])
    db.run_many(_PUT_FILE, [_PUT_FILE_ROW(row) for row in rows])


def end_phase_files(db: Db, request: dict[str, Any]) -> None:
    """The files of a later phase are complete with `count` of them: what an earlier run had beyond goes."""
    key = {"id": _in_run(db, request).id, "phase": request["phase"], "count": request["count"]}
    db.run(_DELETE_TASKS_BEYOND, key)
    db.run(_DELETE_FILES_BEYOND, key)


def _in_run(db: Db, request: dict[str, Any]) -> Job:
    job = _find(db, request["job_id"])
    if job.run != request["run"] or job.state in TERMINAL_JOBS:
        raise Conflict(f"The batch takes no more files or tasks: it is {job.state} in run {job.run}.")
    return job


def ping(db: Db, request: dict[str, Any]) -> None:
    """Nothing, in a transaction like everything else: answers as long as the writer does."""


def plan(db: Db, request: dict[str, Any]) -> None:
    """Insert tasks of one phase; those that exist stay as they are."""
    _in_run(db, request)
    db.run_many(_INSERT_TASK, [_INSERT_TASK_ROW(TASKS.row(task)) for task in _decode_tasks(request["tasks"])])


def plan_anew(db: Db, request: dict[str, Any]) -> None:
    """The same for tasks whose list is divided by its reader: another reader may have divided a shorter one."""
    job = _receiving(db, request)
    if request["is_first"]:
        db.run(_DELETE_TASKS_BEYOND, {"id": job.id, "phase": 0, "count": 0})
    plan(db, request)


def queue(db: Db, request: dict[str, Any]) -> None:
    """Intake is over. The epoch is raised: an activation that still sees RECEIVING writes nothing."""
    job = _decode_job(request["job"])
    if job.state is JobState.QUEUED and job.kind == "archive":
        _check_total(db, job)
    if db.run(_QUEUE_JOB, {**JOBS.values(job), "key_id": job.id, "key_run": job.run}) == 1:
        return
    found = _find(db, job.id)
    if found.run != job.run or found.queued_at != job.queued_at or found.queued_at is None:
        raise Conflict(f"The batch cannot be queued: it is {found.state} in run {found.run}.")


def _check_total(db: Db, job: Job) -> None:
    """Its parts are those of its files: none was added by another reader since they were divided."""
    found = _find(db, job.id)
    if found.state is JobState.RECEIVING and found.files_total != job.files_total:
        raise Conflict("Another reader has gone on with the list.")


def admit(db: Db, request: dict[str, Any]) -> str | None:
    """Give the job its place, once. None: it has to wait for a slot.

    The epoch is raised: an activation from before, which knows no place, writes nothing more.
    """
    db.hold(ADMISSION)  # before the row, in each admission: two that wait for each other would wait in vain
    job = _find(db, request["job_id"])
    if job.placement is not None:
        return job.placement
    if job.kind != "batch":
        place = standing_host(job.kind, job.id)
        db.run(_PLACE, {"key_id": job.id, "place": place, "alarm": request["now"]})
        return place
    most, is_small = request["max_active"], job.tasks_total <= request["small_tasks"]
    if _count(db, _COUNT_OWN_ACTORS) < most and not (is_small and _is_burst(db, most, request["now"])):
        place = OWN_ACTOR + job.id
    elif is_small:
        place = shared_host(job.id, request["shared_hosts"])
    else:
        return None
    alarm = job.alarm_at if job.state in TERMINAL_JOBS else request["now"]
    db.run(_PLACE, {"key_id": job.id, "place": place, "alarm": alarm})
    return place


def _is_burst(db: Db, most: int, now: int) -> bool:
    """Whether so many actors were given out lately that a small job had better share one.

    A small job is over in less time than its process takes to start (half a second of processor), so that its
    slot is free again at once: without this bound a burst of small jobs would start one process after the other.
    """
    return _count(db, _COUNT_NEW_OWN_ACTORS, since=now - BURST_MS) >= max(1, most // BURST_SHARE)


def _count(db: Db, question: Sql, **values: int) -> int:
    row = db.row(question, values)
    return int(row[0]) if row is not None else 0


def activate(db: Db, request: dict[str, Any]) -> bytes:
    """Invariant 2: the next epoch. Answers (row, tasks in flight in its run and phase)."""
    db.run(_ACTIVATE, {"key_id": request["job_id"]})
    job = _find(db, request["job_id"])
    rows = db.rows(_IN_FLIGHT, {"job_id": job.id, "phase": job.phase, "run": job.run})
    return msgspec.msgpack.encode((job, [TASKS.struct_of(row) for row in rows]))


def commit(db: Db, request: dict[str, Any]) -> None:
    """Write one turn. Invariant 2: only the epoch of the newest activation does.

    The commit that was written last may come again, since its answer may have been lost. Raises Fenced
    for any other that does not follow on it, NotFound if one of its tasks does not exist.
    """
    turn = _decode_commit(request["commit"])
    job = turn.job
    values = {**JOBS.values(job), "key_id": job.id, "key_epoch": job.epoch, "former_seq": job.seq - 1}
    if db.run(_TURN, values) == 0:
        if db.row(_SELECT_FENCE, {"id": job.id}) == (job.epoch, job.seq):
            return
        raise Fenced
    changed = db.run_many(_UPDATE_TASK, [_UPDATE_TASK_ROW(TASKS.row(task)) for task in turn.tasks])
    if changed != len(turn.tasks):
        raise NotFound(f"{len(turn.tasks) - changed} of the tasks to be written do not exist.")
    if turn.rerun:
        db.run(_UNPLACE, {"key_id": job.id})


def remove(db: Db, request: dict[str, Any]) -> bool:
    """Delete a terminal job, at most REMOVED_AT_ONCE rows; its own row last. Answers whether it is gone.

    From the first slice on nobody finds it: a job that has lost a part of its tasks must not run again. The epoch
    is raised, so that an activation that still knows it writes nothing.
    """
    job_id = request["job_id"]
    row = db.row(_SELECT_DELETING, {"id": job_id})
    if row is None:
        return True
    state, deleting = row
    if deleting != JOB:
        if JobState(state) not in TERMINAL_JOBS:
            raise Conflict("The batch is not over: cancel it first.")
        db.run(_BEGIN_TO_REMOVE, {"key_id": job_id})
    if not _delete_some(db, job_id):
        return False
    db.run(_DELETE_COSTS, {"id": job_id})
    db.run(_DELETE_JOB, {"id": job_id})
    return True


OPERATIONS: Final = {
    "create": create,
    "take_in": take_in,
    "recreate": recreate,
    "clear": clear,
    "add_files": add_files,
    "add_phase_files": add_phase_files,
    "end_phase_files": end_phase_files,
    "ping": ping,
    "plan": plan,
    "plan_anew": plan_anew,
    "queue": queue,
    "admit": admit,
    "activate": activate,
    "commit": commit,
    "remove": remove,
}
