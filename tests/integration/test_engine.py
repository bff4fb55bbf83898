"""The loop, the hosts and the store together in one process: real SQLite, no Ray, a fleet that is told and answers."""

import asyncio
import json
import random
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from actors import intake
from actors.clock import Clock
from actors.errors import BatchExists, Conflict, InvalidInput, NotFound, Unavailable
from actors.host import Host
from actors.intake import Intake
from actors.perform import Performer
from actors.rules.effects import Policy
from actors.rules.states import JobState
from actors.store import Store, batches
from actors.store.writer import LocalWriter, Writer
from worker.objects.local import LocalObjects


class Fleet:
    """Stands in for the fleet: remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.wanted = asyncio.Event()

    async def __call__(self, request: dict[str, Any]) -> dict[str, Any]:
        self.told.append(request)
        if request["op"] == "demand" and request["want"] > 0:
            self.wanted.set()
        return {}


class World:
    """One data folder; hosts come and go over it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writer = Writer(folder / "arke.db")
        self.store = Store(LocalWriter(self.writer), folder / "arke.db")
        self.objects = LocalObjects(folder / "objects", "arke-staging")
        self.fleet = Fleet()
        self.clock = Clock()
        self.intake = Intake(
            store=self.store,
            objects=self.objects,
            clock=self.clock,
            max_files=10_000,
            timeout_ms=60_000,
            default_phases=("TIFF_CONVERSION",),
        )

    def host(self, name: str = "batch:b") -> Host:
        return Host(
            name=name,
            store=self.store,
            perform=Performer(store=self.store, call_fleet=self.fleet, channel=None),
            policy=Policy(),
            clock=self.clock,
            rng=random.Random(7),
            callback_base="http://127.0.0.1:1",
            secret="secret",
            hibernate_after_ms=60_000,
        )

    async def running(self, files: int, host: Host, job_id: str = "b") -> None:
        """A batch of `files` TIFFs whose loop has told the fleet what it wants."""
        await self.intake.create({"batch_id": job_id, "files": [f"s/{i}.tif" for i in range(files)]})
        await self.store.admit(job_id, max_active=9, small_tasks=0, shared_hosts=1, now=self.clock.now())
        self.fleet.wanted.clear()
        await one(host, {"op": "activate", "job": job_id})
        await self.fleet.wanted.wait()

    async def counted(self, job_id: str = "b") -> dict[str, int]:
        job = await self.store.job(job_id)
        assert job is not None
        rows = await self.store.count_tasks(job_id, job.phase, job.run)
        assert (job.tasks_completed, job.tasks_failed, job.tasks_in_flight) == (
            rows["completed"],
            rows["failed"],
            rows["processing"],
        ), "Invariant 7: counters are the rows"
        return rows


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    yield made
    await made.store.close()
    made.writer.close()


async def one(host: Host, request: dict[str, Any]) -> Any:
    (answer,) = await host.handle([request])
    if isinstance(answer, BaseException):
        raise answer
    return answer


def taking(machine: str, free: int = 1) -> dict[str, Any]:
    return {"op": "take", "job": "b", "machine": machine, "claim": f"claim-{machine}", "free": free, "kind": "tiff"}


def success(task: dict[str, Any], **more: Any) -> dict[str, Any]:
    body = {"task_id": task["task_id"], "batch_id": "b", "status": "success", "output_file_size": 9} | more
    return {"op": "callback", "job": "b", "run": task["run"], "attempt": task["attempt"], "body": body}


async def test_an_acknowledged_callback_is_on_disk(world: World) -> None:
    """Invariant 1: when the answer is there, another reader of the file sees the completed task."""
    host = world.host()
    await world.running(3, host)
    (task,) = (await one(host, taking("m")))["tasks"]
    await one(host, success(task))
    assert (await world.counted())["completed"] == 1


async def test_a_group_that_cannot_be_committed_changes_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the store refuses, nobody is answered; once it is back, the same callback counts once."""
    host = world.host()
    await world.running(1, host)
    (task,) = (await one(host, taking("m")))["tasks"]
    commit, refused = world.store.commit, asyncio.Event()

    async def refuses(_: Any) -> None:
        refused.set()
        raise Unavailable

    monkeypatch.setattr(world.store, "commit", refuses)
    waiting = asyncio.create_task(one(host, success(task)))
    await refused.wait()
    assert not waiting.done()
    monkeypatch.setattr(world.store, "commit", commit)
    await waiting
    assert (await world.counted())["completed"] == 1


async def test_a_commit_whose_answer_was_lost_counts_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit took effect, its answer did not arrive, it is sent again: one completed task."""
    host = world.host()
    await world.running(2, host)
    (task,) = (await one(host, taking("m")))["tasks"]
    commit, lost = world.store.commit, [True]

    async def loses_one_answer(turn: Any) -> None:
        await commit(turn)
        if lost and lost.pop():
            raise ConnectionError

    monkeypatch.setattr(world.store, "commit", loses_one_answer)
    await one(host, success(task))
    assert (await world.counted())["completed"] == 1


async def test_the_next_activation_goes_on_and_the_former_writes_nothing(world: World) -> None:
    """Invariant 2: two hosts hold one job; the one that was overtaken is refused and changes nothing."""
    former, newer = world.host(), world.host()
    await world.running(2, former)
    (task,) = (await one(former, taking("m")))["tasks"]
    await one(newer, {"op": "activate", "job": "b"})
    with pytest.raises(Unavailable):
        await one(former, success(task))
    assert (await world.counted())["completed"] == 0
    await one(newer, success(task))
    assert (await world.counted())["completed"] == 1


async def test_a_batch_runs_to_done_with_next_tasks(world: World) -> None:
    """One machine that accepts the next task is handed every task of the batch, each once."""
    host = world.host()
    await world.running(20, host)
    (first,) = (await one(host, taking("m")))["tasks"]
    seen, task = [first["task_id"]], first
    while True:
        answer = await one(host, success(task, accepts_next=True))
        if "next" not in answer:
            break
        assert "R2_SECRET_ACCESS_KEY" not in answer["next"]
        task = {"task_id": answer["next"]["TASK_ID"], "attempt": 1, "run": 1}
        seen.append(task["task_id"])
    assert sorted(seen) == sorted({f"b_tiff_{n}" for n in range(20)})
    job = await world.store.job("b")
    assert job is not None
    assert job.state is JobState.DONE
    assert (await world.counted())["completed"] == 20


async def test_a_retry_is_a_new_run_of_the_failed_tasks_alone(world: World) -> None:
    """One of two tasks fails for good; the new run counts it alone and gives its place back first."""
    host = world.host()
    await world.running(2, host)
    tasks = (await one(host, taking("m", free=2)))["tasks"]
    await one(host, success(tasks[0]))
    await one(host, success(tasks[1], status="error", error="Failed to download TIFF: 404 Not Found"))
    await one(host, {"op": "retry", "job": "b", "after_run": 1})
    job = await world.store.job("b")
    assert job is not None
    assert (job.state, job.run, job.tasks_total, job.placement) == (JobState.QUEUED, 2, 1, None)
    assert (await world.counted())["pending"] == 1


async def test_the_log_tells_how_a_batch_went(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Begin and end of batch and phase, and the task that failed: five lines after the commits, none per callback."""
    caplog.set_level("INFO")
    host = world.host()
    await world.running(2, host)
    tasks = (await one(host, taking("m", free=2)))["tasks"]
    await one(host, success(tasks[0]))
    await one(host, success(tasks[1], status="error", error="404 Not Found"))
    told = [record.getMessage().partition(" batch=")[0] for record in caplog.records]
    assert [line for line in told if line.startswith(("[DO]", "[TiffConversion]"))] == [
        "[DO] started",
        "[TiffConversion] started",
        "[TiffConversion] task_failed",
        "[TiffConversion] ended",
        "[DO] done",
    ]


async def test_a_cancelled_batch_takes_its_machines_back(world: World) -> None:
    """Cancel fails what flies and what waits, tells the fleet, and a later callback changes nothing."""
    host = world.host()
    await world.running(5, host)
    (task,) = (await one(host, taking("m")))["tasks"]
    await one(host, {"op": "cancel", "job": "b", "reason": "enough"})
    assert (await world.counted())["failed"] == 5
    assert {"op": "release_job", "job": "b"} in world.fleet.told
    await one(host, success(task))
    assert (await world.counted())["failed"] == 5


async def test_output_keys_never_overwrite_an_input_or_each_other(world: World) -> None:
    """`p.tif` and `p.tiff` beside an uploaded `p.jpg` become `p-1.jpg` and `p-2.jpg`."""
    await world.intake.create({"batch_id": "b", "files": ["a/p.tif", "a/p.tiff", "a/p.jpg"]})
    tasks, _ = await world.store.list_tasks("b")
    assert {t.input_r2_key: t.output_r2_key for t in tasks} == {"a/p.tif": "a/p-1.jpg", "a/p.tiff": "a/p-2.jpg"}


async def test_a_prefix_is_read_from_its_cursor_on(world: World) -> None:
    """A reading that ended half way goes on after its last committed page and misses or doubles nothing."""
    for n in range(5):
        world.objects.put(f"up/{n}.tif", b"II", "image/tiff")
    job, _ = await world.intake.create({"batch_id": "b", "r2_prefix": "up/"})
    from actors.sources import prefix

    page, _ = await prefix.page(world.objects, "up/", None)
    await world.store.add_files("b", 1, 0, page[:2], page[1].r2_key, world.clock.now() + 1000)
    half = await world.store.job("b")
    assert half is not None
    done = await world.intake.read_prefix(half)
    assert (done.state, done.files_total, done.tasks_total) == (JobState.QUEUED, 5, 5)
    assert job.state is JobState.RECEIVING


async def test_two_readers_of_what_changes_meanwhile_lose_no_file(world: World) -> None:
    """The one whose page is another one than what is written stops, and counts nothing."""
    for n in range(5):
        world.objects.put(f"up/{n}.tif", b"II", "image/tiff")
    job, _ = await world.intake.create({"batch_id": "b", "r2_prefix": "up/"})
    from actors.sources import prefix

    whole, _ = await prefix.page(world.objects, "up/", None)
    world.objects.delete("up/1.tif")
    fewer, _ = await prefix.page(world.objects, "up/", None)
    alarm = world.clock.now() + 1000
    await world.store.add_files("b", 1, 0, fewer[:2], "up/2.tif", alarm, after=job.source_cursor)
    await world.store.add_files("b", 1, 0, fewer[:2], "up/2.tif", alarm, after=job.source_cursor)
    with pytest.raises(Conflict):
        await world.store.add_files("b", 1, 0, whole[:2], "up/1.tif", alarm, after=job.source_cursor)
    with pytest.raises(Conflict):
        await world.store.add_files("b", 1, 2, whole[2:4], "up/3.tif", alarm, after="up/1.tif")
    half = await world.store.job("b")
    assert half is not None
    assert (half.files_total, half.source_cursor) == (2, "up/2.tif")
    done = await world.intake.read_prefix(half)
    assert (done.state, done.files_total) == (JobState.QUEUED, 4)


async def test_an_empty_prefix_ends_in_error(world: World) -> None:
    """Nothing under the prefix: ERROR `empty_batch`, with the prefix named."""
    job, _ = await world.intake.create({"batch_id": "b", "r2_prefix": "nothing/"})
    await world.intake.read_prefix(job)
    row = await world.store.job("b")
    assert row is not None
    assert (row.state, row.code) == (JobState.FAILED, "empty_batch")
    assert row.error is not None
    assert "nothing/" in row.error


async def test_the_same_body_again_is_the_same_batch(world: World) -> None:
    """Same body: the existing batch; another body: refused; nothing is written twice."""
    body = {"batch_id": "b", "files": ["a.tif"]}
    _, began = await world.intake.create(body)
    again, begins = await world.intake.create(body)
    assert (began, begins, again.tasks_total) == (True, False, 1)
    with pytest.raises(BatchExists):
        await world.intake.create({"batch_id": "b", "files": ["b.tif"]})


async def test_an_intake_that_died_goes_on_with_the_same_body(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The front dies between the pages; the same body completes the list without a double."""
    body = {"batch_id": "b", "files": [f"{i}.tif" for i in range(2500)]}
    add_files, pages = world.store.add_files, []

    async def dies(*page: Any, **more: Any) -> None:
        if pages:
            raise KeyboardInterrupt
        pages.append(page)
        await add_files(*page, **more)

    monkeypatch.setattr(world.store, "add_files", dies)
    with pytest.raises(KeyboardInterrupt):
        await world.intake.create(body)
    monkeypatch.setattr(world.store, "add_files", add_files)
    job, _ = await world.intake.create(body)
    assert (job.state, job.files_total, job.tasks_total) == (JobState.QUEUED, 2500, 2500)
    assert (await world.counted())["pending"] == 2500


async def test_a_manifest_that_changed_meanwhile_is_taken_in_anew(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The front dies between the pages, the manifest is replaced, the same body comes again: the list is the new
    manifest's alone. What is unchanged goes on in the same run."""
    body = {"batch_id": "b", "manifest_r2_key": "m.json"}
    put_manifest(world, 2500)
    add_files, pages = world.store.add_files, []

    async def dies(*page: Any, **more: Any) -> None:
        if len(pages) == 2:
            raise KeyboardInterrupt
        pages.append(page)
        await add_files(*page, **more)

    monkeypatch.setattr(world.store, "add_files", dies)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            await world.intake.create(body)
    monkeypatch.setattr(world.store, "add_files", add_files)
    died = await world.store.job("b")
    assert died is not None
    assert (died.run, died.files_total) == (1, 2000)
    put_manifest(world, 500)
    job, began = await world.intake.create(body)
    assert (began, job.run, job.files_total, job.tasks_total) == (True, 2, 500, 500)
    files = await world.store.files("b", 0, -1, 10_000)
    assert {file.r2_key for _, file, _ in files} == {f"500/{i}.tif" for i in range(500)}
    assert {task.input_r2_key for _, _, task in files if task} == {f"500/{i}.tif" for i in range(500)}


def put_manifest(world: World, count: int) -> None:
    files = [{"r2_key": f"{count}/{i}.tif"} for i in range(count)]
    world.objects.put("m.json", json.dumps({"directories": [{"files": files}]}).encode(), "application/json")


async def test_a_large_list_is_read_beside_the_loop(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding, digest and checks of a list take seconds when it is long: none of it on the thread of the loop."""
    threads: dict[str, set[threading.Thread]] = {}

    def watched(name: str) -> None:
        function = getattr(intake, name)

        def call(*arguments: Any) -> Any:
            threads.setdefault(name, set()).add(threading.current_thread())
            return function(*arguments)

        monkeypatch.setattr(intake, name, call)

    watched("decode")
    watched("checked_file")
    files = [f"s/{i:040}.tif" for i in range(2000)]
    job, _ = await world.intake.create(msgspec.json.encode({"batch_id": "b", "files": files}))
    assert job.files_total == 2000
    assert threads.keys() == {"decode", "checked_file"}
    assert threading.main_thread() not in set().union(*threads.values())


async def test_a_batch_that_is_being_removed_cannot_run_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two slices, or after a crash there, a retry that a loop still takes is not written, and the next one
    finds no batch: a run whose tasks are gone could never end."""
    monkeypatch.setattr(batches, "REMOVED_AT_ONCE", 10)
    host = world.host("batches:0")
    await world.intake.create({"batch_id": "b", "files": [f"{i}.tif" for i in range(25)]})
    await one(host, {"op": "cancel", "job": "b", "reason": "x"})
    await world.store._write.call({"op": "remove", "job_id": "b"})
    retry = {"op": "retry", "job": "b", "after_run": 1}
    with pytest.raises((Unavailable, NotFound)):
        await one(host, retry)
    with pytest.raises(NotFound):
        await one(host, retry)
    await world.store.remove("b")
    assert await world.store.expired(2**62, 10) == []


async def test_bad_input_writes_nothing(world: World) -> None:
    """One bad entry on the last place of a long list: the place is named, and no row exists."""
    files = [f"{i}.tif" for i in range(1500)] + ["../secret.tif"]
    with pytest.raises(InvalidInput) as caught:
        await world.intake.create({"batch_id": "b", "files": files})
    assert caught.value.field == "files[1500].r2_key"
    assert await world.store.job("b") is None


async def test_requests_for_nothing_fail_alone(world: World) -> None:
    """In one group: an unknown job, an unknown task and a good callback; only the first two fail."""
    host = world.host()
    await world.running(1, host)
    (task,) = (await one(host, taking("m")))["tasks"]
    stranger = success(task) | {"body": {"task_id": "b_tiff_99", "batch_id": "b", "status": "success"}}
    unknown, missing, good = await host.handle([success(task) | {"job": "nobody"}, stranger, success(task)])
    assert isinstance(unknown, NotFound)
    assert isinstance(missing, NotFound)
    assert good["ok"]
    with pytest.raises(Conflict):
        await one(host, {"op": "cancel", "job": "b", "reason": "late"})


async def test_the_same_body_twice_at_once_is_one_batch(world: World) -> None:
    """Two fronts take in the same body at the same time (a proxy repeated it): both get the one batch."""
    body = {"batch_id": "b", "files": [f"{i}.tif" for i in range(1500)]}
    answers = await asyncio.gather(*(world.intake.create(body) for _ in range(3)))
    assert {(job.id, job.files_total, job.tasks_total) for job, _ in answers} == {("b", 1500, 1500)}
    assert (await world.counted())["pending"] == 1500


async def test_a_host_refuses_a_job_that_lives_elsewhere(world: World) -> None:
    """A caller that remembers the place of an earlier run does not pull the job away from its actor."""
    await world.running(1, world.host())
    with pytest.raises(Unavailable):
        await one(world.host("batches:0"), taking("m"))
    job = await world.store.job("b")
    assert job is not None
    assert job.tasks_in_flight == 0
