"""One suite for every provider of machines: `machines` makes one, its workers are stand-ins that idle or end."""

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from actors.machines import open_provider
from actors.machines.base import (
    MachineSpec,
    MachineStatus,
    Provider,
    ProviderUnavailable,
    SpawnRefused,
    worker_environment,
)
from actors.machines.external import ExternalMachines
from actors.machines.fly import FlyMachines, FlyOptions, Size
from actors.machines.subprocess import MARK, SubprocessMachines
from tests.stand_ins.fly import FlyStandIn, always
from tests.stand_ins.fly import Settings as FlySettings

STAND_IN = """
import json, os, signal, sys, time
if os.environ.get("STUBBORN"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(json.dumps(dict(os.environ)), flush=True)
if "CODE" in os.environ:
    sys.exit(int(os.environ["CODE"]))
time.sleep(120)
"""


class Bench:
    """A provider, and how to make a second one that knows nothing, as after the death of the fleet's process."""

    def __init__(self, again: Callable[[], Provider]):
        self.again = again
        self.provider = again()


async def until(check: Callable[[], Awaitable[Any]], seconds: float = 15.0) -> Any:
    """Ask until the answer is true."""
    async with asyncio.timeout(seconds):
        while not (answer := await check()):  # noqa: ASYNC110  (processes and actors send no event)
            await asyncio.sleep(0.02)
    return answer


async def over(provider: Provider, which: str) -> MachineStatus:
    async def check() -> MachineStatus | None:
        status = await provider.inspect(which)
        return status if status.state != "running" else None

    status: MachineStatus = await until(check)
    return status


def spec(name: str, **env: str) -> MachineSpec:
    return MachineSpec(name=name, kind="tiff", env={"TASK_ID": name, **env})


def subprocesses(folder: Path, grace_s: float = 3.0) -> SubprocessMachines:
    command = (sys.executable, "-c", STAND_IN)
    return SubprocessMachines(folder / "machines", folder / "logs", command=command, grace_s=grace_s)


class FakeLoop:
    """Stands in for `worker.loop` inside the warm actors."""

    @staticmethod
    def run(env: Mapping[str, str], *, stop: threading.Event) -> int:
        if "CODE" in env:
            return int(env["CODE"])
        while not stop.wait(120) or env.get("STUBBORN"):
            pass
        return 0


@pytest.fixture(scope="module")
def ray_runs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One Ray of our own for the module."""
    ray = pytest.importorskip("ray")
    ray.init(address="local", namespace="arke", num_cpus=1, include_dashboard=False, configure_logging=False)
    yield ray
    ray.shutdown()


def end_actors(ray: Any) -> None:
    """Remove the warm actors, which outlive whoever made them."""
    for actor in ray.util.list_named_actors(all_namespaces=True):
        ray.kill(ray.get_actor(actor["name"], actor["namespace"]), no_restart=True)


def actor_pid(ray: Any, i: int) -> int:
    """The process of `machine:{i}`."""
    actor = ray.get_actor(f"machine:{i}", "arke")
    return int(ray.get(actor.__ray_call__.remote(lambda _: __import__("os").getpid())))


@contextlib.asynccontextmanager
async def fly_machines() -> AsyncIterator[Bench]:
    """In two apps of the API's stand-in, with its limits and its time, and machines that are processes."""
    quick = dict.fromkeys(("pull", "boot", "destroy"), always(0.0))
    command = (sys.executable, "-c", STAND_IN)
    settings = FlySettings(apps=("one", "two"), machines="processes", command=command, **quick)  # type: ignore[arg-type]
    stand_in = FlyStandIn(settings)
    made: list[FlyMachines] = []

    def again() -> Provider:
        options = FlyOptions(
            api_url="http://fly/v1", token=settings.token, apps=settings.apps, regions=("ord",), image="worker:1",
            sizes={"tiff": Size("shared", 2, 1024)}, service="arke",
        )  # fmt: skip
        made.append(FlyMachines(options, transport=httpx.ASGITransport(app=stand_in.asgi)))
        return made[-1]

    try:
        yield Bench(again)
    finally:
        await stand_in.close()
        for provider in made:
            await provider.close()


@pytest.fixture(params=["subprocess", "ray", "fly"])
async def machines(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    if request.param == "fly":
        async with fly_machines() as fly:
            yield fly
        return
    if request.param == "subprocess":
        bench = Bench(lambda: subprocesses(tmp_path))
        yield bench
        subprocesses(tmp_path, grace_s=0.1).end_all()
        return
    ray_runs = request.getfixturevalue("ray_runs")
    from actors.machines.ray_workers import RayMachines, WarmWorker

    class StandIn(WarmWorker):
        loop = FakeLoop

    yield Bench(lambda: RayMachines(2, worker_class=StandIn))
    end_actors(ray_runs)


async def test_a_spawned_machine_is_found_by_id_name_and_list(machines: Bench) -> None:
    """What was made is running under its id and its name, and listed once."""
    provider = machines.provider
    provider_id = await provider.spawn(spec("tiff-a-1"))
    for which in (provider_id, "tiff-a-1"):
        status = await provider.inspect(which)
        assert (status.state, status.name, status.provider_id) == ("running", "tiff-a-1", provider_id)
    assert [status.provider_id for status in await provider.list()] == [provider_id]


async def test_a_name_that_exists_is_adopted(machines: Bench) -> None:
    """Invariant 3: the same spawn again, even by another process, makes no second machine."""
    first = await machines.provider.spawn(spec("tiff-a-1"))
    again = machines.again()
    assert await again.spawn(spec("tiff-a-1")) == first
    assert len(await again.list()) == 1


async def test_destroying_ends_the_machine_and_may_be_repeated(machines: Bench) -> None:
    """After `destroy` the machine is gone and forgotten; once more, or one that never was, is success."""
    provider = machines.provider
    provider_id = await provider.spawn(spec("tiff-a-1"))
    await provider.destroy(provider_id)
    assert (await provider.inspect(provider_id)).state == "gone"
    assert await provider.list() == []
    await provider.destroy(provider_id)
    await provider.destroy("tiff-never-1")


async def test_a_new_provider_finds_and_ends_the_machines_of_the_former(machines: Bench) -> None:
    """Invariant 8: nothing about machines is kept in the memory of the fleet's process."""
    provider_id = await machines.provider.spawn(spec("tiff-a-1"))
    again = machines.again()
    assert (await again.inspect("tiff-a-1")).provider_id == provider_id
    await again.destroy("tiff-a-1")
    assert (await machines.provider.inspect(provider_id)).state == "gone"


async def test_an_exit_is_seen_with_its_code(machines: Bench) -> None:
    """A machine that ended by itself is `exited` until it is destroyed, then gone; its name is not run again."""
    provider = machines.provider
    provider_id = await provider.spawn(spec("tiff-a-1", CODE="3"))
    status = await over(provider, provider_id)
    assert (status.state, status.code) == ("exited", 3)
    assert await provider.spawn(spec("tiff-a-1")) == provider_id
    assert (await provider.inspect(provider_id)).state == "exited"
    await provider.destroy(provider_id)
    assert (await provider.inspect(provider_id)).state == "gone"


async def test_the_place_of_an_ended_machine_is_used_again(machines: Bench) -> None:
    """Destroyed machines do not use up the provider."""
    provider = machines.provider
    ids = set()
    for n in range(3):
        ids.add(await provider.spawn(spec(f"tiff-a-{n}")))
        await provider.destroy(f"tiff-a-{n}")
    assert len(ids) == 3


async def test_an_unknown_machine_is_gone(machines: Bench) -> None:
    """Inspection never fails for what is not there."""
    assert (await machines.provider.inspect("tiff-never-1")).state == "gone"
    assert (await machines.provider.inspect("1:2.00")).state == "gone"


async def test_ray_refuses_when_all_workers_are_busy(ray_runs: Any) -> None:
    """As many machines as warm actors; the next is refused, not for good."""
    from actors.machines.ray_workers import RayMachines, WarmWorker

    class StandIn(WarmWorker):
        loop = FakeLoop

    provider = RayMachines(1, worker_class=StandIn)
    try:
        await provider.spawn(spec("tiff-a-1"))
        with pytest.raises(SpawnRefused) as refusal:
            await provider.spawn(spec("tiff-b-1"))
        assert not refusal.value.permanent
    finally:
        end_actors(ray_runs)


async def test_a_warm_actor_runs_the_worker(ray_runs: Any) -> None:
    """Without a task and without a place to claim, the worker's own loop ends with 1, and the actor serves on."""
    from actors.machines.ray_workers import RayMachines

    provider = RayMachines(1)
    try:
        provider_id = await provider.spawn(MachineSpec(name="tiff-a-1", kind="tiff", env={}))
        assert (await over(provider, provider_id)).code == 1
        await provider.destroy(provider_id)
        assert await provider.list() == []
    finally:
        end_actors(ray_runs)


async def test_ray_ends_the_process_of_a_machine_that_does_not_stop(ray_runs: Any) -> None:
    """A conversion that hangs in native code is ended with its actor; Ray makes the actor again."""
    from actors.machines.ray_workers import RayMachines, WarmWorker

    class StandIn(WarmWorker):
        loop = FakeLoop

    provider = RayMachines(1, worker_class=StandIn, grace_s=0.1)
    try:
        await provider.spawn(spec("tiff-a-1", STUBBORN="1"))
        await provider.destroy("tiff-a-1")

        async def serves_again() -> bool:
            try:
                return bool(await provider.spawn(spec("tiff-b-1")))
            except SpawnRefused:
                return False

        await until(serves_again, 30)
        assert [status.name for status in await provider.list()] == ["tiff-b-1"]
    finally:
        end_actors(ray_runs)


async def test_a_ray_worker_leaves_a_node_that_goes(ray_runs: Any) -> None:
    """Its machine stops in order, its process ends, and Ray makes it again, which has no machine."""
    from ray.exceptions import RayError

    from actors.machines.ray_workers import RayMachines, WarmWorker

    class StandIn(WarmWorker):
        loop = FakeLoop

    provider = RayMachines(1, worker_class=StandIn)
    try:
        await provider.spawn(spec("tiff-a-1"))
        before = actor_pid(ray_runs, 0)
        with contextlib.suppress(RayError):  # it may end before its answer is sent
            await (await provider._handle(0)).leave.remote()

        async def is_another() -> bool:
            try:
                return await provider.list() == [] and actor_pid(ray_runs, 0) != before
            except ProviderUnavailable:
                return False

        await until(is_another, 30)
    finally:
        end_actors(ray_runs)


@pytest.mark.parametrize("heir", [False, True])
async def test_a_ray_worker_that_hangs_stops_no_other(ray_runs: Any, heir: bool) -> None:
    """Its process is stopped in the middle: its machine counts as running, others are made, listed and ended. To
    destroy its machine ends the process, for a provider that has just been started also; then it serves again.
    """
    from actors.machines.ray_workers import RayMachines, WarmWorker

    class StandIn(WarmWorker):
        loop = FakeLoop

    def again() -> RayMachines:
        return RayMachines(2, worker_class=StandIn, grace_s=0.1, answer_s=3.0)

    provider = again()
    stopped = 0
    try:
        hung = await provider.spawn(spec("tiff-a-1"))
        await provider.destroy(await provider.spawn(spec("tiff-b-1")))  # both processes are there
        stopped = actor_pid(ray_runs, int(hung[len("machine:")]))
        os.kill(stopped, signal.SIGSTOP)
        if heir:
            provider = again()
        assert (await provider.inspect(hung)).state == "running"
        other = await provider.spawn(spec("tiff-c-1"))
        assert {status.name for status in await provider.list()} >= {"tiff-c-1"}
        with pytest.raises(SpawnRefused):
            await provider.spawn(spec("tiff-d-1"))
        await provider.destroy(other)
        await provider.destroy(hung)

        async def serves_again() -> bool:
            try:
                return bool([await provider.spawn(spec(f"tiff-{name}-2")) for name in "ef"])
            except (SpawnRefused, ProviderUnavailable):
                return False

        await until(serves_again, 40)
        assert (await provider.inspect(hung)).state == "gone"
        stopped = 0
    finally:
        if stopped:
            os.kill(stopped, signal.SIGKILL)
        end_actors(ray_runs)


async def test_a_machine_that_may_be_on_a_silent_worker_is_not_known_to_be_gone(ray_runs: Any) -> None:
    """Invariant 3: asked for by its name alone, as after the fleet's death during the spawn. To destroy it ends the
    worker that may have it."""
    from actors.machines.ray_workers import RayMachines, WarmWorker

    class StandIn(WarmWorker):
        loop = FakeLoop

    provider = RayMachines(1, worker_class=StandIn, answer_s=10.0)
    stopped = 0
    try:
        await provider.spawn(spec("tiff-a-1"))
        stopped = actor_pid(ray_runs, 0)
        os.kill(stopped, signal.SIGSTOP)
        heir = RayMachines(1, worker_class=StandIn, grace_s=0.1, answer_s=0.5)
        with pytest.raises(ProviderUnavailable):
            await heir.inspect("tiff-a-1")
        await heir.destroy("tiff-a-1")
        stopped = 0

        async def gone_now() -> bool:
            try:
                return (await heir.inspect("tiff-a-1")).state == "gone"
            except ProviderUnavailable:
                return False

        await until(gone_now, 40)
    finally:
        if stopped:
            os.kill(stopped, signal.SIGKILL)
        end_actors(ray_runs)


async def test_a_process_killed_from_outside_is_seen_by_its_heir(tmp_path: Path) -> None:
    """kill -9 of a worker whose parent is not the fleet any more: exited, code unknown or that of the signal."""
    provider_id = await subprocesses(tmp_path).spawn(spec("tiff-a-1"))
    heir = subprocesses(tmp_path)
    os.kill(int(provider_id.partition(":")[0]), signal.SIGKILL)
    status = await over(heir, provider_id)
    assert status.state == "exited"
    assert status.code in (None, -signal.SIGKILL)
    await heir.destroy(provider_id)


async def test_a_process_is_adopted_when_death_came_before_its_pid_was_written(tmp_path: Path) -> None:
    """Invariant 3: started, but not written down: found by its mark, not started twice."""
    first = subprocesses(tmp_path)
    provider_id = await first.spawn(spec("tiff-a-1"))
    (tmp_path / "machines" / "tiff-a-1.json").write_text('{"name": "tiff-a-1"}')
    heir = subprocesses(tmp_path)
    assert (await heir.inspect("tiff-a-1")).state == "running"
    assert await heir.spawn(spec("tiff-a-1")) == provider_id
    assert first.end_all() == 1


async def test_an_intention_without_a_process_is_no_machine(tmp_path: Path) -> None:
    """Death between the intention and the start leaves a file only; the machine is gone and can be made."""
    provider = subprocesses(tmp_path, grace_s=0.1)
    (tmp_path / "machines" / "tiff-a-1.json").write_text('{"name": "tiff-a-1"}')
    assert (await provider.inspect("tiff-a-1")).state == "gone"
    await provider.spawn(spec("tiff-a-1"))
    assert provider.end_all() == 1


async def test_a_pid_that_was_given_to_another_process_is_not_ours(tmp_path: Path) -> None:
    """An id is pid and start time: a foreign process with the same pid is never signalled."""
    provider = subprocesses(tmp_path)
    (tmp_path / "machines" / "tiff-a-1.json").write_text(
        f'{{"name": "tiff-a-1", "pid": {os.getpid()}, "started": 1000.0}}'
    )
    assert (await provider.inspect("tiff-a-1")).state == "exited"
    await provider.destroy("tiff-a-1")
    assert await provider.list() == []


async def test_a_stubborn_process_is_killed(tmp_path: Path) -> None:
    """Who ignores SIGTERM is killed after the grace."""
    provider = subprocesses(tmp_path, grace_s=0.1)
    provider_id = await provider.spawn(spec("tiff-a-1", STUBBORN="1"))
    log = tmp_path / "logs" / "machine-tiff-a-1.log"

    async def ready() -> bool:
        return bool(log.read_text())

    await until(ready)
    await provider.destroy(provider_id)
    assert (await provider.inspect(provider_id)).state == "gone"


async def test_no_secret_of_the_service_reaches_a_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """The environment of a worker is what it was given, and what finding programs needs."""
    monkeypatch.setenv("CALLBACK_SECRET", "s3cret")
    monkeypatch.setenv("ADMIN_KEY", "s3cret")
    provider = subprocesses(tmp_path)
    provider_id = await provider.spawn(spec("tiff-a-1", CODE="0", MACHINE_TOKEN="given"))
    await over(provider, provider_id)
    log = (tmp_path / "logs" / "machine-tiff-a-1.log").read_text()
    assert "s3cret" not in log
    assert '"MACHINE_TOKEN": "given"' in log
    assert MARK in log
    assert worker_environment(spec("x"), {"R2_SECRET_ACCESS_KEY": "k", "PATH": "/bin"}) == {
        "PATH": "/bin", "TASK_ID": "x",
    }  # fmt: skip


async def test_the_process_is_a_worker(tmp_path: Path) -> None:
    """Without a task and without a place to claim, `python -m worker` says what is missing and exits with 1."""
    provider = SubprocessMachines(tmp_path / "machines", tmp_path / "logs")
    provider_id = await provider.spawn(MachineSpec(name="tiff-a-1", kind="tiff", env={}))
    assert (await over(provider, provider_id)).code == 1
    assert "TASK_ID" in (tmp_path / "logs" / "machine-tiff-a-1.log").read_text()


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "x" * 200])
async def test_a_name_that_is_no_file_name_is_refused(tmp_path: Path, name: str) -> None:
    """Names become file names: nothing is written outside of the register."""
    with pytest.raises(SpawnRefused) as refusal:
        await subprocesses(tmp_path).spawn(spec(name))
    assert refusal.value.permanent


async def test_a_program_that_is_missing_is_a_permanent_refusal(tmp_path: Path) -> None:
    """The message names no path; the register keeps no trace."""
    provider = SubprocessMachines(tmp_path / "machines", tmp_path / "logs", command=("/nowhere/python",))
    with pytest.raises(SpawnRefused) as refusal:
        await provider.spawn(spec("tiff-a-1"))
    assert refusal.value.permanent
    assert "/" not in refusal.value.message
    assert await provider.list() == []


async def test_external_spawns_nothing() -> None:
    """The provider for people's own workers has no capacity and no machines."""
    provider = ExternalMachines()
    assert provider.capacity == 0
    with pytest.raises(SpawnRefused):
        await provider.spawn(spec("tiff-a-1"))
    assert await provider.list() == []
    assert (await provider.inspect("tiff-a-1")).state == "gone"
    await provider.destroy("tiff-a-1")


def test_a_provider_is_opened_by_its_name(tmp_path: Path) -> None:
    """The names of MACHINE_PROVIDER; another one is an error that lists them."""
    for name in ("subprocess", "external"):
        assert open_provider(name, run_dir=tmp_path, log_dir=tmp_path / "logs", workers=2).name == name
    fly = FlyOptions(
        api_url="http://fly/v1", token="t", apps=("one",), regions=("ord",), image="worker:1", sizes={}, service="arke"
    )
    assert open_provider("fly", run_dir=tmp_path, log_dir=tmp_path / "logs", workers=2, fly=fly).name == "fly"
    with pytest.raises(ValueError, match="subprocess"):
        open_provider("cloud", run_dir=tmp_path, log_dir=tmp_path, workers=1)
