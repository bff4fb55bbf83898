"""The store on a real SQLite file and a real Postgres: what is acknowledged is there, and nothing else is."""

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from actors.errors import Conflict, Fenced, InvalidInput, NotFound, Unavailable
from actors.rules.costs import Charge
from actors.rules.model import Job, Machine, PhaseCount, Task
from actors.rules.states import Delivery, JobState, MachineState, TaskStatus
from actors.store import Commit, Store, batches, catalog, catalog_reads, reads, tables
from actors.store.engine import FileDb, make_engine, open_file
from actors.store.file_reads import FileReads
from actors.store.postgres_reads import PostgresReads
from actors.store.postgres_writer import PostgresWriter
from actors.store.schema import migrate
from actors.store.served import Served
from actors.store.statements import Sql, is_duplicate
from actors.store.writer import LocalWriter, Writer
from worker.contract import FileRef

ID = "01KAHTV88C21B76TF9DCV3AEPP"
change = msgspec.structs.replace


class World:
    """A store without a row, and what is beneath it."""

    store: Store

    async def put(self, requests: list[dict[str, Any]]) -> list[Any]:
        """Have the writer carry out a list."""
        raise NotImplementedError

    def count(self, table: str, job_id: str) -> int:
        """How many rows of a job there are."""
        raise NotImplementedError

    async def close(self) -> None:
        await self.store.close()

    async def running(self, count: int = 10, job_id: str = ID) -> Job:
        """A job with its files and tasks, activated once."""
        await self.store.create(a_job(job_id))
        await self.store.add_files(job_id, 1, 0, [a_file(n) for n in range(count)], None, 1)
        await self.store.plan(job_id, 1, 0, [a_task(n, job_id) for n in range(count)])
        await self.store.queue(a_job(job_id, state=JobState.QUEUED, tasks_total=count, files_total=count, queued_at=5))
        job, _ = await self.store.activate(job_id)
        return job


class FileWorld(World):
    """A writer and a store on one new file."""

    def __init__(self, path: Path, *, inline: bool, reads_file: bool = True) -> None:
        self.path = path
        self.writer = Writer(path, inline=inline)
        self.served = Served(self.writer, FileReads(path, inline=inline))
        write = LocalWriter(self.writer) if reads_file else Owner(self.served)
        self.store = Store(write, path if reads_file else None, inline=inline)

    async def put(self, requests: list[dict[str, Any]]) -> list[Any]:
        return await self.writer.put(requests)

    def count(self, table: str, job_id: str) -> int:
        cursor = self.writer._db._connection.cursor()
        return int(cursor.execute(f"SELECT count(*) FROM {table} WHERE job_id = ?", (job_id,)).fetchone()[0])

    async def close(self) -> None:
        await super().close()
        await self.served.close()


class PostgresWorld(World):
    """A database of its own on a server."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.writer = PostgresWriter(url)
        self.store = Store(self.writer, reads=PostgresReads(url))

    async def put(self, requests: list[dict[str, Any]]) -> list[Any]:
        return await self.writer.put(requests)

    def count(self, table: str, job_id: str) -> int:
        with psycopg.connect(self.url) as connection:
            found = connection.execute(f"SELECT count(*) FROM {table} WHERE job_id = %s", (job_id,))  # type: ignore[call-overload]
            return int(found.fetchone()[0])

    async def close(self) -> None:
        await super().close()
        self.writer.close()


class Owner:
    """The process that owns the file, without a socket: requests and answers are what can cross one."""

    def __init__(self, served: Served) -> None:
        self._served = served

    async def call(self, request: dict[str, Any]) -> Any:
        (answer,) = await self._served.handle([msgspec.msgpack.decode(msgspec.msgpack.encode(request))])
        if isinstance(answer, Exception):
            raise answer
        return answer


def a_job(job_id: str = ID, **fields: Any) -> Job:
    return Job(id=job_id, **{"created_at": 1, "body_digest": "d", "message": {"x": 1}, **fields})


def a_file(n: int) -> FileRef:
    return FileRef(r2_key=f"s/{n}.tif", logical_path=f"/{n}.tif", file_name=f"{n}.tif")


def a_task(n: int, job_id: str = ID, **fields: Any) -> Task:
    return Task(
        job_id=job_id, phase=0, n=n, task_id=f"{job_id}_tiff_{n}", input_r2_key=f"s/{n}.tif",
        output_r2_key=f"s/{n}.jpg", **fields,
    )  # fmt: skip


FILES = {"threads": (False, True), "inline": (True, True), "by the owner": (False, False)}
"""Ways of running: threads as in the service, inline as in the simulation, and reading by way of the owner."""


def on_file(tmp_path: Path, way: str) -> FileWorld:
    inline, reads_file = FILES[way]
    return FileWorld(tmp_path / "data" / "arke.db", inline=inline, reads_file=reads_file)


@pytest.fixture(params=[*FILES, "postgres"])
async def world(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """On both engines."""
    is_file = request.param in FILES
    made = on_file(tmp_path, request.param) if is_file else PostgresWorld(request.getfixturevalue("new_database")())
    yield made
    await made.close()


@pytest.fixture(params=FILES)
async def file_world(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[FileWorld]:
    """On SQLite, for what only that has."""
    made = on_file(tmp_path, request.param)
    yield made
    await made.close()


# -- the schema ------------------------------------------------------------------------------------


def schema(db: FileDb) -> list[tuple[Any, ...]]:
    cursor = db._connection.cursor()
    cursor.execute("SELECT type, name, tbl_name FROM sqlite_master WHERE name NOT LIKE 'alembic%' "
                   "AND name NOT LIKE 'sqlite_autoindex_alembic%' ORDER BY name")  # fmt: skip
    rows = list(cursor.fetchall())
    for _, name, _ in list(rows):
        cursor.execute(f"SELECT * FROM pragma_table_xinfo('{name}')")
        rows += cursor.fetchall()
        cursor.execute(f"SELECT * FROM pragma_index_xinfo('{name}')")
        rows += cursor.fetchall()
    return rows


def test_a_migrated_file_equals_a_new_one(tmp_path: Path) -> None:
    """The migrations lead to exactly the tables that the code declares, and running them again changes nothing."""
    migrated = make_engine(tmp_path / "migrated.db")
    migrate(migrated)
    migrate(migrated)
    with migrated.begin() as connection:
        assert compare_metadata(MigrationContext.configure(connection), tables.metadata) == []
    declared = make_engine(tmp_path / "declared.db")
    tables.metadata.create_all(declared)
    dbs = [FileDb(migrated), FileDb(declared)]
    assert schema(dbs[0]) == schema(dbs[1])
    for db in dbs:
        db.close()


@pytest.mark.parametrize("codec", [tables.JOBS, tables.TASKS, tables.MACHINES], ids=["jobs", "tasks", "machines"])
def test_columns_are_the_fields(codec: tables.Codec[Any]) -> None:
    """Each field of a struct has its column, and there is no other but the store's own."""
    assert codec.columns == [
        column.name for column in codec.select[0].table.c if column.name not in tables.OF_THE_STORE
    ]


async def test_every_field_survives(world: World) -> None:
    """A row with every field set comes back as it was written."""
    job = a_job(
        state=JobState.DONE, phases=("A", "B"), phase=1, history=(PhaseCount("A", 1, 3, 2, 1),), error="é\n", code="c",
        delivery=Delivery.REFUSED, message={"n": [1, {"k": None}], "é": True}, completed_at=9, owner="o", files_total=3,
    )  # fmt: skip
    assert await world.store.create(job) == (job, True)
    assert await world.store.job(ID) == job
    task = a_task(
        0, status=TaskStatus.COMPLETED, performance={"ms": 1.5}, notes=("a", "b"), cpu_ms=3, pages=2, machine="m-1"
    )
    await world.store.create(a_job("other"))
    await world.store.plan("other", 1, 0, [change(task, job_id="other")])
    assert await world.store.tasks("other", [task.task_id, "no"]) == [change(task, job_id="other")]


# -- invariant 1: acknowledged is on disk -----------------------------------------------------------

CHILD = """
import asyncio, os, signal, sys
from pathlib import Path
import msgspec
from actors.rules.model import Job, Task
from actors.rules.states import TaskStatus
from actors.store import Commit, Store
from actors.store.writer import LocalWriter, Writer

async def main() -> None:
    path = Path(sys.argv[1])
    store = Store(LocalWriter(Writer(path)), path)
    await store.create(Job(id="j", created_at=1))
    tasks = [Task(job_id="j", phase=0, n=n, task_id=f"t{n}", input_r2_key="i", output_r2_key="o") for n in range(50)]
    await store.plan("j", 1, 0, tasks)
    job, _ = await store.activate("j")
    done = [msgspec.structs.replace(task, status=TaskStatus.COMPLETED) for task in tasks]
    await store.commit(Commit(msgspec.structs.replace(job, seq=1, tasks_completed=50), done))
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    """Invariant 1: a process that kills itself right after the answer leaves every row of it on disk."""
    path = tmp_path / "arke.db"
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHILD), str(path)],
        check=False, env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    assert child.returncode == -signal.SIGKILL
    Writer(path, inline=True).close()
    db = open_file(path, read_only=True)
    job = reads.job(db, "j")
    assert job is not None
    assert (job.seq, job.tasks_completed) == (1, 50)
    assert reads.count_tasks(db, "j", 0, 1)["completed"] == 50
    db.close()


def test_commits_reach_the_disk_before_their_answer(tmp_path: Path) -> None:
    """Invariant 1: the file is in WAL mode with synchronous=FULL, which is what makes COMMIT durable."""
    writer = Writer(tmp_path / "arke.db", inline=True)
    cursor = writer._db._connection.cursor()
    assert cursor.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert cursor.execute("PRAGMA synchronous").fetchone() == (2,)
    writer.close()


# -- invariant 2: one writer ------------------------------------------------------------------------


async def test_a_fenced_commit_writes_nothing(world: World) -> None:
    """Invariant 2: after another activation a commit of the former one changes neither job nor task."""
    job = await world.running()
    former, _ = await world.store.activate(ID)
    assert former.epoch == job.epoch + 1
    with pytest.raises(Fenced):
        await world.store.commit(Commit(change(job, seq=1, tasks_failed=9), [a_task(0, status=TaskStatus.FAILED)]))
    assert await world.store.job(ID) == former
    assert (await world.store.count_tasks(ID, 0, 1))["pending"] == 10


async def test_a_commit_can_be_sent_again(world: World) -> None:
    """The same commit twice is applied once and acknowledged twice."""
    job = await world.running()
    first = Commit(change(job, seq=1, tasks_in_flight=1), [a_task(0, status=TaskStatus.PROCESSING, attempt=1)])
    await world.store.commit(first)
    await world.store.commit(first)
    found = await world.store.job(ID)
    assert found is not None
    assert (found.seq, found.tasks_in_flight) == (1, 1)


@pytest.mark.parametrize("seq", [0, 1, 4], ids=["oldest", "older", "gap"])
async def test_a_commit_follows_on_the_last(world: World, seq: int) -> None:
    """A commit that is neither the next nor the last one again is refused, whatever its epoch."""
    job = await world.running()
    for n in (1, 2):
        await world.store.commit(Commit(change(job, seq=n)))
    with pytest.raises(Fenced):
        await world.store.commit(Commit(change(job, seq=seq, error="late")))
    found = await world.store.job(ID)
    assert found is not None
    assert found.error is None


async def test_queueing_fences_an_activation_that_saw_receiving(world: World) -> None:
    """An actor that was activated during intake cannot write its old row over the queued one."""
    await world.store.create(a_job())
    job, _ = await world.store.activate(ID)
    await world.store.queue(a_job(state=JobState.QUEUED, queued_at=3))
    with pytest.raises(Fenced):
        await world.store.commit(Commit(change(job, seq=1)))


async def test_activation_brings_what_is_in_flight(world: World) -> None:
    """Activation answers the tasks in flight of the current run and phase, and no others."""
    job = await world.running()
    flying = [change(a_task(n), status=TaskStatus.PROCESSING, attempt=1, machine="m-1") for n in (3, 4)]
    await world.store.commit(Commit(change(job, seq=1), flying))
    again, tasks = await world.store.activate(ID)
    assert (again.epoch, again.seq) == (job.epoch + 1, 0)
    assert sorted(tasks, key=lambda task: task.n) == flying
    with pytest.raises(NotFound):
        await world.store.activate("unknown")


async def test_singletons_are_fenced_too(world: World) -> None:
    """Invariant 2 for the fleet: a former activation writes no machine; the same commit twice is one."""
    first = await world.store.activate_singleton("fleet")
    machine = Machine(id="m-1", state=MachineState.SPAWNING)
    for _ in range(2):
        await world.store.commit_machines("fleet", first, 1, [machine])
    second = await world.store.activate_singleton("fleet")
    assert (first, second) == (1, 2)
    with pytest.raises(Fenced):
        await world.store.commit_machines("fleet", first, 2, [change(machine, state=MachineState.GONE)])
    await world.store.commit_machines("fleet", second, 1, [change(machine, state=MachineState.RUNNING)])
    assert await world.store.machines() == [change(machine, state=MachineState.RUNNING)]


async def test_a_job_is_charged_once_for_each_commit(world: World) -> None:
    """A commit that is sent again adds nothing; machines that run count up to now; nobody is charged for a job that is
    gone."""
    await world.running(1, "b")
    epoch = await world.store.activate_singleton("fleet")
    machine = Machine(id="m-1", state=MachineState.RUNNING, job_id="b", started_at=1, charged_at=1000, price=3_000_000)
    charges = [Charge(job_id="b", machines=1, spawns=2, machine_ms=500, nano_usd=7), Charge(job_id="x", spawns=1)]
    for _ in range(2):
        await world.store.commit_machines("fleet", epoch, 1, [machine], charges)
    known = Charge(job_id="b", machines=1, spawns=2, machine_ms=2500, nano_usd=6_000_007)
    assert await world.store.costs("b", now=3000) == known
    gone = change(machine, state=MachineState.GONE)
    await world.store.commit_machines("fleet", epoch, 2, [gone], [Charge(job_id="b", starts=1, machine_ms=2000)])
    total = Charge(job_id="b", machines=1, spawns=2, starts=1, machine_ms=2500, nano_usd=7)
    assert await world.store.costs("b", now=9000) == total
    assert await world.store.costs("x", now=9000) == Charge(job_id="x")


async def test_gone_machines(world: World) -> None:
    """Machines that are gone are listed on request only, and can be forgotten."""
    epoch = await world.store.activate_singleton("fleet")
    gone = Machine(id="m-1", state=MachineState.GONE, ended_at=5)
    await world.store.commit_machines("fleet", epoch, 1, [gone])
    assert await world.store.machines() == []
    assert await world.store.machines(alive=False) == [gone]
    assert await world.store.forget_machines(5) == 0
    assert await world.store.forget_machines(6) == 1


# -- groups -----------------------------------------------------------------------------------------


async def test_one_failing_request_leaves_the_others_applied(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Of a group, a fenced commit, an unknown operation and a broken request fail alone, each with its error."""
    job = await world.running()
    stale = Commit(change(job, epoch=job.epoch - 1, seq=1), [a_task(1, status=TaskStatus.FAILED)])
    good = Commit(change(job, seq=1), [a_task(0, status=TaskStatus.PROCESSING)])
    missing = Commit(change(job, seq=2), [a_task(999)])
    answers = await world.put([
        {"op": "commit", "commit": msgspec.msgpack.encode(stale)},
        {"op": "commit", "commit": msgspec.msgpack.encode(good)},
        {"op": "commit", "commit": msgspec.msgpack.encode(missing)},
        {"op": "no such"},
        {"op": "commit"},
        {"op": "create", "job": msgspec.msgpack.encode(a_job("other"))},
    ])  # fmt: skip
    assert [type(answer) for answer in answers] == [Fenced, type(None), NotFound, InvalidInput, KeyError, bytes]
    found = await world.store.job(ID)
    assert found is not None
    assert found.seq == 1
    assert await world.store.job("other") is not None
    assert (await world.store.count_tasks(ID, 0, 1))["processing"] == 1
    assert "operation_failed op=commit" in caplog.text


async def test_lists_that_gather_share_a_transaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a hundred callers ask for while the writer is busy is written in a few transactions, not a hundred."""
    writer = Writer(tmp_path / "arke.db")
    begun: list[str] = []
    control = FileDb.control

    def noted(self: FileDb, text: str) -> None:
        begun.append(text)
        control(self, text)

    monkeypatch.setattr(FileDb, "control", noted)
    side = LocalWriter(writer)
    create = [{"op": "create", "job": msgspec.msgpack.encode(a_job(f"j{n}"))} for n in range(100)]
    await asyncio.gather(*(side.call(request) for request in create))
    assert begun.count("COMMIT") <= 20
    writer.close()


async def test_a_full_disk_applies_nothing(file_world: FileWorld, caplog: pytest.LogCaptureFixture) -> None:
    """When the disk is full, every request of the group is Unavailable and none is applied; afterwards all work."""
    job = await file_world.running()
    cursor = file_world.writer._db._connection.cursor()
    (pages,) = cursor.execute("PRAGMA page_count").fetchone()
    cursor.execute(f"PRAGMA max_page_count={pages + 4}").fetchall()
    large = a_job("large", message={"x": "y" * 100_000})
    requests = [
        {"op": "commit", "commit": msgspec.msgpack.encode(Commit(change(job, seq=1)))},
        {"op": "create", "job": msgspec.msgpack.encode(large)},
        {"op": "create", "job": msgspec.msgpack.encode(a_job("small"))},
    ]
    answers = await file_world.writer.put(requests)
    assert [type(answer) for answer in answers] == [Unavailable] * 3
    assert await file_world.store.job(ID) == job
    assert await file_world.store.job("small") is None
    cursor.execute("PRAGMA max_page_count=1000000").fetchall()
    answers = await file_world.writer.put(requests)
    assert not [answer for answer in answers if isinstance(answer, Exception)]
    assert "group_not_written" in caplog.text


async def test_a_failing_commit_applies_nothing(
    file_world: FileWorld, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """When COMMIT itself fails (an I/O error), the group is Unavailable and nothing of it stays."""
    job = await file_world.running()
    control = FileDb.control

    def failing(self: FileDb, text: str) -> None:
        if text == "COMMIT":
            cursor = self._connection.cursor()
            cursor.execute("SELECT * FROM a_table_that_is_not_there")
        control(self, text)

    with monkeypatch.context() as patch:
        patch.setattr(FileDb, "control", failing)
        with pytest.raises(Unavailable) as refused:
            await file_world.store.commit(Commit(change(job, seq=1)))
    assert refused.value.retry_after_s == 1
    assert await file_world.store.job(ID) == job
    await file_world.store.commit(Commit(change(job, seq=1)))
    assert "group_not_written" in caplog.text


async def test_a_closed_writer_refuses(tmp_path: Path) -> None:
    """After close, what is asked is Unavailable, and closing again does nothing."""
    writer = Writer(tmp_path / "arke.db")
    writer.close()
    writer.close()
    with pytest.raises(Unavailable):
        await LocalWriter(writer).call({"op": "create"})


# -- intake -----------------------------------------------------------------------------------------


async def test_create_leaves_an_existing_job(world: World) -> None:
    """A second creation answers the first row, untouched."""
    assert await world.store.create(a_job()) == (a_job(), True)
    assert await world.store.create(a_job(owner="somebody else")) == (a_job(), False)


async def test_pages_of_files_count_once(world: World) -> None:
    """The same page twice, or an older one again, adds no file and does not move the cursor back."""
    await world.store.create(a_job())
    for first, cursor in ((0, "a"), (5, "b"), (0, "a")):
        await world.store.add_files(ID, 1, first, [a_file(n) for n in range(first, first + 5)], cursor, first + 7)
    found = await world.store.job(ID)
    assert found is not None
    assert (found.files_total, found.source_cursor, found.alarm_at) == (10, "b", 7)
    assert [n for n, _, _ in await world.store.files(ID, 0, -1, 100)] == list(range(10))


async def test_intake_ends(world: World) -> None:
    """No file is added after QUEUED, in another run, or to an unknown job."""
    await world.running()
    with pytest.raises(Conflict):
        await world.store.add_files(ID, 1, 50, [a_file(50)], None, 1)
    await world.store.create(a_job("other"))
    with pytest.raises(Conflict):
        await world.store.add_files("other", 2, 0, [a_file(0)], None, 1)
    with pytest.raises(NotFound):
        await world.store.add_files("unknown", 1, 0, [a_file(0)], None, 1)


async def test_queue_once(world: World) -> None:
    """Queueing may be repeated; it fails for a job that is no longer receiving, or unknown."""
    job = a_job(state=JobState.QUEUED, queued_at=4)
    await world.store.create(a_job())
    await world.store.queue(job)
    await world.store.queue(job)
    with pytest.raises(Conflict):
        await world.store.queue(change(job, queued_at=5))
    with pytest.raises(NotFound):
        await world.store.queue(change(job, id="unknown"))


async def test_plan_leaves_existing_tasks(world: World) -> None:
    """Tasks that exist stay as they are; two tasks never share an id; another run or phase is refused."""
    job = await world.running()
    await world.store.commit(Commit(change(job, seq=1), [a_task(0, status=TaskStatus.PROCESSING)]))
    await world.store.plan(ID, 1, 0, [a_task(n) for n in range(12)])
    assert await world.store.count_tasks(ID, 0, 1) == {"pending": 11, "processing": 1, "completed": 0, "failed": 0}
    with pytest.raises(Conflict):
        await world.store.plan(ID, 2, 0, [a_task(20)])
    with pytest.raises(ValueError, match="another phase"):
        await world.store.plan(ID, 1, 1, [a_task(20)])
    with pytest.raises(Exception, match=r"UNIQUE|unique") as refused:
        await world.store.plan(ID, 1, 0, [change(a_task(20), task_id=a_task(3).task_id)])
    assert is_duplicate(refused.value)


async def test_recreate_starts_over(world: World) -> None:
    """Over a cancelled job: next run, higher epoch, no old file or task; the former activation is fenced."""
    job = await world.running()
    with pytest.raises(Conflict):
        await world.store.recreate(a_job(created_at=7))
    cancelled = change(job, seq=1, state=JobState.CANCELLED, delivered_run=1)
    await world.store.commit(Commit(cancelled))
    new = await world.store.recreate(a_job(created_at=7, body_digest="new"))
    assert (new.run, new.delivered_run, new.state) == (2, 1, JobState.RECEIVING)
    assert new.epoch > job.epoch
    assert await world.store.job(ID) == new
    assert await world.store.files(ID, 0, -1, 10) == []
    assert await world.store.recreate(a_job(created_at=7, body_digest="new")) == new
    with pytest.raises(Fenced):
        await world.store.commit(Commit(change(cancelled, seq=2)))
    with pytest.raises(NotFound):
        await world.store.recreate(a_job("unknown"))


async def failed(world: World, count: int) -> Job:
    job = await world.running(count)
    await world.store.commit(Commit(change(job, seq=1, state=JobState.FAILED, tasks_failed=count)))
    return change(job, seq=1, state=JobState.FAILED)


async def rows_left(world: World) -> tuple[int, int]:
    return world.count("tasks", ID), world.count("files", ID)


async def test_recreate_deletes_in_slices(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """No transaction deletes more than a slice, so that other callers wait for one slice only; a crash between two
    loses nothing: the same body, or the reading of a prefix, goes on before the first file is added."""
    monkeypatch.setattr(batches, "REMOVED_AT_ONCE", 3)
    await failed(world, 10)
    again = {"op": "recreate", "job": msgspec.msgpack.encode(a_job(created_at=7)), "list_digest": None}
    await world.store._write.call(again)  # and its process dies
    assert await rows_left(world) == (7, 10)
    found = await world.store.job(ID)
    assert found is not None
    assert (found.run, found.state) == (2, JobState.RECEIVING)
    assert await world.store._write.call({"op": "clear", "job_id": ID, "run": 2}) is False
    assert await rows_left(world) == (4, 10)
    assert await world.store.recreate(a_job(created_at=8)) == found
    assert await rows_left(world) == (0, 0)
    await world.store.add_files(ID, 2, 0, [a_file(0)], None, 1)
    await world.store.clear(ID, 2)
    assert await world.store.recreate(a_job(created_at=9)) == change(found, files_total=1, alarm_at=1)
    assert await rows_left(world) == (0, 1)
    with pytest.raises(Conflict):
        await world.store.clear(ID, 1)


async def test_another_list_of_the_same_body_is_another_run(world: World) -> None:
    """An intake that died goes on with the same list; with another one, what was listed goes, and whoever still
    works on the former list is refused."""
    assert await world.store.create(a_job(), "one") == (a_job(), True)
    await world.store.add_files(ID, 1, 0, [a_file(0), a_file(1)], None, 1)
    assert (await world.store.recreate(a_job(created_at=2), "one")).files_total == 2
    other = await world.store.recreate(a_job(created_at=3), "two")
    assert (other.run, other.files_total, other.history) == (2, 0, ())
    assert await rows_left(world) == (0, 0)
    for late in (
        world.store.add_files(ID, 1, 1000, [a_file(2)], None, 1),
        world.store.plan(ID, 1, 0, [a_task(0)]),
        world.store.queue(a_job(state=JobState.QUEUED, queued_at=5)),
    ):
        with pytest.raises(Conflict):
            await late
    with pytest.raises(Conflict):
        await world.store.recreate(a_job(body_digest="another body"), "two")


async def test_taken_keys(world: World) -> None:
    """Keys of files and of outputs are taken, of this job only."""
    await world.running()
    assert await world.store.taken_keys(ID, ["s/1.tif", "s/2.jpg", "s/99.jpg"]) == {"s/1.tif", "s/2.jpg"}
    assert await world.store.taken_keys("other", ["s/1.tif"]) == set()
    assert await world.store.taken_keys(ID, ["s/1.tif", "nothing\0"]) == {"s/1.tif"}
    assert await world.store.tasks(ID, ["nothing\0"]) == []


# -- admission --------------------------------------------------------------------------------------


async def test_admission_is_atomic_and_bounded(world: World) -> None:
    """Of many jobs admitted at once at most max_active get an actor of their own; large ones wait, small ones share."""
    for n in range(20):
        await world.store.create(a_job(f"j{n:02}", state=JobState.QUEUED, tasks_total=1 if n % 2 else 100))
    places = await asyncio.gather(*(admit(world, f"j{n:02}") for n in range(20)))
    own = [place for place in places if place and place.startswith("batch:")]
    assert len(own) == 3
    assert all(place is None for n, place in enumerate(places) if n % 2 == 0 and place not in own)
    assert {place for place in places if place not in own} == {None, "batches:0", "batches:1"}


async def admit(world: World, job_id: str) -> str | None:
    return await world.store.admit(job_id, max_active=3, small_tasks=50, shared_hosts=2, now=77)


async def test_placement_is_set_once(world: World) -> None:
    """Asked again, the place is the same, whatever the slots; a commit does not change it; its alarm rings now."""
    await world.store.create(a_job(state=JobState.QUEUED, tasks_total=100))
    assert await admit(world, ID) == f"batch:{ID}"
    assert await world.store.admit(ID, max_active=0, small_tasks=0, shared_hosts=1, now=99) == f"batch:{ID}"
    job, _ = await world.store.activate(ID)
    assert job.alarm_at == 77
    await world.store.commit(Commit(change(job, seq=1, placement="elsewhere")))
    found = await world.store.job(ID)
    assert found is not None
    assert found.placement == f"batch:{ID}"
    with pytest.raises(NotFound):
        await admit(world, "unknown")


async def test_a_finished_job_frees_its_slot(world: World) -> None:
    """Only jobs that are not over count against max_active."""
    for n in range(4):
        await world.store.create(a_job(f"j{n}", state=JobState.QUEUED, tasks_total=100))
    assert [await admit(world, f"j{n}") is not None for n in range(4)] == [True, True, True, False]
    job, _ = await world.store.activate("j0")
    await world.store.commit(Commit(change(job, seq=1, state=JobState.DONE)))
    assert await admit(world, "j3") == "batch:j3"


# -- turns ------------------------------------------------------------------------------------------


async def test_pending_in_order(world: World) -> None:
    """Due tasks come by not_before, then number; where none is due, the next time is told."""
    job = await world.running(4)
    later = [a_task(n, not_before=at) for n, at in ((0, 30), (1, 20), (2, 20), (3, 40))]
    await world.store.commit(Commit(change(job, seq=1), later))
    tasks, at = await world.store.pending(ID, 0, 1, 30, 2)
    assert ([task.n for task in tasks], at) == ([1, 2], None)
    assert await world.store.pending(ID, 0, 1, 10, 2) == ([], 20)
    assert await world.store.pending(ID, 1, 1, 10, 2) == ([], None)


async def test_files_come_with_their_tasks(world: World) -> None:
    """A page of files carries each file's task of that phase, or None."""
    await world.store.create(a_job())
    await world.store.add_files(ID, 1, 0, [a_file(n) for n in range(3)], None, 1)
    await world.store.plan(ID, 1, 0, [a_task(1)])
    page = await world.store.files(ID, 0, 0, 10)
    assert page == [(1, a_file(1), a_task(1)), (2, a_file(2), None)]


async def test_remove_in_pages(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal job goes with all its rows, however many; one that is not over stays."""
    monkeypatch.setattr(batches, "REMOVED_AT_ONCE", 3)
    job = await world.running(10)
    await world.running(2, "other")
    with pytest.raises(Conflict):
        await world.store.remove(ID)
    await world.store.commit(Commit(change(job, seq=1, state=JobState.DONE)))
    await world.store.remove(ID)
    await world.store.remove(ID)
    assert await world.store.job(ID) is None
    assert await world.store.files(ID, 0, -1, 10) == []
    assert len(await world.store.files("other", 0, -1, 10)) == 2


async def test_what_is_being_removed_is_not_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first slice (and a crash) the job is gone for everybody but the duty that removes it: it cannot run
    again without its rows, also not by an activation that still knows it."""
    monkeypatch.setattr(batches, "REMOVED_AT_ONCE", 3)
    job = change(await failed(world, 10), completed_at=1)
    await world.store.commit(Commit(change(job, seq=2)))
    await world.store._write.call({"op": "remove", "job_id": ID})
    assert await rows_left(world) == (7, 10)
    assert await world.store.job(ID) is None
    assert await world.store.list_jobs() == ([], None)
    assert await world.store.list_tasks(ID) == ([], None)
    assert await world.store.expired(99, 10) == [ID]
    with pytest.raises(Fenced):
        await world.store.commit(Commit(change(job, seq=3, state=JobState.QUEUED, run=2)))
    for ask in (world.store.activate(ID), world.store.recreate(a_job(created_at=7)), admit(world, ID)):
        with pytest.raises(NotFound):
            await ask


async def test_an_id_that_is_being_removed_is_free_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who creates a job under it removes the rest first: no row of the former one is left in the new one."""
    monkeypatch.setattr(batches, "REMOVED_AT_ONCE", 3)
    await failed(world, 10)
    await world.store._write.call({"op": "remove", "job_id": ID})
    new = a_job(created_at=7)
    assert await world.store.create(new) == (new, True)
    assert await rows_left(world) == (0, 0)


@pytest.mark.parametrize("number", [2**70, -(2**70), 2**63, -2])
async def test_a_cursor_with_an_impossible_number_is_refused(world: World, number: int) -> None:
    """No place in a list has it, and SQLite could not compare with it."""
    for key, ask in (
        ((number, "a"), lambda cursor: world.store.list_jobs(cursor=cursor)),
        ((number, 1), lambda cursor: world.store.list_tasks(ID, cursor=cursor)),
        ((0, 1, 0, number), lambda cursor: world.store.list_tasks(ID, status="failed", cursor=cursor)),
    ):
        cursor = base64.urlsafe_b64encode(json.dumps(key).encode()).decode().rstrip("=")
        with pytest.raises(InvalidInput) as raised:
            await ask(cursor)
        assert raised.value.field == "cursor"


# -- lists and duties --------------------------------------------------------------------------------


async def test_list_jobs_pages(world: World) -> None:
    """Newest first, each once, over pages, also where times are equal; filters by state and by status."""
    states = [JobState.RUNNING, JobState.DONE, JobState.FAILED, JobState.CANCELLED]
    for n in range(8):
        await world.store.create(a_job(f"j{n}", state=states[n % 4], created_at=n // 3))
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page, cursor = await world.store.list_jobs(limit=3, cursor=cursor)
        seen += [job.id for job in page]
        if cursor is None:
            break
    assert seen == [f"j{n}" for n in reversed(range(8))]
    cases: list[tuple[dict[str, Any], list[str]]] = [
        ({"state": "running"}, ["j4", "j0"]),
        ({"status": "DONE"}, ["j5", "j1"]),
        ({"status": "ERROR"}, ["j7", "j6", "j3", "j2"]),
        ({"status": "TIFF_CONVERSION"}, ["j4", "j0"]),
        ({"status": "NO_PHASE"}, []),
    ]
    for filters, expected in cases:
        page, _ = await world.store.list_jobs(**filters)
        assert [job.id for job in page] == expected


@pytest.mark.parametrize("status", [None, "pending"])
async def test_list_tasks_pages(world: World, status: str | None) -> None:
    """Every task comes once, in order, over pages, with and without a filter."""
    await world.running(7)
    seen: list[int] = []
    cursor: str | None = None
    while True:
        page, cursor = await world.store.list_tasks(ID, status=status, limit=3, cursor=cursor)
        seen += [task.n for task in page]
        if cursor is None:
            break
    assert seen == list(range(7))
    assert await world.store.list_tasks(ID, status="failed") == ([], None)


@pytest.mark.parametrize("cursor", ["nonsense", "é", "WzFd", "!"])
async def test_a_wrong_cursor_is_named(world: World, cursor: str) -> None:
    """A cursor from elsewhere is an InvalidInput that names its field."""
    for page in (world.store.list_jobs(cursor=cursor), world.store.list_tasks(ID, cursor=cursor)):
        with pytest.raises(InvalidInput) as refused:
            await page
        assert refused.value.field == "cursor"


async def test_duties_find_theirs(world: World) -> None:
    """Each duty's question answers the jobs it is for, and no others."""
    put = world.store.create
    await put(a_job("stalled", alarm_at=5))
    await put(a_job("receiving", alarm_at=50))
    await put(a_job("waits", state=JobState.QUEUED, created_at=3, alarm_at=5))
    await put(a_job("waits first", state=JobState.QUEUED, created_at=2))
    await put(a_job("due", state=JobState.RUNNING, placement="batch:due", alarm_at=5))
    await put(a_job("not due", state=JobState.RUNNING, placement="batch:x", alarm_at=50))
    await put(a_job("deliver", state=JobState.DONE, delivery=Delivery.PENDING, delivery_at=4, completed_at=1))
    await put(a_job("deliver later", state=JobState.DONE, delivery=Delivery.PENDING, delivery_at=50, completed_at=1))
    await put(a_job("both", state=JobState.DONE, delivery=Delivery.PENDING, placement="b", alarm_at=4, completed_at=1))
    await put(a_job("old", state=JobState.DONE, completed_at=1))
    await put(a_job("young", state=JobState.DONE, completed_at=9))
    assert {job.id for job in await world.store.overdue(10, 10)} == {"due", "deliver", "both"}
    assert len(await world.store.overdue(10, 10)) == 3
    assert [job.id for job in await world.store.waiting(10)] == ["waits first", "waits"]
    assert [job.id for job in await world.store.stalled(10, 10)] == ["stalled"]
    assert await world.store.expired(5, 10) == ["old"]


async def test_open_jobs(world: World) -> None:
    """Of the jobs asked for, those that exist and are not over."""
    for state in JobState:
        await world.store.create(a_job(state.value, state=state))
    asked = [state.value for state in JobState if state is not JobState.QUEUED]
    assert await world.store.open_jobs([*asked, "unknown"]) == {"receiving", "running"}


async def test_what_a_machine_holds(world: World) -> None:
    """The tasks of one job that are in flight on one machine, not those that it is through with."""
    job = await world.running(5)
    await world.running(1, "other")
    flying = [a_task(n, status=TaskStatus.PROCESSING, attempt=1, machine="m-1" if n < 2 else "m-2") for n in range(3)]
    done = a_task(3, status=TaskStatus.COMPLETED, attempt=1, machine="m-1")
    await world.store.commit(Commit(change(job, seq=1), [*flying, done]))
    assert sorted(await world.store.held(ID, "m-1"), key=lambda task: task.n) == flying[:2]
    assert await world.store.held("other", "m-1") == []
    assert await world.store.busy_machines([ID, "other", "unknown"]) == {"m-1", "m-2"}
    assert await world.store.busy_machines(["other"]) == set()


async def test_what_machines_work_on_whoever_they_took_it_from(world: World) -> None:
    """Asked by machine, over all batches that run: each that has a task in flight on it, once; no other machine, and
    nothing of a batch that does not run.
    """
    for job_id, machines in ((ID, ("m-1", "m-1", "m-2")), ("second", ("m-1", "m-4")), ("over", ("m-1", "m-3"))):
        job = await world.running(3, job_id)
        flying = [
            a_task(n, job_id, status=TaskStatus.PROCESSING, attempt=1, machine=machine)
            for n, machine in enumerate(machines)
        ]
        state = JobState.CANCELLED if job_id == "over" else JobState.RUNNING
        done = a_task(2, job_id, status=TaskStatus.COMPLETED, attempt=1, machine="m-5")
        await world.store.commit(Commit(change(job, seq=1, state=state), [*flying, done][:3]))
    of = await world.store.work_on(["m-1", "m-2", "m-3", "m-5", "unknown"])
    assert {machine: sorted(jobs) for machine, jobs in of.items()} == {"m-1": sorted([ID, "second"]), "m-2": [ID]}
    assert await world.store.work_on([]) == {}


async def test_reading_before_the_file_exists(tmp_path: Path) -> None:
    """A reader that comes before the writer is Unavailable, creates no file, and works once there is one."""
    path = tmp_path / "arke.db"

    class Nothing:
        async def call(self, request: dict[str, Any]) -> Any:
            raise ConnectionError

    store = Store(Nothing(), path)
    with pytest.raises(Unavailable):
        await store.job(ID)
    assert not path.exists()
    writer = Writer(path)
    assert await store.job(ID) is None
    await store.close()
    writer.close()


def test_readers_cannot_write(tmp_path: Path) -> None:
    """The reading side opens the file read-only."""
    Writer(tmp_path / "arke.db", inline=True).close()
    db = open_file(tmp_path / "arke.db", read_only=True)
    with pytest.raises(Exception, match="readonly"):
        db.control("DELETE FROM jobs")
    db.close()


# -- cost -------------------------------------------------------------------------------------------


def plans(db: FileDb) -> Callable[[str, tuple[Any, ...]], str]:
    def plan(text: str, values: tuple[Any, ...]) -> str:
        cursor = db._connection.cursor()
        cursor.execute(f"EXPLAIN QUERY PLAN {text}", values)
        return " | ".join(row[3] for row in cursor.fetchall())

    return plan


def test_no_question_scans_or_sorts(tmp_path: Path) -> None:
    """Every page is found by an index and comes in its order: it costs the same at the end as at the start."""
    Writer(tmp_path / "arke.db", inline=True).close()
    db = open_file(tmp_path / "arke.db", read_only=True)
    plan = plans(db)
    sorts_few = {"_ALARM_FAR", "_DELIVERY_DUE", "_MACHINES_ALIVE", "_LIST_ERROR", "_LIST_PHASE", "_STALLED"}
    for owner in (reads, batches, catalog_reads, catalog):
        for name, sql in vars(owner).items():
            if not isinstance(sql, Sql) or sql.text.startswith("INSERT") or name == "_MACHINES":
                continue
            found = plan(sql.text, tuple(sql.literals.get(parameter, 1) for parameter in sql.names))
            scans = [step for step in found.split(" | ") if step.startswith("SCAN") and "VIRTUAL TABLE" not in step]
            assert all("USING" in step for step in scans), (name, found)
            if name not in sorts_few:
                assert "TEMP B-TREE FOR ORDER BY" not in found, (name, found)
    db.close()


async def test_a_list_of_reads_and_writes_is_answered_in_its_order(file_world: FileWorld) -> None:
    """Reads and writes of one list each get their own answer; a read that fails costs the others nothing."""
    await file_world.running(2)
    job = {"op": "read", "question": "job", "arguments": [ID]}
    wrong = {"op": "read", "question": "list_jobs", "arguments": [None, None, 5, "not a cursor"]}
    first, ping, refused, last = await file_world.served.handle([job, {"op": "ping"}, wrong, job])
    assert first == last
    assert msgspec.msgpack.decode(first, type=Job).id == ID
    assert not isinstance(ping, Exception)
    assert isinstance(refused, InvalidInput)


def test_the_process_of_a_batch_imports_no_sql() -> None:
    """What each batch's process imports decides how soon it can spawn: no SQLAlchemy, no HTTP client."""
    script = "import sys, actors.ray_actors; print([n for n in ('sqlalchemy', 'alembic', 'httpx') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
