"""What is read: one function per question. Each page costs the same wherever it starts (keyset, never OFFSET).

Tasks are answered as they stand (`actors.store.standing`), which is not always as they are stored.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec
from sqlalchemy import BigInteger, Select, and_, bindparam, func, not_, or_, select, tuple_

from actors.rules.costs import RUNS, Charge, time_of
from actors.rules.model import Job, Machine, Task
from actors.rules.states import TERMINAL_JOBS, Delivery, JobState, MachineState, TaskStatus
from actors.store.cursors import FIRST, cursor_of, key_of
from actors.store.standing import NEVER, Span, as_new, spans, standing
from actors.store.statements import Db, Row, Sql, json_item, listed, one_of
from actors.store.tables import COSTS, JOBS, MACHINES, TASKS, costs, files, jobs, machines, singletons, tasks
from worker.contract import FileRef

_decode_file = msgspec.json.Decoder(FileRef).decode
_OPEN: Final = sorted(state.value for state in JobState if state not in TERMINAL_JOBS)
_TERMINAL: Final = sorted(state.value for state in TERMINAL_JOBS)
_Place = tuple[int, int, int, int]

_STATUS_ERROR: Final = [JobState.CANCELLED.value, JobState.FAILED.value]

_is_there = jobs.c.deleting.is_distinct_from("job")  # not being removed
_JOB = Sql(select(*JOBS.select).where(jobs.c.id == bindparam("id"), _is_there))
_all_tasks = select(*TASKS.select).where(tasks.c.job_id == bindparam("job_id"))
_TASKS_BY_ID = Sql(_all_tasks.where(listed(tasks.c.task_id, "ids")))
_pending = and_(
    tasks.c.status == TaskStatus.PENDING.value,
    tasks.c.phase == bindparam("phase"),
    tasks.c.run == bindparam("run"),
)
_PENDING = Sql(
    _all_tasks.where(_pending, tasks.c.not_before <= bindparam("now"))
    .order_by(tasks.c.not_before, tasks.c.n)
    .limit(bindparam("most"))
)
_NEXT_PENDING = Sql(
    select(tasks.c.not_before)
    .where(tasks.c.job_id == bindparam("job_id"), _pending)
    .order_by(tasks.c.not_before)
    .limit(1)
)
_OF_EARLIER_RUNS = Sql(
    _all_tasks.where(
        tasks.c.status == bindparam("status"), tasks.c.phase == bindparam("phase"), tasks.c.run < bindparam("run")
    )
    .order_by(tasks.c.run, tasks.c.not_before, tasks.c.n)
    .limit(bindparam("most"))
)
_HELD = Sql(_all_tasks.where(tasks.c.status == TaskStatus.PROCESSING.value, tasks.c.machine == bindparam("machine")))
_FILES = Sql(
    select(files.c.n, files.c.doc)
    .where(
        files.c.job_id == bindparam("job_id"),
        files.c.phase == bindparam("phase"),
        files.c.n > bindparam("after_n"),
    )
    .order_by(files.c.n)
    .limit(bindparam("most"))
)
# Not a join: Postgres, which may think that a job has two tasks, would look at all of them for each file.
_TASKS_OF_FILES = Sql(
    _all_tasks.where(
        tasks.c.phase == bindparam("phase"), tasks.c.n >= bindparam("first_n"), tasks.c.n <= bindparam("last_n")
    )
)
_TAKEN_KEYS = Sql(
    select(files.c.r2_key)
    .where(files.c.job_id == bindparam("job_id"), listed(files.c.r2_key, "keys"))
    .union(
        select(tasks.c.output_r2_key).where(
            tasks.c.job_id == bindparam("job_id"), listed(tasks.c.output_r2_key, "keys")
        )
    )
)
_COUNT_TASKS = Sql(
    select(tasks.c.status, func.count())
    .where(
        tasks.c.job_id == bindparam("job_id"),
        one_of(tasks.c.status, [status.value for status in TaskStatus]),
        tasks.c.phase == bindparam("phase"),
        tasks.c.run == bindparam("run"),
    )
    .group_by(tasks.c.status)
)
_COUNT_OF_EARLIER_RUNS = Sql(
    select(func.count()).where(
        tasks.c.job_id == bindparam("job_id"),
        one_of(tasks.c.status, [TaskStatus.PENDING.value, TaskStatus.FAILED.value]),
        tasks.c.phase == bindparam("phase"),
        tasks.c.run < bindparam("run"),
    )
)
_OPEN_JOBS = Sql(
    select(jobs.c.id).where(
        listed(jobs.c.id, "ids"),
        not_(one_of(jobs.c.state, _TERMINAL)),
    )
)
_OPEN_ARCHIVE = Sql(
    select(jobs.c.id)
    .where(jobs.c.user_id == bindparam("user"), one_of(jobs.c.state, _OPEN), jobs.c.kind == "archive")
    .limit(1)
)
_BUSY_MACHINES = Sql(
    select(tasks.c.machine)
    .distinct()
    .where(
        listed(tasks.c.job_id, "ids"),
        tasks.c.status == TaskStatus.PROCESSING.value,
    )
)
_WORK_ON = Sql(
    select(tasks.c.machine, tasks.c.job_id)
    .distinct()
    .where(
        tasks.c.job_id.in_(select(jobs.c.id).where(jobs.c.state == JobState.RUNNING.value)),
        tasks.c.status == TaskStatus.PROCESSING.value,
        listed(tasks.c.machine, "ids"),
    )
)


def _newest_first(*conditions: Any) -> Sql:
    page: Select[Any] = (
        select(*JOBS.select)
        .where(
            *conditions,
            _is_there,
            tuple_(jobs.c.created_at, jobs.c.id) < tuple_(bindparam("before"), bindparam("before_id")),
        )
        .order_by(jobs.c.created_at.desc(), jobs.c.id.desc())
        .limit(bindparam("most"))
    )
    return Sql(page)


_is_batch = jobs.c.kind == "batch"
_LIST_JOBS = _newest_first(_is_batch)
_LIST_STATE = _newest_first(jobs.c.state == bindparam("state"), _is_batch)
_LIST_READING = _newest_first(jobs.c.state == JobState.RECEIVING.value, jobs.c.source_cursor.is_not(None))
_LIST_ERROR = _newest_first(one_of(jobs.c.state, _STATUS_ERROR), _is_batch)
_LIST_PHASE = _newest_first(
    _is_batch,
    one_of(jobs.c.state, _OPEN),
    json_item(jobs.c.phases, jobs.c.phase) == bindparam("status"),
)
_LIST_TASKS = Sql(
    _all_tasks.where(tuple_(tasks.c.phase, tasks.c.n) > tuple_(bindparam("phase"), bindparam("n")))
    .order_by(tasks.c.phase, tasks.c.n)
    .limit(bindparam("most"))
)
_status_order = (tasks.c.phase, tasks.c.run, tasks.c.not_before, tasks.c.n)
_LIST_TASKS_STATUS = Sql(
    _all_tasks.where(
        tasks.c.status == bindparam("status"),
        tuple_(*_status_order) > tuple_(bindparam("phase"), bindparam("run"), bindparam("not_before"), bindparam("n")),
        tuple_(*_status_order) < tuple_(bindparam("end_phase"), bindparam("end_run"), FIRST, FIRST),
    )
    .order_by(*_status_order)
    .limit(bindparam("most"))
)


def _jobs_where(*conditions: Any, order: Any) -> Sql:
    return Sql(select(*JOBS.select).where(*conditions).order_by(order).limit(bindparam("most")))


_ALARM_DUE = _jobs_where(jobs.c.alarm_at <= bindparam("now"), jobs.c.placement.is_not(None), order=jobs.c.alarm_at)
_ALARM_FAR = _jobs_where(
    jobs.c.alarm_at > bindparam("far"),
    jobs.c.placement.is_not(None),
    # of an export that is over it tells when that is removed; of a list that is read, how long it may stand still
    one_of(jobs.c.state, [state for state in _OPEN if state != JobState.RECEIVING.value]),
    order=jobs.c.alarm_at,
)
_DELIVERY_DUE = _jobs_where(
    jobs.c.delivery == Delivery.PENDING.value,
    or_(jobs.c.delivery_at <= bindparam("now"), jobs.c.delivery_at.is_(None)),
    one_of(jobs.c.state, _TERMINAL),
    order=jobs.c.delivery_at,
)
_DELIVERY_FAR = _jobs_where(
    jobs.c.delivery == Delivery.PENDING.value,
    jobs.c.delivery_at > bindparam("far"),
    one_of(jobs.c.state, _TERMINAL),
    order=jobs.c.delivery_at,
)
_WAITING = _jobs_where(
    jobs.c.state == JobState.QUEUED.value,
    jobs.c.placement.is_(None),
    jobs.c.tasks_total <= bindparam("most_tasks", type_=BigInteger),
    order=jobs.c.created_at,
)
_STALLED = _jobs_where(
    jobs.c.state == JobState.RECEIVING.value,
    or_(jobs.c.alarm_at <= bindparam("now"), jobs.c.alarm_at > bindparam("far")),
    order=jobs.c.alarm_at,
)
_EXPIRED = Sql(
    select(jobs.c.id)
    .where(
        jobs.c.completed_at < bindparam("before"),
        # an export goes with its files, by its own alarm; of an archive the objects do, and the row stays
        or_(jobs.c.kind == "batch", and_(jobs.c.kind == "archive", jobs.c.expires_at.is_(None))),
        not_(one_of(jobs.c.state, _OPEN)),  # as a negation, so that the index on completed_at is used
        jobs.c.delivery != Delivery.PENDING.value,
    )
    .order_by(jobs.c.completed_at)
    .limit(bindparam("most"))
)
_COSTS = Sql(select(*COSTS.select).where(costs.c.job_id == bindparam("job_id")))
_RUNNING_FOR = Sql(
    select(*MACHINES.select).where(
        one_of(machines.c.state, [state.value for state in RUNS]), machines.c.job_id == bindparam("job_id")
    )
)
_MACHINES = Sql(select(*MACHINES.select).order_by(machines.c.created_at, machines.c.id))
_SINGLETON_EPOCH = Sql(select(singletons.c.epoch).where(singletons.c.name == bindparam("name")))
_MACHINES_ALIVE = Sql(
    select(*MACHINES.select)
    .where(one_of(machines.c.state, [state.value for state in MachineState if state is not MachineState.GONE]))
    .order_by(machines.c.created_at, machines.c.id)
)


def singleton_epoch(db: Db, name: str) -> int:
    """0 where there has been none."""
    row = db.row(_SINGLETON_EPOCH, {"name": name})
    return 0 if row is None else int(row[0])


def job(db: Db, job_id: str) -> Job | None:
    row = db.row(_JOB, {"id": job_id})
    return None if row is None else JOBS.struct_of(row)


def costs_of(db: Db, job_id: str, now: int) -> Charge:
    row = db.row(_COSTS, {"job_id": job_id})
    known = Charge(job_id=job_id) if row is None else COSTS.struct_of(row)
    running = [time_of(MACHINES.struct_of(row), now=now) for row in db.rows(_RUNNING_FOR, {"job_id": job_id})]
    return msgspec.structs.replace(
        known,
        machine_ms=known.machine_ms + sum(charge.machine_ms for charge in running),
        nano_usd=known.nano_usd + sum(charge.nano_usd for charge in running),
    )


def open_jobs(db: Db, job_ids: list[str]) -> set[str]:
    return {job_id for (job_id,) in db.rows(_OPEN_JOBS, {"ids": _json(job_ids)})}


def open_archive(db: Db, user_id: str) -> str | None:
    row = db.row(_OPEN_ARCHIVE, {"user": user_id})
    return None if row is None else str(row[0])


def busy_machines(db: Db, job_ids: list[str]) -> set[str]:
    """Those that have a task of one of the jobs in flight. Once a job is over none of its tasks is."""
    return {machine for (machine,) in db.rows(_BUSY_MACHINES, {"ids": _json(job_ids)})}


def work_on(db: Db, machine_ids: list[str]) -> dict[str, list[str]]:
    """By machine the jobs that have a task in flight on it; no machine without one. Looks at all that is in flight."""
    found: dict[str, list[str]] = {}
    for machine, job_id in db.rows(_WORK_ON, {"ids": _json(machine_ids)}):
        found.setdefault(machine, []).append(job_id)
    return found


def some_tasks(db: Db, job_id: str, task_ids: list[str]) -> list[Task]:
    return _tasks(db, job_id, _TASKS_BY_ID, {"ids": _json(task_ids)})


def _tasks(db: Db, job_id: str, sql: Sql, values: dict[str, Any]) -> list[Task]:
    with db.snapshot():
        found = job(db, job_id)
        rows = db.rows(sql, {**values, "job_id": job_id})
    return [] if found is None else [standing(TASKS.struct_of(row), found) for row in rows]


def held(db: Db, job_id: str, machine: str) -> list[Task]:
    return [TASKS.struct_of(row) for row in db.rows(_HELD, {"job_id": job_id, "machine": machine})]


def pending(db: Db, job_id: str, phase: int, run: int, now: int, limit: int) -> tuple[list[Task], int | None]:
    key = {"job_id": job_id, "phase": phase, "run": run}
    rows = [] if run == 1 else _of_earlier_runs(db, key, limit)
    if len(rows) < limit:
        rows += [TASKS.struct_of(row) for row in db.rows(_PENDING, {**key, "now": now, "most": limit - len(rows)})]
    if rows:
        return rows, None
    later = db.row(_NEXT_PENDING, key)
    return [], None if later is None else later[0]


def _of_earlier_runs(db: Db, key: dict[str, Any], limit: int) -> list[Task]:
    """What an earlier run left to this one (`standing`): first what it had not begun, then what failed in it."""
    rows: list[Row] = []
    for status in (TaskStatus.PENDING, TaskStatus.FAILED):
        if len(rows) < limit:
            rows += db.rows(_OF_EARLIER_RUNS, {**key, "status": status.value, "most": limit - len(rows)})
    return [as_new(TASKS.struct_of(row), key["run"]) for row in rows]


def some_files(db: Db, job_id: str, phase: int, after_n: int, limit: int) -> list[tuple[int, FileRef, Task | None]]:
    with db.snapshot():
        found = job(db, job_id)
        rows = db.rows(_FILES, {"job_id": job_id, "phase": phase, "after_n": after_n, "most": limit})
        ends = {"first_n": rows[0][0], "last_n": rows[-1][0]} if rows else None
        planned = db.rows(_TASKS_OF_FILES, {"job_id": job_id, "phase": phase, **ends}) if ends else []
    if found is None:
        return []
    of_file = {task.n: standing(task, found) for task in map(TASKS.struct_of, planned)}
    return [(n, _decode_file(doc), of_file.get(n)) for n, doc in rows]


def taken_keys(db: Db, job_id: str, keys: list[str]) -> set[str]:
    return {key for (key,) in db.rows(_TAKEN_KEYS, {"job_id": job_id, "keys": _json(keys)})}


def count_tasks(db: Db, job_id: str, phase: int, run: int) -> dict[str, int]:
    key = {"job_id": job_id, "phase": phase, "run": run}
    with db.snapshot():
        found = job(db, job_id)
        stored: dict[str, int] = dict(db.rows(_COUNT_TASKS, key))
        ((earlier,),) = db.rows(_COUNT_OF_EARLIER_RUNS, key)
    counted = {status.value: stored.get(status.value, 0) for status in TaskStatus}
    return counted if found is None or found.phase != phase else _counted_as_they_stand(counted, earlier, found, run)


def _counted_as_they_stand(counted: dict[str, int], earlier: int, found: Job, run: int) -> dict[str, int]:
    """In the phase that the job is in, what waits counts in its present run, wherever it is stored."""
    if run != found.run:
        return counted | {TaskStatus.PENDING.value: 0, TaskStatus.FAILED.value: 0}
    waits = counted[TaskStatus.PENDING.value] + earlier
    if found.state not in TERMINAL_JOBS:
        return counted | {TaskStatus.PENDING.value: waits}
    return counted | {TaskStatus.PENDING.value: 0, TaskStatus.FAILED.value: counted[TaskStatus.FAILED.value] + waits}


def list_jobs(
    db: Db, state: str | None, status: str | None, limit: int, cursor: str | None
) -> tuple[list[Job], str | None]:
    """Newest first. `status` is what callers see: DONE, ERROR, or the name of the current phase."""
    sql, values = _jobs_by(state, status)
    return _page_of_jobs(db, sql, values, limit, cursor)


def reading(db: Db, limit: int, cursor: str | None) -> tuple[list[Job], str | None]:
    """Those that read a prefix, newest first."""
    return _page_of_jobs(db, _LIST_READING, {}, limit, cursor)


def _page_of_jobs(
    db: Db, sql: Sql, values: dict[str, Any], limit: int, cursor: str | None
) -> tuple[list[Job], str | None]:
    before, before_id = key_of(cursor, (int, str)) if cursor else (NEVER, "")
    rows = db.rows(sql, {**values, "before": before, "before_id": before_id, "most": limit + 1})
    found = [JOBS.struct_of(row) for row in rows[:limit]]
    more = len(rows) > limit
    return found, cursor_of(found[-1].created_at, found[-1].id) if more and found else None


def _jobs_by(state: str | None, status: str | None) -> tuple[Sql, dict[str, Any]]:
    if state is not None:
        return _LIST_STATE, {"state": state}
    if status is None:
        return _LIST_JOBS, {}
    if status == "DONE":
        return _LIST_STATE, {"state": JobState.DONE.value}
    if status == "ERROR":
        return _LIST_ERROR, {}
    return _LIST_PHASE, {"status": status}


def list_tasks(
    db: Db, job_id: str, status: str | None, limit: int, cursor: str | None
) -> tuple[list[Task], str | None]:
    """By phase and number; those of one status in the order in which they are (or were) to be taken."""
    if status is not None:
        return _list_status(db, job_id, TaskStatus(status), limit, cursor)
    phase, n = key_of(cursor, (int, int)) if cursor else (FIRST, FIRST)
    found = _tasks(db, job_id, _LIST_TASKS, {"phase": phase, "n": n, "most": limit + 1})
    if len(found) <= limit:
        return found, None
    return found[:limit], cursor_of(found[limit - 1].phase, found[limit - 1].n)


def _list_status(
    db: Db, job_id: str, status: TaskStatus, limit: int, cursor: str | None
) -> tuple[list[Task], str | None]:
    at: _Place = key_of(cursor, (int,) * 4) if cursor else (FIRST,) * 4
    with db.snapshot():
        found = job(db, job_id)
        where = spans(status, found) if found is not None else ()
        stored = [task for span in where for task in _of_span(db, job_id, span, at, limit + 1)]
    page = sorted(stored, key=_place)[:limit]
    return (
        [standing(task, found) for task in page if found is not None],
        cursor_of(*_place(page[-1])) if len(stored) > limit and page else None,
    )


def _of_span(db: Db, job_id: str, span: Span, at: _Place, most: int) -> list[Task]:
    after = max(at, (*span.first, FIRST, FIRST))
    place = dict(zip(("phase", "run", "not_before", "n"), after, strict=True))
    end = {"end_phase": span.end[0], "end_run": span.end[1]}
    values = {"job_id": job_id, "status": span.status.value, **place, **end, "most": most}
    return [TASKS.struct_of(row) for row in db.rows(_LIST_TASKS_STATUS, values)]


def _place(task: Task) -> _Place:
    """Where its stored row is in the order of a status."""
    return task.phase, task.run, task.not_before, task.n


OVERDUE: Final = (_ALARM_DUE, _DELIVERY_DUE, _ALARM_FAR, _DELIVERY_FAR)


def overdue(db: Db, now: int, limit: int, far: int) -> list[Job]:
    """Placed jobs whose alarm is due, then finished ones whose delivery is, then those whose alarm or delivery is later
    than `far`, the latest that there can be: it was set before the clock went back. Each once.
    """
    values = {"now": now, "far": far, "most": limit}
    rows = [row for question in OVERDUE for row in db.rows(question, values)]
    found = {row[0]: row for row in reversed(rows)}
    ordered = [found.pop(row[0]) for row in rows if row[0] in found]
    return [JOBS.struct_of(row) for row in ordered[:limit]]


def waiting(db: Db, limit: int, most_tasks: int) -> list[Job]:
    return [JOBS.struct_of(row) for row in db.rows(_WAITING, {"most": limit, "most_tasks": most_tasks})]


def stalled(db: Db, now: int, limit: int, far: int) -> list[Job]:
    return [JOBS.struct_of(row) for row in db.rows(_STALLED, {"now": now, "far": far, "most": limit})]


def expired(db: Db, before: int, limit: int) -> list[str]:
    return [job_id for (job_id,) in db.rows(_EXPIRED, {"before": before, "most": limit})]


def some_machines(db: Db, alive: bool) -> list[Machine]:
    return [MACHINES.struct_of(row) for row in db.rows(_MACHINES_ALIVE if alive else _MACHINES, {})]


def _json(value: list[str]) -> str:
    """Without those that nothing is called by: JSON says the character NUL, and no text of Postgres can have it."""
    return msgspec.json.encode([text for text in value if "\0" not in text]).decode()


QUESTIONS: Final[dict[str, Callable[..., Any]]] = {
    question.__name__: question
    for question in (
        singleton_epoch, job, costs_of, open_jobs, open_archive, busy_machines, work_on, held, some_tasks, pending,
        some_files, taken_keys, list_jobs, reading, list_tasks, count_tasks, overdue, waiting, stalled, expired,
        some_machines,
    )
}  # fmt: skip
