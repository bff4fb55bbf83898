"""The processes of the service, as `actors.ray_actors` has them: the same parts put together, and Ray's part played.

Ray starts a named actor that died again, by itself and after a while, with the same arguments; it makes one that is
asked for under a name that is free; and when it believes that a node is dead while it is not, there are two.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from actors import assembly, wire
from actors.channels.final_callback import FinalCallback
from actors.directory import Directory
from actors.errors import Unavailable
from actors.host import Host
from actors.rules.model import Job, Machine, Task
from actors.settings import Settings
from actors.store import Store
from actors.store.served import Served
from actors.store.writer import Writer
from tests.simulation.chance import Chance
from tests.simulation.disk import FaultyReads
from tests.simulation.loop import Process, VirtualLoop, never
from tests.simulation.pipes import STOPPED_S, Network
from tests.simulation.provider import SimProvider

READY_S: Final = 20.0
RESTART_S: Final = 1.5
ZOMBIE_S: Final = 30.0
LEAVES_WITHIN_S: Final = 3.0
"""How long an actor that has ended itself may run on, while Ray lets it finish what it has begun."""
FRONTS: Final = ("front:0", "front:1")
TICK_MS: Final = 2_000
UPLOADS_S: Final = 20.0
"""How often uploads that nobody needs are looked for: a run is too short for once in five minutes."""
SWEEP_MS: Final = 10_000
"""How long the fleet lets a machine run that nobody knows."""


class WorldClock:
    """The wall clock, which may jump. A process reads it at its start, and then moves with the monotonic one."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.offset_ms = 1_700_000_000_000

    def of_process(self) -> "ProcessClock":
        """As a process that begins now sees it."""
        return ProcessClock(self.loop, self.offset_ms)


class ProcessClock:
    """`actors.clock.TimeSource` of one process."""

    def __init__(self, loop: VirtualLoop, offset_ms: int) -> None:
        self._loop, self._offset_ms = loop, offset_ms

    def now(self) -> int:
        return self._offset_ms + int(self._loop.time() * 1000)


class Actor:
    """One process under a name. `ready` is set when it listens."""

    def __init__(self, name: str, process: Process) -> None:
        self.name, self.process = name, process
        self.ready = asyncio.Event()
        self.is_ended = False  # by its own wish: Ray does not start it again
        self.is_leaving = False  # and listens no more


class Service:
    """All processes of the service, and what stays when they die: names, the file, the wall clock."""

    def __init__(
        self,
        *,
        loop: VirtualLoop,
        chance: Chance,
        network: Network,
        settings: Settings,
        writer: Writer,
        path: Path,
        provider: Callable[[], SimProvider],
        objects: Any,
        channel: Callable[[Store], FinalCallback],
        activated: Callable[[Process, Job], None],
        overtaken: Callable[[Process], None],
        gives: Callable[[str, Machine | None, dict[str, str]], None],
        trace: Callable[..., None],
        slow: float = 1.0,
    ) -> None:
        self.loop, self.chance, self.network, self.settings = loop, chance, network, settings
        self.clock = WorldClock(loop)
        self.actors: dict[str, Actor] = {}
        self.fronts: dict[str, assembly.Engine] = {}
        self._started: Counter[str] = Counter()
        self._fleets: dict[Process, int] = {}  # by epoch
        self._writer, self._path = writer, path
        self._provider, self._objects, self._channel, self._trace = provider, objects, channel, trace
        self._activated, self._overtaken, self._gives = activated, overtaken, gives
        self._slow = slow
        self._times = chance.stream("processes")
        self._leaving = chance.stream("leaving")
        self._ids = chance.stream("ids")

    # ---- what Ray does

    async def ensure(self, name: str) -> None:
        """`Directory`'s: returns when the actor of this name listens."""
        await asyncio.sleep(0.002)
        actor = self.actors.get(name) or self.start(name)
        async with asyncio.timeout(READY_S):
            await actor.ready.wait()

    def start(self, name: str) -> Actor:
        """A process under this name, now."""
        self._started[name] += 1
        actor = Actor(name, Process(self.loop, f"{name}/{self._started[name]}"))
        self._trace("starts", who=actor.process.name)
        self.actors[name] = actor
        actor.process.at_end.append(lambda: self._died(actor))
        actor.process.begin(self._open(actor))
        return actor

    def double(self, name: str) -> None:
        """Another process takes the name, and this one lives on."""
        actor = self.actors.get(name)
        if actor is not None:
            self._trace("goes on, and another one takes its name", who=actor.process.name)
            actor.is_ended = True
            self.loop.outside(ZOMBIE_S * self._times.random(), actor.process.kill)
            self.start(name)

    def _died(self, actor: Actor) -> None:
        self._trace("died", who=actor.process.name)
        if self.actors.get(actor.name) is actor:
            self.fronts.pop(actor.name, None)
        self.network.stop_listening(actor.process, self._socket(actor.name))
        if not actor.is_ended:
            self.loop.outside(0.2 + RESTART_S * self._times.random(), self._start_again, actor)

    def _start_again(self, actor: Actor) -> None:
        if self.actors.get(actor.name) is actor:
            again = self.start(actor.name)
            actor.ready.set()  # whoever waits for the dead one looks again
            actor.ready = again.ready

    def leave(self, actor: Actor) -> None:
        """An actor ends itself, and its name is free."""
        self._trace("has nothing to do and leaves", who=actor.process.name)
        actor.is_ended = True
        if self.actors.get(actor.name) is actor:
            del self.actors[actor.name]
        actor.process.kill()

    def strike(self, name: str) -> None:
        """What may happen to a process at any moment; called when it is asked for something."""
        actor = self.actors.get(name)
        if actor is None or not actor.process.is_alive or name.startswith("front"):
            return
        if self.chance.hits("process.stops"):
            for_s = STOPPED_S * self._times.random() ** 2
            self._trace("stands still for", round(for_s, 1), "s", who=actor.process.name)
            actor.process.stop()
            self.loop.outside(for_s, actor.process.go_on)
        elif name != "store" and self.chance.hits("process.doubled"):
            self.double(name)

    # ---- what each process is

    async def _open(self, actor: Actor) -> None:
        await asyncio.sleep(0.05 + 0.3 * self._times.random())
        kind = actor.name.split(":")[0]
        opens = {"store": self._store, "fleet": self._fleet, "maintenance": self._maintenance, "front": self._front}
        await opens.get(kind, self._host)(actor)
        self._trace("is ready")
        actor.ready.set()

    def _socket(self, name: str) -> Path:
        return wire.socket_path(self.settings.run_dir, name)

    def _listen(self, actor: Actor, handler: wire.Handler) -> None:
        server = wire.Server(self._socket(actor.name))

        async def struck(requests: list[Any]) -> list[Any]:
            self.strike(actor.name)
            return await handler(requests)

        self.network.listen(actor.process, server.path, lambda: server.protocol(struck))
        actor.process.begin(assembly.leave_when_displaced(
            lambda: actor.is_leaving or self.network.is_listening(actor.process, server.path), actor.process.kill
        ))  # fmt: skip

    async def _store(self, actor: Actor) -> None:
        served = Served(self._writer, FaultyReads(self._path, self.chance))
        handler = served.handle

        async def dies_now_and_then(requests: list[Any]) -> list[Any]:
            if self.chance.hits("store.dies"):
                if self._times.random() < 0.5:
                    await handler(requests)
                actor.process.kill()
                await never()
            return await handler(requests)

        self._listen(actor, dies_now_and_then)

    def _connect(self, *, reads_file: bool = True, patient: bool = False) -> tuple[Store, Directory]:
        opened = assembly.store(self.settings, reads_file=reads_file, patient=patient, inline=True)
        if reads_file:
            opened._reads = FaultyReads(self._path, self.chance)
        return opened, assembly.directory(self.settings, opened, self.ensure)

    async def _host(self, actor: Actor) -> None:
        opened, way = self._connect(reads_file=False)
        self._refuse_now_and_then(opened)
        self._watch_activations(actor.process, opened)
        own = actor.name.startswith("batch:")
        host = assembly.host(
            actor.name, self.settings, opened, way, self.clock.of_process(),
            (lambda: self._leave_soon(actor, host)) if own else None,
            kept=self._objects, channel=self._channel(opened), rng=self.chance.stream("rules"),
        )  # fmt: skip
        self._listen(actor, host.handle)
        if own:
            actor.process.begin(assembly.leave_when_idle(host, lambda: self._leave_soon(actor, host)))

    def _refuse_now_and_then(self, opened: Store) -> None:
        """The catalog of archives is the store's own here; it is away when nothing else is."""

        def fickle(ask: Callable[..., Any]) -> Callable[..., Any]:
            async def asked(*args: Any) -> Any:
                if self.chance.hits("catalog.fail"):
                    raise Unavailable("the catalog is away")
                return await ask(*args)

            return asked

        for name in ("put_export", "storage_files", "storage_export"):
            setattr(opened, name, fickle(getattr(opened, name)))

    def _watch_activations(self, process: Process, opened: Store) -> None:
        activate = opened.activate

        async def watched(job_id: str) -> tuple[Job, list[Task]]:
            job, flying = await activate(job_id)
            self._activated(process, job)
            return job, flying

        opened.activate = watched  # type: ignore[method-assign]

    def _leave_soon(self, actor: Actor, host: Host) -> None:
        host.leave()
        actor.is_leaving = True
        self.network.stop_listening(actor.process, self._socket(actor.name))
        self.loop.outside(0.01 + LEAVES_WITHIN_S * self._leaving.random() ** 4, self.leave, actor)

    async def _fleet(self, actor: Actor) -> None:
        opened, way = self._connect()
        fleet = assembly.fleet(
            self.settings, opened, way, self.clock.of_process(), self._provider(),
            rng=self.chance.stream("fleet"), tick_ms=int(TICK_MS * self._slow), sweep_ms=SWEEP_MS,
        )  # fmt: skip
        await assembly.patiently(fleet.start)
        self._fleets[actor.process] = fleet.epoch  # the one that is ready last need not be the newest
        for process, epoch in self._fleets.items():
            if epoch < max(self._fleets.values()):
                self._overtaken(process)

        async def handle(requests: list[Any]) -> list[Any]:
            answers = await fleet.handle(requests)
            for request, answer in zip(requests, answers, strict=True):
                if request["op"] == "claim" and isinstance(answer, dict):
                    for env in answer["tasks"]:
                        machine = request["claim"]["machine"]
                        self._gives(machine, fleet._rows.get(machine), env)
            return answers

        self._listen(actor, handle)

        async def end_with() -> None:
            await fleet.stopped.wait()
            actor.process.kill()

        actor.process.begin(end_with())

    async def _maintenance(self, actor: Actor) -> None:
        opened, way = self._connect()
        for duty in assembly.duties(self.settings, opened, way, self.clock.of_process(), kept=self._objects):
            duty.every_s = UPLOADS_S if duty.name == "uploads" else duty.every_s * self._slow
            actor.process.begin(assembly.rounds(duty))
        self._listen(actor, _nothing)

    async def _front(self, actor: Actor) -> None:
        opened, way = self._connect(patient=True)
        self._refuse_now_and_then(opened)
        self.fronts[actor.name] = assembly.Engine(
            self.settings, opened, way, self.clock.of_process(), self._objects, token=self._token
        )

    def _token(self) -> str:
        return f"{self._ids.getrandbits(32):08x}"


async def _nothing(requests: list[Any]) -> list[Any]:
    return [{} for _ in requests]
