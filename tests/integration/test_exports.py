"""Exports from request to removal: real SQLite, hosts and objects, no Ray, a fleet that is told and answers."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest

from actors.directory import Directory
from actors.errors import BatchExists, Conflict, InvalidInput
from actors.exports import MOST_PIS, ExportRequest, Exports, understand
from actors.host import Host
from actors.intake import Intake
from actors.maintenance import expire, wake
from actors.perform import Performer
from actors.rules.effects import Policy
from actors.rules.model import Job
from actors.rules.placement import standing_host
from actors.rules.states import JobState
from actors.store import Store
from actors.store.writer import LocalWriter, Writer
from tests.integration.test_engine import Fleet, one
from worker.objects.local import LocalObjects

PI = "01K8W0AG70YQWM0ESYWV3FY5SR"
KEPT_MS = 600_000
POLICY = Policy(kept_ms=KEPT_MS, unfinished_ms=30_000, max_attempts=1)


class Hands:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.ms = 1_800_000_000_000

    def now(self) -> int:
        return self.ms


class World:
    """One data folder, and the four hosts of exports."""

    def __init__(self, folder: Path) -> None:
        self.writer = Writer(folder / "arke.db")
        self.store = Store(LocalWriter(self.writer), folder / "arke.db")
        self.objects = LocalObjects(folder / "objects", "arke-staging")
        self.fleet, self.clock = Fleet(), Hands()
        self.exports = Exports(store=self.store, clock=self.clock, unfinished_ms=30_000)
        self.hosts = {f"exports:{n}": self.host(f"exports:{n}") for n in range(4)}

    def host(self, name: str) -> Host:
        return Host(
            name=name,
            store=self.store,
            perform=Performer(store=self.store, call_fleet=self.fleet, channel=None, objects=self.objects),
            policy=POLICY,
            clock=self.clock,
            rng=random.Random(7),
            callback_base="http://127.0.0.1:1",
            secret="secret",
            hibernate_after_ms=60_000,
        )

    async def ask(self, job: Job, op: str, **more: Any) -> Any:
        return await one(self.hosts[standing_host("export", job.id)], {"op": op, "job": job.id, **more})

    async def running(self, *pis: str, is_batch: bool = False) -> Job:
        job, _ = await self.exports.create(wanted(*pis or (PI,), is_batch=is_batch), None)
        self.fleet.wanted.clear()
        await self.ask(job, "activate")
        await self.fleet.wanted.wait()
        return job

    async def taken(self, job: Job) -> dict[str, Any]:
        (task,) = (await self.ask(job, "take", machine="m", claim="c", free=1, kind="mods"))["tasks"]
        return dict(task)

    async def called_back(self, job: Job, task: dict[str, Any], status: str = "success", **more: Any) -> None:
        body = {"task_id": task["task_id"], "batch_id": job.id, "status": status, **more}
        await self.ask(job, "callback", run=task["run"], attempt=task["attempt"], body=body)

    async def done(self, job: Job) -> str:
        """Finish it as a worker does; the key of its file."""
        task = await self.taken(job)
        key = str(task["env"]["OUTPUT_R2_KEY"])
        self.objects.put(key, b"<mods/>", "application/xml")
        await self.called_back(job, task, output_r2_key=key, output_file_size=7)
        return key

    async def woken(self) -> None:
        """One round of the duty that wakes what is due."""

        async def activate(job_id: str) -> object:
            return await one(self.hosts[standing_host("export", job_id)], {"op": "activate", "job": job_id})

        await wake.run_once(self.store, activate, now=self.clock.now(), longest_ms=KEPT_MS)

    async def restart(self) -> None:
        """What ran is killed, others take its place."""
        loops = [loop for host in self.hosts.values() for loop in host._loops]
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
        self.hosts = {name: self.host(name) for name in self.hosts}

    async def removed(self, job_id: str) -> None:
        """Until it is."""
        async with asyncio.timeout(10):
            while await self.store.job(job_id) is not None:  # noqa: ASYNC110  (a row, which sends no event)
                await asyncio.sleep(0.01)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    yield made
    await made.store.close()
    made.writer.close()


def wanted(*pis: str, is_batch: bool = False, **more: Any) -> ExportRequest:
    body = {"pis": pis} if is_batch else {"pi": pis[0]}
    return understand(json.dumps(body | more).encode(), None, is_batch=is_batch, removes_after_download=False)


async def test_a_single_export_is_what_the_originals_workers_know(world: World) -> None:
    """TASK_ID is its id, PI and EXPORT_OPTIONS are there, and it is called back without a batch."""
    job = await world.running()
    env = (await world.taken(job))["env"]
    address = urlsplit(env.pop("CALLBACK_URL"))
    assert env == {
        "KIND": "mods", "TASK_ID": job.id, "BATCH_ID": "single", "PI": PI, "EXPORT_FORMAT": "mods",
        "EXPORT_OPTIONS": '{"recursive":false,"maxDepth":10,"parallelBatchSize":10,'
        '"includeOcr":true,"cheimarrosMode":"full"}',
        "OUTPUT_R2_KEY": f"exports/{job.id}/{PI}-collection.xml",
    }  # fmt: skip
    assert address.path == f"/callback/{job.id}"
    assert set(parse_qs(address.query)) == {"run", "attempt", "sig"}
    assert job.id.startswith("export_mods_1800000000000_")
    assert job.placement == standing_host("export", job.id)


async def test_a_batch_has_a_task_for_each_entity(world: World) -> None:
    """In their order, equal ones too; each is called back with the batch."""
    job = await world.running(PI, PI, "01K75HQQXNTDG7BBP7PS9AWYAN", is_batch=True)
    tasks, _ = await world.store.list_tasks(job.id)
    assert [task.task_id for task in tasks] == [f"{job.id}_mods_{n}" for n in range(3)]
    env = (await world.taken(job))["env"]
    assert (env["BATCH_ID"], env["TASK_ID"]) == (job.id, f"{job.id}_mods_0")
    assert f"/callback/{job.id}/{job.id}_mods_0?" in env["CALLBACK_URL"]


async def test_the_same_creation_twice_is_one(world: World) -> None:
    """Its answer may be lost; another job's id is never taken."""
    job, _ = await world.exports.create(wanted(PI), None)
    tasks, _ = await world.store.list_tasks(job.id)
    await world.store.take_in(job, tasks)
    assert len((await world.store.list_tasks(job.id))[0]) == 1
    with pytest.raises(Conflict):
        await world.store.take_in(msgspec.structs.replace(job, created_at=1), tasks)


async def test_batches_of_files_are_listed_alone(world: World) -> None:
    """Exports are not in their lists, whatever is asked for."""
    await world.running()
    for asked in ({}, {"state": "running"}, {"status": "METADATA_EXPORT"}):
        assert (await world.store.list_jobs(**asked))[0] == []


async def test_it_is_removed_with_its_file_after_its_time(world: World) -> None:
    """By its alarm, once nothing of it is in memory any more; not before."""
    job = await world.running()
    key = await world.done(job)
    assert (await world.store.job(job.id)).state is JobState.DONE  # type: ignore[union-attr]
    await world.restart()
    world.clock.ms += KEPT_MS - 1_000
    await world.woken()
    assert world.objects.read(key, 100) == b"<mods/>"
    world.clock.ms += 3_000
    await world.woken()
    await world.removed(job.id)
    assert world.objects.list("exports/") == []
    assert await world.store.tasks(job.id, [job.id]) == []


async def test_a_removal_that_fails_is_begun_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the object store is away the rows stay: else nobody would know of the file."""
    job = await world.running()
    await world.done(job)
    tried = asyncio.Event()

    def away(key: str) -> None:
        loop.call_soon_threadsafe(tried.set)
        raise OSError("away")

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(world.objects, "delete", away)
    await world.restart()
    world.clock.ms += KEPT_MS + 2_000
    await world.woken()
    await asyncio.wait_for(tried.wait(), 10)
    assert await world.store.job(job.id) is not None
    monkeypatch.undo()
    await world.restart()
    world.clock.ms += 200_000
    await world.woken()
    await world.removed(job.id)


async def test_a_download_may_be_its_end(world: World) -> None:
    """What was downloaded as a whole goes two minutes later: until then whoever has lost it gets it again."""
    job = await world.running()
    key = await world.done(job)
    await world.ask(job, "downloaded")
    await world.restart()
    world.clock.ms += 50_000
    await world.woken()
    assert world.objects.read(key, 100) == b"<mods/>"
    await world.restart()
    world.clock.ms += 150_000
    await world.woken()
    await world.removed(job.id)


async def test_a_batch_of_files_cannot_take_the_place_of_an_export(world: World) -> None:
    """Its id is in use, also when it has failed; nothing of it changes."""
    job = await world.running()
    await world.ask(job, "cancel", reason="x")
    intake = Intake(
        store=world.store, objects=world.objects, clock=world.clock, max_files=9, timeout_ms=1,
        default_phases=("TIFF_CONVERSION",),
    )  # fmt: skip
    with pytest.raises(BatchExists):
        await intake.create({"batch_id": job.id, "files": ["a.tif"]})
    assert (await world.store.job(job.id)).kind == "export"  # type: ignore[union-attr]


async def test_an_export_that_gets_no_machine_is_given_up(world: World) -> None:
    """With a code and a sentence; its tasks have failed with it."""
    job = await world.running()
    world.clock.ms += 31_000
    await world.restart()
    await world.woken()
    async with asyncio.timeout(10):
        while (row := await world.store.job(job.id)) is None or row.state is JobState.RUNNING:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert (row.state, row.code) == (JobState.FAILED, "expired")
    (task,) = await world.store.tasks(job.id, [job.id])
    assert task.status == "failed"


async def test_a_job_that_is_over_is_still_the_host_of_exports_own(world: World, tmp_path: Path) -> None:
    """Another host could not remove its file."""
    way = Directory(store=world.store, run_dir=tmp_path, ensure=None, max_active=1, small_tasks=50, hosts=2)  # type: ignore[arg-type]
    job = await world.running()
    await world.done(job)
    assert await way._place(job.id) == standing_host("export", job.id)


async def test_its_rows_do_not_go_before_its_file(world: World) -> None:
    """Also after RETENTION_DAYS in which nobody looked; found by the simulation (seed 897)."""
    job = await world.running()
    key = await world.done(job)
    world.clock.ms += 31 * 86_400_000
    report = await expire.run_once(world.store, now=world.clock.now(), retention_days=30)
    assert (report.done, report.failed) == (0, 0)
    await world.restart()
    await world.woken()
    await world.removed(job.id)
    assert world.objects.list(key) == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "pi"), ({"pi": ""}, "pi"), ({"pi": None}, "pi"), ({"pi": 7}, "pi"), ({"pi": "../x"}, "pi"),
        ({"pi": PI.lower()}, "pi"),
        ({"pi": PI, "options": []}, "options"), ({"pi": PI, "options": {"maxDepth": 51}}, "options.maxDepth"),
        ({"pi": PI, "options": {"maxDepth": -1}}, "options.maxDepth"), ({"pi": PI, "options": {"recursive": "yes"}},
        "options.recursive"),
        ({"pi": PI, "options": {"parallelBatchSize": 0}}, "options.parallelBatchSize"), ({"pi": PI,
        "format": "pdf"}, "format"),
        ({"pi": PI, "options": {"cheimarrosMode": "some"}}, "options.cheimarrosMode"), ({"pi": PI,
        "format": ["mods"]}, "format"),
        ({"pi": PI, "removeAfterDownload": "yes"}, "removeAfterDownload"),
    ],
)  # fmt: skip
def test_what_is_not_valid_is_named(body: Any, field: str) -> None:
    """Nothing was written."""
    with pytest.raises(InvalidInput) as raised:
        understand(json.dumps(body).encode(), None, is_batch=False, removes_after_download=False)
    assert raised.value.field == field


def test_a_missing_pi_has_the_originals_words() -> None:
    """Their clients show them."""
    with pytest.raises(InvalidInput, match=r"^Missing required field: pi$"):
        understand(b"{}", "mods", is_batch=False, removes_after_download=False)


@pytest.mark.parametrize("raw", [b"", b"x", b"[]", b"\xff", b"7", b"[" * 10_000])
def test_what_is_no_object_is_refused(raw: bytes) -> None:
    """As JSON, or as one."""
    with pytest.raises(InvalidInput, match="The body"):
        understand(raw, "mods", is_batch=False, removes_after_download=False)


@pytest.mark.parametrize("pis", [[], None, PI, [PI, "x"], [PI] * (MOST_PIS + 1)])
def test_a_batch_names_its_entities(pis: Any) -> None:
    """One to ten thousand."""
    with pytest.raises(InvalidInput) as raised:
        understand(json.dumps({"pis": pis}).encode(), None, is_batch=True, removes_after_download=False)
    assert (raised.value.field or "").startswith("pis")


def test_unknown_options_are_passed_over() -> None:
    """A newer client may have more of them."""
    assert wanted(PI, options={"recursive": True, "newer": 1}).options.recursive
