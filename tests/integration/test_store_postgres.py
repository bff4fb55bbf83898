"""What only a store in Postgres has to stand: many writers at once, locks, and a server that goes away."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from actors import assembly, ray_actors
from actors.errors import CANNOT_WRITE, CannotStart, Conflict, Fenced, InvalidInput, Unavailable
from actors.rules.costs import Charge
from actors.rules.model import Job
from actors.rules.states import JobState, TaskStatus
from actors.settings import Settings
from actors.store import Commit, batches, catalog, catalog_reads, fleet, postgres_writer, reads, schema, tables
from actors.store import postgres as driver
from actors.store.postgres import Fault, Pool, PostgresDb, fault_of, make_postgres_engine
from actors.store.postgres_reads import PostgresReads
from actors.store.postgres_writer import PostgresWriter
from actors.store.requests import carry_out
from actors.store.statements import Sql, lock_number
from orchestrator.cli import main as command_line
from tests.integration.test_store import ID, PostgresWorld, a_job, a_task, change
from tests.stand_ins import postgres as stand_in

WRITERS = 8
encode = msgspec.msgpack.encode


@pytest.fixture
async def world(new_database: Callable[[], str]) -> AsyncIterator[PostgresWorld]:
    """One process's way to a database without a row."""
    made = PostgresWorld(new_database())
    yield made
    await made.close()


@pytest.fixture
async def worlds(new_database: Callable[[], str]) -> AsyncIterator[list[PostgresWorld]]:
    """The ways of WRITERS processes to one database."""
    url = new_database()
    made = [PostgresWorld(url) for _ in range(WRITERS)]
    yield made
    for one in made:
        await one.close()


def commit(job: Job, **fields: Any) -> dict[str, Any]:
    return {"op": "commit", "commit": encode(Commit(change(job, **fields)))}


async def jobs_of(world: PostgresWorld, *job_ids: str) -> list[Job]:
    """Jobs that were activated once."""
    for job_id in job_ids:
        await world.store.create(a_job(job_id))
    return [(await world.store.activate(job_id))[0] for job_id in job_ids]


async def stored(world: PostgresWorld, job_id: str = ID) -> Job:
    found = await world.store.job(job_id)
    assert found is not None
    return found


async def begin(world: PostgresWorld, request: dict[str, Any]) -> Any:
    """A transaction of another process in which a request was carried out, and which is open."""
    db = await asyncio.to_thread(PostgresDb, world.url)
    db.control("BEGIN")
    await asyncio.to_thread(carry_out, db, request)
    return db


async def waits_for_a_lock(world: PostgresWorld) -> None:
    """Until some connection to the database does."""
    async with asyncio.timeout(20):
        while not await asyncio.to_thread(_waiting, world.url):  # noqa: ASYNC110  (of a database, no event)
            await asyncio.sleep(0.01)


def _waiting(url: str) -> bool:
    with psycopg.connect(url) as connection:
        question = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        return connection.execute(question).fetchone() != (0,)


# -- the schema ------------------------------------------------------------------------------------

SCHEMA = """
SELECT a.attrelid::regclass::text, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, c.collname
FROM pg_attribute a JOIN pg_class t ON t.oid = a.attrelid LEFT JOIN pg_collation c ON c.oid = a.attcollation
WHERE t.relnamespace = 'public'::regnamespace AND t.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
  AND t.relname <> 'alembic_version'
ORDER BY 1, 2
"""
INDEXES = "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'alembic_version' ORDER BY 1"


def test_nodes_that_start_together_migrate_once(postgres: stand_in.Postgres) -> None:
    """Five processes find an empty database at the same time: each ends well, and the schema is the one declared."""
    url = postgres.database()
    script = (
        "import sys; from actors.store.check import check; print('armed', flush=True); sys.stdin.readline(); "
        "check(sys.argv[1])"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", script, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(5)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "armed\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [(process.communicate(timeout=120), process.returncode)[1] for process in started] == [0] * 5
    engine = make_postgres_engine(url)
    assert schema.found(engine) == schema.wanted()
    with engine.begin() as connection:
        assert compare_metadata(MigrationContext.configure(connection), tables.metadata) == []
    declared = postgres.database()
    tables.metadata.create_all(make_postgres_engine(declared))
    seen = []
    for each in (url, declared):
        with psycopg.connect(each) as connection:
            seen.append([connection.execute(question).fetchall() for question in (SCHEMA, INDEXES)])
    assert seen[0] == seen[1]
    texts = {collation for _, _, kind, _, collation in seen[0][0] if kind == "text"}
    assert texts == {"C"}


def test_a_migration_waits_for_another(postgres: stand_in.Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one has the lock nothing is made; then it is. It waits longer than for an answer of other kinds."""
    monkeypatch.setattr(driver, "ANSWER_S", 0.1)
    url = postgres.database()
    with psycopg.connect(url) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (lock_number(schema.MIGRATION),))
        migrating = threading.Thread(target=schema.migrate, args=(make_postgres_engine(url),))
        migrating.start()
        while not _waiting(url):
            assert migrating.is_alive()
        assert schema.found(make_postgres_engine(url)) is None
        migrating.join(0.5)
        assert migrating.is_alive()
    migrating.join(60)
    assert schema.found(make_postgres_engine(url)) == schema.wanted()


def arke(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        command_line.main(arguments)
    shown = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, shown.out + shown.err


def test_the_commands_say_the_version(
    postgres: stand_in.Postgres, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is there, what is wanted, what to do; exit code 1 where it is not current; never the password."""
    url, wanted = postgres.database(), schema.wanted()
    monkeypatch.setenv("DATABASE_URL", url.replace("postgresql://", "postgresql+psycopg://"))
    told = [arke(capsys, "db", command) for command in ("check", "upgrade", "check", "upgrade")]
    assert [code for code, _ in told] == [1, 0, 0, 0]
    assert f"version none, wanted {wanted}" in told[0][1]
    assert "arke db upgrade" in told[0][1]
    assert f"from version none to {wanted}" in told[1][1]
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    told += [arke(capsys, "db", command) for command in ("check", "upgrade")]
    assert [code for code, _ in told[4:]] == [1, 1]
    assert "another version of this program" in told[4][1]
    monkeypatch.setenv("DATABASE_URL", url.replace("secret-word", "other-word"))
    code, refused = arke(capsys, "db", "check")
    assert code == 1
    assert "password authentication failed" in refused
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:other%zzword@h/d")
    told += [(code, refused), arke(capsys, "db", "check")]
    assert not [text for _, text in told if "-word" in text or "zzword" in text]


def test_the_commands_look_at_a_file_without_making_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On SQLite they say the same."""
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    assert arke(capsys, "db", "check")[0] == 1
    assert list(tmp_path.iterdir()) == []
    assert arke(capsys, "db", "upgrade")[0] == 0
    assert arke(capsys, "db", "check") == (0, f"{tmp_path}/arke.db: version 0009, wanted 0009.\n")


async def test_a_service_on_postgres(postgres: stand_in.Postgres, tmp_path: Path) -> None:
    """The start migrates, no process owns the store, and the parts go to the database; a server that is not there is
    told without its password."""
    settings = Settings.load({"DATABASE_URL": postgres.database()}, data_dir=tmp_path)
    assembly.check(settings)
    assert ray_actors.standing(settings) == ("fleet", "maintenance")
    opened = assembly.store(settings, patient=True)
    await opened.create(a_job())
    assert await opened.job(ID) == a_job()
    await opened.close()
    away = Settings.load({"DATABASE_URL": "postgresql://u:secret-word@127.0.0.1:1/d"}, data_dir=tmp_path)
    with pytest.raises(CannotStart, match="Connection refused") as refused:
        assembly.check(away)
    assert "secret-word" not in str(refused.value)
    assert ray_actors.standing(Settings.load({}, data_dir=tmp_path)) == ("store", "fleet", "maintenance")


# -- invariant 2: one writer, whoever else writes ----------------------------------------------------


async def test_activations_at_once_have_an_epoch_each(worlds: list[PostgresWorld]) -> None:
    """Of eight activations at the same time only the last may write, and all others are fenced."""
    await worlds[0].store.create(a_job())
    activated = await asyncio.gather(*(world.store.activate(ID) for world in worlds))
    jobs = [job for job, _ in activated]
    assert sorted(job.epoch for job in jobs) == list(range(1, WRITERS + 1))
    written = await asyncio.gather(
        *(world.store.commit(Commit(change(job, seq=1))) for world, job in zip(worlds, jobs, strict=True)),
        return_exceptions=True,
    )
    assert [type(answer) for answer, job in zip(written, jobs, strict=True) if job.epoch < WRITERS] == [Fenced] * 7
    assert written[[job.epoch for job in jobs].index(WRITERS)] is None
    assert sorted([await world.store.activate_singleton("fleet") for world in worlds]) == list(range(1, WRITERS + 1))


async def test_an_activation_waits_for_a_commit_that_is_being_written(world: PostgresWorld) -> None:
    """And then knows it: nothing that is acknowledged is missing in what the next activation begins with."""
    (job,) = await jobs_of(world, ID)
    db = await begin(world, commit(job, seq=1, tasks_failed=3))
    activating = asyncio.create_task(world.store.activate(ID))
    await waits_for_a_lock(world)
    db.commit()
    assert (await activating)[0].tasks_failed == 3
    db.close()


async def test_a_commit_waits_for_an_activation_and_is_fenced(world: PostgresWorld) -> None:
    """It had begun before the other activation was committed."""
    (job,) = await jobs_of(world, ID)
    db = await begin(world, {"op": "activate", "job_id": ID})
    committing = asyncio.create_task(world.store.commit(Commit(change(job, seq=1))))
    await waits_for_a_lock(world)
    db.commit()
    with pytest.raises(Fenced):
        await committing
    assert (await stored(world)).seq == 0
    db.close()


async def test_nothing_is_done_by_a_row_that_changes_meanwhile(world: PostgresWorld) -> None:
    """A retry is being written when the job is removed, and when its list is made anew: both see it and refuse."""
    job = (await jobs_of(world, ID))[0]
    job = change(job, seq=1, state=JobState.CANCELLED)
    await world.store.commit(Commit(job))
    for late in (world.store.remove(ID), world.store.recreate(a_job(created_at=7))):
        db = await begin(world, commit(job, seq=job.seq + 1, state=JobState.QUEUED))
        waiting = asyncio.ensure_future(late)
        await waits_for_a_lock(world)
        db.commit()
        db.close()
        with pytest.raises(Conflict):
            await waiting
        job = change(job, seq=job.seq + 2)
        await world.store.commit(Commit(job))
    assert (await stored(world)).run == 1


async def test_eight_writers_of_different_jobs(worlds: list[PostgresWorld]) -> None:
    """None waits for another one's rows, and each job has all its turns."""
    jobs = await jobs_of(worlds[0], *(f"j{n}" for n in range(WRITERS)))

    async def turns(world: PostgresWorld, job: Job) -> None:
        for seq in range(1, 21):
            await world.store.commit(Commit(change(job, seq=seq)))

    await asyncio.gather(*(turns(world, job) for world, job in zip(worlds, jobs, strict=True)))
    assert [(await stored(worlds[0], f"j{n}")).seq for n in range(WRITERS)] == [20] * WRITERS


async def test_eight_writers_of_one_job(worlds: list[PostgresWorld]) -> None:
    """They take it from each other as fast as they can: what is acknowledged, and only that, was counted."""
    await worlds[0].store.create(a_job())

    async def count(world: PostgresWorld) -> int:
        written = 0
        for _ in range(20):
            job, _ = await world.store.activate(ID)
            with suppress(Fenced):
                await world.store.commit(Commit(change(job, seq=1, tasks_completed=job.tasks_completed + 1)))
                written += 1
        return written

    written = await asyncio.gather(*(count(world) for world in worlds))
    found = await stored(worlds[0])
    assert (found.epoch, found.tasks_completed) == (20 * WRITERS, sum(written))


# -- bounds that hold for all together ---------------------------------------------------------------


async def test_admission_never_gives_more_slots_than_there_are(worlds: list[PostgresWorld]) -> None:
    """Eight connections admit at once; the count is right whoever comes first."""
    for n in range(5 * WRITERS):
        await worlds[0].store.create(a_job(f"j{n:02}", state=JobState.QUEUED, tasks_total=100))
    places = await asyncio.gather(
        *(
            world.store.admit(f"j{5 * n + m:02}", max_active=3, small_tasks=50, shared_hosts=2, now=7)
            for n, world in enumerate(worlds)
            for m in range(5)
        )
    )
    assert len([place for place in places if place is not None]) == 3


async def test_a_user_has_one_archive_at_a_time(worlds: list[PostgresWorld]) -> None:
    """Of eight that are asked for at once one is made, and of another user's one too."""
    asked = [("u", n) for n in range(WRITERS)] + [("v", 0)]
    made = await asyncio.gather(
        *(worlds[n].store.create(a_job(f"{user}{n}", kind="archive", user_id=user), alone=user) for user, n in asked),
        return_exceptions=True,
    )
    assert [isinstance(answer, Conflict) for answer in made].count(False) == 2
    assert not isinstance(made[-1], BaseException)


async def test_an_archive_waits_for_another_that_is_being_made(world: PostgresWorld) -> None:
    """The first is not committed when the second one looks: it is found all the same."""
    first, second = (a_job(job_id, kind="archive", user_id="u") for job_id in ("1", "2"))
    db = await begin(world, {"op": "create", "job": encode(first), "alone": "u"})
    making = asyncio.create_task(world.store.create(second, alone="u"))
    await waits_for_a_lock(world)
    db.commit()
    db.close()
    with pytest.raises(Conflict, match="The export 1 of this user"):
        await making


async def test_a_message_that_postgres_cannot_read_is_nobody_elses_fault(world: PostgresWorld) -> None:
    """JSON may say the character NUL; no text of Postgres can have it."""
    message = {"user_id": "u", "note": "a\0b"}
    await world.store.create(a_job(kind="archive", message=message))
    assert (await stored(world)).message == message
    _, is_new = await world.store.create(a_job("next", kind="archive", user_id="v"), alone="v")
    assert is_new


async def test_what_a_worker_says_is_kept_without_nul(world: PostgresWorld) -> None:
    """A text that cannot be kept must not be what a turn fails by, again and again."""
    job = await world.running(1)
    failed = a_task(0, status=TaskStatus.FAILED, error="a\0b", notes=("c\0",), pages=2**40)
    await world.store.commit(Commit(change(job, seq=1, error="d\0"), [failed]))
    assert (await stored(world)).error == "d\N{REPLACEMENT CHARACTER}"
    (task,) = await world.store.tasks(ID, [failed.task_id])
    assert (task.error, task.notes, task.pages) == ("a\N{REPLACEMENT CHARACTER}b", ("c\0",), 2**40)


# -- time-outs, deadlocks ----------------------------------------------------------------------------


async def test_a_row_that_is_held_for_long_is_one_requests_trouble(
    world: PostgresWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is Unavailable after the time-out; what was sent with it is written, and afterwards it is written too."""
    held, free = await jobs_of(world, "held", "free")
    monkeypatch.setattr(driver, "_SESSION", "SET lock_timeout = '200ms'")
    world.writer._pool.close()
    db = await begin(world, {"op": "activate", "job_id": "held"})
    requests = [commit(held, seq=1), {"op": "no such"}, commit(free, seq=1)]
    refused, unknown, written = await world.put(requests)
    assert isinstance(refused, Unavailable)
    assert isinstance(unknown, InvalidInput)
    assert written is None
    assert (await stored(world, "free")).seq == 1
    db.roll_back()
    db.close()
    assert await world.put([requests[0]]) == [None]


async def test_a_deadlock_ends_and_all_is_written(
    world: PostgresWorld, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody takes the same rows in the other order: Postgres ends one of the two, whose group is sent again."""
    one, two = await jobs_of(world, "1", "2")
    db = await begin(world, {"op": "activate", "job_id": "2"})
    tries: list[int] = []
    at_once = postgres_writer._at_once

    def counted(db: PostgresDb, requests: list[dict[str, Any]]) -> list[Any]:
        tries.append(len(requests))
        return at_once(db, requests)

    monkeypatch.setattr(postgres_writer, "_at_once", counted)
    writing = asyncio.create_task(world.put([commit(one, seq=1), {"op": "activate", "job_id": "2"}]))
    await waits_for_a_lock(world)
    await asyncio.to_thread(carry_out, db, commit(one, seq=1, tasks_failed=1))
    db.commit()
    db.close()
    fenced, activated = await writing
    assert fenced is None  # the other one wrote the same turn
    assert isinstance(activated, bytes)
    assert len(tries) > 1
    assert (await stored(world, "2")).epoch == two.epoch + 2


async def test_groups_take_their_rows_in_one_order(worlds: list[PostgresWorld]) -> None:
    """Eight writers with the same jobs in different orders do not wait for each other in a circle."""
    names = [f"j{n}" for n in range(6)]
    await jobs_of(worlds[0], *names)
    shuffled = [names[n % 6 :] + names[: n % 6] for n in range(WRITERS)]
    for _ in range(10):
        answers = await asyncio.gather(
            *(
                world.put([{"op": "activate", "job_id": name} for name in order])
                for world, order in zip(worlds, shuffled, strict=True)
            )
        )
        assert all(isinstance(answer, bytes) for each in answers for answer in each)
    with psycopg.connect(worlds[0].url) as connection:
        counted = connection.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        assert counted.fetchone() == (0,)


# -- a server that goes away -------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[stand_in.Postgres]:
    """One of this test's own."""
    with stand_in.serving() as running:
        schema.migrate(make_postgres_engine(running.url))
        yield running


async def test_no_acknowledged_turn_is_lost_or_counted_twice(server: stand_in.Postgres) -> None:
    """Invariants 1 and 2 through two restarts, one of them without an orderly end, in the middle of turns: each
    repeats what was not acknowledged, as the loops of jobs do, and every charge counts once."""
    world = PostgresWorld(server.url)
    names = [f"j{n}" for n in range(4)]
    await jobs_of(world, *names)
    enough = asyncio.Event()
    refused = 0

    async def patiently(operation: Callable[..., Any], *arguments: Any) -> None:
        nonlocal refused
        while True:
            try:
                return await operation(*arguments)
            except Unavailable:
                refused += 1
                await asyncio.sleep(0.02)

    async def turns(name: str) -> int:
        job, seq = (await world.store.activate(name))[0], 0
        epoch = await world.store.activate_singleton(name)
        while not enough.is_set():
            seq += 1
            turn, charge = Commit(change(job, seq=seq, tasks_completed=seq)), Charge(job_id=name, spawns=1)
            await patiently(world.store.commit, turn)
            await patiently(world.store.commit_machines, name, epoch, seq, [], [charge])
            assert (await stored_at_last(world, name)).seq == seq
        return seq

    running = [asyncio.create_task(turns(name)) for name in names]
    for at_once in (False, True):
        await asyncio.sleep(0.3)
        await asyncio.to_thread(server.stop, at_once=at_once)
        await asyncio.sleep(0.1)
        await asyncio.to_thread(server.start)
    await asyncio.sleep(0.3)
    enough.set()
    written = await asyncio.gather(*running)
    assert refused > 0
    for name, seq in zip(names, written, strict=True):
        found = await stored(world, name)
        assert (found.seq, found.tasks_completed) == (seq, seq)
        assert (await world.store.costs(name, 0)).spawns == seq
    await world.close()


async def stored_at_last(world: PostgresWorld, name: str) -> Job:
    while True:
        with suppress(Unavailable):
            return await stored(world, name)
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("is_written", [True, False], ids=["after it", "before it"])
@pytest.mark.parametrize("what", ["commit", "ask"])
async def test_a_connection_that_is_lost_under_commit(
    world: PostgresWorld, monkeypatch: pytest.MonkeyPatch, is_written: bool, what: str
) -> None:
    """The answer is lost, whether the commit was written or not: the group is sent again, and counts once."""
    (job,) = await jobs_of(world, ID)
    epoch = await world.store.activate_singleton("fleet")
    real, lost = getattr(PostgresDb, what), []

    def losing(self: PostgresDb, *arguments: Any) -> None:
        if lost:
            return real(self, *arguments)  # type: ignore[no-any-return]
        lost.append(self)
        if is_written:
            real(self, *arguments)
        self.close()
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(PostgresDb, what, losing)
    await world.store.commit(Commit(change(job, seq=1)))
    await world.store.commit_machines("fleet", epoch, 1, [], [Charge(job_id=ID, spawns=1)])
    assert (await world.store.costs(ID, 0)).spawns == 1
    assert (await stored(world)).seq == 1
    assert len(lost) == 1


async def test_while_the_server_is_away(server: stand_in.Postgres) -> None:
    """Writes and reads are Unavailable, with the sentence that keeps the supervisor from restarting the service for
    it; who is patient waits until the server is back."""
    world = PostgresWorld(server.url)
    await jobs_of(world, ID)
    patient = PostgresWriter(server.url, patience_s=30)
    patient_reads = PostgresReads(server.url, patience_s=30)
    await patient.call({"op": "ping"})
    server.stop()
    with pytest.raises(Unavailable) as refused:
        await world.store.ping()
    assert (refused.value.message, refused.value.retry_after_s) == (CANNOT_WRITE, 1)
    with pytest.raises(Unavailable):
        await world.store.job(ID)
    with pytest.raises(Unavailable):  # what asks whether all is well is told at once
        await patient.call({"op": "ping"})
    waiting = asyncio.gather(patient.call({"op": "activate", "job_id": ID}), patient_reads.ask("job", ID))
    await asyncio.to_thread(server.start)
    _, found = await waiting
    assert found.id == ID
    assert (await stored(world)).epoch == 2
    await patient_reads.close()
    patient.close()
    await world.close()


async def test_a_server_that_hangs(server: stand_in.Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps its connections and answers nothing: nobody waits for ever, and afterwards all goes on."""
    world = PostgresWorld(server.url)
    (job,) = await jobs_of(world, ID)
    monkeypatch.setattr(driver, "ANSWER_S", 0.5)
    monkeypatch.setattr(driver, "CONNECT_S", 2)
    server.hold(held=True)
    try:
        for ask in (world.store.commit(Commit(change(job, seq=1))), world.store.job(ID)):
            with pytest.raises(Unavailable):
                await ask
    finally:
        server.hold(held=False)
    await world.store.commit(Commit(change(job, seq=1)))
    assert (await stored(world)).seq == 1
    await world.close()


async def test_a_transaction_that_has_failed_is_not_acknowledged(world: PostgresWorld) -> None:
    """COMMIT of one is a rollback, of which Postgres makes no error."""
    db = PostgresDb(world.url)
    db.control("BEGIN")
    with suppress(psycopg.Error):
        db.control("SELECT * FROM nothing")
    with pytest.raises(psycopg.Error):
        db.commit()
    db.close()


async def test_a_commit_is_on_disk(world: PostgresWorld) -> None:
    """Invariant 1, also where the database says that commits need not wait."""
    with psycopg.connect(world.url, autocommit=True) as connection:
        for value in ("off", "remote_apply"):
            connection.execute(f"ALTER DATABASE {world.url.rpartition('/')[2]} SET synchronous_commit = {value}")  # type: ignore[call-overload]
            db = PostgresDb(world.url)
            found = db._cursor.execute("SHOW synchronous_commit").fetchone()
            assert found == ("on" if value == "off" else value,)
            db.close()


async def test_reads_cannot_write(world: PostgresWorld) -> None:
    """The database itself refuses it, in a snapshot and outside of one."""
    db = PostgresDb(world.url, read_only=True)
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        db.control("DELETE FROM jobs")
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), db.snapshot():
        db.control("DELETE FROM jobs")
    assert db.is_usable
    db.close()


async def test_a_snapshot_is_of_one_moment(world: PostgresWorld) -> None:
    """What is committed inside of it is not seen."""
    db = PostgresDb(world.url, read_only=True)
    with db.snapshot():
        assert reads.job(db, ID) is None
        await world.store.create(a_job())
        assert reads.job(db, ID) is None
    assert reads.job(db, ID) is not None
    db.close()


async def test_what_a_burst_needed_is_closed_after_it(world: PostgresWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has been busy once does not keep its connections from all others."""
    pool = Pool(world.url)
    with pool.leased() as first, pool.leased() as second:
        pass
    with pool.leased() as again:
        assert again is first
    monkeypatch.setattr(driver, "IDLE_S", -1.0)
    with pool.leased():
        pass
    assert not second.is_connected
    pool.close()


# -- cost -------------------------------------------------------------------------------------------


@contextmanager
def planner(url: str) -> Iterator[Callable[[str], str]]:
    """The plan of a statement that scans or sorts only where there is no other way."""
    with psycopg.connect(url) as connection:
        for setting in ("enable_seqscan = off", "enable_sort = off", "plan_cache_mode = force_generic_plan"):
            connection.execute(f"SET {setting}".encode())

        def plan(text: str) -> str:
            first, *parts = text.split("%s")
            numbered = first + "".join(f"${n}{part}" for n, part in enumerate(parts, 1))
            connection.execute(f"PREPARE question AS {numbered}".encode())
            values = f"({', '.join(['NULL'] * len(parts))})" if parts else ""
            found = connection.execute(f"EXPLAIN EXECUTE question{values}".encode()).fetchall()
            connection.execute("DEALLOCATE question")
            return "\n".join(row[0] for row in found)

        yield plan


def test_no_question_scans_or_sorts(new_database: Callable[[], str]) -> None:
    """Every page is found by an index and comes in its order, as in SQLite."""
    sorts_few = {"_ALARM_FAR", "_DELIVERY_DUE", "_MACHINES_ALIVE", "_LIST_ERROR", "_LIST_PHASE", "_STALLED"}
    grouped = {"_COUNT_TASKS", "_TAKEN_KEYS", "_BUSY_MACHINES", "_WORK_ON"}  # no order is asked for
    with planner(new_database()) as plan:
        for owner in (reads, batches, fleet, catalog_reads, catalog):
            for name, sql in vars(owner).items():
                if not isinstance(sql, Sql) or sql.text.startswith("INSERT") or name == "_MACHINES":
                    continue
                found = plan(sql.postgres.text)
                assert "Seq Scan" not in found, (name, found)
                if name not in sorts_few | grouped:
                    assert "Sort" not in found, (name, found)


async def test_a_page_of_files_costs_as_much_before_statistics_are_made(world: PostgresWorld) -> None:
    """The planner then thinks that a job has two tasks: it is asked for those of the page, and looks at no other."""
    with psycopg.connect(world.url) as connection:
        for table in ("files", "tasks"):
            connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = false)".encode())
    await world.running(2000)
    db = PostgresDb(world.url, read_only=True)
    values = {"job_id": ID, "phase": 0, "after_n": 1000, "most": 500, "first_n": 1001, "last_n": 1500}
    for asked, bound in ((reads._FILES.postgres, "(n > 1000)"), (reads._TASKS_OF_FILES.postgres, "(n <= 1500)")):
        found = db._cursor.execute(f"EXPLAIN {asked.text}".encode(), asked.arguments(values)).fetchall()
        (condition,) = [row[0] for row in found if "Index Cond" in row[0]]
        assert bound in condition
    db.close()


@pytest.mark.parametrize(
    ("state", "is_connected", "fault"),
    [
        ("23505", True, Fault.REQUEST),  # a unique index
        ("22003", True, Fault.REQUEST),  # a number out of range
        ("40P01", True, Fault.CONFLICT),  # a deadlock
        ("40001", True, Fault.CONFLICT),
        ("55P03", True, Fault.BUSY),  # the time-out of a lock
        ("57014", True, Fault.BUSY),  # that of a statement
        ("57P01", False, Fault.LOST),  # an orderly end of the server
        ("57P03", True, Fault.LOST),  # it is starting
        ("25006", True, Fault.LOST),  # it has become a standby
        ("25P03", False, Fault.LOST),  # the transaction stood still for too long
        ("53100", True, Fault.REFUSED),  # the disk is full
        ("53300", True, Fault.REFUSED),  # too many connections
    ],
)
def test_what_follows_from_an_error(state: str, is_connected: bool, fault: Fault) -> None:
    """By its SQLSTATE."""
    assert fault_of(psycopg.errors.lookup(state)(), is_connected=is_connected) is fault


def test_a_store_is_closed_while_it_is_idle(new_database: Callable[[], str]) -> None:
    """No connection and no thread is left of a store that is closed, however often; what is asked afterwards is
    Unavailable."""

    async def run() -> None:
        url = new_database()
        store = assembly.store(Settings.load({"DATABASE_URL": url}))
        await store.create(a_job())
        await store.job(ID)
        assert [each for each in threading.enumerate() if each.name.startswith("store-")]
        await store.close()
        await store.close()
        with pytest.raises(Unavailable):
            await store.ping()
        assert not [each for each in threading.enumerate() if each.name.startswith("store-")]
        with psycopg.connect(url) as connection:
            others = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'arke' AND datname = %s"
            assert connection.execute(others, (url.rpartition("/")[2],)).fetchone() == (0,)

    asyncio.run(run())
