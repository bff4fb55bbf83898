"""The commits that have gathered in a process are one statement of Postgres, where all is as they expect."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import psycopg
import pytest

from actors.errors import Fenced, NotFound
from actors.rules.model import Job, PhaseCount, Task
from actors.rules.states import TaskStatus
from actors.store import Commit, turns
from actors.store.postgres import PostgresDb
from tests.integration.test_store import PostgresWorld, a_task, change

COUNT = 3


@pytest.fixture
async def world(new_database: Callable[[], str]) -> AsyncIterator[PostgresWorld]:
    """One process's way to a database without a row."""
    made = PostgresWorld(new_database())
    yield made
    await made.close()


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of each group that was one statement, how many commits it had."""
    written: list[int] = []
    write = turns.write

    def counted(db: PostgresDb, requests: Any) -> bool:
        is_written = write(db, requests)
        if is_written:
            written.append(len(requests))
        return is_written

    monkeypatch.setattr(turns, "write", counted)
    return written


def request(job: Job, tasks: list[Task], *, rerun: bool = False) -> dict[str, Any]:
    return {"op": "commit", "commit": msgspec.msgpack.encode(Commit(job, tasks, rerun))}


def full(struct: Any, **fields: Any) -> Any:
    """With something else in each field that a turn may write."""
    texts, numbers = 'quote " back\\slash \\u0001 \N{SNOWMAN} line\nline', iter(range(1 << 40, 1 << 41))
    every: dict[str, Any] = {}
    for name in struct.__struct_fields__:
        value = getattr(struct, name)
        if value is None:
            every[name] = next(numbers) if name.endswith(("_at", "_since", "_ms", "_size", "pages")) else texts
    return change(struct, **{**every, **fields})


async def test_all_columns_of_several_jobs_and_tasks(world: PostgresWorld, statements: list[int]) -> None:
    """Each row is as its commit says, in one statement; files and tasks that are not named stay as they are."""
    jobs = [await world.running(COUNT, name) for name in ("a", "b")]
    performance = {"mark": "1", "list": [1, None, {"x": 2.5}]}
    written = []
    for job in jobs:
        history = (PhaseCount(name="TIFF_CONVERSION", run=1, tasks_total=COUNT, tasks_completed=1, tasks_failed=1),)
        kept = {
            "placement": None,
            "body_digest": job.body_digest,
            "source_cursor": None,
            "owner": None,
            "user_id": None,
        }
        turned = full(job, seq=1, history=history, throttled_ms=1 << 40, **kept)
        done = [
            full(
                a_task(n, job.id), status=TaskStatus.COMPLETED, performance=performance, notes=("x", "y"), memory_mb=512
            )
            for n in (2, 0)
        ]
        written.append((turned, done))
    assert await world.put([request(*one) for one in written]) == [None, None]
    assert statements == [2]
    for turned, done in written:
        assert await world.store.job(turned.id) == turned
        found = {task.n: task for task in (await world.store.list_tasks(turned.id))[0]}
        assert found == {1: a_task(1, turned.id), **{task.n: task for task in done}}


async def test_one_that_is_fenced_costs_no_other(world: PostgresWorld, statements: list[int]) -> None:
    """Nothing of the statement is written; one by one, each ends as it would alone."""
    jobs = [await world.running(COUNT, name) for name in ("a", "b", "c")]
    await world.store.activate("b")
    done = [change(a_task(1, job.id), status=TaskStatus.COMPLETED) for job in jobs]
    lost = change(a_task(9, "c"), status=TaskStatus.COMPLETED)
    answers = await world.put([
        request(change(jobs[0], seq=1), [done[0]]),
        request(change(jobs[1], seq=1), [done[1]]),
        request(change(jobs[2], seq=1), [done[2], lost]),
    ])  # fmt: skip
    assert [type(answer) for answer in answers] == [type(None), Fenced, NotFound]
    assert statements == []
    counts = [(await world.store.count_tasks(job.id, 0, 1)).get("completed", 0) for job in jobs]
    assert counts == [1, 0, 0]


async def test_what_one_statement_cannot_write(world: PostgresWorld, statements: list[int]) -> None:
    """A new run gives the place back, and a text with NUL is changed: both take the usual way."""
    job = await world.running(COUNT)
    await world.store.commit(Commit(change(job, seq=1, error="NUL \0 and \\u0000"), []))
    found = await world.store.job(job.id)
    assert found is not None
    assert found.error == "NUL \N{REPLACEMENT CHARACTER} and \\u0000"
    await world.store.commit(Commit(change(job, seq=2), [], rerun=True))
    assert statements == []
    await world.store.commit(Commit(change(job, seq=3), []))
    assert statements == [1]


async def test_it_looks_at_no_other_task(world: PostgresWorld) -> None:
    """However many tasks the job has, and whatever the planner thinks of that: each row is found by its whole key."""
    with psycopg.connect(world.url) as connection:
        connection.execute("ALTER TABLE tasks SET (autovacuum_enabled = false)")
    await world.running(2000)
    db = PostgresDb(world.url)
    values = {"job_rows": "[]", "task_rows": "[]", "jobs": 0, "tasks": 0}
    for mode in ("force_custom_plan", "force_generic_plan"):
        db.control(f"SET plan_cache_mode = {mode}")
        statement = turns.STATEMENT
        found = db._cursor.execute(f"EXPLAIN {statement.text}".encode(), statement.arguments(values)).fetchall()
        conditions = sorted(row[0].strip() for row in found if "Index Cond" in row[0] or "Seq Scan" in row[0])
        assert conditions == [
            "Index Cond: ((job_id = task_rows.job_id) AND (phase = task_rows.phase) AND (n = task_rows.n))",
            "Index Cond: (id = job_rows.id)",
        ]
    db.close()
