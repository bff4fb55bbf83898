"""The Ray shells: names, options, and a process for each part of the engine. No logic.

Ray creates, names and restarts these actors. All that is hot goes through the unix socket that each of them listens
on (`actors.wire`), or in a cluster an address of its node (`actors.network`). So a Ray call is made only to create one,
to wait until it listens, and to be told where.
"""

import asyncio
import os
from pathlib import Path
from typing import Any, Final

import ray

from actors import assembly, telemetry, wire
from actors.clock import Clock
from actors.directory import Directory
from actors.errors import Unavailable
from actors.machines import open_provider
from actors.network import Address
from actors.nodes import NAMESPACE, RayNodes
from actors.settings import Settings
from actors.store import Store

READY_TIMEOUT_S: Final = 20.0
LEAVE_S: Final = 5.0
"""What was begun is answered in this time, before the process of a node that goes ends."""
OPTIONS: Final[dict[str, Any]] = {
    "namespace": NAMESPACE,
    "lifetime": "detached",
    "max_restarts": -1,
    "num_cpus": 0,
    "get_if_exists": True,
    "max_concurrency": 1000,
    "scheduling_strategy": "SPREAD",  # over the nodes of a cluster: what asks for no core would be anywhere
}


def make_ensure(settings: Settings, me: str | None = None) -> Any:
    """What `Directory` needs to bring an actor up: create it under its name, or wait for its restart.

    `me` is the actor that asks. It does not ask itself: Ray lets an actor end only when all that it has asked for is
    done, and one that is ending answers nothing.
    """

    async def ensure(name: str) -> Address | None:
        if name == me:
            raise Unavailable(retry_after_s=1)
        actor = SHELLS[name.split(":")[0]].options(name=name, **OPTIONS).remote(name, settings)
        told: Address | None = await asyncio.wait_for(actor.ready.remote(), READY_TIMEOUT_S)
        return told

    return ensure


def start(settings: Settings) -> None:
    """Bring up what stands always. Called once by the process that holds Ray."""
    for name in standing(settings):
        actor = SHELLS[name].options(name=name, **OPTIONS).remote(name, settings)
        ray.get(actor.ready.remote(), timeout=60)


def standing(settings: Settings) -> tuple[str, ...]:
    """The actors that stand always. Postgres needs no process of ours: whoever writes goes there itself."""
    owner = ("store",) if isinstance(settings.store, Path) else ()
    return (*owner, "fleet", "maintenance")


class Shell:
    """One process of the engine. Subclasses build their part in `_open`; it listens on the actor's socket.

    Opening begins with the process, so that an actor that Ray has started again serves without being asked.
    """

    def __init__(self, name: str, settings: Settings):
        self.name, self.settings = name, settings
        telemetry.configure(settings.log_level, settings.log_dir, name)
        self._server: wire.Served | None = None
        self._address: Address | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._opened = asyncio.get_running_loop().create_task(self._open_or_end())

    async def ready(self) -> Address | None:
        """Once it listens, where: None on its unix socket."""
        await asyncio.shield(self._opened)
        return self._address

    async def stop(self) -> None:
        """End this actor for good; its name becomes free."""
        ray.actor.exit_actor()  # type: ignore[no-untyped-call]

    async def leave(self) -> None:
        """End this process in order, for Ray to start the actor again where it may: its node is about to go."""
        if self._leaving is None:
            self._leaving = asyncio.get_running_loop().create_task(self._end_in_order())

    async def _end_in_order(self) -> None:
        telemetry.event("arke.actor_leaves_node", actor=self.name)
        self._begin_nothing_more()
        if self._server is not None:
            await self._server.end(within_s=LEAVE_S)
        os._exit(1)

    def _begin_nothing_more(self) -> None:
        """What is asked from now on is refused, for the caller to ask again."""

    async def _open(self) -> None:
        raise NotImplementedError(type(self).__name__)

    async def _open_or_end(self) -> None:
        try:
            await self._open()
        except Exception:  # noqa: BLE001 - Ray starts it again; without this it would stand there deaf
            telemetry.fault("arke.actor_failed", actor=self.name)
            os._exit(1)

    async def _listen(self, handler: Any) -> None:
        network = assembly.network(self.settings)
        if network is None:
            await self._listen_here(handler)
            return
        host: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        listening = await network.listen(host, self.name, handler)
        self._server, self._address = listening, listening.address
        watching = assembly.leave_when_node_is_lost(_node_is_known, lambda: os._exit(1))
        self._place = asyncio.get_running_loop().create_task(watching)

    async def _listen_here(self, handler: Any) -> None:
        listening = await wire.serve(wire.socket_path(self.settings.run_dir, self.name), handler)
        self._server = listening
        watching = assembly.leave_when_displaced(listening.is_in_place, lambda: os._exit(1))
        self._place = asyncio.get_running_loop().create_task(watching)

    def _connect(self, *, reads_file: bool = True) -> tuple[Store, Directory]:
        opened = assembly.store(self.settings, reads_file=reads_file)
        return opened, assembly.directory(self.settings, opened, make_ensure(self.settings, self.name))


@ray.remote
class StoreActor(Shell):
    """Owns the SQLite file: every commit of the service goes through this process. Who reads it is on its host."""

    async def _open(self) -> None:
        from actors.store.served import Served  # SQL: this process alone needs it at its start

        assert isinstance(self.settings.store, Path)
        served = await asyncio.to_thread(Served.open, self.settings.store)
        await self._listen_here(served.handle)


@ray.remote
class HostActor(Shell):
    """`batch:{id}` runs one batch and exits when it has nothing to do; `batches:{n}`, `exports:{n}` and
    `archives:{n}` stand and run many jobs."""

    async def _open(self) -> None:
        opened, way = self._connect(reads_file=False)
        own = self.name.startswith("batch:")
        host = assembly.host(self.name, self.settings, opened, way, Clock(), self._end if own else None)
        self._host = host
        await self._listen(host.handle)
        if own:
            self._watcher = asyncio.get_running_loop().create_task(assembly.leave_when_idle(host, self._end))

    def _begin_nothing_more(self) -> None:
        self._host.leave()

    def _end(self) -> None:
        """End for good: the one job of this process is over, or sleeps."""
        me = ray.get_runtime_context().current_actor

        async def end() -> None:
            self._host.leave()
            if self._server is not None:
                self._server.close()
            me.stop.remote()

        if self._leaving is None:
            self._leaving = asyncio.get_running_loop().create_task(end())


@ray.remote
class FleetActor(Shell):
    """Owns the machines."""

    async def _open(self) -> None:
        opened, way = self._connect()
        provider = open_provider(
            self.settings.machine_provider,
            run_dir=self.settings.run_dir,
            log_dir=self.settings.log_dir,
            workers=self.settings.max_machines,
            cluster=self.settings.arke_cluster,
            fly=assembly.fly_options(self.settings),
        )
        fleet = assembly.fleet(self.settings, opened, way, Clock(), provider)
        await assembly.patiently(fleet.start)
        await self._listen(fleet.handle)
        self._watcher = asyncio.get_running_loop().create_task(_end_with(fleet.stopped))


@ray.remote
class MaintenanceActor(Shell):
    """Runs the duties, each at its interval."""

    async def _open(self) -> None:
        opened, way = self._connect()
        duties = assembly.duties(self.settings, opened, way, Clock())
        if self.settings.arke_cluster:
            duties.append(assembly.draining(RayNodes(), self.name))
        self._rounds = [asyncio.get_running_loop().create_task(assembly.rounds(duty)) for duty in duties]
        await self._listen(_nothing)


def _node_is_known() -> bool:
    """Whether Ray takes this node for alive. True where it cannot be asked: its head may be starting again."""
    own = ray.get_runtime_context().get_node_id()
    try:
        nodes = ray.nodes()  # type: ignore[no-untyped-call]
    except Exception:  # noqa: BLE001 - whatever Ray says of a head that is away
        return True
    return not nodes or any(node["NodeID"] == own and node["Alive"] for node in nodes)


async def _end_with(event: asyncio.Event) -> None:
    """A part that was fenced or is broken ends its process; Ray starts it again."""
    await event.wait()
    os._exit(1)


async def _nothing(requests: list[Any]) -> list[Any]:
    return [{} for _ in requests]


SHELLS: Final[dict[str, Any]] = {
    "store": StoreActor,
    "fleet": FleetActor,
    "maintenance": MaintenanceActor,
    "batch": HostActor,
    "batches": HostActor,
    "exports": HostActor,
    "archives": HostActor,
}


def connect(settings: Settings) -> assembly.Engine:
    """The engine of one replica of the front."""
    opened = assembly.store(settings, patient=True)
    return assembly.Engine(settings, opened, assembly.directory(settings, opened, make_ensure(settings)), Clock())
