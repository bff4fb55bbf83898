"""The real fleet on a virtual clock, with a store, hosts and a provider that fail on demand; and on the real store."""

import asyncio
import heapq
import random
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from actors.errors import ArkeError, Fenced, InvalidInput, NotFound, Retired, Unavailable
from actors.fleet import Fleet, FleetStore, watching
from actors.fleet import rows as fleet_rows
from actors.machines.base import MachineSpec, MachineStatus, ProviderUnavailable, SpawnRefused, gone
from actors.rules.costs import Charge
from actors.rules.model import Job, Machine, Task
from actors.rules.states import JobState, MachineState, TaskStatus
from actors.store import Store
from actors.store.writer import LocalWriter, Writer
from worker.contract import MAX_CLAIM_FREE

Statuses = list[MachineStatus]
ENDED_MS = 37_000
"""When a machine without work is gone: seen after 5 s at most, for 30 s, and a tick for each of the two."""


class VirtualTime:
    """Time that passes only when a test says so."""

    def __init__(self) -> None:
        self.ms = 1_000_000
        self.timers: list[tuple[int, int, asyncio.Event]] = []

    def now(self) -> int:
        return self.ms

    async def wait(self, event: asyncio.Event, milliseconds: int) -> bool:
        rung = asyncio.Event()
        heapq.heappush(self.timers, (self.ms + max(0, milliseconds), id(rung), rung))
        waiters = [asyncio.ensure_future(event.wait()), asyncio.ensure_future(rung.wait())]
        try:
            await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiter in waiters:
                waiter.cancel()
        return event.is_set()

    async def advance(self, milliseconds: int) -> None:
        """Let everything happen that is due until then."""
        end = self.ms + milliseconds
        await settle()
        while self.timers and self.timers[0][0] <= end:
            due, _, rung = heapq.heappop(self.timers)
            self.ms = max(self.ms, due)
            rung.set()
            await settle()
        self.ms = end


async def settle() -> None:
    """Let all that can go on without time passing go on."""
    for _ in range(60):
        await asyncio.sleep(0)


class MemoryStore:
    """Fencing and commits as the real store does them; `lose_answers` commits and then fails."""

    def __init__(self) -> None:
        self.rows: dict[str, Machine] = {}
        self.history: list[tuple[str, str]] = []
        self.charges: list[Charge] = []
        self.epoch = self.seq = 0
        self.lose_answers = 0
        self.over: set[str] = set()
        self.takes: list[tuple[str, str]] = []
        self.idle: set[str] = set()
        self.asked_widely: list[list[str]] = []
        self.held_now: list[Task] = []
        self.asked: list[list[str]] = []
        self.unreadable = False
        self.hold: asyncio.Event | None = None

    async def activate_singleton(self, name: str) -> int:
        self.epoch, self.seq = self.epoch + 1, 0
        return self.epoch

    async def singleton_epoch(self, name: str, /) -> int:
        await asyncio.sleep(0)
        return self.epoch

    async def commit_machines(
        self, name: str, epoch: int, seq: int, machines: list[Machine], charges: Sequence[Charge] = (), /
    ) -> None:
        await asyncio.sleep(0)
        if self.hold is not None:
            await self.hold.wait()
        if epoch != self.epoch or seq not in (self.seq, self.seq + 1):
            raise Fenced
        if seq == self.seq + 1:
            self.seq = seq
            for machine in machines:
                self.rows[machine.id] = machine
                self.history.append((machine.id, machine.state.value))
            self.charges += charges
        if self.lose_answers:
            self.lose_answers -= 1
            raise Unavailable

    async def machines(self, *, alive: bool = True) -> list[Machine]:
        return [m for m in self.rows.values() if not alive or m.state is not MachineState.GONE]

    async def job(self, job_id: str) -> Job | None:
        return Job(id=job_id, state=JobState.CANCELLED if job_id in self.over else JobState.RUNNING)

    async def open_jobs(self, ids: list[str], /) -> set[str]:
        await asyncio.sleep(0)
        if self.unreadable:
            raise Unavailable
        return set(ids) - self.over

    async def busy_machines(self, ids: list[str], /) -> set[str]:
        self.asked.append(ids)
        await asyncio.sleep(0)
        if self.unreadable:
            raise Unavailable
        return {machine for job, machine in self.takes if job in ids and job not in self.over} - self.idle

    async def work_on(self, machines: list[str], /) -> dict[str, list[str]]:
        self.asked_widely.append(machines)
        await asyncio.sleep(0)
        if self.unreadable:
            raise Unavailable
        busy = set(machines) - self.idle
        at_work = [(job, machine) for job, machine in self.takes if machine in busy and job not in self.over]
        return {machine: [job for job, other in at_work if other == machine] for _, machine in at_work}

    async def held(self, job: str, machine: str, /) -> list[Task]:
        await asyncio.sleep(0)
        return [task for task in self.held_now if (task.job_id, task.machine) == (job, machine)]

    def states(self) -> list[str]:
        return sorted(m.state.value for m in self.rows.values())


class Hosts:
    """The batches: each has a queue of task numbers and remembers what it gave to a claim."""

    def __init__(self) -> None:
        self.pending: dict[str, deque[int]] = {}
        self.given: dict[tuple[str, str], list[dict[str, Any]]] = {}
        self.lost: list[dict[str, Any]] = []
        self.released: list[tuple[str, int, int]] = []
        self.takes: list[tuple[str, str]] = []
        self.down: set[str] = set()
        self.unanswered = 0
        self.hold: asyncio.Event | None = None

    async def call(self, job: str, request: dict[str, Any]) -> dict[str, Any]:
        if self.hold is not None:
            await self.hold.wait()
        await asyncio.sleep(0)
        if job in self.down:
            self.unanswered += 1
            raise Unavailable
        if request["op"] == "lost":
            self.lost.append(request)
            return {}
        if request["op"] == "callback":
            assert request["body"]["status"] == "released"
            self.released.append((request["body"]["task_id"], request["run"], request["attempt"]))
            return {}
        self.takes.append((job, request["machine"]))
        if job not in self.pending:
            raise NotFound
        key = (job, request["claim"])
        if not self.given.get(key):
            queue = self.pending[job]
            numbers = [queue.popleft() for _ in range(min(request["free"], len(queue)))]
            self.given[key] = [task(job, n) for n in numbers]
        return {"tasks": self.given[key]}


def task(job: str, n: int) -> dict[str, Any]:
    task_id = f"{job}_tiff_{n}"
    return {"env": {"TASK_ID": task_id}, "task_id": task_id, "attempt": 1, "run": 1, "name": f"tiff-{job}-{n}-1"}


class Machines:
    """A provider whose machines are entries of a dict; errors are put into `spawn_errors` by tests."""

    name = "subprocess"

    def __init__(self, capacity: int | None = None) -> None:
        self.capacity = capacity
        self.alive: dict[str, MachineStatus] = {}
        self.envs: dict[str, dict[str, str]] = {}
        self.spawned: list[str] = []
        self.destroyed: list[str] = []
        self.spawn_errors: list[Exception] = []
        self.answer_lost = False
        self.stuck: set[str] = set()
        self.down = False
        self.blind = False
        self.hold: asyncio.Event | None = None

    async def spawn(self, spec: MachineSpec) -> str:
        self.spawned.append(spec.name)
        if self.hold is not None:
            await self.hold.wait()
        if self.spawn_errors:
            raise self.spawn_errors.pop(0)
        self.alive[spec.name] = MachineStatus(name=spec.name, provider_id=f"id:{spec.name}", state="running")
        self.envs[spec.name] = spec.env
        if self.answer_lost:
            raise ConnectionError
        return f"id:{spec.name}"

    async def inspect(self, which: str) -> MachineStatus:
        if self.down or self.blind:
            raise ProviderUnavailable
        return self.alive.get(which.removeprefix("id:"), gone(which))

    async def list(self) -> Statuses:
        if self.down:
            raise ProviderUnavailable
        return list(self.alive.values())

    async def destroy(self, which: str) -> None:
        await asyncio.sleep(0)
        if self.down or which in self.stuck:
            raise ProviderUnavailable
        self.destroyed.append(which.removeprefix("id:"))
        self.alive.pop(which.removeprefix("id:"), None)


class World:
    """A fleet and all around it, which survives the fleet's death."""

    def __init__(self, store: FleetStore | None = None) -> None:
        self.time, self.hosts, self.provider = VirtualTime(), Hosts(), Machines()
        self.memory = MemoryStore()
        self.memory.takes = self.hosts.takes
        self.store: FleetStore = store or self.memory
        self.fleet: Fleet | None = None

    async def start(self, most: int = 4, concurrency: int = 1, pool: int = 0) -> Fleet:
        """A new activation, as after a kill: the former one just stops."""
        if self.fleet is not None:
            await self.fleet.close()
        self.fleet = Fleet(
            self.store, self.provider, call_host=self.hosts.call, now=self.time.now, wait=self.time.wait,
            base_env=lambda machine, _: {"MACHINE_NAME": machine}, max_machines=most, rng=random.Random(1),
            concurrency=concurrency, pool={"tiff": pool},
        )  # fmt: skip
        await self.fleet.start()
        await settle()
        return self.fleet

    async def ask(self, **request: Any) -> Any:
        assert self.fleet is not None
        (answer,) = await self.fleet.handle([request])
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def batch(self, job: str, tasks: int, *, announce: bool = True) -> None:
        self.hosts.pending[job] = deque(range(tasks))
        if announce:
            await self.demand(job, tasks)

    async def demand(self, job: str, want: int, active: int = 0) -> Any:
        answer = await self.ask(op="demand", job=job, kind="tiff", want=want, active=active)
        await settle()
        return answer

    def claiming(self, machine: str, claim: str = "c1", *, internal: bool = True, **more: Any) -> asyncio.Task[Any]:
        body = {"machine": machine, "claim": claim, "kinds": ["tiff"], "free": 1, "wait_ms": 5000, **more}
        return asyncio.ensure_future(self.ask(op="claim", claim=body, internal=internal))

    async def machines(self) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = await self.ask(op="list")
        return listed


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    await world.start()
    yield world
    assert world.fleet is not None
    await world.fleet.close()


async def test_a_demand_becomes_a_machine_with_its_task(world: World) -> None:
    """Rows come first: planned, then the task is taken, spawning with the name, then the provider, running."""
    await world.batch("a", 1)
    (machine,) = await world.machines()
    assert (machine["state"], machine["name"], machine["task_id"]) == ("running", "tiff-a-0-1", "a_tiff_0")
    assert [state for _, state in world.memory.history] == ["planned", "spawning", "running"]
    assert world.provider.envs["tiff-a-0-1"] == {
        "TASK_ID": "a_tiff_0", "MACHINE_NAME": machine["id"], "WORKER_KINDS": "tiff",
    }  # fmt: skip


async def test_slots_are_shared_round_robin_and_never_exceeded(world: World) -> None:
    """Four slots, two batches that came at once: two machines each, whatever their size."""
    await world.batch("big", 1000, announce=False)
    await world.batch("small", 5, announce=False)
    assert world.fleet is not None
    wish = {"op": "demand", "kind": "tiff", "active": 0}
    await world.fleet.handle([wish | {"job": "big", "want": 1000}, wish | {"job": "small", "want": 5}])
    await settle()
    assert sorted(world.provider.spawned) == ["tiff-big-0-1", "tiff-big-1-1", "tiff-small-0-1", "tiff-small-1-1"]
    await world.time.advance(5000)
    assert len(world.provider.spawned) == 4


async def test_no_more_machines_than_the_provider_has_room_for() -> None:
    """The warm actors bound the fleet even where MAX_MACHINES is higher; external has none at all."""
    for capacity in (1, 0):
        world = World()
        world.provider.capacity = capacity
        fleet = await world.start(most=10)
        await world.batch("a", 5)
        assert len(world.provider.spawned) == capacity
        await fleet.close()


class Paced(Machines):
    """A provider that makes so many machines soon."""

    granted = 2

    def edition(self, kind: str) -> str:
        raise AssertionError("there is no pool")

    def grants(self, kind: str, within_s: float, beside: Mapping[str, int]) -> int:
        return self.granted - sum(beside.values())

    async def spawn(self, spec: MachineSpec) -> str:
        self.granted -= 1
        return await super().spawn(spec)

    prepare = spawn

    async def start(self, which: str) -> MachineStatus:
        return gone(which)

    async def stop(self, which: str) -> None:
        """There is no pool."""

    async def wait(self, which: str, state: str, *, within_s: float) -> MachineStatus:
        return gone(which)


async def test_no_task_waits_for_a_machine_that_is_not_made_soon(world: World) -> None:
    """What the provider's rate limit keeps back is not taken from its batch: a machine that runs may do it before."""
    world.provider = paced = Paced()
    await world.start(most=100)
    await world.batch("b1", 10)
    assert len(paced.spawned) == 2
    assert len(world.hosts.pending["b1"]) == 8
    paced.granted = 3
    await world.time.advance(1_000)
    assert len(paced.spawned) == 5
    runs = (await world.machines())[0]["id"]
    assert len((await world.claiming(runs, free=9))["tasks"]) == 5


async def test_a_batch_without_work_after_all_costs_no_machine(world: World) -> None:
    """The batch is asked before the provider: no task, no machine, and it is not asked again and again."""
    await world.batch("a", 0, announce=False)
    await world.demand("a", 3)
    await world.time.advance(3000)
    assert world.provider.spawned == []
    assert set(world.memory.states()) == {"gone"}
    assert len(world.hosts.takes) <= 3


async def test_a_refused_spawn_is_told_and_not_repeated_at_once(world: World) -> None:
    """The batch hears why, whether it is for good, and gets its task back; the next spawn waits 1 s, doubling."""
    world.provider.spawn_errors = [SpawnRefused("No token.", hopeless=True), SpawnRefused("Full.")]
    await world.batch("a", 1)
    (lost,) = world.hosts.lost
    assert (lost["why"], lost["message"], lost["task_id"]) == ("refused", "No token.", None)
    assert (lost["permanent"], lost["hopeless"]) == (True, True)
    assert world.memory.states() == ["gone"]
    await world.batch("a", 1)
    assert len(world.provider.spawned) == 1
    await world.time.advance(1100)
    assert len(world.provider.spawned) == 2
    await world.batch("a", 1)
    await world.time.advance(900)
    assert len(world.provider.spawned) == 2
    await world.time.advance(1200)
    assert world.memory.states() == ["gone", "gone", "running"]


async def test_a_machine_that_vanishes_is_told_to_its_batch(world: World) -> None:
    """Within a tick: lost, gone, and the row ends after the batch has heard it, not before."""
    await world.batch("a", 1)
    world.provider.alive.clear()
    world.hosts.down.add("a")
    await world.time.advance(1500)
    assert world.memory.states() == ["running"]
    world.hosts.down.clear()
    await world.time.advance(1500)
    assert [(lost["why"], lost["job"]) for lost in world.hosts.lost] == [("gone", "a")]
    assert world.memory.states() == ["gone"]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (1, "The machine exited with code 1."),
        (-9, "The machine was killed by SIGKILL, as the kernel does when memory runs out."),
        (None, "The machine exited."),
    ],
)
async def test_an_exit_is_told_with_its_reason(world: World, code: int | None, message: str) -> None:
    """An exited machine is cleared away and its batch told with what is known of the exit."""
    await world.batch("a", 1)
    (status,) = world.provider.alive.values()
    world.provider.alive[status.name] = msgspec.structs.replace(status, state="exited", code=code)
    await world.time.advance(1500)
    assert [(lost["why"], lost["message"]) for lost in world.hosts.lost] == [("exited", message)]
    assert world.provider.destroyed == [status.name]


async def test_a_finished_batch_is_not_woken_for_a_machine_that_ends(world: World) -> None:
    """The store knows that the batch is terminal: nobody is told, the row ends."""
    await world.batch("a", 1)
    world.memory.over.add("a")
    world.provider.alive.clear()
    await world.time.advance(1500)
    assert world.hosts.lost == []
    assert world.memory.states() == ["gone"]


async def test_a_provider_that_does_not_answer_proves_nothing(world: World) -> None:
    """While the provider is away no machine is given up."""
    await world.batch("a", 1)
    world.provider.down = True
    await world.time.advance(10_000)
    assert (world.memory.states(), world.hosts.lost) == (["running"], [])


async def test_a_claim_gets_work_that_is_there_and_waits_for_what_comes(world: World) -> None:
    """At once where a batch has work; else when it says so; an empty list after wait_ms. Waiting blocks nobody."""
    await world.batch("a", 5)
    machine = (await world.machines())[0]["id"]
    assert await world.claiming(machine, "c1") == {"tasks": [{"TASK_ID": "a_tiff_4"}]}
    waiting = world.claiming(machine, "c2")
    await world.time.advance(4000)
    assert not waiting.done()
    await world.batch("b", 1)
    assert await waiting == {"tasks": [{"TASK_ID": "b_tiff_0"}]}
    empty = world.claiming(machine, "c3")
    await world.time.advance(5100)
    assert await empty == {"tasks": []}


async def test_a_waiting_machine_is_used_before_one_is_made(world: World) -> None:
    """Warm is cheaper than new: with a machine waiting, one task makes no machine."""
    await world.batch("a", 1)
    waiting = world.claiming((await world.machines())[0]["id"])
    await settle()
    await world.batch("b", 1)
    assert (await waiting)["tasks"] == [{"TASK_ID": "b_tiff_0"}]
    assert world.provider.spawned == ["tiff-a-0-1"]


@pytest.mark.parametrize("first", [0, 1])
async def test_a_small_batch_is_spread_over_the_machines_that_wait(first: int) -> None:
    """Two machines with two places each wait for work, whichever asked first: of two tasks each gets one."""
    world = World()
    fleet = await world.start(concurrency=2)
    await world.batch("a", 2)
    machines = [machine["id"] for machine in await world.machines()]
    order = [machines[first], machines[1 - first]]
    claims = {m: [world.claiming(m, f"{m}-{n}") for n in range(2)] for m in order}
    await settle()
    await world.batch("b", 2)
    assert [sum(claim.done() for claim in claims[m]) for m in order] == [1, 1]
    await world.batch("c", 2)
    assert [sum(claim.done() for claim in claims[m]) for m in order] == [2, 2]
    await fleet.close()


async def test_the_machine_with_the_fewest_tasks_in_hand_goes_first() -> None:
    """One has a task in hand and asked first for another; the idle one gets the next, and it the one after that."""
    world = World()
    fleet = await world.start(concurrency=2)
    await world.batch("a", 2)
    busy, idle = [machine["id"] for machine in await world.machines()]
    claims = [world.claiming(busy, "c1"), world.claiming(idle, "c2"), world.claiming(idle, "c3")]
    await settle()
    await world.batch("b", 1)
    assert [claim.done() for claim in claims] == [False, True, False]
    await world.batch("c", 1)
    await world.batch("d", 1)
    assert [claim.done() for claim in claims] == [True, True, True]
    await fleet.close()


async def test_what_a_claim_leaves_is_for_the_next() -> None:
    """Two batches have a task each and one claim has places for both: it leaves with one, the other gets one."""
    world = World()
    fleet = await world.start(concurrency=2)
    await world.batch("a", 2)
    first, second = [machine["id"] for machine in await world.machines()]
    claims = [world.claiming(second, free=1), world.claiming(first, free=3)]
    await settle()
    await world.batch("b", 1, announce=False)
    await world.batch("c", 1, announce=False)
    wish = {"op": "demand", "kind": "tiff", "want": 1, "active": 0}
    await fleet.handle([wish | {"job": "b"}, wish | {"job": "c"}])
    await settle()
    assert [claim.done() for claim in claims] == [True, True]
    await fleet.close()


async def test_as_many_as_a_claim_may_name_are_given(world: World) -> None:
    """The fleet's bound is the one that the front checks: no claim that was let in gets less for being large."""
    await world.batch("a", 1)
    machine = (await world.machines())[0]["id"]
    await world.batch("b", MAX_CLAIM_FREE + 5, announce=False)
    waiting = world.claiming(machine, free=MAX_CLAIM_FREE)
    await settle()
    await world.demand("b", MAX_CLAIM_FREE + 5)
    assert len((await waiting)["tasks"]) == MAX_CLAIM_FREE


async def test_the_same_claim_gets_the_same_answer(world: World) -> None:
    """Sent again after a lost answer, and sent twice at once: one assignment, though another batch's turn has come."""
    await world.batch("a", 5)
    machine = (await world.machines())[0]["id"]
    first = await world.claiming(machine, "c1")
    await world.batch("b", 5, announce=False)
    await world.demand("b", 5)
    assert await world.claiming(machine, "c1") == first
    takes = len(world.hosts.takes)
    twice = await asyncio.gather(world.claiming(machine, "c2"), world.claiming(machine, "c2"))
    assert twice[0] == twice[1]
    assert len(world.hosts.takes) == takes + 1


async def test_claims_go_round_the_batches(world: World) -> None:
    """A batch of thousands does not keep a small one waiting for its turn."""
    await world.batch("big", 1000)
    await world.batch("small", 1)
    machine = (await world.machines())[0]["id"]
    got = [(await world.claiming(machine, f"c{n}"))["tasks"][0]["TASK_ID"] for n in range(2)]
    assert "small_tiff_0" in got


async def test_a_batch_that_does_not_answer_keeps_no_other_waiting(world: World) -> None:
    """The next batch is asked; the silent one again after a second."""
    await world.batch("a", 5)
    machine = (await world.machines())[0]["id"]
    world.hosts.down.add("a")
    await world.batch("b", 1, announce=False)
    waiting = world.claiming(machine, "c1")
    await settle()
    await world.demand("a", 1)
    await world.demand("a", 1)
    assert world.hosts.unanswered == 1
    await world.demand("b", 1)
    assert (await waiting)["tasks"] == [{"TASK_ID": "b_tiff_0"}]
    waiting = world.claiming(machine, "c2")
    await settle()
    world.hosts.down.clear()
    await world.time.advance(1100)
    assert (await waiting)["tasks"] == [{"TASK_ID": "a_tiff_4"}]


async def test_machines_that_are_unknown_or_ended_are_retired(world: World) -> None:
    """410 for a machine that the fleet does not count on, also while it waits; people's own workers have no row."""
    with pytest.raises(Retired):
        await world.claiming("m-9-9")
    await world.batch("a", 1)
    machine = (await world.machines())[0]["id"]
    waiting = world.claiming(machine)
    await settle()
    await world.ask(op="destroy", machine=machine, job="a", task_id="a_tiff_0", attempt=1)
    with pytest.raises(Retired):
        await waiting
    await world.batch("b", 1, announce=False)
    await world.demand("b", 1)
    outside = world.claiming("my-laptop", "x", internal=False)
    await world.time.advance(5100)
    assert "tasks" in await outside


async def test_an_outside_worker_cannot_take_the_name_of_a_machine(world: World) -> None:
    """Names of the service's machines are taken."""
    await world.batch("a", 2)
    with pytest.raises(InvalidInput) as refusal:
        await world.claiming((await world.machines())[0]["id"], internal=False)
    assert refusal.value.field == "machine"


async def test_destroy_is_conditional(world: World) -> None:
    """A machine that has taken work of another batch since is not destroyed for the former one."""
    await world.batch("a", 1)
    machine = (await world.machines())[0]["id"]
    await world.batch("b", 1, announce=False)
    waiting = world.claiming(machine)
    await settle()
    await world.demand("b", 1)
    await waiting
    await world.ask(op="destroy", machine=machine, job="a", task_id="a_tiff_0", attempt=1)
    assert world.provider.destroyed == []
    await world.ask(op="destroy", machine=machine, job="b", task_id="b_tiff_0", attempt=1)
    await settle()
    assert world.provider.destroyed == ["tiff-a-0-1"]
    assert [lost["job"] for lost in world.hosts.lost] == ["a", "b"]


def on(machine: str, n: int, attempt: int = 1) -> Task:
    """An open assignment of batch a as the store has it."""
    return Task(
        job_id="a", phase=0, n=n, task_id=f"a_tiff_{n}", status=TaskStatus.PROCESSING, attempt=attempt,
        machine=machine, input_r2_key="i", output_r2_key="o",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("concurrency", "others", "ends"), [(1, [], True), (1, [1], False), (2, [1], True), (2, [1, 2], False)]
)
async def test_a_late_destroy_spares_the_next_task_of_the_same_batch(
    concurrency: int, others: list[int], ends: bool
) -> None:
    """Its task was given up and delivered after all, and the machine goes on: where tasks that it was given since take
    all its places it is spared, for the other attempt of the same task also; else it may still hang on that one.
    """
    world = World()
    fleet = await world.start(concurrency=concurrency)
    await world.batch("a", 1)
    machine = (await world.machines())[0]["id"]
    world.memory.held_now = [on(machine, 0), *(on(machine, n) for n in others), on("another", 5), on("another", 6)]
    await world.ask(op="destroy", machine=machine, job="a", task_id="a_tiff_0", attempt=1)
    await settle()
    assert world.provider.destroyed == (["tiff-a-0-1"] if ends else [])
    await fleet.close()


async def test_what_is_taken_for_a_machine_that_is_ended_meanwhile_goes_back(world: World) -> None:
    """Its batch heard of the end before it gave the task: the task is released, no try counted, the worker retires."""
    await world.batch("a", 1)
    machine = (await world.machines())[0]["id"]
    await world.batch("b", 1, announce=False)
    waiting = world.claiming(machine)
    await settle()
    world.hosts.hold = asyncio.Event()
    await world.demand("b", 1)
    world.provider.alive.clear()
    await world.time.advance(1500)
    world.hosts.hold.set()
    with pytest.raises(Retired):
        await waiting
    await settle()
    assert world.hosts.released == [("b_tiff_0", 1, 1)]
    assert [lost["job"] for lost in world.hosts.lost] == ["a"]


async def test_machines_of_a_batch_that_is_over_end_though_nobody_said_so(world: World) -> None:
    """Invariant 3: the release after a cancel was lost. Machines at work for it end, others' stay, none is told."""
    await world.batch("a", 2)
    await world.batch("b", 1)
    world.memory.over.add("a")
    await world.time.advance(29_000)
    assert world.provider.destroyed == []
    await world.time.advance(ENDED_MS - 29_000)
    assert sorted(world.provider.destroyed) == ["tiff-a-0-1", "tiff-a-1-1"]
    assert world.memory.states() == ["gone", "gone", "running"]
    assert world.hosts.lost == []


async def test_a_machine_that_neither_works_nor_asks_is_ended(world: World) -> None:
    """Invariant 5: it never booted, its task was given up, and the request to destroy it was lost: it would keep a
    place for ever. One that still works stays.
    """
    await world.batch("a", 2)
    silent = (await world.machines())[0]["id"]
    world.memory.idle.add(silent)
    await world.time.advance(29_000)
    assert world.provider.destroyed == []
    await world.time.advance(ENDED_MS - 29_000)
    assert len(world.provider.destroyed) == 1
    assert world.memory.rows[silent].state is MachineState.GONE
    assert world.memory.states() == ["gone", "running"]


async def test_a_fleet_that_was_overtaken_ends_no_machines(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Invariant 2: it stood still, and another one has begun, whose machines it takes for nobody's."""
    monkeypatch.setattr(fleet_rows, "EPOCH_TRUST_MS", 0)
    await world.batch("a", 1)
    former = world.fleet
    assert former is not None
    world.memory.epoch += 1
    status = MachineStatus(name="tiff-b-0-1", provider_id="id:tiff-b-0-1", state="running")
    world.provider.alive[status.name] = status
    await world.time.advance(30_000)
    assert former.stopped.is_set()
    assert world.provider.destroyed == []


async def test_the_heir_of_the_fleet_ends_them_too(world: World) -> None:
    """The fleet died when it should have released: its heir finds the machines by their rows."""
    await world.batch("a", 1)
    world.memory.over.add("a")
    await world.start()
    await world.time.advance(ENDED_MS)
    assert world.provider.destroyed == ["tiff-a-0-1"]


async def test_a_machine_that_asks_for_work_outlives_its_batch(world: World) -> None:
    """Idle is not overstaying: it polls, is kept for as long as it does, and works for whoever comes."""
    await world.batch("a", 1)
    machine = (await world.machines())[0]["id"]
    world.memory.over.add("a")
    for n in range(8):
        await world.time.advance(9_000)
        waiting = world.claiming(machine, f"c{n}", wait_ms=0)
        await settle()
        assert await waiting == {"tasks": []}
    long = world.claiming(machine, "long", wait_ms=30_000)
    await world.time.advance(29_500)
    await world.batch("b", 1)
    assert (await long)["tasks"] == [{"TASK_ID": "b_tiff_0"}]
    await world.time.advance(60_000)
    assert world.memory.states() == ["running"]


async def test_a_machine_that_is_just_given_other_work_is_not_ended(world: World) -> None:
    """Its row still names the batch that is over, and its time is up, while another batch is asked for a task."""
    await world.batch("a", 1)
    machine = (await world.machines())[0]["id"]
    world.memory.over.add("a")
    await world.batch("b", 1, announce=False)
    waiting = world.claiming(machine, wait_ms=30_000)
    await world.time.advance(29_000)
    world.hosts.hold = asyncio.Event()
    await world.demand("b", 1)
    await world.time.advance(8_000)
    assert (await world.machines())[0]["job_id"] == "a"
    world.hosts.hold.set()
    assert (await waiting)["tasks"] == [{"TASK_ID": "b_tiff_0"}]
    await world.time.advance(60_000)
    assert world.memory.states() == ["running"]


async def test_a_machine_that_asks_for_work_while_another_is_ended_is_spared(world: World) -> None:
    """Of two whose time is up, the second asks for work while the end of the first is being written."""
    await world.batch("a", 2)
    machines = [machine["id"] for machine in await world.machines()]
    world.memory.over.add("a")
    await world.time.advance(29_000)
    world.memory.hold = asyncio.Event()
    await world.time.advance(ENDED_MS - 29_000)
    claims = [world.claiming(machine) for machine in machines]
    await settle()
    world.memory.hold.set()
    world.memory.hold = None
    await world.batch("b", 1)
    ended, spared = await asyncio.gather(*claims, return_exceptions=True)
    if isinstance(spared, Retired):  # whichever was the first
        ended, spared = spared, ended
    assert isinstance(ended, Retired)
    assert spared == {"tasks": [{"TASK_ID": "b_tiff_0"}]}
    assert len(world.provider.destroyed) == 1


async def test_a_machine_with_work_of_an_open_batch_stays(world: World) -> None:
    """It took from a batch that is over last, and runs a task of one that is not: it is spared until both are over."""
    await world.batch("a", 1)
    machine = (await world.machines())[0]["id"]
    waiting = world.claiming(machine)
    await settle()
    await world.batch("b", 1)
    await waiting
    world.memory.over.add("b")
    await world.time.advance(60_000)
    assert world.memory.states() == ["running"]
    world.memory.over.add("a")
    await world.time.advance(ENDED_MS)
    assert world.memory.states() == ["gone"]


async def test_a_machine_without_a_batch_is_nobodys_overstay() -> None:
    """A standing machine has no job in its row: it stays, and the store is not even asked."""
    world = World()
    status = MachineStatus(name="pool-tiff-1", provider_id="id:pool-tiff-1", state="running")
    world.provider.alive[status.name] = status
    row = Machine(id="m-0-1", name=status.name, provider_id=status.provider_id, state=MachineState.RUNNING)
    world.memory.rows[row.id] = row
    fleet = await world.start()
    await world.time.advance(60_000)
    assert world.memory.states() == ["running"]
    assert world.memory.asked == []
    await fleet.close()


async def test_one_question_in_five_seconds_however_many_machines(world: World) -> None:
    """The store is asked for the jobs of all machines at once, each job named once; and for nothing else while all of
    them work."""
    await world.batch("a", 3)
    await world.batch("b", 1)
    world.memory.asked.clear()
    await world.time.advance(60_000)
    assert 10 <= len(world.memory.asked) <= 12
    assert world.memory.asked[-1] == ["a", "b"]
    assert world.memory.asked_widely == []


async def test_work_for_an_earlier_batch_counts_after_a_restart(world: World) -> None:
    """The row of a machine names the batch that it took from last, which is over; it runs a task of one that is not.
    The heir of the fleet learns of that one, tells it when the machine is lost, and ends a machine that has no work.
    """
    await world.batch("a", 1)
    machine = (await world.machines())[0]["id"]
    waiting = world.claiming(machine)
    await settle()
    await world.batch("b", 1)
    await waiting
    world.memory.over.add("b")
    await world.start()
    assert world.memory.rows[machine].job_id == "b"
    await world.time.advance(2 * ENDED_MS)
    assert world.memory.states() == ["running"]
    assert world.memory.asked_widely == [[machine]]  # it is known from then on
    world.provider.alive.clear()
    await world.time.advance(2_000)
    assert world.memory.states() == ["gone"]
    assert [lost["job"] for lost in world.hosts.lost] == ["a"]


async def test_a_machine_found_at_work_has_its_whole_time_again(world: World) -> None:
    """It ends that work in the moment after it was found, and has half a minute to ask for more, as any other."""
    await world.batch("a", 1)
    machine = (await world.machines())[0]["id"]
    waiting = world.claiming(machine)
    await settle()
    await world.batch("b", 1)
    await waiting
    world.memory.over.add("b")
    await world.start()
    while not world.memory.asked_widely:
        await world.time.advance(1_000)
    world.memory.idle.add(machine)
    await world.time.advance(29_000)
    assert world.memory.states() == ["running"]
    await world.time.advance(ENDED_MS - 29_000)
    assert world.memory.states() == ["gone"]


async def test_once_its_earlier_batch_is_over_too_a_machine_ends(world: World) -> None:
    """That a machine was found at work once is no reason to keep it for ever."""
    await world.batch("a", 1)
    machine = (await world.machines())[0]["id"]
    waiting = world.claiming(machine)
    await settle()
    await world.batch("b", 1)
    await waiting
    world.memory.over.add("b")
    await world.start()
    await world.time.advance(2 * ENDED_MS)
    world.memory.over.add("a")
    await world.time.advance(ENDED_MS)
    assert world.memory.states() == ["gone"]


async def test_a_machine_that_cannot_be_ended_is_not_asked_about_again(world: World) -> None:
    """Its end is decided, and waits for the provider: what costs as much as all tasks in flight is asked once."""
    await world.batch("a", 1)
    world.memory.over.add("a")
    world.provider.down = True
    await world.time.advance(3 * ENDED_MS)
    assert world.memory.states() == ["destroying"]
    assert len(world.memory.asked_widely) == 1


async def test_a_store_that_cannot_be_read_ends_nothing(world: World) -> None:
    """While it is not known which batches are over, no machine ends and the fleet goes on; afterwards they do."""
    await world.batch("a", 1)
    world.memory.over.add("a")
    world.memory.unreadable = True
    await world.time.advance(60_000)
    assert world.memory.states() == ["running"]
    world.memory.unreadable = False
    await world.time.advance(ENDED_MS)
    assert world.memory.states() == ["gone"]


async def test_the_wish_of_a_batch_that_is_over_is_forgotten(world: World) -> None:
    """The fleet asks it again and again while it does not answer, but no more once the store says that it is over."""
    world.hosts.down.add("a")
    await world.batch("a", 1)
    await world.time.advance(5_000)
    asked = world.hosts.unanswered
    assert asked > 1
    world.memory.over.add("a")
    await world.time.advance(1_500)
    asked = world.hosts.unanswered
    await world.time.advance(20_000)
    assert world.hosts.unanswered == asked
    assert set(world.memory.states()) == {"gone"}


async def test_each_batch_is_told_once(world: World) -> None:
    """A machine worked for two batches and one of them is away: the other does not hear of its end again and again."""
    await world.batch("a", 1)
    machine = (await world.machines())[0]["id"]
    waiting = world.claiming(machine)
    await settle()
    await world.batch("b", 1)
    await waiting
    world.hosts.down.add("b")
    world.provider.alive.clear()
    await world.time.advance(5000)
    assert [lost["job"] for lost in world.hosts.lost] == ["a"]
    world.hosts.down.clear()
    await world.time.advance(5000)
    assert [lost["job"] for lost in world.hosts.lost] == ["a", "b"]


async def test_release_ends_all_machines_of_a_batch(world: World) -> None:
    """Cancel and reset: its machines end, the batch need not be told, others' machines stay."""
    await world.batch("a", 2)
    await world.batch("b", 1)
    world.memory.over.add("a")
    await world.ask(op="release_job", job="a")
    await settle()
    assert sorted(world.provider.destroyed) == ["tiff-a-0-1", "tiff-a-1-1"]
    assert world.memory.states() == ["gone", "gone", "running"]
    assert world.hosts.lost == []


async def test_a_machine_that_has_found_other_work_survives_the_end_of_its_batch(world: World) -> None:
    """While one machine of the ended batch is written off, another one takes up work of a batch that goes on."""
    await world.start(most=2)
    await world.batch("a", 2)
    await world.batch("b", 1, announce=False)
    first, second = [machine["id"] for machine in await world.machines()]
    world.memory.over.add("a")
    world.memory.hold = asyncio.Event()
    release = asyncio.ensure_future(world.ask(op="release_job", job="a"))
    await settle()
    await world.demand("b", 1)
    claim = world.claiming(second)
    await settle()
    world.memory.hold.set()
    assert (await claim)["tasks"] == [{"TASK_ID": "b_tiff_0"}]
    await release
    await settle()
    assert world.memory.rows[first].state == "gone"
    assert world.memory.rows[second].state == "running"


async def test_a_machine_cancelled_while_it_is_made_does_not_survive(world: World) -> None:
    """Released between the spawn and its answer: destroyed as soon as the answer is there."""
    world.provider.hold = asyncio.Event()
    await world.batch("a", 1)
    world.memory.over.add("a")
    await world.ask(op="release_job", job="a")
    assert world.memory.states() == ["destroying"]
    world.provider.hold.set()
    await settle()
    assert world.provider.alive == {}
    assert world.memory.states() == ["gone"]


async def test_a_machine_cancelled_while_its_task_is_taken_is_never_made(world: World) -> None:
    """Released before the spawn: the provider is not asked, and the batch, which is over, is not woken."""
    world.hosts.hold = asyncio.Event()
    await world.batch("a", 1)
    world.memory.over.add("a")
    await world.ask(op="release_job", job="a")
    world.hosts.hold.set()
    await settle()
    assert world.provider.spawned == []
    assert world.hosts.lost == []
    assert world.memory.states() == ["gone"]


async def test_a_release_that_comes_late_ends_nothing_of_the_next_run(world: World) -> None:
    """The batch was cancelled and run again before the fleet heard of the cancel: its machines are the new run's."""
    await world.batch("a", 1)
    await world.ask(op="release_job", job="a")
    await settle()
    assert world.memory.states() == ["running"]


async def test_a_spawn_whose_answer_was_lost_is_adopted(world: World) -> None:
    """Invariant 3: inspected by name, found, counted; spawned once."""
    world.provider.answer_lost = True
    await world.batch("a", 1)
    await world.time.advance(2000)
    assert world.provider.spawned == ["tiff-a-0-1"]
    (machine,) = await world.machines()
    assert (machine["state"], machine["provider_id"]) == ("running", "id:tiff-a-0-1")
    assert world.hosts.lost == []


async def test_death_before_the_spawn_gives_the_task_back(world: World) -> None:
    """The fleet dies while a task is taken: its heir makes no machine of that row and tells the batch."""
    world.hosts.hold = asyncio.Event()
    await world.batch("a", 1)
    assert world.memory.states() == ["planned"]
    world.hosts.hold.set()
    await world.start()
    assert world.provider.spawned == []
    assert [(lost["job"], lost["why"]) for lost in world.hosts.lost] == [("a", "unmade")]
    assert world.memory.states() == ["gone"]


@pytest.mark.parametrize("made", [True, False])
async def test_death_during_the_spawn_is_reconciled(world: World, made: bool) -> None:
    """Made but not known: adopted. Not made: the batch hears that nothing was; the provider has refused nothing."""
    world.provider.hold = asyncio.Event()
    await world.batch("a", 1)
    if made:
        world.provider.alive["tiff-a-0-1"] = MachineStatus(
            name="tiff-a-0-1", provider_id="id:tiff-a-0-1", state="running"
        )
    await world.start()
    assert world.provider.spawned == ["tiff-a-0-1"]
    assert world.memory.states() == ["running" if made else "gone"]
    assert [lost["why"] for lost in world.hosts.lost] == ([] if made else ["unmade"])


async def test_death_during_the_end_goes_on_ending(world: World) -> None:
    """DESTROYING is on disk: the heir destroys again."""
    await world.batch("a", 1)
    world.provider.down = True
    machine = (await world.machines())[0]["id"]
    await world.ask(op="destroy", machine=machine, job="a", task_id="a_tiff_0", attempt=1)
    await settle()
    assert world.memory.states() == ["destroying"]
    world.provider.down = False
    await world.start()
    assert world.memory.states() == ["gone"]
    assert [lost["why"] for lost in world.hosts.lost] == ["gone"]


async def test_a_machine_that_cannot_be_found_is_still_ended(world: World) -> None:
    """Its spawn had no answer and its provider cannot say; the batch gives it up: it is destroyed all the same."""
    world.provider.down = True
    world.provider.spawn_errors = [ConnectionError()]
    await world.batch("a", 1)
    await world.time.advance(3000)
    assert world.memory.states() == ["spawning"]
    world.memory.over.add("a")
    await world.ask(op="release_job", job="a")
    await world.time.advance(1000)
    world.provider.blind = True
    world.provider.down = False
    await world.time.advance(5000)
    assert world.memory.states() == ["gone"]
    assert world.provider.destroyed == ["tiff-a-0-1"]


async def test_running_machines_outlive_the_fleet(world: World) -> None:
    """Invariant 8: the heir counts them, serves their claims, and gives new ones other numbers."""
    await world.batch("a", 1)
    (before,) = await world.machines()
    await world.start()
    assert await world.machines() == [before]
    await world.batch("b", 2)
    ids = [machine["id"] for machine in await world.machines()]
    assert len(set(ids)) == 3
    assert (await asyncio.gather(world.claiming(before["id"], wait_ms=0)))[0] == {"tasks": []}


async def test_a_fenced_fleet_stops(world: World) -> None:
    """Invariant 2: another activation has begun; this one writes nothing, asks nothing, and says so."""
    await world.memory.activate_singleton("fleet")
    await world.batch("a", 1)
    assert world.fleet is not None
    assert world.fleet.stopped.is_set()
    assert world.provider.spawned == []
    with pytest.raises(Unavailable):
        await world.demand("a", 1)


async def test_a_commit_whose_answer_was_lost_is_sent_again(world: World) -> None:
    """The same number again: done once, and the machine is made."""
    world.memory.lose_answers = 2
    await world.batch("a", 1)
    await world.time.advance(1000)
    assert [state for _, state in world.memory.history] == ["planned", "spawning", "running"]


async def test_nobodys_machine_is_destroyed_after_a_while(world: World) -> None:
    """A machine of the provider without a row: left alone at first, destroyed by the sweep."""
    world.provider.alive["tiff-x-1"] = MachineStatus(name="tiff-x-1", provider_id="id:tiff-x-1", state="running")
    await world.time.advance(9_000)
    assert world.provider.destroyed == []
    await world.time.advance(12_000)
    assert world.provider.destroyed == ["tiff-x-1"]


async def test_leases_are_given_only_while_others_wait(world: World) -> None:
    """Alone: no limit. With another batch that wants work: an equal share of the slots."""
    await world.batch("a", 1000, announce=False)
    assert await world.demand("a", 1000) == {"lease": None}
    await world.batch("b", 1000, announce=False)
    assert await world.demand("b", 1000) == {"lease": 2}


async def test_an_unknown_operation_fails_alone(world: World) -> None:
    """One bad request of a list is an error in its place; the others are answered."""
    assert world.fleet is not None
    answers = await world.fleet.handle([{"op": "fly"}, {"op": "list"}])
    assert isinstance(answers[0], ArkeError)
    assert answers[1] == []


async def test_on_the_real_store_rows_survive(tmp_path: Path) -> None:
    """The same on SQLite: what one activation wrote, the next finds; the former one is fenced."""
    writer = Writer(tmp_path / "arke.db")
    store = Store(LocalWriter(writer), tmp_path / "arke.db")
    world = World(store)
    try:
        fleet = await world.start()
        world.hosts.pending["a"] = deque(range(1))
        await fleet.handle([{"op": "demand", "job": "a", "kind": "tiff", "want": 1, "active": 0}])
        async with asyncio.timeout(10):
            while not [m for m in await store.machines() if m.state is MachineState.RUNNING]:  # noqa: ASYNC110
                await asyncio.sleep(0)
        heir = Fleet(
            store, world.provider, call_host=world.hosts.call, now=world.time.now, wait=world.time.wait,
            base_env=lambda machine, kind: {}, max_machines=4,
        )  # fmt: skip
        await heir.start()
        (row,) = (await heir.handle([{"op": "list"}]))[0]
        assert (row["state"], row["name"], row["job_id"]) == ("running", "tiff-a-0-1", "a")
        world.hosts.pending["a"] = deque(range(1, 2))
        await fleet.handle([{"op": "demand", "job": "a", "kind": "tiff", "want": 1, "active": 0}])
        async with asyncio.timeout(10):
            await fleet.stopped.wait()
        await heir.close()
    finally:
        assert world.fleet is not None
        await world.fleet.close()
        await store.close()
        writer.close()


async def test_a_machine_is_charged_to_those_it_works_for(world: World) -> None:
    """Its time until it takes work of another batch to the first one, the rest to that one; each counts it once."""
    await world.batch("a", 1)
    await world.batch("b", 2, announce=False)
    ((machine, _),) = [(row["id"], row["state"]) for row in await world.machines()]
    await world.time.advance(3000)
    for claim in ("c1", "c2"):
        waiting = world.claiming(machine, claim)
        await settle()
        await world.demand("b", 1)
        assert len((await waiting)["tasks"]) == 1
        await world.time.advance(2000)
    world.memory.over |= {"a", "b"}
    await world.ask(op="release_job", job="b")
    await world.time.advance(1000)
    sums: dict[str, list[int]] = {"a": [0] * 3, "b": [0] * 3}
    for charge in world.memory.charges:
        for n, value in enumerate((charge.machines, charge.spawns, charge.machine_ms)):
            sums[charge.job_id][n] += value
    assert sums["a"] == [1, 1, pytest.approx(3000, abs=200)]
    assert sums["b"][:2] == [1, 0]
    assert 4000 <= sums["b"][2] <= 5200


async def test_a_machine_that_ran_out_of_memory_is_told_as_such(world: World) -> None:
    """With what it had; and a task that needs more gets a machine of its own, though another one waits for work."""
    await world.batch("a", 1)
    name, status = world.provider.spawned[0], world.provider.alive[world.provider.spawned[0]]
    world.provider.alive[name] = msgspec.structs.replace(status, state="exited", code=137, oom=True, memory_mb=1024)
    await world.time.advance(2000)
    (told,) = world.hosts.lost
    assert (told["short_of_mb"], told["message"]) == (1024, "The machine ran out of memory of 1024 MB.")
    waiting = world.claiming("puller", internal=False, wait_ms=20_000)
    await settle()
    world.hosts.pending["a"].append(7)
    await world.ask(op="demand", job="a", kind="tiff", want=1, active=0, large=1)
    await settle()
    assert len(world.provider.spawned) == 2
    assert not waiting.done()
    waiting.cancel()


async def test_a_batch_of_more_weight_is_served_more_often() -> None:
    """One worker that asks again and again: of four tasks three are of the batch with the weight of three."""
    world = World()
    world.provider.capacity = 0
    await world.start()
    for job, weight in (("a", 1), ("b", 3)):
        await world.batch(job, 50, announce=False)
        await world.ask(op="demand", job=job, kind="tiff", want=50, active=0, weight=weight)
    got = []
    for n in range(12):
        answer = await world.claiming("puller", f"c{n}", internal=False)
        got.append(answer["tasks"][0]["TASK_ID"][0])
    assert "".join(got) in ("abbb" * 3, "bbba" * 3)
    assert world.fleet is not None
    await world.fleet.close()


async def test_a_machine_that_is_given_up_while_its_answer_is_on_its_way_gets_nothing(world: World) -> None:
    """It would be given and lost in the same instant: found by seed 1015464 of the simulation."""
    await world.batch("a", 1)
    await world.batch("b", 1, announce=False)
    (machine,) = [row["id"] for row in await world.machines()]
    assert world.fleet is not None
    claims, endings = world.fleet._claims, world.fleet._endings
    take = claims._take_any

    async def taken_and_given_up(*arguments: Any) -> Any:
        tasks = await take(*arguments)
        endings.end(machine, "gone", "destroyed", bury=False)
        return tasks

    claims._take_any = taken_and_given_up  # type: ignore[method-assign]
    waiting = world.claiming(machine)
    await settle()
    await world.demand("b", 1)
    with pytest.raises(Retired):
        await waiting


def nobodys(*names: str) -> dict[str, MachineStatus]:
    return {name: MachineStatus(name=name, provider_id=f"id:{name}", state="running") for name in names}


async def test_an_orphan_that_cannot_be_destroyed_keeps_no_other(world: World) -> None:
    """It is tried again with each sweep; what is told is what was done."""
    world.provider.alive = nobodys("x", "y")
    world.provider.stuck = {"id:x"}
    await world.time.advance(25_000)
    assert set(world.provider.alive) == {"x"}
    assert [item["name"] for item in (await world.ask(op="sweep", dry_run=True))["items"]] == ["x"]
    world.provider.stuck.clear()
    assert (await world.ask(op="sweep"))["destroyed"] == 1


async def test_a_machine_that_gets_a_row_is_no_orphan_any_more(world: World) -> None:
    """While others were destroyed: what was listed then is looked at again."""
    world.provider.alive = nobodys("x")
    assert world.fleet is not None
    looking = world.fleet._watching
    looking._orphans, looking._limit = {"id:x": 0}, asyncio.Semaphore(0)
    sweeping = asyncio.ensure_future(looking._sweep(await world.provider.list()))
    await settle()
    await world.fleet._rows.add(Machine(id="m-9", provider="subprocess", kind="tiff", name="x", created_at=1))
    looking._limit.release()
    assert await sweeping == 0
    assert "x" in world.provider.alive


async def test_a_machine_that_is_not_destroyed_yet_is_counted(world: World) -> None:
    """MAX_MACHINES bounds what may run, also while the provider destroys nothing."""
    await world.batch("a", 4)
    world.provider.stuck = {f"id:{name}" for name in world.provider.alive}
    world.memory.over.add("a")
    await world.ask(op="release_job", job="a")
    await world.batch("b", 4)
    await world.time.advance(3_000)
    assert len(world.provider.alive) == 4
    world.provider.stuck.clear()
    await world.time.advance(11_000)
    assert sorted(world.provider.alive) == [f"tiff-b-{n}-1" for n in range(4)]


async def test_an_end_that_waits_is_tried_less_and_less_often(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """And is told once."""
    await world.batch("a", 1)
    world.hosts.down.add("a")
    world.provider.alive.clear()
    await world.time.advance(60_000)
    assert 5 <= world.hosts.unanswered <= 12
    assert len([record for record in caplog.records if "end_waits" in record.getMessage()]) == 1


async def test_hundreds_that_have_ended_are_asked_side_by_side(world: World) -> None:
    """One of which nothing can be known keeps no other."""
    await world.start(most=40)
    await world.batch("a", 40)
    inspect, at_once, most = world.provider.inspect, 0, 0

    async def slow(which: str) -> MachineStatus:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0)
        at_once -= 1
        if which == "id:tiff-a-0-1":
            raise ProviderUnavailable
        return await inspect(which)

    world.provider.inspect = slow  # type: ignore[method-assign]
    world.provider.alive.clear()
    await world.time.advance(1_000)
    assert len(world.hosts.lost) == 39
    assert most == watching.AT_ONCE


async def test_a_machine_that_works_for_others_too_is_left_to_them() -> None:
    """Several tasks run on one: the end of one batch costs the other nothing."""
    world = World()
    await world.start(concurrency=2)
    await world.batch("a", 1)
    (machine,) = [row["id"] for row in await world.machines()]
    await world.batch("b", 1, announce=False)
    waiting = world.claiming(machine)
    await settle()
    await world.demand("b", 1)
    assert len((await waiting)["tasks"]) == 1
    world.memory.over.add("b")
    await world.ask(op="release_job", job="b")
    await settle()
    assert [(row["state"], row["job_id"]) for row in await world.machines()] == [("running", "a")]
    world.memory.over.add("a")
    await world.ask(op="release_job", job="a")
    await settle()
    assert world.memory.states() == ["gone"]
    assert world.fleet is not None
    await world.fleet.close()


async def test_a_batch_that_ends_while_its_machine_is_written_gets_none(world: World) -> None:
    """Neither planned nor spawned yet: it is never asked for."""
    world.hosts.hold = asyncio.Event()
    await world.batch("a", 1)
    world.memory.hold = asyncio.Event()
    world.hosts.hold.set()  # the task is taken, and the row that says so is on its way
    await settle()
    world.memory.over.add("a")
    releasing = asyncio.ensure_future(world.ask(op="release_job", job="a"))
    await settle()
    world.memory.hold.set()
    await world.time.advance(2_000)
    await releasing
    assert world.provider.spawned == []
    assert world.memory.states() == ["gone"]


async def test_a_refusal_of_one_machine_closes_nothing(world: World) -> None:
    """What is wrong with it for good is its own: the next one is asked for at once."""
    world.provider.spawn_errors = [SpawnRefused("its memory is no size", permanent=True)]
    await world.batch("a", 1)
    await world.batch("b", 1)
    assert world.provider.spawned == ["tiff-a-0-1", "tiff-b-0-1"]
