"""Archives from request to removal: real SQLite, hosts, objects and the worker's own code; no Ray, a silent fleet."""

import asyncio
import io
import json
import random
import threading
import zipfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from actors import archives
from actors.archives import Archives, Division, understand
from actors.channels.catalog import CatalogChannel
from actors.errors import Conflict, InvalidInput, NotFound, Unavailable
from actors.host import Host
from actors.maintenance import expire, read_on, uploads, wake
from actors.perform import Performer
from actors.rules import archive
from actors.rules.effects import Policy
from actors.rules.model import Job
from actors.rules.placement import ARCHIVES_ACTORS
from actors.rules.states import TERMINAL_JOBS, Delivery, JobState
from actors.store import Store
from actors.store.catalog_rows import CatalogExport, StorageFile
from actors.store.catalogs import OwnCatalog
from actors.store.writer import LocalWriter, Writer
from actors.verifying import AT_ONCE, CHUNK_FILES, Limits, Verifying
from orchestrator.archives import view
from tests.integration.test_engine import Fleet, one
from tests.integration.test_exports import Hands
from worker import errors as worker_errors
from worker.errors import WorkerError
from worker.kinds import zip as zip_kind
from worker.kinds.base import Context
from worker.limits import MemoryGate
from worker.objects.base import ObjectInfo
from worker.objects.local import LocalObjects

KEPT_MS = 600_000
POLICY = Policy(
    kept_ms=KEPT_MS, unfinished_ms=300_000, max_attempts=2, delivers=True, tells_each_end=True, cancelled_kept_ms=0,
    task_timeout_ms=60_000, task_max_ms=100_000, boot_timeout_ms=0, backoff_base_ms=1, backoff_cap_ms=1,
)  # fmt: skip
LIMITS = Limits(files=100_000, delay_ms=0, timeout_ms=300_000, unfinished_ms=300_000)


class Watched(LocalObjects):
    """Says which objects were looked at, and how many at once; a test may come before each."""

    def __init__(self, folder: Path, bucket: str) -> None:
        super().__init__(folder, bucket)
        self.looked: list[str] = []
        self.now = self.most = 0
        self.lock = threading.Lock()
        self.before: Callable[[str], None] = lambda key: None

    def head(self, key: str) -> ObjectInfo:
        with self.lock:
            self.looked.append(key)
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            self.before(key)
            return super().head(key)
        finally:
            with self.lock:
                self.now -= 1


class Moody(OwnCatalog):
    """A catalog that is away while a test says so."""

    is_away = False

    async def put_export(self, row: CatalogExport) -> None:
        if self.is_away:
            raise Unavailable("The catalog does not answer.")
        await super().put_export(row)


class World:
    """One data folder, and the hosts of archives."""

    def __init__(self, folder: Path, division: Division | None = None, catalog: Any = None) -> None:
        self.folder = folder
        self.writer = Writer(folder / "arke.db")
        self.store = Store(LocalWriter(self.writer), folder / "arke.db")
        self.objects = Watched(folder / "objects", "arke-staging")
        self.catalog: Any = catalog or Moody(self.store)
        self.fleet, self.clock = Fleet(), Hands()
        self.archives = Archives(
            store=self.store, objects=self.objects, catalog=self.catalog, clock=self.clock, timeout_ms=300_000,
            division=division or Division(1_000_000, 1000),
        )  # fmt: skip
        self.hosts: dict[str, Host] = {}
        self.begin()

    def begin(self) -> None:
        self.hosts = {name: self.host(name) for name in (f"archives:{n}" for n in range(ARCHIVES_ACTORS))}

    def host(self, name: str) -> Host:
        verifying = Verifying(
            store=self.store, objects=self.objects, clock=self.clock, limits=LIMITS,
            listing=lambda job: archives.listing(job, self.objects, self.catalog),
        )  # fmt: skip

        async def verify(job: Job) -> None:
            await archives.note(self.catalog, job, "processing")
            await verifying.read(job)

        return Host(
            name=name,
            store=self.store,
            perform=Performer(
                store=self.store, call_fleet=self.fleet, objects=self.objects,
                channel=CatalogChannel(self.store, self.objects, self.catalog),
            ),
            policy=POLICY,
            clock=self.clock,
            rng=random.Random(7),
            callback_base="http://127.0.0.1:1",
            secret="secret",
            hibernate_after_ms=60_000,
            continue_intake=lambda job: asyncio.ensure_future(verify(job)),
        )  # fmt: skip

    async def close(self) -> None:
        await self.kill()
        await self.store.close()
        self.writer.close()

    async def kill(self) -> None:
        """What runs in the hosts ends where it is."""
        loops: list[asyncio.Future[Any]] = []
        for host in self.hosts.values():
            loops += host._loops
            loops += host._readers._reading.values() if host._readers else ()
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)

    async def restart(self) -> None:
        await self.kill()
        self.begin()

    # ---- what is there

    def put(self, *names: str, size: int = 1000) -> None:
        for name in names:
            self.objects.put(name, (name.encode() * size)[:size], "text/plain")

    async def files(self, *names: str, user: str = "u-1", product: str = "blog", category: str | None = None) -> None:
        await self.store.add_storage_files([
            StorageFile(
                id=name, user_id=user, r2_key=name, filename=name.rpartition("/")[2], product=product,
                category=category, size_bytes=1000, created_at=1,
            )
            for name in names
        ])  # fmt: skip

    # ---- what is asked

    async def create(self, **body: Any) -> Job:
        return await self.archives.create(understand(json.dumps(body).encode()), None)

    async def ask(self, job: Job, op: str, **more: Any) -> Any:
        assert job.placement is not None
        return await one(self.hosts[job.placement], {"op": op, "job": job.id, **more})

    async def activate(self, job_id: str) -> object:
        job = await self.row(job_id)
        return await self.ask(job, "activate")

    async def row(self, job: Job | str) -> Job:
        found = await self.store.job(job if isinstance(job, str) else job.id)
        assert found is not None
        return found

    async def until(self, job: Job, is_so: Callable[[Job], bool]) -> Job:
        async with asyncio.timeout(20):
            while not is_so(row := await self.row(job)):  # noqa: ASYNC110  (a row, which sends no event)
                await asyncio.sleep(0.005)
        return row

    async def woken(self) -> None:
        await wake.run_once(self.store, self.activate, now=self.clock.now(), longest_ms=KEPT_MS)

    async def verified(self, job: Job) -> Job:
        await self.ask(job, "activate")
        await self.until(job, lambda row: row.state is not JobState.RECEIVING)
        await self.ask(job, "activate")
        return await self.until(job, lambda row: row.state not in (JobState.RECEIVING, JobState.QUEUED))

    async def take(self, job: Job, free: int = 100) -> list[dict[str, Any]]:
        taken = await self.ask(job, "take", machine="m", claim=f"c{random.random()}", free=free, kind="zip")
        return list(taken["tasks"])

    async def work(self, job: Job) -> Job:
        """All its tasks, as a machine does them."""
        while tasks := await self.take(job):
            for task in tasks:
                await self.report(job, task)
        return await self.row(job)

    async def report(self, job: Job, task: dict[str, Any]) -> None:
        try:
            done = await asyncio.to_thread(self.archive, task["env"])
            body = {
                "status": "success", "output_r2_key": done.output_r2_key, "output_file_size": done.output_file_size,
                "performance": done.performance,
            }  # fmt: skip
        except WorkerError as error:
            body = {"status": "error", "error": str(error)}
        body |= {"task_id": task["task_id"], "batch_id": job.id}
        await self.ask(job, "callback", run=task["run"], attempt=task["attempt"], body=body)

    def archive(self, env: dict[str, str]) -> Any:
        folder = self.folder / f"task-{random.random()}"
        folder.mkdir()
        store = env | {"OBJECTS_DIR": str(self.folder / "objects")}
        context = Context(
            env=store, objects=LocalObjects(self.folder / "objects", "arke-staging"), folder=folder,
            memory=MemoryGate(1 << 30), converters=None,  # type: ignore[arg-type]
        )  # fmt: skip
        return zip_kind.run(context)

    async def settled(self) -> None:
        """Until no reader runs."""
        async with asyncio.timeout(20):
            while any(host._readers and host._readers._reading for host in self.hosts.values()):  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    async def again(self, job: Job) -> Job:
        """A new run: its loop knows no place, and would end by itself in a second."""
        await self.store.admit(job.id, max_active=1, small_tasks=1, shared_hosts=1, now=self.clock.now())
        await self.restart()
        await self.verified(job)
        return await self.work(job)

    async def completed(self, job: Job) -> Job:
        await self.verified(job)
        await self.work(job)
        return await self.told(job)

    async def told(self, job: Job) -> Job:
        return await self.until(job, lambda row: row.state in TERMINAL_JOBS and row.delivery is Delivery.DELIVERED)

    def below(self, job: Job) -> list[str]:
        return [info.key for info in self.objects.list(archive.folder(job))]

    def opened(self, key: str) -> zipfile.ZipFile:
        return zipfile.ZipFile(io.BytesIO(self.objects.read(key, 1 << 30)))

    async def status(self, job: Job) -> dict[str, Any]:
        tasks, _ = await self.store.list_tasks(job.id)
        return view(await self.row(job), tasks, self.clock.now())


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    yield made
    await made.close()


def names(zipped: zipfile.ZipFile) -> set[str]:
    return set(zipped.namelist()) - {"README.txt", "manifest.json"}


async def test_a_users_files_become_an_archive(world: World) -> None:
    """By the catalog: in their folders, each name once; what is not there is in the manifest; the row says it all."""
    world.put("u/a.txt", "u/A.txt", "u/c.txt", "u/other.txt")
    await world.files("u/a.txt", "u/A.txt", category="trips")
    await world.files("u/c.txt", "u/gone.txt", product="ivy")
    await world.files("u/other.txt", user="u-2")
    job = await world.create(user_id="u-1", export_type="full", name="All of it")
    row = await world.catalog.export(job.id)
    assert row is not None
    assert (row.status, row.user_id, row.export_type) == ("pending", "u-1", "full")
    await world.verified(job)
    row = await world.catalog.export(job.id)
    assert row is not None
    assert row.status == "processing"
    status = await world.status(job)
    assert (status["status"], status["phase"]) == ("processing", "ARCHIVING")
    assert (status["files_verified"], status["files_missing"], status["bytes"]) == (3, 1, 3000)
    await world.work(job)
    job = await world.told(job)
    key = f"exports/u-1/{job.id}/{job.created_at}-export.zip"
    zipped = world.opened(key)
    assert names(zipped) == {"blog/trips/A.txt", "blog/trips/a (2).txt", "ivy/c.txt"}
    assert zipped.read("ivy/c.txt") == world.objects.read("u/c.txt", 10_000)
    assert b"All of it" in zipped.read("README.txt")
    manifest = json.loads(zipped.read("manifest.json"))
    assert [one["r2_key"] for one in manifest["missing"]] == ["u/gone.txt"]
    assert {one["r2_key"]: (one["path"], one["product"], one["category"]) for one in manifest["files"]} == {
        "u/A.txt": ("blog/trips/A.txt", "blog", "trips"),
        "u/a.txt": ("blog/trips/a (2).txt", "blog", "trips"),
        "u/c.txt": ("ivy/c.txt", "ivy", None),
    }
    row = await world.catalog.export(job.id)
    assert row is not None
    assert (row.status, row.r2_key, row.file_count) == ("completed", key, 3)
    assert row.size_bytes == len(world.objects.read(key, 1 << 20))
    assert row.expires_at == job.expires_at == job.completed_at + KEPT_MS
    assert row.error_message is None
    assert [info for info in world.below(job) if info.endswith("checkpoint")] == []


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({"export_type": "blog"}, {"blog/trips/a.txt", "blog/food/b.txt"}),
        ({"export_type": "ivy"}, {"ivy/c.txt"}),
        ({"export_type": "category", "filter_params": {"category": "food"}}, {"blog/food/b.txt"}),
    ],
)
async def test_a_part_of_a_users_files(world: World, body: dict[str, Any], found: set[str]) -> None:
    world.put("a.txt", "b.txt", "c.txt")
    await world.files("a.txt", category="trips")
    await world.files("b.txt", category="food")
    await world.files("c.txt", product="ivy")
    job = await world.completed(await world.create(user_id="u-1", **body))
    assert names(world.opened(archive.archive_key(job, 0, 1))) == found


async def test_below_a_prefix(world: World) -> None:
    """Behind its last slash; neither folders' markers nor what the archive itself consists of; no row is written."""
    world.put("p/a.txt", "p/sub/b.txt", "q/c.txt")
    world.objects.put("p/exports/_/other.txt", b"x", "text/plain")
    job = await world.completed(await world.create(r2_prefix="p/"))
    assert names(world.opened(archive.archive_key(job, 0, 1))) == {"a.txt", "sub/b.txt", "exports/_/other.txt"}
    assert await world.catalog.export(job.id) is None


async def test_what_an_archive_consists_of_is_not_in_it(world: World) -> None:
    world.put("exports/x.txt")
    job = await world.completed(await world.create(r2_prefix="exports/"))
    assert names(world.opened(archive.archive_key(job, 0, 1))) == {"x.txt"}


async def test_listed_keys(world: World) -> None:
    """In their order, each once."""
    world.put("z.txt", "a.txt")
    job = await world.completed(await world.create(keys=["z.txt", "a.txt", "z.txt", "none.txt"]))
    zipped = world.opened(archive.archive_key(job, 0, 1))
    assert [name for name in zipped.namelist() if name.endswith(".txt")] == ["README.txt", "z.txt", "a.txt"]
    status = await world.status(job)
    assert (status["status"], status["file_count"], status["files_missing"], status["percent"]) == (
        "completed",
        2,
        1,
        100,
    )


async def test_large_ones_become_parts(tmp_path: Path) -> None:
    """Whole archives by themselves, no path twice in all of them, and an index that names them; the last is smaller."""
    world = World(tmp_path, Division(2500, 1000))
    keys = [f"d{n}/same.txt" for n in range(5)]
    world.put(*keys)
    await world.files(*keys)
    job = await world.completed(await world.create(user_id="u-1", export_type="full"))
    parts = [world.opened(archive.archive_key(job, n, 3)) for n in range(3)]
    assert [len(names(part)) for part in parts] == [2, 2, 1]
    assert len(set.union(*map(names, parts))) == 5
    assert [json.loads(part.read("manifest.json"))["part"] for part in parts[1:]] == [2, 3]
    index = json.loads(world.objects.read(archive.index_key(job), 100_000))
    assert [one["r2_key"] for one in index["parts"]] == [archive.archive_key(job, n, 3) for n in range(3)]
    assert (index["file_count"], [one["file_count"] for one in index["parts"]]) == (5, [2, 2, 1])
    row = await world.catalog.export(job.id)
    assert row is not None
    assert (row.r2_key, row.file_count) == (archive.index_key(job), 5)
    await world.close()


async def test_many_files_become_parts(tmp_path: Path) -> None:
    world = World(tmp_path, Division(10**9, 2))
    world.put(*"abcde")
    job = await world.verified(await world.create(keys=list("abcde")))
    assert [one["files"] for one in archive.parts(job)] == [2, 2, 1]
    await world.close()


async def test_no_files(world: World) -> None:
    job = await world.verified(await world.create(user_id="nobody", export_type="full"))
    job = await world.told(job)
    row = await world.catalog.export(job.id)
    assert row is not None
    assert (row.status, row.r2_key, row.size_bytes, row.file_count) == ("completed", None, 0, 0)


async def test_verifying_goes_on_where_it_was(world: World) -> None:
    """Killed amid the third chunk: no object of the first two is looked at again, none is lost, ten at once."""
    keys = [f"k{n:04}" for n in range(3 * CHUNK_FILES + 7)]
    world.put(*keys, size=10)
    await world.files(*keys)
    job = await world.create(user_id="u-1", export_type="full")
    amid, go_on = threading.Event(), threading.Event()

    def stop(key: str) -> None:
        if key == keys[2 * CHUNK_FILES + 50]:
            amid.set()
            go_on.wait(10)

    world.objects.before = stop
    await world.ask(job, "activate")
    await asyncio.to_thread(amid.wait, 10)
    await world.kill()
    go_on.set()
    row = await world.row(job)
    assert (row.state, row.files_total, row.source_cursor) == (JobState.RECEIVING, 200, keys[199])
    world.objects.looked.clear()
    world.objects.before = lambda key: None
    world.begin()
    await read_on.run_once(world.store, world.activate)
    await world.until(job, lambda row: row.state is JobState.QUEUED)
    assert sorted(set(world.objects.looked)) == keys[200:]
    assert world.objects.most <= AT_ONCE
    job = await world.verified(job)
    assert (job.files_total, job.bytes_total) == (len(keys), 10 * len(keys))
    await world.work(job)
    assert len(names(world.opened(archive.archive_key(job, 0, 1)))) == len(keys)


async def test_what_changes_before_it_is_archived(world: World) -> None:
    """Gone, of another size, of another content: each is named with its reason, the others are in the archive."""
    world.put("a", "b", "c", "d")
    job = await world.verified(await world.create(keys=list("abcd")))
    world.objects.delete("a")
    world.put("b", size=999)
    world.objects.put("c", b"x" * 1000, "text/plain")
    await world.work(job)
    job = await world.told(job)
    zipped = world.opened(archive.archive_key(job, 0, 1))
    assert names(zipped) == {"d"}
    manifest = json.loads(zipped.read("manifest.json"))
    changed = "it has changed since it was verified"
    told = {one["r2_key"]: one["reason"] for one in manifest["missing"]}
    assert told == {"a": "it is not there", "b": changed, "c": changed}
    assert archive.file_count((await world.store.list_tasks(job.id))[0]) == 1


async def test_the_same_input_gives_the_same_bytes(world: World) -> None:
    """The time in the archive is that of its row: a second attempt makes the same."""
    world.put("a", "b")
    job = await world.verified(await world.create(keys=["a", "b"]))
    (task,) = await world.take(job)
    first = await asyncio.to_thread(world.archive, task["env"])
    bytes_of_first = world.objects.read(first.output_r2_key, 1 << 20)
    await asyncio.to_thread(world.archive, task["env"])
    assert world.objects.read(first.output_r2_key, 1 << 20) == bytes_of_first


async def test_a_row_that_waits_is_started_once(world: World) -> None:
    world.put("a.txt")
    await world.files("a.txt")
    row = CatalogExport(id="exp-1", user_id="u-1", export_type="full", created_at=1_700_000_000_123)
    await world.catalog.put_export(row)
    job = await world.create(export_id="exp-1")
    with pytest.raises(Conflict, match="started before"):
        await world.create(export_id="exp-1")
    job = await world.completed(job)
    assert archive.archive_key(job, 0, 1) == "exports/u-1/exp-1/1700000000123-export.zip"
    zipped = world.opened(archive.archive_key(job, 0, 1))
    assert json.loads(zipped.read("manifest.json"))["created_at"] == "2023-11-14T22:13:20Z"
    with pytest.raises(Conflict, match="is completed"):
        await world.create(export_id="exp-1")
    with pytest.raises(NotFound):
        await world.create(export_id="exp-2")


async def test_one_at_a_time_where_that_is_asked(world: World) -> None:
    """The refused one is no riddle in the list."""
    wanted = archives.of_type(archives.ArchiveRequest(user_id="u-1", alone=True), "full", None)
    results = await asyncio.gather(*(world.archives.create(wanted, None) for _ in range(5)), return_exceptions=True)
    assert sum(isinstance(result, Job) for result in results) == 1
    assert sum(isinstance(result, Conflict) for result in results) == 4
    rows, _ = await world.catalog.exports("u-1")
    assert [row.status for row in rows] == ["pending"]


async def test_one_that_the_catalog_does_not_take_ends(world: World) -> None:
    """Though it is there already: the next one must not wait for it."""
    wanted = archives.of_type(archives.ArchiveRequest(user_id="u-1", alone=True), "full", None)
    world.catalog.is_away = True
    with pytest.raises(Unavailable):
        await world.archives.create(wanted, None)
    world.catalog.is_away = False
    assert (await world.archives.create(wanted, None)).user_id == "u-1"


async def test_cancelled_while_its_files_are_verified(world: World) -> None:
    """Nothing of it stays, the reason is in the row, and who verified it tells nothing later."""
    keys = [f"k{n}" for n in range(150)]
    world.put(*keys, size=10)
    await world.files(*keys)
    job = await world.create(user_id="u-1", export_type="full")
    amid, go_on = threading.Event(), threading.Event()

    def stop(key: str) -> None:
        amid.set()
        go_on.wait(10)

    world.objects.before = stop
    await world.ask(job, "activate")
    await asyncio.to_thread(amid.wait, 10)
    await world.ask(job, "cancel", reason="wrong files")
    go_on.set()
    job = await world.until(job, lambda row: row.removed_since is not None and row.delivery is Delivery.DELIVERED)
    assert job.state is JobState.CANCELLED
    assert world.below(job) == []
    row = await world.catalog.export(job.id)
    assert row is not None
    assert (row.status, row.error_message, row.r2_key) == ("failed", "Cancelled: wrong files", None)


async def test_cancelled_while_it_is_archived(world: World) -> None:
    """Its upload is given up; what a worker stores afterwards goes too; no task begins again."""
    world.put("a")
    job = await world.verified(await world.create(keys=["a"]))
    (task,) = await world.take(job)
    key = task["env"]["OUTPUT_R2_KEY"]
    upload = world.objects.begin_upload(key, "application/zip", {})
    world.objects.put_part(key, upload, 1, b"x")
    await world.ask(job, "cancel", reason="wrong files")
    silent_at = world.clock.ms + POLICY.task_timeout_ms  # then every worker has heard of it, or is dead or cut off
    await world.until(job, lambda row: row.removed_since is not None and row.expires_at == silent_at)
    assert (world.below(job), world.objects.uploads("")) == ([], [])
    world.objects.put(f"{key}.checkpoint", b"late", "application/octet-stream")
    world.clock.ms += POLICY.task_timeout_ms + 2000
    await world.restart()  # its loop sleeps in real time
    await world.woken()
    await world.until(job, lambda row: row.expires_at == silent_at + POLICY.task_max_ms)
    assert world.below(job) == []
    world.objects.put(key, b"later", "application/zip")  # by one that was cut off all the time
    world.clock.ms += POLICY.task_max_ms + 2000
    await world.restart()
    await world.woken()
    row = await world.until(job, lambda row: row.expires_at is None)
    assert world.below(job) == []
    assert row.alarm_at is None
    with pytest.raises(Conflict, match="was cancelled"):
        await world.ask(job, "retry", after_run=1)
    assert await world.take(job) == []


async def test_it_expires_and_its_row_stays(world: World) -> None:
    """The objects go, the job is history until the rows of its time go, the catalog's row stays for ever."""
    world.put("a.txt")
    await world.files("a.txt")
    job = await world.completed(await world.create(user_id="u-1", export_type="full"))
    world.clock.ms += KEPT_MS - 10
    await world.woken()
    assert world.below(job) != []
    world.clock.ms += 2_000
    await world.woken()
    row = await world.until(job, lambda row: row.expires_at is None)
    assert world.below(job) == []
    assert row.state is JobState.DONE
    assert (await world.status(job))["expired"] is True
    assert (await expire.run_once(world.store, now=world.clock.now(), retention_days=1)).done == 0
    later = world.clock.now() + 2 * 86_400_000
    assert (await expire.run_once(world.store, now=later, retention_days=1)).done == 1
    assert await world.store.job(job.id) is None
    kept = await world.catalog.export(job.id)
    assert kept is not None
    assert (kept.status, kept.file_count) == ("completed", 1)


async def test_a_catalog_that_is_away_is_told_later(world: World) -> None:
    """That its archive is ready does not wait for it; a restart forgets nothing."""
    world.put("a.txt")
    await world.files("a.txt")
    job = await world.verified(await world.create(user_id="u-1", export_type="full"))
    world.catalog.is_away = True
    await world.work(job)
    job = await world.until(job, lambda row: row.delivery_tries > 0)
    assert archive.word(job) == "completed"
    await world.restart()
    world.catalog.is_away = False
    world.clock.ms += 60_000
    await world.woken()
    await world.told(job)
    row = await world.catalog.export(job.id)
    assert row is not None
    assert row.status == "completed"


async def test_without_the_catalog_nothing_begins(world: World) -> None:
    world.catalog.is_away = True
    with pytest.raises(Unavailable):
        await world.create(user_id="u-1", export_type="full")


async def test_a_list_that_cannot_be_read_ends_it(world: World) -> None:
    job = await world.create(keys=["a"])
    world.objects.delete(f"{archive.folder(job)}keys.json")
    await world.ask(job, "activate")
    row = await world.until(job, lambda row: row.state is JobState.FAILED)
    assert row.code == "list_unreadable"
    assert row.error == (
        "The list of files could not be read: The list of keys is not there any more. Start the export again."
    )
    world.clock.ms += 2000
    await world.woken()
    await world.told(job)


async def test_too_many_files(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.integration.test_archives.LIMITS", LIMITS._replace(files=3))
    world.begin()
    world.put(*"abcd")
    job = await world.create(keys=list("abcd"))
    await world.ask(job, "activate")
    row = await world.until(job, lambda row: row.state is JobState.FAILED)
    assert (row.code, row.error) == ("too_many_files", "The archive would have more than 3 files. Choose fewer.")


async def failed_twice(world: World, job: Job) -> Job:
    """Its only part, which is then not tried again."""
    for _ in range(2):
        async with asyncio.timeout(10):
            while not (tasks := await world.take(job)):
                world.clock.ms += 10
                await asyncio.sleep(0.01)
        body = {"task_id": tasks[0]["task_id"], "batch_id": job.id, "status": "error", "error": "the disk is full"}
        await world.ask(job, "callback", run=1, attempt=tasks[0]["attempt"], body=body)
    return await world.told(job)


async def test_a_part_that_fails_is_tried_again(world: World) -> None:
    """Twice here: then the export has failed, with the reason, and a new run makes what is missing."""
    world.put("a")
    job = await failed_twice(world, await world.verified(await world.create(keys=["a"])))
    status = await world.status(job)
    assert (status["status"], status["error"], status["r2_key"]) == ("failed", "the disk is full", None)
    await world.ask(job, "retry", after_run=1)
    await world.again(job)
    job = await world.told(job)
    assert archive.word(job) == "completed"
    assert names(world.opened(archive.archive_key(job, 0, 1))) == {"a"}


async def test_an_end_that_was_not_told_can_be_told_again(world: World) -> None:
    """Also of one that has failed or was cancelled: the catalog would say for ever that it is under way."""
    world.put("a.txt")
    await world.files("a.txt")
    job = await world.verified(await world.create(user_id="u-1", export_type="full"))
    world.catalog.is_away = True
    await world.ask(job, "cancel", reason="why")
    row = await world.until(job, lambda row: row.delivery_tries > 0)
    await world.restart()
    world.clock.ms += POLICY.delivery_give_up_ms + 60_000
    await world.woken()
    row = await world.until(job, lambda row: row.delivery is Delivery.GIVEN_UP)
    assert (await world.status(row))["delivery"] == "given_up"
    world.catalog.is_away = False
    await world.ask(job, "redeliver")
    await world.told(job)
    told = await world.catalog.export(job.id)
    assert told is not None
    assert told.status == "failed"


async def test_who_divides_after_another_names_all_parts_alike(tmp_path: Path) -> None:
    """A reader died when it had planned one part; meanwhile there are more files, and so two."""
    world = World(tmp_path, Division(1500, 1000))
    world.put("a.txt", "b.txt")
    await world.files("a.txt")
    job = await world.create(user_id="u-1", export_type="full")
    queue = world.store.queue

    async def dies(row: Job) -> None:
        raise Unavailable("killed")

    world.store.queue = dies  # type: ignore[method-assign]
    await world.ask(job, "activate")
    await world.until(job, lambda row: row.files_total == 1)
    await world.settled()
    assert len((await world.store.list_tasks(job.id))[0]) == 1
    world.store.queue = queue  # type: ignore[method-assign]
    await world.files("b.txt")
    await world.restart()
    job = await world.verified(job)
    tasks, _ = await world.store.list_tasks(job.id)
    assert [task.output_r2_key for task in tasks] == [archive.archive_key(job, n, 2) for n in range(2)]
    await world.close()


async def test_a_look_that_fails_ends_the_others(world: World) -> None:
    """Nobody looks at objects any more when their reader has ended."""
    keys = [f"k{n:03}" for n in range(CHUNK_FILES)]
    world.put(*keys, size=1)
    job = await world.create(keys=keys)
    full, slowly = threading.Barrier(AT_ONCE), threading.Event()

    def fail(key: str) -> None:
        if key < "k010":
            full.wait(10)  # as many as there may be are at it
        else:
            slowly.wait(0.05)
        if key == "k003":
            raise worker_errors.Unavailable("the object store is away")

    world.objects.before = fail
    await world.ask(job, "activate")
    await world.settled()
    assert (await world.row(job)).files_total == 0
    assert world.objects.most == AT_ONCE
    looked = len(world.objects.looked)
    assert looked < CHUNK_FILES
    await asyncio.sleep(0.05)
    assert len(world.objects.looked) <= looked + AT_ONCE


async def test_uploads_of_what_is_over_are_given_up(world: World) -> None:
    """Not of one that is being made, nor of one that has failed and may be run again, nor what is somebody else's."""
    world.put("a")
    done = await world.completed(await world.create(keys=["a"]))
    job = await world.verified(await world.create(keys=["a"]))
    keys = [
        "other/x.zip",
        "exports/u/unknown/1-export.zip",
        f"exports/other/{done.id}/x.zip",
        archive.archive_key(job, 0, 1),
    ]
    kept = {(key, world.objects.begin_upload(key, "application/zip", {})) for key in keys}
    world.objects.begin_upload(archive.archive_key(done, 0, 1), "application/zip", {})
    assert (await uploads.run_once(world.store, world.objects)).done == 1
    assert set(world.objects.uploads("")) == kept
    await failed_twice(world, job)
    assert (await uploads.run_once(world.store, world.objects)).done == 0
    await world.ask(job, "retry", after_run=1)
    await world.again(job)
    await world.told(job)
    assert (await uploads.run_once(world.store, world.objects)).done == 1
    assert len(world.objects.uploads("")) == 3


async def test_progress_of_an_archive(world: World) -> None:
    """What signs of life tell: how much was read, and about how long it will take."""
    world.put("a", "b", size=5000)
    job = await world.verified(await world.create(keys=["a", "b"]))
    (task,) = await world.take(job)
    world.clock.ms += 2000
    body = {
        "task_id": task["task_id"], "batch_id": job.id, "status": "running",
        "performance": {"files": 1, "missing": 0, "bytes": 2500, "written": 100},
    }  # fmt: skip
    await world.ask(job, "callback", run=1, attempt=task["attempt"], body=body)
    status = await world.status(job)
    assert status["percent"] == 25.0
    assert status["estimate_s"] == pytest.approx(6.0)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "export_type"),
        ({"user_id": "u"}, "export_type"),
        ({"export_type": "full"}, "user_id"),
        ({"export_type": "some", "user_id": "u"}, "export_type"),
        ({"export_type": "category", "user_id": "u"}, "filter_params.category"),
        ({"export_type": "full", "user_id": "u", "filter_params": []}, "filter_params"),
        ({"export_type": "full", "user_id": "u", "filter_params": {"a": 10**30}}, "filter_params.a"),
        ({"export_type": "full", "user_id": "u", "filter_params": {"a": "x" * 5000}}, "filter_params"),
        ({"export_type": "full", "user_id": ".."}, "user_id"),
        ({"export_type": "full", "user_id": "a\x00b"}, "user_id"),
        ({"export_type": "full", "user_id": "x" * 201}, "user_id"),
        ({"r2_prefix": ""}, "r2_prefix"),
        ({"r2_prefix": "a", "keys": ["b"]}, "keys"),
        ({"keys": []}, "keys"),
        ({"keys": [1]}, "keys"),
        ({"keys": ["a", "../b"]}, "keys[1]"),
        ({"keys": ["a"], "level": 10}, "level"),
        ({"keys": ["a"], "level": True}, "level"),
        ({"keys": ["a"], "codec": "rar"}, "codec"),
        ({"keys": ["a"], "name": ""}, "name"),
        ({"export_id": "a b"}, "export_id"),
        ({"export_id": "batch"}, "export_id"),
    ],
)
def test_bad_bodies_name_the_field(body: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        understand(json.dumps(body).encode())
    assert refused.value.field == field


async def test_no_user_has_too_long_a_name(world: World) -> None:
    """For a key: nothing is written."""
    with pytest.raises(InvalidInput) as refused:
        await world.create(user_id="é" * 200, export_type="full")
    assert refused.value.field == "user_id"


@pytest.mark.parametrize("created_at", [0, -5, 10**16])
async def test_a_row_of_no_time_is_refused(world: World, created_at: int) -> None:
    """Nobody could say when its archive was made."""
    await world.catalog.put_export(CatalogExport(id="e", user_id="u-1", export_type="full", created_at=created_at))
    with pytest.raises(InvalidInput, match="created_at"):
        await world.create(export_id="e")


@pytest.mark.parametrize("user", ["", "..", "a\nb"])
async def test_a_row_of_an_impossible_user_is_refused(world: World, user: str) -> None:
    await world.catalog.put_export(CatalogExport(id="e", user_id=user, export_type="full", created_at=1))
    with pytest.raises(InvalidInput, match="user_id"):
        await world.create(export_id="e")


@pytest.mark.parametrize(
    ("user", "folder"),
    [("u-1", "u-1"), ("a/b", "a%2Fb"), ("ü", "%C3%BC"), ("auth0|7", "auth0%7C7"), ("a@b.c", "a@b.c")],
)
async def test_no_user_gets_out_of_the_folder(world: World, user: str, folder: str) -> None:
    job = await world.create(user_id=user, export_type="full")
    assert archive.folder(job) == f"exports/{folder}/{job.id}/"
