"""The provider against the stand-in of the Machines API: each fault that concerns it. Time is virtual."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import httpx
import pytest

from actors.machines.base import MachineSpec, MachineStatus, ProviderUnavailable, SpawnRefused
from actors.machines.fly import FlyMachines
from tests.integration.stand_ins.bench import QUICK
from tests.stand_ins.fly import FlyStandIn, Settings
from tests.unit.actors.fly.bench import Fixed, now, options, virtually

APPS = ("one", "two")


class Bench:
    """A stand-in, whose machines do nothing unless the test says so, and a provider for it."""

    def __init__(self, rates: Mapping[str, float], apps: tuple[str, ...], **settings: Any) -> None:
        given = {**QUICK, "limits": False, "apps": apps, "unanswered_s": 60.0, **settings}
        self.inside = FlyStandIn(Settings(**given), {"never_runs": 1.0, **rates})
        self.apps = apps
        self.provider = self.again()

    def again(self, **changes: Any) -> FlyMachines:
        """A provider that knows nothing, as after the death of the fleet's process."""
        given = {"token": self.inside.settings.token, "apps": self.apps, **changes}
        return FlyMachines(options(**given), rng=Fixed(0.5), transport=httpx.ASGITransport(app=self.inside.asgi))

    def created(self) -> list[str]:
        """The names of the machines that were made."""
        return [entry["machine"] for entry in self.inside.journal.find(what="create")]

    def switch(self, **rates: float) -> None:
        self.inside.faults.set(rates)

    async def reach(self, provider_id: str, state: str) -> None:
        """Until the machine is in this state."""
        app, _, machine = provider_id.partition("/")
        await self.inside.fleet.machine(app, machine).until(lambda machine: machine.state == state)


def tried(
    test: Callable[[Bench], Awaitable[None]], rates: Mapping[str, float] | None = None,
    apps: tuple[str, ...] = ("one",), **settings: Any,
) -> None:  # fmt: skip
    """Run a test on its own clock, with its own stand-in."""

    async def run() -> None:
        bench = Bench(rates or {}, apps, **settings)
        try:
            await test(bench)
        finally:
            await bench.provider.close()
            await bench.inside.close()

    virtually(run())


def spec(name: str = "tiff-a-1", **env: str) -> MachineSpec:
    return MachineSpec(name=name, kind="tiff", env=env)


def test_a_machine_lives_and_is_known_by_all_its_names() -> None:
    """Made, found by id and name, listed once, destroyed."""

    async def test(bench: Bench) -> None:
        provider = bench.provider
        made = await provider.spawn(spec())
        for which in (made, "tiff-a-1"):
            status = await provider.inspect(which)
            assert (status.name, status.provider_id, status.state) == ("tiff-a-1", made, "running")
        assert [status.provider_id for status in await provider.list()] == [made]
        await provider.destroy("tiff-a-1")
        assert (await provider.inspect(made)).state == "gone"
        assert await provider.list() == []

    tried(test)


def test_the_machines_of_another_service_are_neither_listed_nor_found() -> None:
    """In the same app, even."""

    async def test(bench: Bench) -> None:
        other = bench.again(service="arke-2")
        await other.spawn(spec())
        assert await bench.provider.list() == []
        assert (await bench.provider.inspect("tiff-a-1")).state == "gone"
        await bench.provider.destroy("tiff-a-1")
        with pytest.raises(SpawnRefused, match="another service") as refusal:
            await bench.provider.spawn(spec())
        assert refusal.value.permanent
        assert len(await other.list()) == 1

    tried(test)


def test_a_creation_whose_answer_is_lost_is_adopted() -> None:
    """Invariant 3: made once, by the stand-in's own count, and running."""

    async def test(bench: Bench) -> None:
        made = await bench.provider.spawn(spec())
        assert bench.created() == ["tiff-a-1"]
        assert (await bench.provider.inspect(made)).state == "running"
        assert len(bench.inside.journal.find(what="fault", fault="create_times_out")) == 1

    tried(test, {"create_times_out": 1.0})


def test_a_fleet_that_died_meanwhile_adopts_it_too() -> None:
    """The process ended before the answer came; its heir finds the name, and making it again makes nothing."""

    async def test(bench: Bench) -> None:
        spawning = asyncio.ensure_future(bench.provider.spawn(spec()))
        await bench.inside.journal.until(what="create")
        spawning.cancel()
        for _ in range(2):
            heir = bench.again()
            found = await heir.inspect("tiff-a-1")
            assert found.state == "running"
            assert await heir.spawn(spec()) == found.provider_id
        assert bench.created() == ["tiff-a-1"]

    tried(test, {"create_times_out": 1.0}, APPS)


@pytest.mark.parametrize("status", [409, 422])
def test_the_same_name_twice_is_one_machine(status: int) -> None:
    """As the API refuses it in either way."""

    async def test(bench: Bench) -> None:
        first, second = await asyncio.gather(*(bench.again().spawn(spec()) for _ in range(2)))
        assert first == second
        assert bench.created() == ["tiff-a-1"]

    tried(test, name_taken_status=status)


@pytest.mark.parametrize("fault", ["no_capacity", "no_memory", "quota"])
def test_a_full_region_is_passed_over(fault: str) -> None:
    """And when all are full the machine is refused for now, with what the API said."""

    async def test(bench: Bench) -> None:
        await bench.provider.spawn(spec("a"))
        assert [entry["region"] for entry in bench.inside.journal.find(what="create")] == ["iad"]
        bench.switch(**{fault: 1.0})
        with pytest.raises(SpawnRefused, match="no place") as refusal:
            await bench.provider.spawn(spec("b"))
        assert not refusal.value.permanent
        assert bench.created() == ["a"]

    tried(test, {f"{fault}@ord": 1.0})


@pytest.mark.parametrize("fault", ["rate_limited", "server_error"])
def test_errors_that_pass_are_survived(fault: str) -> None:
    """A third of all requests fails: every machine is made once, seen and ended."""

    async def test(bench: Bench) -> None:
        names = [f"m{n}" for n in range(12)]
        made = [await bench.provider.spawn(spec(name)) for name in names]
        assert bench.created() == names
        assert len(await bench.provider.list()) == 12
        for each in made:
            await bench.provider.destroy(each)
        bench.switch(**{fault: 0.0})
        assert await bench.provider.list() == []
        assert bench.inside.journal.counters[f"fault.{fault}"] > 10

    tried(test, {fault: 0.33}, seed=5)


@pytest.mark.parametrize(
    ("fault", "raised"), [("rate_limited", SpawnRefused), ("server_error", (SpawnRefused, ProviderUnavailable))]
)
def test_errors_that_last_are_told(fault: str, raised: type[Exception]) -> None:
    """Within the patience; nothing was made."""

    # A machine that is not there is told before any fault: so a machine is needed to ask for.
    async def with_one(bench: Bench) -> None:
        made = await bench.provider.spawn(spec("other"))
        bench.switch(**{fault: 1.0})
        for question in (bench.provider.inspect(made), bench.provider.destroy(made)):
            with pytest.raises(ProviderUnavailable):
                await question

    async def spawning(bench: Bench) -> None:
        bench.switch(**{fault: 1.0})
        with pytest.raises(raised) as failure:
            await bench.provider.spawn(spec())
        assert not getattr(failure.value, "permanent", False)
        with pytest.raises(ProviderUnavailable):
            await bench.provider.list()
        assert bench.created() == []
        assert now() < 100

    for part in (with_one, spawning):
        tried(part)


def test_a_wrong_token_says_what_to_set() -> None:
    """Whatever is asked."""

    async def test(bench: Bench) -> None:
        provider = bench.again(token="wrong-token")
        with pytest.raises(SpawnRefused, match="FLY_API_TOKEN") as refusal:
            await provider.spawn(spec())
        assert refusal.value.permanent
        with pytest.raises(ProviderUnavailable, match="FLY_API_TOKEN"):
            await provider.list()

    tried(test)


def test_what_fly_does_not_make_is_refused_with_its_words() -> None:
    """An app that there is not, an image that is none."""

    async def test(bench: Bench) -> None:
        for changes, words in (
            ({"apps": ("other",)}, "no app other: create it"),
            ({"image": "NO IMAGE"}, "invalid image"),
        ):
            with pytest.raises(SpawnRefused, match=words) as refusal:
                await bench.again(**changes).spawn(spec())
            assert refusal.value.permanent

    tried(test)


def test_a_machine_that_never_boots_counts_as_running() -> None:
    """Its batch has a deadline for that; then it is destroyed like any other."""

    async def test(bench: Bench) -> None:
        made = await bench.provider.spawn(spec())
        await bench.reach(made, "starting")
        assert (await bench.provider.inspect(made)).state == "running"
        assert (await bench.provider.wait(made, "running", within_s=5)).state == "running"
        await bench.provider.destroy(made)
        assert (await bench.provider.inspect(made)).state == "gone"

    tried(test, {"never_boots": 1.0})


@pytest.mark.parametrize(("fault", "code", "oom"), [("oom", 137, True), ("dies", 1, False)])
def test_how_a_machine_ended_is_seen(fault: str, code: int, oom: bool) -> None:
    """By inspection, until it is destroyed; its name stays taken meanwhile. A list tells only that it has."""
    task = {"TASK_ID": "t", "BATCH_ID": "b", "INPUT_R2_KEY": "k", "CALLBACK_URL": "http://127.0.0.1:9/callback/b/t"}

    async def test(bench: Bench) -> None:
        made = await bench.provider.spawn(spec(**task))
        await bench.reach(made, "stopped")
        expected = MachineStatus(name="tiff-a-1", provider_id=made, state="exited", code=code, oom=oom, memory_mb=1024)
        assert await bench.provider.inspect(made) == expected
        (listed,) = await bench.provider.list()
        assert (listed.provider_id, listed.state, listed.code) == (made, "exited", None)
        assert await bench.provider.spawn(spec(**task)) == made
        assert (await bench.provider.wait(made, "exited", within_s=5)) == expected
        await bench.provider.destroy(made)
        assert await bench.provider.list() == []

    tried(test, {fault: 1.0, "never_runs": 0.0})


def test_a_machine_that_vanished_is_gone() -> None:
    """With its host, without an exit event."""
    task = {"TASK_ID": "t", "BATCH_ID": "b", "INPUT_R2_KEY": "k", "CALLBACK_URL": "http://127.0.0.1:9/callback/b/t"}

    async def test(bench: Bench) -> None:
        made = await bench.provider.spawn(spec(**task))
        await bench.inside.journal.until(what="vanish")
        assert (await bench.provider.inspect(made)).state == "gone"
        await bench.provider.destroy(made)

    tried(test, {"vanishes": 1.0, "never_runs": 0.0})


def test_a_pool_is_prepared_started_and_stopped() -> None:
    """Prepared machines are at rest; a start whose answer is lost is none that failed; a stopped one starts again."""

    async def test(bench: Bench) -> None:
        made = await bench.provider.prepare(spec("pool-1"))
        await bench.reach(made, "stopped")
        assert (await bench.provider.inspect(made)).state == "exited"
        for _ in range(2):
            assert (await bench.provider.start(made)).state == "running"
            assert (await bench.provider.wait(made, "running", within_s=5)).state == "running"
            assert (await bench.provider.start(made)).state == "running"
            await bench.provider.stop(made)
            assert (await bench.provider.wait(made, "exited", within_s=30)).state == "exited"
            await bench.provider.stop(made)
        assert bench.inside.journal.counters["start"] == 2
        await bench.provider.destroy(made)
        assert (await bench.provider.start(made)).state == "gone"

    for rates in ({}, {"start_times_out": 1.0}):
        tried(test, rates)


def test_a_machine_whose_region_is_full_is_not_started() -> None:
    """It may be later."""

    async def test(bench: Bench) -> None:
        made = await bench.provider.prepare(spec("pool-1"))
        await bench.reach(made, "stopped")
        bench.switch(no_capacity=1.0)
        with pytest.raises(SpawnRefused) as refusal:
            await bench.provider.start(made)
        assert not refusal.value.permanent

    tried(test)
