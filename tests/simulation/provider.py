"""A provider of machines, as the fleet asks it: it refuses, is away, loses answers, and makes machines late."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

from actors.machines.base import MachineSpec, MachineStatus, ProviderUnavailable, SpawnRefused, gone
from tests.simulation.chance import Chance
from tests.simulation.loop import Process, VirtualLoop, current, never
from tests.simulation.machines import Front, SimMachine, Watcher, Worker

GRACE_S: Final = 1.0
MADE_A_SECOND: Final = 1.0
BURST: Final = 3
REFUSALS: Final[dict[str, Callable[[], SpawnRefused]]] = {
    "spawn.refused_for_good": lambda: SpawnRefused("422: the image is not known.", permanent=True),
    "spawn.refused": lambda: SpawnRefused("429: too many requests."),
    "spawn.full": lambda: SpawnRefused("412: insufficient resources."),
    "spawn.over_quota": lambda: SpawnRefused("403: over the allowed quota."),
    "spawn.not_let_in": lambda: SpawnRefused("401: the token is not accepted.", hopeless=True),
}


class SimProvider:
    """Machines that outlive whoever has asked for them."""

    name = "subprocess"
    capacity = None

    def __init__(
        self, loop: VirtualLoop, chance: Chance, front: Front, watcher: Watcher, trace: Callable[..., None]
    ) -> None:
        self.machines: dict[str, SimMachine] = {}  # by name
        self._loop, self._chance, self._front, self._watcher, self._trace = loop, chance, front, watcher, trace
        self._made = 0
        self._times = chance.stream("provider")

    async def spawn(self, spec: MachineSpec) -> str:
        """As `Provider.spawn`."""
        fleet = await self._asked("spawn", spec.name)
        if spec.name in self.machines:
            return self.machines[spec.name].provider_id
        for fault, refusal in REFUSALS.items():
            if self._chance.hits(fault):
                raise refusal()
        if self._chance.hits("spawn.lost"):
            await asyncio.sleep(10 * self._times.random())
            raise ProviderUnavailable("timed out")
        self._watcher.spawned(spec, fleet)
        if self._chance.hits("spawn.made_late"):
            self._loop.outside(1 + 8 * self._times.random(), self._make_late, spec)
            raise ProviderUnavailable("timed out")
        machine = self._make(spec)
        self._run(machine)
        await self._done("spawn", spec.name, fleet)
        if self._chance.hits("spawn.made_unanswered"):
            await asyncio.sleep(10 * self._times.random())
            raise ProviderUnavailable("timed out")
        return machine.provider_id

    async def inspect(self, which: str) -> MachineStatus:
        """As `Provider.inspect`."""
        await self._asked("inspect", which)
        machine = self._find(which)
        return machine.status if machine is not None else gone(which)

    async def list(self) -> "list[MachineStatus]":
        """As `Provider.list`."""
        fleet = await self._asked("list", "")
        self._watcher.listed(self.alive, fleet)
        return [machine.status for machine in self.machines.values()]

    async def destroy(self, which: str) -> None:
        """As `Provider.destroy`: SIGTERM, then SIGKILL."""
        fleet = await self._asked("destroy", which)
        machine = self._find(which)
        self._watcher.destroyed(machine, which, fleet)
        if machine is None:
            return
        if machine.runs:
            machine.is_told_to_stop.set()
            await asyncio.sleep(GRACE_S * self._times.random())
            machine.end(-9)
        self.machines.pop(machine.spec.name, None)
        await self._done("destroy", which, fleet)

    @property
    def alive(self) -> "list[SimMachine]":
        """What runs."""
        return [machine for machine in self.machines.values() if machine.runs]

    async def _asked(self, what: str, which: str) -> Process | None:
        fleet = current()
        if fleet is not None and self._chance.hits("fleet.dies_before"):
            self._trace("is killed before", what, which)
            fleet.kill()
            await never()
        await asyncio.sleep(0.01 + 0.2 * self._times.random() ** 4)
        if self._chance.hits("provider.away"):
            raise ProviderUnavailable("503")
        return fleet

    async def _done(self, what: str, which: str, fleet: Process | None) -> None:
        self._trace("the provider did", what, which)
        if fleet is not None and self._chance.hits("fleet.dies_after"):
            self._trace("is killed after", what, which)
            fleet.kill()
            await never()

    def _find(self, which: str) -> SimMachine | None:
        found = self.machines.get(which)
        return found or next((one for one in self.machines.values() if one.provider_id == which), None)

    def _make(self, spec: MachineSpec, *, is_late: bool = False) -> SimMachine:
        self._made += 1
        machine = SimMachine(self._loop, spec, self._made, is_late=is_late)
        self.machines[spec.name] = machine
        self._watcher.made(machine)
        self._trace("is made as", machine.provider_id, spec.name, who=machine.process.name)
        return machine

    def _run(self, machine: SimMachine, *, boots: bool = True) -> None:
        machine.has_started = True
        machine.boot()
        process = machine.process
        process.at_end.append(lambda: self._trace("is over, code", machine.code, who=process.name))
        if boots and not self._chance.hits("machine.never_boots"):
            worker = Worker(machine, self._loop, self._chance, self._front, self._watcher, self._trace)
            process.begin(worker.run())
            if self._chance.hits("machine.vanishes"):
                self._loop.outside(8 * self._times.random(), self._vanish, machine)

    def _make_late(self, spec: MachineSpec) -> None:
        """Nobody waits for it any more; half of what comes so late is no good."""
        self._trace("made late:", spec.name)
        machine = self._make(spec, is_late=True)
        self._run(machine, boots=self._times.random() < 0.5)

    def _vanish(self, machine: SimMachine) -> None:
        if self.machines.get(machine.spec.name) is machine:
            self._trace("vanishes", who=machine.process.name)
            machine.end(None)
            del self.machines[machine.spec.name]


class PacedProvider(SimProvider):
    """One that makes a machine a second, after a first few, as Fly.io does. It says how many it would make soon."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._free_at = 0.0  # when all that was granted would be made, and the burst would be whole again

    async def spawn(self, spec: MachineSpec) -> str:
        """As `Provider.spawn`: it waits for its turn."""
        self._free_at = max(self._loop.time(), self._free_at) + 1 / MADE_A_SECOND
        await asyncio.sleep(max(0.0, self._free_at - BURST / MADE_A_SECOND - self._loop.time()))
        return await super().spawn(spec)

    def grants(self, kind: str, within_s: float, beside: Mapping[str, int]) -> int:
        """As `Pooling.grants`."""
        behind_s = max(0.0, self._free_at - self._loop.time())
        return max(0, int((within_s - behind_s) * MADE_A_SECOND) + BURST) - sum(beside.values())

    def edition(self, kind: str) -> str:
        """As `Pooling.edition`."""
        return "one"

    async def prepare(self, spec: MachineSpec) -> str:
        """As `Pooling.prepare`."""
        self._free_at = max(self._loop.time(), self._free_at) + 1 / MADE_A_SECOND
        fleet = await self._asked("prepare", spec.name)
        if self._chance.hits("spawn.full"):
            raise SpawnRefused("412: insufficient resources.")
        self._watcher.prepared(spec, fleet)
        machine = self.machines.get(spec.name) or self._make(spec)
        await self._done("prepare", spec.name, fleet)
        if self._chance.hits("spawn.made_unanswered"):
            raise ProviderUnavailable("timed out")
        return machine.provider_id

    async def start(self, which: str) -> MachineStatus:
        """As `Pooling.start`."""
        fleet = await self._asked("start", which)
        machine = self._find(which)
        if machine is None:
            return gone(which)
        if not machine.runs:
            if self._chance.hits("spawn.full"):
                raise SpawnRefused("412: insufficient resources.")
            self._watcher.started(machine, fleet)
            self._trace("is started", who=machine.process.name)
            self._run(machine)
        await self._done("start", which, fleet)
        if self._chance.hits("spawn.made_unanswered"):
            raise ProviderUnavailable("timed out")
        return machine.status

    async def stop(self, which: str) -> None:
        """As `Pooling.stop`."""
        fleet = await self._asked("stop", which)
        machine = self._find(which)
        if machine is not None and machine.runs and not self._chance.hits("stop.ignored"):
            machine.is_told_to_stop.set()
            self._loop.outside(GRACE_S * self._times.random(), machine.end_of(machine.process, -15))
        await self._done("stop", which, fleet)

    async def wait(self, which: str, state: str, *, within_s: float) -> MachineStatus:
        """As `Pooling.wait`."""
        until = self._loop.time() + within_s
        while True:
            status = await self.inspect(which)
            if status.state in (state, "gone") or self._loop.time() > until:
                return status
            await asyncio.sleep(0.5)
