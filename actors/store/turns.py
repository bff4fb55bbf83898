"""The commits of a group as one statement, where the store is Postgres: one way to the server and back, not four.

It is a transaction of its own, and it writes only if every job and every task is as its commit expects; else nothing is
written, and the group is carried out as others are, which finds out what each of its commits ends with.
"""

from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any, Final, Generic, TypeVar

import msgspec
from sqlalchemy import JSON, Integer, Select, Table, bindparam, case, cast, column, func, literal, select, update
from sqlalchemy.sql.selectable import TableValuedAlias

from actors.store.batches import TASK_COLUMNS, TURN_COLUMNS
from actors.store.commit import Commit
from actors.store.postgres import DriverError, PostgresDb
from actors.store.statements import Row, for_postgres
from actors.store.tables import JOBS, TASKS, Codec, jobs, tasks

COMMIT: Final = "commit"
_OF_JOB: Final = ("id", *TURN_COLUMNS)
_KEY_OF_TASK: Final = ("job_id", "phase", "n")
_OF_TASK: Final = (*_KEY_OF_TASK, *TASK_COLUMNS)
_NOT_AS_EXPECTED: Final = "22012"  # the division by zero

_NUL: Final = r"\u0000"  # which no text of Postgres can hold; or these letters behind a backslash

S = TypeVar("S", bound=msgspec.Struct)

_decode: Final = msgspec.msgpack.Decoder(Commit).decode
_to_json: Final = msgspec.json.Encoder().encode


def _given(parameter: str, table: Table, names: Sequence[str]) -> TableValuedAlias:
    """Rows that are given as one JSON text: an array of objects."""
    rows = func.json_to_recordset(cast(bindparam(parameter), JSON))
    columns = [column(name, table.c[name].type) for name in names]
    return rows.table_valued(*columns).render_derived(name=parameter, with_types=True)


def _statement() -> Select[tuple[int]]:
    job_rows = _given("job_rows", jobs, _OF_JOB)
    task_rows = _given("task_rows", tasks, _OF_TASK)
    turned = (
        update(jobs)
        .where(jobs.c.id == job_rows.c.id, jobs.c.epoch == job_rows.c.epoch, jobs.c.seq == job_rows.c.seq - 1)
        .values({name: job_rows.c[name] for name in TURN_COLUMNS})
        .returning(jobs.c.id)
        .cte("turned")
    )
    done = (
        update(tasks)
        .where(*(tasks.c[name] == task_rows.c[name] for name in _KEY_OF_TASK))
        .values({name: task_rows.c[name] for name in TASK_COLUMNS})
        .returning(tasks.c.n)
        .cte("done")
    )
    # Asked in this order: whose job is not as expected waits for no task.
    divisor = case(
        (select(func.count()).select_from(turned).scalar_subquery() != bindparam("jobs", type_=Integer), 0),
        (select(func.count()).select_from(done).scalar_subquery() != bindparam("tasks", type_=Integer), 0),
        else_=1,
    )
    return select(literal(1) // divisor)


STATEMENT: Final = for_postgres(_statement())


class _Given(Generic[S]):
    """Structs as the rows of a statement: a JSON text of an array of objects, without the columns that it leaves."""

    def __init__(self, codec: Codec[S], names: Sequence[str]) -> None:
        self._codec, self._names = codec, names
        self._pick: Callable[[Row], Row] = itemgetter(*(codec.columns.index(name) for name in names))

    def text(self, values: Iterable[S]) -> str:
        """The JSON of them."""
        rows = [dict(zip(self._names, self._pick(self._codec.row(value)), strict=True)) for value in values]
        return _to_json(rows).decode()


_JOBS: Final = _Given(JOBS, _OF_JOB)
_TASKS: Final = _Given(TASKS, _OF_TASK)


def are_turns(requests: Sequence[dict[str, Any]]) -> bool:
    """Whether all of a group are commits."""
    return all(request.get("op") == COMMIT for request in requests)


def write(db: PostgresDb, requests: Sequence[dict[str, Any]]) -> bool:
    """Write all of them, as a transaction of its own. Answers False where nothing was written, since they need another
    way. Raises DriverError: then it is not known whether they were written."""
    commits = [_decode(request["commit"]) for request in requests]
    job_rows = _JOBS.text(commit.job for commit in commits)
    task_rows = _TASKS.text(task for commit in commits for task in commit.tasks)
    if any(commit.rerun for commit in commits) or _NUL in job_rows or _NUL in task_rows:
        return False
    counts = {"jobs": len(commits), "tasks": sum(len(commit.tasks) for commit in commits)}
    try:
        db.ask(STATEMENT, {"job_rows": job_rows, "task_rows": task_rows, **counts})
    except DriverError as error:
        if getattr(error, "sqlstate", "") == _NOT_AS_EXPECTED:
            return False
        raise
    return True
