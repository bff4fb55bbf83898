"""A provider of machines, and the workers on them, which do no work but report on it.

The workers keep to the contract of `worker.loop`: callbacks are sent again, `next` is taken up, work is claimed, a
machine that is told to stop gives its tasks back. Some are of the kind of the originals: one task, one callback.
"""

import asyncio
import json
from collections.abc import Callable
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from actors.machines.base import MachineSpec, MachineStatus, ProviderUnavailable, SpawnRefused, gone
from tests.simulation.chance import Chance
from tests.simulation.loop import Process, VirtualLoop, current, never

IDLE_S: Final = 4.0
CLAIM_WAIT_MS: Final = 2_000
REPORT_FOR_S: Final = 60.0
HEARTBEAT_S: Final = 2.0
GRACE_S: Final = 1.0

Env = dict[str, str]


class Front(Protocol):
    """The way of a worker to the service."""

    async def callback(self, url: str, body: bytes) -> tuple[int, Any]: ...

    async def claim(self, body: dict[str, Any], token: str) -> tuple[int, Any]: ...


class Watcher(Protocol):
    """Who notes what the machines do."""

    def spawned(self, spec: MachineSpec, by: Process | None) -> None: ...

    def made(self, machine: "SimMachine") -> None: ...

    def destroyed(self, machine: "SimMachine | None", which: str, by: Process | None) -> None: ...

    def started_task(self, machine: "SimMachine", env: Env) -> None: ...

    def listed(self, alive: list["SimMachine"], by: Process | None) -> None: ...

    def wrong(self, what: str) -> None: ...


class SimMachine:
    """One machine: a process, and what its provider says of it."""

    def __init__(self, loop: VirtualLoop, spec: MachineSpec, number: int, *, is_late: bool) -> None:
        """`is_late`: whoever has asked for it may have been told since that there is no such machine."""
        self.spec, self.provider_id, self.is_late = spec, f"p-{number}", is_late
        self.process = Process(loop, spec.env["MACHINE_NAME"])
        self.code: int | None = None
        self.has_exited = False
        self.is_told_to_stop = asyncio.Event()
        self.slots: list[asyncio.Task[Any]] = []

    @property
    def status(self) -> MachineStatus:
        """As the provider sees it."""
        return MachineStatus(
            name=self.spec.name,
            provider_id=self.provider_id,
            state="exited" if self.has_exited else "running",
            code=self.code,
        )

    def end(self, code: int | None) -> None:
        """The process is over."""
        if not self.has_exited:
            self.has_exited, self.code = True, code
            self.process.kill()


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
        if self._chance.hits("spawn.refused_for_good"):
            raise SpawnRefused("422: the image is not known.", permanent=True)
        if self._chance.hits("spawn.refused"):
            raise SpawnRefused("412: insufficient resources.")
        if self._chance.hits("spawn.lost"):
            await asyncio.sleep(10 * self._times.random())
            raise ProviderUnavailable("timed out")
        self._watcher.spawned(spec, fleet)
        if self._chance.hits("spawn.made_late"):
            self._loop.outside(1 + 8 * self._times.random(), self._make_late, spec)
            raise ProviderUnavailable("timed out")
        machine = self._make(spec)
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
        self._watcher.listed([machine for machine in self.machines.values() if not machine.has_exited], fleet)
        return [machine.status for machine in self.machines.values()]

    async def destroy(self, which: str) -> None:
        """As `Provider.destroy`: SIGTERM, then SIGKILL."""
        fleet = await self._asked("destroy", which)
        machine = self._find(which)
        self._watcher.destroyed(machine, which, fleet)
        if machine is None:
            return
        if not machine.has_exited:
            machine.is_told_to_stop.set()
            await asyncio.sleep(GRACE_S * self._times.random())
            machine.end(-9)
        self.machines.pop(machine.spec.name, None)
        await self._done("destroy", which, fleet)

    @property
    def alive(self) -> "list[SimMachine]":
        """What runs."""
        return [machine for machine in self.machines.values() if not machine.has_exited]

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

    def _make(self, spec: MachineSpec, *, boots: bool = True, is_late: bool = False) -> SimMachine:
        self._made += 1
        machine = SimMachine(self._loop, spec, self._made, is_late=is_late)
        self.machines[spec.name] = machine
        self._watcher.made(machine)
        self._trace("is made as", machine.provider_id, spec.name, who=machine.process.name)
        machine.process.at_end.append(lambda: self._trace("is over, code", machine.code, who=machine.process.name))
        if boots and not self._chance.hits("machine.never_boots"):
            worker = Worker(machine, self._loop, self._chance, self._front, self._watcher, self._trace)
            machine.process.begin(worker.run())
            if self._chance.hits("machine.vanishes"):
                self._loop.outside(8 * self._times.random(), self._vanish, machine)
        return machine

    def _make_late(self, spec: MachineSpec) -> None:
        """Nobody waits for it any more; half of what comes so late is no good."""
        self._trace("made late:", spec.name)
        self._make(spec, boots=self._times.random() < 0.5, is_late=True)

    def _vanish(self, machine: SimMachine) -> None:
        if self.machines.get(machine.spec.name) is machine:
            self._trace("vanishes", who=machine.process.name)
            machine.end(None)
            del self.machines[machine.spec.name]


class Worker:
    """What runs on a machine."""

    def __init__(
        self, machine: SimMachine, loop: VirtualLoop, chance: Chance, front: Front, watcher: Watcher,
        trace: Callable[..., None],
    ) -> None:  # fmt: skip
        self._machine, self._loop, self._chance, self._front = machine, loop, chance, front
        self._watcher, self._trace = watcher, trace
        self._env = machine.spec.env
        self._times = chance.stream("work")
        self._is_original = self._times.random() < 0.1
        self._claims = 0
        self._in_hand: dict[str, Env] = {}  # by CALLBACK_URL
        self._late: set[asyncio.Task[Any]] = set()

    async def run(self) -> None:
        """Boot, work until nothing is left, exit."""
        await asyncio.sleep(0.2 + self._times.random())
        self._trace("has booted")
        first = {name: self._env[name] for name in self._env if name != "CLAIM_URL"}
        if self._is_original:
            await self._one(first, accepts_next=False, tries=1)
            self._machine.end(0)
            return
        places = int(self._env["WORKER_CONCURRENCY"])
        self._machine.slots = [
            self._machine.process.begin(self._slot(first if place == 0 else None)) for place in range(places)
        ]
        stopping = self._machine.process.begin(self._give_back_when_told())
        await asyncio.gather(*self._machine.slots, return_exceptions=True)
        if not self._machine.is_told_to_stop.is_set():
            stopping.cancel()
            self._trace("has nothing to do and exits")
            self._machine.end(0)

    async def _slot(self, env: Env | None) -> None:
        idle_since = self._loop.time()
        while not self._machine.is_told_to_stop.is_set():
            if env is not None:
                env = await self._one(env, accepts_next=True, tries=20)
                idle_since = self._loop.time()
                continue
            found = await self._claim()
            if found is None or (not found and self._loop.time() - idle_since > IDLE_S):
                return
            env = found[0] if found else None

    async def _claim(self) -> list[Env] | None:
        """Empty: nothing to do now. None: retired, or nobody answers."""
        self._claims += 1
        body = {
            "machine": self._env["MACHINE_NAME"], "claim": f"c{self._claims}", "kinds": [self._machine.spec.kind],
            "free": 1, "wait_ms": CLAIM_WAIT_MS,
        }  # fmt: skip
        for _ in range(1 if self._chance.hits("claim.forgotten") else 10):
            status, answer = await self._front.claim(body, self._env["MACHINE_TOKEN"])
            if status == 200:
                tasks: list[Env] = answer["tasks"]
                return tasks
            if status in (401, 410):
                return None
            await asyncio.sleep(0.3 + self._times.random())
        return []

    async def _one(self, env: Env, *, accepts_next: bool, tries: int) -> Env | None:
        """Work on one task, report, and return the next one that the answer brought."""
        if env["CALLBACK_URL"] in self._in_hand:
            return None  # the same assignment by two ways
        self._in_hand[env["CALLBACK_URL"]] = env
        self._watcher.started_task(self._machine, env)
        self._trace("works on", env["TASK_ID"])
        try:
            if not await self._work(env):
                return None
            body = self._outcome(env, accepts_next)
            answer = await self._report(env, body, tries)
            await self._disturb(env, body)
            following = answer.get("next") if answer else None
            return dict(following) if following else None
        finally:
            self._in_hand.pop(env["CALLBACK_URL"], None)

    async def _work(self, env: Env) -> bool:
        """False: it is not wanted any more, or was given back."""
        left = 0.1 + 1.5 * self._times.random() ** 2
        if self._chance.hits("machine.is_slow"):
            left += 20 * self._times.random()
        self._strike(left)
        while left > HEARTBEAT_S:
            await asyncio.sleep(HEARTBEAT_S)
            left -= HEARTBEAT_S
            answer = await self._report(env, {"status": "running"}, 1)
            if answer and answer.get("stop"):
                return False
        await asyncio.sleep(left)
        if self._chance.hits("machine.gives_back"):
            await self._report(env, {"status": "released"}, 3)
            return False
        return True

    def _strike(self, within_s: float) -> None:
        """What may happen to a machine while it works."""
        when = within_s * self._times.random()
        if self._chance.hits("machine.dies"):
            self._trace(f"will die in {when:.1f} s")
            self._loop.outside(when, self._machine.end, -9)
        elif self._chance.hits("machine.hangs"):
            process = self._machine.process
            self._trace(f"will hang in {when:.1f} s")
            self._loop.outside(when, process.stop)
            self._loop.outside(when + 5 + 60 * self._times.random(), process.go_on)

    def _outcome(self, env: Env, accepts_next: bool) -> dict[str, Any]:
        body: dict[str, Any] = {"accepts_next": accepts_next}
        if self._chance.hits("work.fails"):
            return body | {"status": "error", "error": "Disk full"}
        if self._chance.hits("work.fails_for_good"):
            return body | {"status": "error", "error": "404 Not Found", "retryable": False}
        return body | self._success(env)

    def _success(self, env: Env) -> dict[str, Any]:
        key = env["OUTPUT_R2_KEY"]
        return {
            "status": "success", "output_r2_key": key, "output_file_name": key.rsplit("/", 1)[-1],
            "output_file_size": 10 + len(key), "cpu_ms": 5,
        }  # fmt: skip

    async def _report(self, env: Env, body: dict[str, Any], tries: int) -> dict[str, Any] | None:
        body = body | {"task_id": env["TASK_ID"], "batch_id": env["BATCH_ID"]}
        until = self._loop.time() + REPORT_FOR_S
        for _ in range(tries):
            status, answer = await self._front.callback(env["CALLBACK_URL"], json.dumps(body).encode())
            if status == 200:
                return dict(answer)
            if 400 <= status < 500 or self._loop.time() > until:
                return None
            await asyncio.sleep(0.2 + self._times.random())
        return None

    async def _disturb(self, env: Env, body: dict[str, Any]) -> None:
        """What no worker should send, and some do."""
        url = env["CALLBACK_URL"]
        whole = body | {"task_id": env["TASK_ID"], "batch_id": env["BATCH_ID"]}
        if self._chance.hits("callback.forged"):
            other = url.replace("attempt=", "attempt=1")
            self._expect_refusal(await self._front.callback(other, json.dumps(whole).encode()))
        if self._chance.hits("callback.garbage"):
            garbage = self._times.choice((b"", b"{", b"[]", b'{"status":"success"}', b"\xff", b'{"task_id":7}'))
            self._expect_refusal(await self._front.callback(url, garbage))
        if self._chance.hits("callback.again_later"):
            self._loop.outside(40 * self._times.random() ** 2, self._send_again, url, whole)
        if body["status"] == "error" and self._chance.hits("callback.contradicts"):
            done = self._success(env) | {"task_id": env["TASK_ID"], "batch_id": env["BATCH_ID"]}
            self._loop.outside(2 * self._times.random(), self._send_again, url, done)

    def _send_again(self, url: str, body: dict[str, Any]) -> None:
        """By whoever held it back: the machine may be gone."""
        changed = body | {"accepts_next": False}
        late = self._loop.create_task(self._front.callback(url, json.dumps(changed).encode()))
        self._late.add(late)
        late.add_done_callback(self._late.discard)

    def _expect_refusal(self, answer: tuple[int, Any]) -> None:
        if answer[0] == 200:
            self._watcher.wrong("a forged or broken callback was accepted")

    async def _give_back_when_told(self) -> None:
        await self._machine.is_told_to_stop.wait()
        for env in list(self._in_hand.values()):
            if self._times.random() < 0.5:
                await self._report(env, {"status": "released"}, 2)


def batch_and_task(url: str) -> tuple[str, str, bytes]:
    """Of a CALLBACK_URL: batch, task, query."""
    parts = urlsplit(url)
    _, _, batch, task = parts.path.split("/")
    return batch, task, parts.query.encode()
