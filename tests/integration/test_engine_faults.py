"""What is not as it should be: a receiver that is down, a prefix that cannot be read, an event that breaks its turn.

The loop, the hosts, the directory and the store together in one process: real SQLite and sockets, no Ray.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest

from actors import durable, wire
from actors.clock import Clock
from actors.directory import Directory
from actors.errors import Unavailable
from actors.host import Host, _event
from actors.intake import Intake
from actors.maintenance import wake
from actors.perform import Performer
from actors.rules import batch
from actors.rules.effects import Policy
from actors.rules.events import CalledBack, DeliveryEnded
from actors.rules.model import Job
from actors.rules.states import Delivery, JobState
from actors.store import Store
from actors.store.commit import Commit
from actors.store.writer import LocalWriter, Writer
from worker import errors as worker_errors
from worker.objects.local import LocalObjects

MANY_S = 20.0
"""Longer than anything here takes on a machine that is busy."""


class AheadClock(Clock):
    """Time that can be put forward."""

    def __init__(self) -> None:
        super().__init__()
        self.ahead_ms = 0

    def now(self) -> int:
        return super().now() + self.ahead_ms


class Receiver:
    """The receiver of finished batches: down until it is told to be up."""

    def __init__(self) -> None:
        self.is_up = False
        self.tried = asyncio.Semaphore(0)
        self.taken: list[int] = []

    async def send(self, job: Job, run: int) -> DeliveryEnded:
        self.tried.release()
        if not self.is_up:
            return DeliveryEnded(run=run, outcome="retry", message="The receiver answered 503.")
        self.taken.append(run)
        return DeliveryEnded(run=run, outcome="delivered")


class Fleet:
    """Told what a batch wants; answers when it is not hung."""

    def __init__(self) -> None:
        self.demands: list[int] = []
        self.wanted = asyncio.Event()
        self.answers = asyncio.Event()
        self.answers.set()

    async def __call__(self, request: dict[str, Any]) -> dict[str, Any]:
        if request["op"] == "demand":
            self.demands.append(request["want"])
            self.wanted.set()
        await self.answers.wait()
        return {}


class World:
    """One data folder, one run folder; hosts that listen under their names."""

    def __init__(self, folder: Path, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.writer = Writer(folder / "arke.db")
        self.store = Store(LocalWriter(self.writer), folder / "arke.db")
        self.objects = LocalObjects(folder / "objects", "arke-staging")
        self.clock, self.fleet, self.receiver = AheadClock(), Fleet(), Receiver()
        self.policy = Policy(backoff_base_ms=400, backoff_cap_ms=800, delivers=True)
        self.intake = self.intake_from(self.objects)
        self.way = Directory(
            store=self.store, run_dir=run_dir, ensure=self.start, max_active=9, small_tasks=0, hosts=1
        )  # fmt: skip
        self.servers: dict[str, wire.Server] = {}
        self.started: list[str] = []
        self.left = asyncio.Event()
        self.written = asyncio.Semaphore(0)
        self.reads: list[asyncio.Task[Job]] = []
        self._tell_of("commit")
        self._tell_of("queue")

    def _tell_of(self, name: str) -> None:
        write = getattr(self.store, name)

        async def tells(written: Any) -> None:
            await write(written)
            self.written.release()

        setattr(self.store, name, tells)

    async def close(self) -> None:
        """End all connections and the store."""
        for client in list(self.way._lines._clients.values()):
            await client.close()
        for server in self.servers.values():
            server.close()
        await turns()
        await self.store.close()
        self.writer.close()

    def intake_from(self, objects: Any) -> Intake:
        return Intake(
            store=self.store, objects=objects, clock=self.clock, max_files=10_000, timeout_ms=60_000,
            default_phases=("TIFF_CONVERSION",),
        )  # fmt: skip

    def host(self, name: str = "batch:b", on_idle: Any = None) -> Host:
        return Host(
            name=name,
            store=self.store,
            perform=Performer(store=self.store, call_fleet=self.fleet, channel=self.receiver),  # type: ignore[arg-type]
            policy=self.policy,
            clock=self.clock,
            rng=random.Random(7),
            callback_base="http://127.0.0.1:1",
            secret="secret",
            hibernate_after_ms=60_000,
            continue_intake=self.begin_to_read,
            on_idle=on_idle,
        )

    def begin_to_read(self, job: Job) -> Any:
        self.reads.append(asyncio.create_task(self.intake.read_prefix(job)))
        return self.reads[-1]

    async def start(self, name: str) -> None:
        """What Ray does for the directory: a process of that name, which ends when it is a batch's own and idle."""
        self.started.append(name)
        host = self.host(name, (lambda: self._leave(name)) if name.startswith("batch:") else None)
        self.servers[name] = await wire.serve(wire.socket_path(self.run_dir, name), host.handle)

    def _leave(self, name: str) -> None:
        self.servers[name].close()
        self.left.set()

    async def job(self, job_id: str = "b") -> Job:
        job = await self.store.job(job_id)
        assert job is not None
        return job

    async def until(self, state: JobState, delivery: Delivery = Delivery.NONE) -> Job:
        """Wait for it, looking after each commit."""
        async with asyncio.timeout(MANY_S):
            while ((job := await self.job()).state, job.delivery) != (state, delivery):
                await self.written.acquire()
        return job

    async def running(self, files: int, host: Host) -> None:
        await self.intake.create({"batch_id": "b", "files": [f"s/{i}.tif" for i in range(files)]})
        await self.store.admit("b", max_active=9, small_tasks=0, shared_hosts=1, now=self.clock.now())
        await one(host, {"op": "activate", "job": "b"})
        await self.fleet.wanted.wait()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    with TemporaryDirectory(prefix="run") as run_dir:
        made = World(tmp_path, Path(run_dir))
        yield made
        await made.close()


async def turns() -> None:
    """Let the event loop do what is ready, and what follows on that."""
    for _ in range(20):
        await asyncio.sleep(0)


async def one(host: Host, request: dict[str, Any]) -> Any:
    (answer,) = await host.handle([request])
    if isinstance(answer, BaseException):
        raise answer
    return answer


async def taken(host: Host, free: int) -> list[dict[str, Any]]:
    request = {"op": "take", "job": "b", "machine": "m", "claim": "c", "free": free, "kind": "tiff"}
    tasks: list[dict[str, Any]] = (await one(host, request))["tasks"]
    return tasks


def success(task: dict[str, Any]) -> dict[str, Any]:
    body = {"task_id": task["task_id"], "batch_id": "b", "status": "success"}
    return {"op": "callback", "job": "b", "run": task["run"], "attempt": task["attempt"], "body": body}


# --- a receiver that is down --------------------------------------------------------------------------


async def test_a_batch_that_waits_for_its_receiver_has_no_actor_of_its_own(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DONE, and the receiver is down: its own process leaves, a standing one delivers when it is up, once."""
    monkeypatch.setattr(durable, "LINGER_S", 0.05)
    job, _ = await world.intake.create({"batch_id": "b", "files": ["a.txt"]})  # nothing to convert: done at once
    assert await world.way.admit(job, world.clock.now())
    async with asyncio.timeout(MANY_S):
        await world.receiver.tried.acquire()
        await world.left.wait()
    assert (await world.until(JobState.DONE, Delivery.PENDING)).placement == "batch:b"

    async def activate(job_id: str) -> None:
        await world.way.call(job_id, {"op": "activate"})

    tries = (await world.job()).delivery_tries
    await wake.run_once(world.store, activate, now=world.clock.now() + 60_000, longest_ms=60_000)
    async with asyncio.timeout(MANY_S):
        await world.receiver.tried.acquire()  # it is still repeated
        world.receiver.is_up = True
        while not world.receiver.taken:
            await world.receiver.tried.acquire()
    told = await world.until(JobState.DONE, Delivery.DELIVERED)
    assert told.delivery_tries > tries
    assert world.receiver.taken == [1]
    assert world.started == ["batch:b", "batches:0"]


async def test_a_loop_stays_for_a_delivery_that_is_under_way(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is being done is not left half done, however long the receiver takes."""
    monkeypatch.setattr(durable, "LINGER_S", 0.0)
    answers, begun, left = asyncio.Event(), asyncio.Event(), []

    async def slow(job: Job, run: int) -> DeliveryEnded:
        begun.set()
        await answers.wait()
        return DeliveryEnded(run=run, outcome="delivered")

    monkeypatch.setattr(world.receiver, "send", slow)
    host = world.host(on_idle=lambda: left.append(1))
    await world.intake.create({"batch_id": "b", "files": ["a.txt"]})
    await world.store.admit("b", max_active=9, small_tasks=0, shared_hosts=1, now=world.clock.now())
    await one(host, {"op": "activate", "job": "b"})
    async with asyncio.timeout(MANY_S):
        await begun.wait()
    await turns()
    assert left == []
    answers.set()
    await world.until(JobState.DONE, Delivery.DELIVERED)


async def test_a_delivery_that_died_with_its_host_is_begun_again_within_seconds(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody asks anything of a batch that is over: its alarm alone brings it back, and it must be due soon."""
    begun = asyncio.Event()

    async def in_vain(job: Job, run: int) -> DeliveryEnded:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError("its process is dead")

    world.receiver.is_up = True
    with monkeypatch.context() as patched:
        patched.setattr(world.receiver, "send", in_vain)
        host = world.host()
        await world.intake.create({"batch_id": "b", "files": ["a.txt"]})
        await world.store.admit("b", max_active=9, small_tasks=0, shared_hosts=1, now=world.clock.now())
        await one(host, {"op": "activate", "job": "b"})
        async with asyncio.timeout(MANY_S):
            await begun.wait()
        for loop in host._loops:
            loop.cancel()
        await turns()

    async def activate(job_id: str) -> None:
        await world.way.call(job_id, {"op": "activate"})

    world.clock.ahead_ms = 5_000 + wake.SLACK_MS
    woken = await wake.run_once(world.store, activate, now=world.clock.now(), longest_ms=60_000)
    assert woken.done == 1
    await world.until(JobState.DONE, Delivery.DELIVERED)
    assert world.receiver.taken == [1]


# --- a prefix that cannot be read ---------------------------------------------------------------------


class Refusing:
    """Objects that cannot be listed."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.asked = 0

    def list(self, prefix: str, after: str | None = None, limit: int = 1000) -> Any:
        self.asked += 1
        raise self.error

    def read(self, key: str, limit: int) -> bytes:
        raise self.error


async def reading(world: World, error: Exception) -> tuple[Host, Refusing]:
    """A batch whose prefix cannot be listed, after the first try."""
    objects, host = Refusing(error), world.host("batches:0")
    world.intake = world.intake_from(objects)
    await world.intake.create({"batch_id": "b", "r2_prefix": "up/"})
    await one(host, {"op": "activate", "job": "b"})
    await asyncio.wait(world.reads, timeout=MANY_S)
    return host, objects


FORBIDDEN = worker_errors.Unavailable("the object store answered 403 AccessDenied")


async def test_a_prefix_that_cannot_be_read_in_time_ends_with_the_last_error(world: World) -> None:
    """It is tried again after a pause, not each time that the duty asks; when the time is over the batch has failed."""
    host, objects = await reading(world, FORBIDDEN)
    for _ in range(5):
        await one(host, {"op": "activate", "job": "b"})
    assert objects.asked == 1
    assert (await world.job()).state is JobState.RECEIVING
    world.clock.ahead_ms = 61_000
    await one(host, {"op": "activate", "job": "b"})
    job = await world.job()
    assert (job.state, job.code, job.alarm_at) == (JobState.FAILED, "intake_stalled", None)
    assert job.error == f"The prefix could not be read: {FORBIDDEN}"
    assert host.idle


async def test_a_prefix_that_can_never_be_read_ends_at_once(world: World) -> None:
    """The object store says that the request is wrong: no other try is made."""
    await reading(world, worker_errors.BadInput("the prefix 'up/' is not allowed"))
    job = await world.until(JobState.FAILED)
    assert job.code == "prefix_unreadable"
    assert job.error is not None
    assert "is not allowed" in job.error


async def test_a_batch_whose_reading_broke_is_taken_in_when_its_body_comes_again(world: World) -> None:
    """FAILED by its reader is FAILED like any other: the same body begins the next run."""
    await reading(world, worker_errors.BadInput("no"))
    await world.until(JobState.FAILED)
    world.objects.put("up/a.tif", b"II", "image/tiff")
    world.intake = world.intake_from(world.objects)
    job, began = await world.intake.create({"batch_id": "b", "r2_prefix": "up/"})
    assert (job.state, job.run, began) == (JobState.RECEIVING, 2, True)


async def test_after_a_long_stop_a_prefix_is_read_on_before_it_is_given_up(world: World) -> None:
    """The service was down for longer than the intake may stand still: that is no fault of the prefix."""
    world.objects.put("up/a.tif", b"II", "image/tiff")
    await world.intake.create({"batch_id": "b", "r2_prefix": "up/"})
    world.clock.ahead_ms = 3_600_000
    await one(world.host("batches:0"), {"op": "activate", "job": "b"})
    await asyncio.wait(world.reads, timeout=MANY_S)
    assert (await world.job()).state is JobState.QUEUED


async def test_only_prefixes_are_asked_for_to_be_read_on(world: World) -> None:
    """Of the batches that are being taken in, lists are not among them; pages follow on each other."""
    for n in range(3):
        await world.intake.create({"batch_id": f"p{n}", "r2_prefix": f"up/{n}/"})
    await world.store.create(Job(id="list", created_at=1, alarm_at=2, body_digest="d"))
    page, cursor = await world.store.reading(limit=2)
    rest, end = await world.store.reading(limit=2, cursor=cursor)
    assert sorted(job.id for job in page + rest) == ["p0", "p1", "p2"]
    assert (len(page), end) == (2, None)


async def test_small_jobs_that_wait_are_found_behind_large_ones(world: World) -> None:
    """The question for small jobs passes over the large ones, oldest first."""
    for n, files in enumerate((3, 1, 4, 2)):
        await world.intake.create({"batch_id": f"j{n}", "files": [f"{i}.tif" for i in range(files)]})
    assert [job.id for job in await world.store.waiting(2, 2)] == ["j1", "j3"]


# --- an event that breaks its turn ----------------------------------------------------------------------


def break_on(task_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules raise for callbacks of this task."""
    decide = durable.decide

    def breaks(state: Any, events: Any, *more: Any) -> Any:
        if any(isinstance(event, CalledBack) and event.task_id == task_id for event in events):
            raise OverflowError("nobody foresaw it")
        return decide(state, events, *more)

    monkeypatch.setattr(durable, "decide", breaks)


async def test_a_bad_event_fails_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three callbacks in one group the rules cannot take one: the others count, and the loop goes on."""
    host = world.host()
    await world.running(4, host)
    tasks = await taken(host, 4)
    epoch = (await world.job()).epoch
    break_on(tasks[1]["task_id"], monkeypatch)
    good, bad, also_good = await host.handle([success(task) for task in tasks[:3]])
    assert (good["ok"], also_good["ok"]) == (True, True)
    assert isinstance(bad, OverflowError)
    await one(host, success(tasks[3]))
    job = await world.job()
    assert (job.tasks_completed, job.tasks_in_flight, job.epoch) == (3, 1, epoch)


async def test_an_event_that_the_store_cannot_write_fails_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store refuses the commit that holds it, for good; it takes the others of its group."""
    host = world.host()
    await world.running(2, host)
    tasks = await taken(host, 2)
    commit = world.store.commit

    async def refuses(turn: Commit) -> None:
        if any(task.task_id == tasks[0]["task_id"] for task in turn.tasks):
            raise OverflowError("too large an integer")
        await commit(turn)

    monkeypatch.setattr(world.store, "commit", refuses)
    bad, good = await host.handle([success(task) for task in tasks])
    assert isinstance(bad, OverflowError)
    assert good["ok"]
    assert (await world.job()).tasks_completed == 1


async def test_a_commit_that_was_written_and_reported_broken_is_not_repeated_in_parts(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The activation ends, since the store has more than it knows; the next one finds each callback counted once."""
    host = world.host()
    await world.running(3, host)
    tasks = await taken(host, 3)
    commit = world.store.commit

    async def breaks(turn: Commit) -> None:
        await commit(turn)
        raise OverflowError("after the fact")

    monkeypatch.setattr(world.store, "commit", breaks)
    answers = await host.handle([success(task) for task in tasks[:2]])
    assert all(isinstance(answer, Unavailable) for answer in answers)
    monkeypatch.setattr(world.store, "commit", commit)
    for task in tasks[:2]:
        await one(host, success(task))
    job = await world.job()
    assert (job.tasks_completed, job.tasks_in_flight) == (2, 1)


async def test_an_alarm_that_breaks_ends_the_activation(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be due again at once, for ever: the loop ends, and `wake` tries again a second later."""
    await world.intake.create({"batch_id": "b", "files": ["a.tif"]})
    await world.store.admit("b", max_active=9, small_tasks=0, shared_hosts=1, now=world.clock.now())
    ended = asyncio.Event()

    def breaks(*_: Any) -> Any:
        raise OverflowError("nobody foresaw it")

    monkeypatch.setattr(durable, "decide", breaks)
    host = world.host(on_idle=ended.set)
    await one(host, {"op": "activate", "job": "b"})
    async with asyncio.timeout(MANY_S):
        await ended.wait()
    assert host.idle


# --- a fleet that hangs ----------------------------------------------------------------------------------


async def test_demands_do_not_gather_before_a_fleet_that_hangs(world: World) -> None:
    """Alarms come and go while the fleet does not answer: one demand is out, and the newest follows on it."""
    world.policy = Policy(alarm_delay_ms=10)
    world.fleet.answers.clear()
    host = world.host()
    await world.running(3, host)
    async with asyncio.timeout(MANY_S):
        for _ in range(8):
            await world.written.acquire()
    assert world.fleet.demands == [3]
    await taken(host, 2)
    await one(host, {"op": "cancel", "job": "b", "reason": "enough"})
    world.fleet.wanted.clear()
    world.fleet.answers.set()
    async with asyncio.timeout(MANY_S):
        await world.fleet.wanted.wait()
    assert world.fleet.demands == [3, 0]


# --- an activation that was overtaken ------------------------------------------------------------------


@pytest.mark.parametrize("op", ["take", "callback", "cancel"])
async def test_an_overtaken_activation_answers_nothing_from_its_memory(world: World, op: str) -> None:
    """Invariant 2: a new run has begun elsewhere. What needs no commit here (a claim that has its tasks, a callback of
    a run that is not the present one, a cancel of what is cancelled already) is not answered by who does not know it:
    the caller asks again, and the heir carries it out.
    """
    first, second = world.host("batch:b"), world.host("batch:b")
    await world.running(2, first)
    (task, *_) = await taken(first, 1)
    await one(first, {"op": "cancel", "job": "b", "reason": "no"})
    await one(second, {"op": "retry", "job": "b", "after_run": 1})
    requests: dict[str, dict[str, Any]] = {
        "take": {"op": "take", "job": "b", "machine": "m", "claim": "c", "free": 1, "kind": "tiff"},
        "callback": success(task) | {"run": 2},
        "cancel": {"op": "cancel", "job": "b", "reason": "again"},
    }
    loop = first._active["b"].result()
    with pytest.raises(Unavailable):
        await loop.submit(_event(requests[op]))
    await turns()
    assert loop.closed


class Asked(msgspec.Struct, frozen=True):
    """An event that the loop does not name, as one that is added would be. No `Event`: of those each has a rule."""


async def test_the_answer_to_an_event_of_any_new_kind_is_checked(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Invariant 2: the events that need no check are named, so what is added is checked unless somebody says no."""
    asked: Any = Asked()
    monkeypatch.setitem(batch.HANDLERS, Asked, lambda draft, event: None)  # type: ignore[arg-type]
    host = world.host()
    await world.running(1, host)
    loop = host._active["b"].result()
    assert await loop.submit(asked) is None
    await world.store.activate("b")
    with pytest.raises(Unavailable):
        await loop.submit(asked)
    await turns()
    assert loop.closed


async def test_an_answer_that_was_on_its_way_for_long_proves_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant 2: a commit was written, another activation took over, and only then came the answer: what the commit
    asked for is not done. The epoch was valid when the store was asked, not when it was heard."""
    real_s, ahead_s = durable._time_s, 0.0
    monkeypatch.setattr(durable, "_time_s", lambda: real_s() + ahead_s)
    write, is_written = world.store.commit, asyncio.Event()

    async def late(commit: Commit) -> None:
        nonlocal ahead_s
        await write(commit)
        await world.store.activate("b")
        ahead_s += durable.EPOCH_TRUST_S + 1
        is_written.set()

    monkeypatch.setattr(world.store, "commit", late)
    host = world.host()
    await world.intake.create({"batch_id": "b", "files": ["s/0.tif"]})
    await world.store.admit("b", max_active=9, small_tasks=0, shared_hosts=1, now=world.clock.now())
    await one(host, {"op": "activate", "job": "b"})
    await is_written.wait()
    acting = list(host._active["b"].result()._acting)
    assert acting  # begun with the answer to the commit
    async with asyncio.timeout(MANY_S):
        await asyncio.gather(*acting)
    assert (await world.job()).state is JobState.RUNNING
    assert world.fleet.demands == []


async def test_a_process_that_reads_a_prefix_does_not_leave_and_one_that_leaves_begins_nothing(world: World) -> None:
    """A batch that was reset and created again reads its prefix where its former run was, and the loop of that run
    ends meanwhile. A process that has begun to leave takes no request any more: its caller finds another.
    """
    left: list[bool] = []
    host = world.host(on_idle=lambda: left.append(host.idle))
    await world.running(1, host)
    reading: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    assert host._readers is not None
    host._readers._reading["another"] = reading
    await one(host, {"op": "cancel", "job": "b", "reason": "no"})
    async with asyncio.timeout(MANY_S):
        await asyncio.gather(*host._loops)
    assert host._active == {}
    assert left == []
    host.leave()
    with pytest.raises(Unavailable):
        await one(host, {"op": "activate", "job": "b"})
