"""The pool of the fleet: machines that are made ahead, wait stopped, are started, and come back."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, Literal

import msgspec
import pytest

from actors.errors import Retired
from actors.machines.base import MachineSpec, MachineStatus, ProviderUnavailable, SpawnRefused, gone
from tests.integration.test_fleet import Machines, World, settle

State = Literal["running", "exited", "gone"]


class Stoppable(Machines):
    """Machines that can be stopped. `granted` is how many may be made; errors are put into the lists by tests."""

    def __init__(self) -> None:
        super().__init__()
        self.granted = 100
        self.image = "v1"
        self.prepared: list[str] = []
        self.started: list[str] = []
        self.stopped: list[str] = []
        self.prepare_errors: list[Exception] = []
        self.start_errors: list[Exception] = []
        self.listed: list[MachineStatus] | None = None
        self.hangs = False

    async def spawn(self, spec: MachineSpec) -> str:
        self.granted -= 1
        return await super().spawn(spec)

    async def prepare(self, spec: MachineSpec) -> str:
        self.granted -= 1
        self.prepared.append(spec.name)
        await (self.hold.wait() if self.hold is not None else asyncio.sleep(0))
        lost = self.prepare_errors.pop(0) if self.prepare_errors else None
        if lost is None or isinstance(lost, ConnectionError):
            self.envs[spec.name] = spec.env
            self._set(spec.name, "exited", 0)
        if lost is not None:
            raise lost
        return f"id:{spec.name}"

    async def start(self, which: str) -> MachineStatus:
        await asyncio.sleep(0)
        name = which.removeprefix("id:")
        self.started.append(name)
        lost = self.start_errors.pop(0) if self.start_errors else None
        if name in self.alive and (lost is None or isinstance(lost, ConnectionError)):
            self._set(name, "running")
        if lost is not None:
            raise lost
        return self.alive.get(name, gone(which))

    async def stop(self, which: str) -> None:
        await asyncio.sleep(0)
        self.stopped.append(which.removeprefix("id:"))
        if not self.hangs:
            self._set(which.removeprefix("id:"), "exited", -15)

    async def wait(self, which: str, state: State, *, within_s: float) -> MachineStatus:
        await asyncio.sleep(0)
        return self.alive.get(which.removeprefix("id:"), gone(which))

    async def list(self) -> "list[MachineStatus]":
        return await super().list() if self.listed is None else self.listed

    def edition(self, kind: str) -> str:
        return self.image

    def grants(self, kind: str, within_s: float, beside: Mapping[str, int]) -> int:
        return self.granted - sum(beside.values())

    def _set(self, name: str, state: State, code: int | None = None) -> None:
        self.alive[name] = MachineStatus(name=name, provider_id=f"id:{name}", state=state, code=code)

    def exits(self, machine: str, code: int = 0) -> None:
        """By itself, the one of this MACHINE_NAME."""
        name = next(name for name, env in self.envs.items() if env["MACHINE_NAME"] == machine)
        self._set(name, "exited", code)

    def running(self) -> "list[str]":
        """The MACHINE_NAMEs of those that run."""
        return sorted(self.envs[n]["MACHINE_NAME"] for n, status in self.alive.items() if status.state == "running")


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    world.provider = Stoppable()
    yield world
    assert world.fleet is not None
    await world.fleet.close()


def provider(world: World) -> Stoppable:
    assert isinstance(world.provider, Stoppable)
    return world.provider


async def pool(world: World) -> dict[str, int]:
    """What is shown of it, without what is zero."""
    shown: dict[str, dict[str, int]] = await world.ask(op="pool")
    return {name: count for name, count in shown.get("tiff", {}).items() if count}


async def claimed(world: World, machine: str, claim: str = "c1") -> list[dict[str, str]]:
    """What it gets at once."""
    poll = world.claiming(machine, claim, wait_ms=0)
    await settle()
    tasks: list[dict[str, str]] = (await poll)["tasks"]
    return tasks


async def test_it_is_filled_within_what_the_provider_grants(world: World) -> None:
    """In the background, each written before it is made, and none of them runs."""
    provider(world).granted = 2
    await world.start(pool=3)
    assert await pool(world) == {"size": 3, "ready": 2}
    assert world.memory.history[:2] == [("m-1-1", "preparing"), ("m-1-2", "preparing")]
    assert provider(world).running() == []
    provider(world).granted = 5
    await world.time.advance(1000)
    assert await pool(world) == {"size": 3, "ready": 3}
    await world.time.advance(5000)
    assert len(provider(world).prepared) == 3
    assert provider(world).envs[provider(world).prepared[0]] == {"MACHINE_NAME": "m-1-1", "WORKER_KINDS": "tiff"}


async def test_no_more_are_begun_than_are_granted(world: World) -> None:
    """Also while those that were begun are not asked for yet: work that comes now must not wait behind them."""
    provider(world).granted = 2
    world.memory.hold = asyncio.Event()
    await world.start(pool=9)
    await world.time.advance(3000)
    world.memory.hold.set()
    await settle()
    assert len(provider(world).prepared) == 2


async def test_what_is_made_for_the_pool_takes_nobodys_place(world: World) -> None:
    """MAX_MACHINES is how many run: a machine that is being prepared does not."""
    provider(world).hold = asyncio.Event()
    await world.start(most=1, pool=2)
    await world.batch("a", 1)
    assert len(provider(world).prepared) == 2
    assert len(provider(world).spawned) == 1
    provider(world).hold.set()
    await settle()


async def test_what_is_refused_is_tried_again_later_and_less_often(world: World) -> None:
    """A pool that cannot be filled disturbs nothing else."""
    provider(world).prepare_errors = [SpawnRefused("no place")]
    await world.start(pool=1)
    assert await pool(world) == {"size": 1}
    assert world.memory.states() == ["gone"]
    await world.time.advance(400)
    assert len(provider(world).prepared) == 1
    await world.time.advance(2000)
    assert await pool(world) == {"size": 1, "ready": 1}


async def test_work_starts_what_is_ready_before_anything_is_made(world: World) -> None:
    """As many as there is work for; the rest of the work gets machines of its own."""
    await world.start(most=10, pool=3)
    await world.batch("a", 2)
    assert provider(world).running() == ["m-1-1", "m-1-2"]
    assert provider(world).spawned == []
    assert await pool(world) == {"size": 3, "ready": 1, "working": 2}
    await world.time.advance(3000)  # they have not asked yet, and are waited for
    assert provider(world).running() == ["m-1-1", "m-1-2"]
    assert await claimed(world, "m-1-1") == [{"TASK_ID": "a_tiff_0"}]
    await world.batch("b", 3)
    assert provider(world).running() == ["m-1-1", "m-1-2", "m-1-3", "m-1-4", "m-1-5"]
    assert len(provider(world).spawned) == 2


async def test_a_machine_that_ends_as_it_should_comes_back(world: World) -> None:
    """It waits for the next work, and its batch hears of what it had in hand all the same."""
    await world.start(pool=1)
    await world.batch("a", 1)
    assert len(await claimed(world, "m-1-1")) == 1
    provider(world).exits("m-1-1")
    await world.time.advance(1000)
    assert await pool(world) == {"size": 1, "ready": 1}
    assert provider(world).destroyed == []
    assert [(lost["job"], lost["machine"]) for lost in world.hosts.lost] == [("a", "m-1-1")]
    row = world.memory.rows["m-1-1"]
    assert (row.job_id, row.task_id, row.started_at) == (None, None, None)
    with pytest.raises(Retired):
        await claimed(world, "m-1-1", "c2")
    await world.batch("b", 1)
    assert provider(world).running() == ["m-1-1"]
    assert await claimed(world, "m-1-1", "c3") == [{"TASK_ID": "b_tiff_0"}]


async def test_what_a_list_says_of_its_time_before_the_start_counts_for_nothing(world: World) -> None:
    """The list may be older than the start: a machine that works is not put back into the pool."""
    await world.start(pool=1)
    provider(world).listed = list(provider(world).alive.values())
    await world.batch("a", 1)
    assert len(await claimed(world, "m-1-1")) == 1
    await world.time.advance(5000)
    assert await pool(world) == {"size": 1, "working": 1}
    assert world.hosts.lost == []


async def test_a_list_need_not_tell_how_a_machine_has_ended(world: World) -> None:
    """The machine itself does."""
    await world.start(pool=1)
    await world.batch("a", 1)
    provider(world).exits("m-1-1")
    provider(world).listed = [msgspec.structs.replace(status, code=None) for status in provider(world).alive.values()]
    await world.time.advance(1000)
    assert await pool(world) == {"size": 1, "ready": 1}
    assert provider(world).destroyed == []


async def test_a_machine_that_fails_is_replaced(world: World) -> None:
    """Of what has crashed nobody knows in which state it is."""
    await world.start(pool=1)
    await world.batch("a", 1)
    provider(world).exits("m-1-1", code=1)
    await world.time.advance(1000)
    assert len(provider(world).destroyed) == 1
    assert world.memory.rows["m-1-1"].state == "gone"
    await world.demand("a", 0)
    await world.time.advance(1000)
    assert await pool(world) == {"size": 1, "ready": 1}


async def test_a_new_image_replaces_all_that_wait(world: World) -> None:
    """One that works ends its work first."""
    await world.start(pool=2)
    await world.batch("a", 1)
    assert provider(world).running() == ["m-1-1"]
    provider(world).image = "v2"
    await world.start(pool=2)
    await world.time.advance(1000)
    assert await pool(world) == {"size": 2, "ready": 2, "outdated": 1}
    assert provider(world).running() == ["m-1-1"]
    assert len(provider(world).destroyed) == 1
    provider(world).exits("m-1-1")
    await world.time.advance(1000)
    assert await pool(world) == {"size": 2, "ready": 2}
    assert len(provider(world).destroyed) == 2


async def test_a_smaller_pool_parts_from_the_rest(world: World) -> None:
    """And none at all from all."""
    await world.start(pool=3)
    await world.start(pool=1)
    await world.time.advance(1000)
    assert await pool(world) == {"size": 1, "ready": 1}
    await world.start(pool=0)
    await world.time.advance(1000)
    assert world.memory.states() == ["gone"] * 3


@pytest.mark.parametrize("is_made", [True, False])
async def test_a_machine_whose_making_was_not_answered_is_looked_for(world: World, is_made: bool) -> None:
    """By its name; also by the next fleet."""
    world.provider.blind = True
    lost: Exception = ConnectionError() if is_made else ProviderUnavailable()
    provider(world).prepare_errors = [lost]
    await world.start(pool=1)
    assert await pool(world) == {"size": 1, "preparing": 1}
    world.provider.blind = False
    await world.start(pool=1)
    await world.time.advance(3000)
    assert await pool(world) == {"size": 1, "ready": 1}
    assert len(provider(world).prepared) == (1 if is_made else 2)


async def test_a_start_whose_answer_is_lost_is_asked_for_again(world: World) -> None:
    """One that runs is let be by that; the next fleet does the same."""
    await world.start(pool=1)
    provider(world).start_errors = [ConnectionError(), ConnectionError()]
    await world.batch("a", 1)
    await world.start(pool=1)
    assert world.memory.rows["m-1-1"].state == "starting"
    await world.time.advance(1000)
    assert world.memory.rows["m-1-1"].state == "running"
    assert provider(world).spawned == []
    await world.demand("a", 1)
    assert provider(world).spawned == []  # it is expected to ask
    assert len(await claimed(world, "m-1-1")) == 1


async def test_a_machine_without_a_place_is_left_alone_for_a_while(world: World) -> None:
    """A stopped machine cannot go elsewhere: another one is started, or made."""
    await world.start(pool=2)
    provider(world).start_errors = [SpawnRefused("full"), SpawnRefused("full")]
    await world.batch("a", 1)
    await world.time.advance(1000)
    assert sorted(set(provider(world).started)) == sorted(provider(world).prepared)
    assert len(provider(world).spawned) == 1
    assert await pool(world) == {"size": 2, "ready": 2}


async def test_a_machine_that_has_vanished_is_forgotten(world: World) -> None:
    """Its successor is made, and the work gets another machine."""
    await world.start(pool=1)
    provider(world).alive.clear()
    await world.batch("a", 1)
    await world.time.advance(1000)
    assert world.memory.rows["m-1-1"].state == "gone"
    assert provider(world).running() != []


async def test_the_end_of_a_batch_gives_its_machines_back(world: World) -> None:
    """Those of the pool are stopped, and not destroyed."""
    await world.start(pool=1)
    await world.batch("a", 1)
    assert len(await claimed(world, "m-1-1")) == 1
    world.memory.over.add("a")
    await world.ask(op="release_job", job="a")
    await settle()
    assert len(provider(world).stopped) == 1
    assert provider(world).destroyed == []
    assert await pool(world) == {"size": 1, "ready": 1}


async def test_a_machine_that_does_not_stop_is_destroyed(world: World) -> None:
    """The pool waits for nobody."""
    await world.start(pool=1)
    provider(world).hangs = True
    await world.batch("a", 1)
    world.memory.over.add("a")
    await world.ask(op="release_job", job="a")
    await settle()
    assert len(provider(world).destroyed) == 1
    assert world.memory.rows["m-1-1"].state == "gone"


async def test_a_machine_that_starts_and_never_asks_is_ended(world: World) -> None:
    """It hangs; the work goes to another one."""
    await world.start(most=1, pool=1)
    await world.batch("a", 1)
    world.memory.idle.add("m-1-1")
    await world.time.advance(45_000)
    assert world.memory.rows["m-1-1"].state == "gone"
    assert len(provider(world).running()) == 1


async def test_what_waits_is_not_counted_against_the_most(world: World) -> None:
    """MAX_MACHINES is how many run."""
    await world.start(most=2, pool=5)
    await world.batch("a", 9)
    assert len(provider(world).running()) == 2
    rows: Any = [msgspec.to_builtins(row)["state"] for row in world.memory.rows.values()]
    assert sorted(rows) == ["ready", "ready", "ready", "running", "running"]


@pytest.mark.parametrize(("refusal", "times"), [(SpawnRefused("no", permanent=True), 1), (SpawnRefused("full"), 5)])
async def test_a_machine_that_is_never_started_is_replaced(world: World, refusal: SpawnRefused, times: int) -> None:
    """At once where it can never be, else after so many times."""
    await world.start(pool=1)
    provider(world).start_errors = [refusal] * times
    world.provider.spawn_errors = [SpawnRefused("full")] * 100
    for n in range(times):
        await world.batch(f"b{n}", 1)
        await world.time.advance(31_000)
    assert [name for name in provider(world).destroyed if name.startswith("pool")] == provider(world).prepared[:1]
    assert await pool(world) in ({"size": 1, "ready": 1}, {"size": 1, "working": 1})
    assert len(provider(world).prepared) == 2


async def test_one_of_the_pool_remembers_a_bounded_number_of_batches(world: World) -> None:
    """It may work for any number of them."""
    await world.start(pool=1)
    for n in range(40):
        await world.batch(f"b{n}", 1)
        assert len(await claimed(world, "m-1-1")) == 1
        world.memory.over.add(f"b{n}")
        provider(world).exits("m-1-1")
        await world.time.advance(1_000)
    assert world.fleet is not None
    assert len(world.fleet._rows._counted["m-1-1"]) == 32
