"""Ends of runs and new runs on real files of SQLite and a real Postgres: a turn writes the row of the job, and readers
see all the rest."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.rules.model import Job, Task
from actors.rules.states import JobState, TaskStatus
from actors.store import Commit, Store
from actors.store.engine import FileDb
from actors.store.postgres import PostgresDb
from actors.store.postgres_reads import PostgresReads
from actors.store.postgres_writer import PostgresWriter
from actors.store.statements import Sql
from actors.store.writer import LocalWriter, Writer
from worker.contract import FileRef

ID = "b"
WHY = "Cancelled: enough"
change = msgspec.structs.replace


def a_task(n: int, **fields: Any) -> Task:
    return Task(
        job_id=ID, phase=0, n=n, task_id=f"t{n}", input_r2_key=f"s/{n}.tif", output_r2_key=f"s/{n}.jpg", **fields
    )


class World:
    """A job in a store, and the turns of its loop that concern all of its tasks."""

    def __init__(self, where: Path | str) -> None:
        self.writer: Writer | PostgresWriter
        if isinstance(where, Path):
            self.writer = Writer(where, inline=True)
            self.store = Store(LocalWriter(self.writer), where, inline=True)
        else:
            self.writer = PostgresWriter(where)
            self.store = Store(self.writer, reads=PostgresReads(where))
        self.job = Job(id=ID)

    async def start(self, count: int) -> None:
        refs = [FileRef(r2_key=f"s/{n}.tif", logical_path=f"/{n}.tif", file_name=f"{n}.tif") for n in range(count)]
        await self.store.create(self.job)
        await self.store.add_files(ID, 1, 0, refs, None, 1)
        await self.store.plan(ID, 1, 0, [a_task(n) for n in range(count)])
        self.job, _ = await self.store.activate(ID)
        await self.turn(state=JobState.RUNNING, tasks_total=count)

    async def turn(self, *tasks: Task, rerun: bool = False, **fields: Any) -> None:
        self.job = change(self.job, seq=self.job.seq + 1, **fields)
        await self.store.commit(Commit(self.job, list(tasks), rerun=rerun))

    async def cancel(self, *flying: Task) -> None:
        """As the rules do it: what flies fails by its row."""
        ended = [change(task, status=TaskStatus.FAILED, error=WHY, completed_at=50) for task in flying]
        await self.turn(*ended, state=JobState.CANCELLED, error=WHY, completed_at=50)

    async def retry(self) -> None:
        await self.turn(rerun=True, state=JobState.QUEUED, run=self.job.run + 1, error=None, completed_at=None)

    async def pages(self, status: str | None, limit: int = 3) -> list[Task]:
        seen: list[Task] = []
        cursor: str | None = None
        while True:
            page, cursor = await self.store.list_tasks(ID, status=status, limit=limit, cursor=cursor)
            seen += page
            if cursor is None:
                return seen

    async def close(self) -> None:
        await self.store.close()
        self.writer.close()


@pytest.fixture(params=["sqlite", "postgres"])
async def world(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    is_file = request.param == "sqlite"
    made = World(tmp_path / "arke.db" if is_file else request.getfixturevalue("new_database")())
    yield made
    await made.close()


async def test_after_a_cancel_no_reader_sees_a_pending_task(world: World) -> None:
    """Found by id, listed, counted, beside its file: what never began has failed with the reason of the batch."""
    await world.start(3)
    done = a_task(0, status=TaskStatus.COMPLETED, attempt=1)
    flying = a_task(1, status=TaskStatus.PROCESSING, attempt=1, tries=1, machine="m")
    await world.turn(done, flying)
    await world.cancel(flying)
    expected = a_task(2, status=TaskStatus.FAILED, error=WHY, completed_at=50)
    assert await world.store.tasks(ID, ["t2"]) == [expected]
    assert [task for _, _, task in await world.store.files(ID, 0, 1, 9)] == [expected]
    assert [task.n for task in await world.pages("failed")] == [1, 2]
    assert (await world.pages(None))[2] == expected
    assert await world.pages("pending") == []
    counted = await world.store.count_tasks(ID, 0, 1)
    assert counted == {"pending": 0, "processing": 0, "completed": 1, "failed": 2}


async def test_a_new_run_takes_up_exactly_what_failed_as_new(world: World) -> None:
    """Whatever failed or never began is pending in the new run without a trace of the old one; what is done stays."""
    await world.start(4)
    done = a_task(0, status=TaskStatus.COMPLETED, attempt=1)
    tried = a_task(1, attempt=4, tries=4, not_before=10**9, error="Out of memory", notes=("n",))
    flying = a_task(2, status=TaskStatus.PROCESSING, attempt=2, machine="m", performance={"x": 1})
    await world.turn(done, tried, flying)
    await world.cancel(flying)
    await world.retry()
    tasks, _ = await world.store.pending(ID, 0, 2, 100, 10)
    assert sorted(tasks, key=lambda task: task.n) == [a_task(n, run=2) for n in (1, 2, 3)]
    assert await world.store.tasks(ID, ["t2"]) == [a_task(2, run=2)]
    assert await world.pages("failed") == []
    assert {task.n for task in await world.pages("pending", limit=1)} == {1, 2, 3}
    assert (await world.store.count_tasks(ID, 0, 2))["pending"] == 3
    assert await world.store.count_tasks(ID, 0, 1) == {"pending": 0, "processing": 0, "completed": 1, "failed": 0}


async def test_what_was_begun_in_the_new_run_is_not_taken_twice(world: World) -> None:
    """Page after page of the new run: each task once, whether it stays in flight, fails or is given back."""
    await world.start(6)
    await world.cancel()
    await world.retry()
    seen: list[int] = []
    outcomes: list[dict[str, Any]] = [
        {"status": TaskStatus.PROCESSING},
        {"status": TaskStatus.FAILED, "error": "no"},
        {"not_before": 10**9},
    ]
    while page := (await world.store.pending(ID, 0, 2, 100, 2))[0]:
        for task in page:
            seen.append(task.n)
            await world.turn(change(task, attempt=1, **outcomes[task.n % 3]))
    assert sorted(seen) == list(range(6))
    assert await world.store.pending(ID, 0, 2, 100, 2) == ([], 10**9)
    counted = await world.store.count_tasks(ID, 0, 2)
    assert counted == {"pending": 2, "processing": 2, "completed": 0, "failed": 2}
    assert [task.n for task in await world.pages("failed")] == [1, 4]


async def test_tasks_of_the_next_phase_that_were_planned_before_a_cancel_are_taken_after_the_retry(
    world: World,
) -> None:
    """Planned in run 1, planned again (which changes nothing) in run 2: the phase has its tasks, not none for ever."""
    await world.start(1)
    planned = change(a_task(0), phase=1, task_id="next0", output_r2_key="s/0.png")
    await world.store.plan(ID, 1, 1, [planned])
    await world.cancel()
    assert [task.status for task in await world.store.tasks(ID, ["next0"])] == [TaskStatus.FAILED]
    await world.retry()
    await world.store.plan(ID, 2, 1, [change(planned, run=2)])
    await world.turn(state=JobState.RUNNING, phase=1)
    tasks, _ = await world.store.pending(ID, 1, 2, 100, 10)
    assert tasks == [change(planned, run=2)]


async def test_what_failed_in_a_later_phase_waits_for_that_phase(world: World) -> None:
    """A new run that begins in an earlier phase again shows it as failed until it gets there, then as pending."""
    await world.start(2)
    later = change(a_task(0), phase=1, task_id="next0", output_r2_key="s/0.png")
    await world.store.plan(ID, 1, 1, [later])
    failed = change(later, status=TaskStatus.FAILED, attempt=1, error="no")
    first = [a_task(n, status=TaskStatus.FAILED, attempt=1) for n in range(2)]
    await world.turn(*first, failed, state=JobState.DONE, phase=1)
    await world.turn(rerun=True, state=JobState.QUEUED, run=2, phase=0)
    assert await world.store.tasks(ID, ["next0"]) == [failed]
    assert await ids(world, "failed") == ["next0"]
    assert await ids(world, "pending") == ["t0", "t1"]
    again = [a_task(0, run=2, status=TaskStatus.COMPLETED), a_task(1, run=2, status=TaskStatus.FAILED, error="no")]
    await world.turn(*again, state=JobState.RUNNING)
    await world.turn(phase=1)
    assert await world.store.tasks(ID, ["next0"]) == [change(later, run=2)]
    assert await ids(world, "failed") == ["t1"]
    assert await ids(world, "pending") == ["next0"]
    assert (await world.store.pending(ID, 1, 2, 100, 10))[0] == [change(later, run=2)]
    assert (await world.store.count_tasks(ID, 1, 2))["pending"] == 1


async def ids(world: World, status: str) -> list[str]:
    return [task.task_id for task in await world.pages(status)]


@pytest.mark.parametrize("count", [10, 1000])
async def test_a_cancel_and_a_retry_write_as_much_whatever_waits(
    world: World, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other jobs' commits wait for one: it changes rows by what is in flight, never by the size of the batch."""
    await world.start(count)
    changed = 0

    def counting(kind: type[FileDb | PostgresDb]) -> None:
        run, run_many = kind.run, kind.run_many

        def noted(self: Any, sql: Sql, values: Any, how: Any) -> int:
            nonlocal changed
            changed += (rows := how(self, sql, values))
            return int(rows)

        monkeypatch.setattr(kind, "run", lambda self, sql, values: noted(self, sql, values, run))
        monkeypatch.setattr(kind, "run_many", lambda self, sql, rows: noted(self, sql, rows, run_many))

    ask = PostgresDb.ask

    def asked(self: PostgresDb, compiled: Any, values: Any) -> None:
        """The commits of a group as one statement, or nothing."""
        nonlocal changed
        ask(self, compiled, values)
        changed += values["jobs"] + values["tasks"]

    counting(FileDb)
    counting(PostgresDb)
    monkeypatch.setattr(PostgresDb, "ask", asked)
    await world.cancel()
    assert changed == 1
    await world.retry()
    assert changed <= 3


# -- against a model that writes every row ------------------------------------------------------------

STEPS = st.lists(
    st.tuples(st.sampled_from(["take", "complete", "fail", "give back", "cancel", "retry"]), st.integers(1, 4)),
    max_size=25,
)


class Eager:
    """The same turns, each task's row written at once."""

    def __init__(self, count: int) -> None:
        self.tasks = {n: a_task(n) for n in range(count)}

    def of(self, *statuses: TaskStatus) -> list[Task]:
        return [task for task in self.tasks.values() if task.status in statuses]

    def put(self, tasks: list[Task]) -> list[Task]:
        self.tasks.update({task.n: task for task in tasks})
        return tasks


async def step(world: World, eager: Eager, what: str, count: int) -> None:
    flying = eager.of(TaskStatus.PROCESSING)[:count]
    over = world.job.state is JobState.CANCELLED
    if what == "retry" and over:
        failed = eager.of(TaskStatus.FAILED)
        await world.retry()
        eager.put([a_task(task.n, run=world.job.run) for task in failed])
    elif what == "cancel" and not over:
        everything = eager.of(TaskStatus.PROCESSING)
        await world.cancel(*everything)
        open_ = eager.of(TaskStatus.PROCESSING, TaskStatus.PENDING)
        eager.put([change(task, status=TaskStatus.FAILED, error=WHY, completed_at=50) for task in open_])
    elif what == "take" and not over:
        page, _ = await world.store.pending(ID, 0, world.job.run, 100, count)
        assert all(eager.tasks[task.n] == task for task in page)
        assert len(page) == min(count, len(eager.of(TaskStatus.PENDING)))
        await world.turn(*eager.put([change(t, status=TaskStatus.PROCESSING, attempt=t.attempt + 1) for t in page]))
    elif what == "complete":
        await world.turn(*eager.put([change(task, status=TaskStatus.COMPLETED) for task in flying]))
    elif what == "fail":
        await world.turn(*eager.put([change(task, status=TaskStatus.FAILED, error="no") for task in flying]))
    elif what == "give back":
        await world.turn(*eager.put([change(task, status=TaskStatus.PENDING, not_before=9) for task in flying]))


async def check(world: World, eager: Eager) -> None:
    assert await world.pages(None) == list(eager.tasks.values())
    assert [task for _, _, task in await world.store.files(ID, 0, -1, 99)] == list(eager.tasks.values())
    for status in TaskStatus:
        listed = await world.pages(status.value)
        assert sorted(listed, key=lambda task: task.n) == eager.of(status), status
    counted = Counter(task.status.value for task in eager.tasks.values() if task.run == world.job.run)
    assert Counter(await world.store.count_tasks(ID, 0, world.job.run)) == counted


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_every_reader_agrees_with_a_store_that_writes_every_row(
    steps: list[tuple[str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Any order of takes, outcomes, cancels and retries: lists, pages, counts and pages of work are the same."""

    asyncio.run(agree(tmp_path_factory.mktemp("store") / "arke.db", steps))


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_every_reader_of_postgres_agrees_with_it_too(
    steps: list[tuple[str, int]], new_database: Callable[[], str]
) -> None:
    """The same, fewer of them."""
    asyncio.run(agree(new_database(), steps))


async def agree(where: Path | str, steps: list[tuple[str, int]]) -> None:
    world, eager = World(where), Eager(7)
    try:
        await world.start(7)
        for what, count in steps:
            await step(world, eager, what, count)
            await check(world, eager)
    finally:
        await world.close()
