"""Runs and phases over the real store: a second phase that is found by itself, new runs, a clock that goes back."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from actors import phases, planning
from actors.channels.final_callback import FinalCallback
from actors.errors import Conflict, Unavailable
from actors.host import Host
from actors.intake import Intake
from actors.maintenance import wake
from actors.perform import Performer
from actors.phases import Phase
from actors.phases.tiff_conversion import environment
from actors.rules.effects import PlanPhase, Policy
from actors.rules.model import Job, Task
from actors.rules.states import Delivery, JobState, TaskStatus
from actors.store import Commit, Store
from actors.store.writer import LocalWriter, Writer
from worker.contract import FileRef
from worker.objects.local import LocalObjects

BODY = {"batch_id": "b", "files": ["s/0.tif", "s/1.tif", "s/2.txt"], "phases": ["TIFF_CONVERSION", "NOTED"]}
HOUR_MS = 3_600_000


def noted(file: FileRef, task: Task) -> tuple[FileRef, ...]:
    note = FileRef(r2_key=task.output_r2_key, logical_path=f"{file.logical_path}.note", file_name="note")
    return (file, note) if task.status is TaskStatus.COMPLETED else (file,)


NOTED = Phase(
    name="NOTED",
    kind="note",
    wants=lambda file: not file.file_name.endswith(".tif"),
    output_key=lambda file: f"{file.r2_key}.note",
    environment=environment,
    files_after=noted,
)
"""The phase of these tests: everything but a TIFF gets a note beside it."""


@pytest.fixture(autouse=True)
def second_phase(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As an installed package would bring it."""
    point = EntryPoint(name="noted", value=f"{__name__}:NOTED", group="arke.phases")
    monkeypatch.setattr(phases, "entry_points", lambda group: [point] if group == "arke.phases" else [])
    phases.all_phases.cache_clear()
    yield
    phases.all_phases.cache_clear()


class HandClock:
    """Time that moves when it is told; of one process, `ahead_ms` of the others'."""

    def __init__(self, ahead_ms: int = 0) -> None:
        self.ms = 1_700_000_000_000 + ahead_ms

    def now(self) -> int:
        return self.ms


class World:
    """One data folder; hosts come and go over it. The fleet is told and answers nothing."""

    def __init__(self, folder: Path) -> None:
        self.writer = Writer(folder / "arke.db")
        self.store = Store(LocalWriter(self.writer), folder / "arke.db")
        self.objects = LocalObjects(folder / "objects", "arke-staging")
        self.clock = HandClock()
        self.policy = Policy(alarm_delay_ms=20, delivers=True)
        self.happened = asyncio.Event()  # something was committed
        self.performed: list[type[Any]] = []
        self.told: list[dict[str, Any]] = []
        self.intake = Intake(
            store=self.store, objects=self.objects, clock=self.clock, max_files=10_000, timeout_ms=60_000,
            default_phases=("TIFF_CONVERSION",),
        )  # fmt: skip
        write = self.store.commit

        async def tells(commit: Commit) -> None:
            await write(commit)
            self.happened.set()

        self.store.commit = tells  # type: ignore[method-assign]

    def host(self) -> Host:
        async def answer(request: httpx.Request) -> httpx.Response:
            self.told.append(msgspec.json.decode(await request.aread()))
            return httpx.Response(200)

        async def fleet(_: dict[str, Any]) -> dict[str, Any]:
            return {}

        channel = FinalCallback("http://w", self.store, httpx.AsyncClient(transport=httpx.MockTransport(answer)))
        performer = Performer(store=self.store, call_fleet=fleet, channel=channel)

        async def perform(job: Job, effect: Any) -> Any:
            self.performed.append(type(effect))
            return await performer(job, effect)

        return Host(
            name="batch:b", store=self.store, perform=perform, policy=self.policy, clock=self.clock,
            rng=random.Random(7), callback_base="http://127.0.0.1:1", secret="secret", hibernate_after_ms=60_000,
        )  # fmt: skip

    async def admitted(self, host: Host) -> None:
        await self.store.admit("b", max_active=9, small_tasks=0, shared_hosts=1, now=self.clock.now())
        await one(host, {"op": "activate", "job": "b"})

    async def job(self) -> Job:
        job = await self.store.job("b")
        assert job is not None
        return job

    async def next_job(self) -> Job:
        """The job as it is now; what is committed later sets `happened`."""
        self.happened.clear()
        return await self.job()

    async def until(self, state: JobState, phase: int = 0, delivery: Delivery = Delivery.NONE) -> Job:
        """Wait for it: its loop runs beside this. Invariant 7 holds at the end."""
        async with asyncio.timeout(20):
            job = await self.next_job()
            while (job.state, job.phase, job.delivery) != (state, phase, delivery):
                await self.happened.wait()
                job = await self.next_job()
        rows = await self.store.count_tasks("b", job.phase, job.run)
        counted = {"completed": job.tasks_completed, "failed": job.tasks_failed, "processing": job.tasks_in_flight}
        assert {name: rows[name] for name in counted} == counted
        assert sum(rows.values()) == job.tasks_total
        return job

    async def takes(self, host: Host, kind: str) -> list[dict[str, Any]]:
        """All tasks that there are to take."""
        claim = f"claim-{random.randbytes(4).hex()}"
        request = {"op": "take", "job": "b", "machine": "m", "claim": claim, "free": 99, "kind": kind}
        tasks: list[dict[str, Any]] = (await one(host, request))["tasks"]
        return tasks

    async def work(self, host: Host, kind: str = "tiff", *, fails: str = "none") -> list[str]:
        """Do all tasks that there are; those whose input contains `fails` fail for good. Their inputs, in order."""
        tasks = await self.takes(host, kind)
        for task in tasks:
            bad = fails in task["env"]["INPUT_R2_KEY"]
            outcome = {"status": "error", "error": "404 Not Found"} if bad else {"status": "success"}
            body = {"task_id": task["task_id"], "batch_id": "b"} | outcome
            told = {"run": task["run"], "attempt": task["attempt"], "body": body}
            await one(host, {"op": "callback", "job": "b"} | told)
        return [task["env"]["INPUT_R2_KEY"] for task in tasks]

    async def files(self) -> list[str]:
        return [file.r2_key async for file in planning.processed_files(self.store, await self.job())]


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


async def begun(world: World) -> Host:
    await world.intake.create(BODY)
    host = world.host()
    await world.admitted(host)
    await world.until(JobState.RUNNING)
    return host


async def retried(world: World) -> Host:
    await one(world.host(), {"op": "retry", "job": "b", "after_run": 1})
    host = world.host()
    await world.admitted(host)
    return host


# --- phases ---------------------------------------------------------------------------------------


async def test_the_final_list_is_complete_and_in_order(world: World) -> None:
    """Two phases end to end: each file, what became of it beside it, in the order of the list; phases are counted."""
    host = await begun(world)
    assert await world.work(host) == ["s/0.tif", "s/1.tif"]
    await world.until(JobState.RUNNING, phase=1)
    assert await world.work(host, "note") == ["s/0.jpg", "s/1.jpg", "s/2.txt"]
    job = await world.until(JobState.DONE, phase=1, delivery=Delivery.DELIVERED)
    assert [file["r2_key"] for file in world.told[-1]["files"]] == [
        "s/0.tif", "s/0.jpg", "s/0.jpg.note", "s/1.tif", "s/1.jpg", "s/1.jpg.note", "s/2.txt", "s/2.txt.note",
    ]  # fmt: skip
    assert [(count.name, count.tasks_total) for count in job.history] == [("TIFF_CONVERSION", 2)]
    assert world.performed.count(PlanPhase) == 1


async def test_a_plan_goes_on_after_a_crash(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planning dies with its process after the files; another activation plans, and nothing is doubled."""
    host = await begun(world)
    plan_tasks, reached = planning.plan_tasks, asyncio.Event()

    async def hangs(*_: Any) -> int:
        reached.set()
        await asyncio.Event().wait()
        return 0

    monkeypatch.setattr(planning, "plan_tasks", hangs)
    await world.work(host)
    await reached.wait()
    monkeypatch.setattr(planning, "plan_tasks", plan_tasks)
    other = world.host()
    await one(other, {"op": "activate", "job": "b"})
    job = await world.until(JobState.RUNNING, phase=1)
    assert job.tasks_total == 3
    assert world.performed.count(PlanPhase) == 2


async def test_a_plan_that_the_store_refused_is_made_later(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store is away for the first attempt: the alarm asks again, and the batch goes on."""
    plan, refused = world.store.plan, [True]

    async def away_once(*args: Any) -> None:
        if refused and refused.pop():
            raise Unavailable
        await plan(*args)

    host = await begun(world)
    monkeypatch.setattr(world.store, "plan", away_once)
    await world.work(host)
    async with asyncio.timeout(20):
        while (await world.next_job()).phase == 0:
            world.clock.ms += 20  # the next alarm is due, and commits when the one after it is
            await world.happened.wait()
    assert world.performed.count(PlanPhase) == 2


async def test_a_broken_phase_ends_the_batch(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its code raises: the batch fails with the phase named, and `retry` goes on once it is mended."""
    host = await begun(world)

    def broken(_: FileRef) -> bool:
        raise KeyError("secret")

    with monkeypatch.context() as patch:
        patch.setitem(phases.all_phases(), "NOTED", msgspec.structs.replace(NOTED, wants=broken))
        await world.work(host)
        job = await world.until(JobState.FAILED)
    assert (job.code, job.error) == ("planning_failed", "The phase NOTED cannot be planned: its code raised KeyError.")
    host = await retried(world)
    job = await world.until(JobState.RUNNING, phase=1)
    assert (job.run, job.tasks_total) == (2, 3)


# --- retry ----------------------------------------------------------------------------------------


async def test_cancelled_when_planned_but_not_begun(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tasks of the second phase are in the store, the job is cancelled, then retried: all are done, in run 2."""
    host = await begun(world)
    plan_phase, planned = planning.plan_phase, asyncio.Event()

    async def never_told(*args: Any) -> int:
        await plan_phase(*args)
        planned.set()
        await asyncio.Event().wait()
        return 0

    with monkeypatch.context() as patch:
        patch.setattr("actors.perform.plan_phase", never_told)
        await world.work(host)
        await planned.wait()
        await one(host, {"op": "cancel", "job": "b", "reason": "enough"})
    host = await retried(world)
    job = await world.until(JobState.RUNNING, phase=1)
    assert (job.run, job.tasks_total) == (2, 3)
    assert await world.work(host, "note") == ["s/0.jpg", "s/1.jpg", "s/2.txt"]
    await world.until(JobState.DONE, phase=1, delivery=Delivery.DELIVERED)


async def test_a_file_that_becomes_another_is_planned_anew(world: World) -> None:
    """A TIFF fails, the batch is done, retry converts it: what follows in the list moves, and the list is right.

    What the second phase had completed of files whose place is the same is not done again.
    """
    host = await begun(world)
    await world.work(host, fails="1.tif")
    await world.until(JobState.RUNNING, phase=1)
    assert await world.work(host, "note") == ["s/0.jpg", "s/2.txt"]
    await world.until(JobState.DONE, phase=1, delivery=Delivery.DELIVERED)
    host = await retried(world)
    await world.until(JobState.RUNNING)
    assert await world.work(host) == ["s/1.tif"]
    await world.until(JobState.RUNNING, phase=1)
    assert await world.work(host, "note") == ["s/1.jpg", "s/2.txt"]
    job = await world.until(JobState.DONE, phase=1, delivery=Delivery.DELIVERED)
    assert [file["r2_key"] for file in world.told[-1]["files"]] == [
        "s/0.tif", "s/0.jpg", "s/0.jpg.note", "s/1.tif", "s/1.jpg", "s/1.jpg.note", "s/2.txt", "s/2.txt.note",
    ]  # fmt: skip
    assert [(c.name, c.run, c.tasks_total, c.tasks_failed) for c in job.history] == [
        ("TIFF_CONVERSION", 1, 2, 1), ("NOTED", 1, 2, 0), ("TIFF_CONVERSION", 2, 1, 0),
    ]  # fmt: skip


async def test_a_list_that_becomes_shorter_leaves_nothing_behind(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A phase of another mind gives fewer files in the next run: those beyond go, with their tasks."""
    host = await begun(world)
    await world.work(host, fails="1.tif")
    await world.until(JobState.RUNNING, phase=1)
    await world.work(host, "note")
    await world.until(JobState.DONE, phase=1, delivery=Delivery.DELIVERED)
    tiff = phases.all_phases()["TIFF_CONVERSION"]
    nothing = msgspec.structs.replace(tiff, files_after=lambda file, task: ())
    monkeypatch.setitem(phases.all_phases(), "TIFF_CONVERSION", nothing)
    host = await retried(world)
    await world.until(JobState.RUNNING)
    await world.work(host)
    await world.until(JobState.RUNNING, phase=1)
    assert await world.work(host, "note") == ["s/2.txt"]
    await world.until(JobState.DONE, phase=1, delivery=Delivery.DELIVERED)
    assert await world.files() == ["s/2.txt", "s/2.txt.note"]


async def test_a_planner_of_an_earlier_run_writes_nothing(world: World) -> None:
    """It is slow, the job was cancelled and retried meanwhile: its list is not the new run's."""
    host = await begun(world)
    await one(host, {"op": "cancel", "job": "b", "reason": "enough"})
    old = await world.job()
    await retried(world)
    with pytest.raises(Conflict):
        await planning.plan_phase(world.store, old, 1)
    assert await world.store.files("b", 1, -1, 9) == []


# --- created again --------------------------------------------------------------------------------


async def test_created_again_keeps_the_history(world: World) -> None:
    """Over a cancelled batch: a new run with a new list, and what the earlier runs came to is still told."""
    host = await begun(world)
    await world.work(host, fails="1.tif")
    await world.until(JobState.RUNNING, phase=1)
    await one(host, {"op": "cancel", "job": "b", "reason": "enough"})
    job, began = await world.intake.create({"batch_id": "b", "files": ["t/9.tif"]})
    assert (began, job.run, job.tasks_total, job.phases) == (True, 2, 1, ("TIFF_CONVERSION",))
    assert [(c.name, c.run, c.tasks_total, c.tasks_completed, c.tasks_failed) for c in job.history] == [
        ("TIFF_CONVERSION", 1, 2, 1, 1), ("NOTED", 1, 2, 0, 2),
    ]  # fmt: skip


async def test_created_again_twice_at_once_is_one_run(world: World) -> None:
    """A proxy repeated the request over a batch in ERROR: both callers get the one new run."""
    host = await begun(world)
    await one(host, {"op": "cancel", "job": "b", "reason": "enough"})
    recreate = world.store.recreate

    async def a_moment_later(job: Job, list_digest: str | None = None) -> Job:
        world.clock.ms += 1
        return await recreate(msgspec.structs.replace(job, created_at=world.clock.ms), list_digest)

    world.store.recreate = a_moment_later  # type: ignore[method-assign]
    answers = await asyncio.gather(*(world.intake.create(BODY) for _ in range(3)))
    assert {(job.run, job.tasks_total, job.state) for job, _ in answers} == {(2, 2, JobState.QUEUED)}


async def test_an_intake_that_goes_on_is_not_ended_by_an_old_alarm(world: World) -> None:
    """A loop was activated during intake (a late callback); pages move the alarm behind its back: it must not fire."""
    await world.store.create(Job(id="b", created_at=1, body_digest="d", alarm_at=world.clock.now() + 50_000))
    host = world.host()
    late = {"task_id": "b_tiff_0", "batch_id": "b", "status": "success"}
    await one(host, {"op": "callback", "job": "b", "run": 9, "attempt": 1, "body": late})
    page = [FileRef(r2_key="a.tif", logical_path="/a.tif", file_name="a.tif")]
    await world.store.add_files("b", 1, 0, page, None, world.clock.now() + 100_000)
    world.clock.ms += 60_000
    await one(host, {"op": "callback", "job": "b", "run": 9, "attempt": 1, "body": late})
    job = await world.job()
    assert (job.state, job.files_total) == (JobState.RECEIVING, 1)
    await one(host, {"op": "cancel", "job": "b", "reason": "enough"})
    job = await world.job()
    assert (job.state, job.files_total) == (JobState.CANCELLED, 1), "what intake counted is not overwritten"


# --- a clock that goes back -----------------------------------------------------------------------


async def test_a_task_in_backoff_does_not_wait_for_the_clock(world: World) -> None:
    """The clock goes back an hour, another process takes over: the task is taken again, not an hour later."""
    world.policy = Policy(alarm_delay_ms=20, backoff_base_ms=30_000)
    host = await begun(world)
    (task, _) = await world.takes(host, "tiff")
    body = {"task_id": task["task_id"], "batch_id": "b", "status": "error", "error": "Disk full"}
    await one(host, {"op": "callback", "job": "b", "run": 1, "attempt": 1, "body": body})
    assert await world.takes(host, "tiff") == []
    world.clock = HandClock(-HOUR_MS)
    other = world.host()
    await one(other, {"op": "activate", "job": "b"})
    assert [again["task_id"] for again in await world.takes(other, "tiff")] == [task["task_id"]]


async def test_another_process_ends_nothing_at_once(world: World) -> None:
    """The clock went forward an hour, or the machine slept: what flies gets a full time-out from the activation on."""
    host = await begun(world)
    await world.takes(host, "tiff")
    world.clock = HandClock(HOUR_MS)
    world.happened.clear()
    await one(world.host(), {"op": "activate", "job": "b"})
    async with asyncio.timeout(20):
        await world.happened.wait()
    assert (await world.job()).tasks_in_flight == 2


async def test_a_job_whose_alarm_lies_an_hour_ahead_is_woken(world: World) -> None:
    """All processes began anew after the clock went back: `wake` finds the job, and it is looked at as ever."""
    await begun(world)
    world.clock.ms -= HOUR_MS
    woken: list[str] = []

    async def activate(job_id: str) -> None:
        woken.append(job_id)

    await wake.run_once(world.store, activate, now=world.clock.now(), longest_ms=120_000)
    assert woken == ["b"]
    world.clock.ms += HOUR_MS
    woken.clear()
    await wake.run_once(world.store, activate, now=world.clock.now() - wake.SLACK_MS, longest_ms=120_000)
    assert woken == [], "an alarm in good time is its actor's"


async def test_an_intake_whose_alarm_lies_an_hour_ahead_is_looked_at(world: World) -> None:
    """Its caller has gone, and the clock went back: it does not stay RECEIVING for an hour more."""
    await world.store.create(Job(id="b", created_at=1, body_digest="d", alarm_at=world.clock.now() + 60_000))
    now = world.clock.now()
    assert await world.store.stalled(now, 9, far=now + 70_000) == []
    assert [job.id for job in await world.store.stalled(now - HOUR_MS, 9, far=now - HOUR_MS + 70_000)] == ["b"]
