"""Machines, and the workers on them, which do no work but report on it.

The workers keep to the contract of `worker.loop`: callbacks are sent again, `next` is taken up, work is claimed, a
machine that is told to stop gives its tasks back. Some are of the kind of the originals: one task, one callback.
"""

import asyncio
import json
from collections.abc import Callable
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from actors.machines.base import MachineSpec, MachineStatus
from tests.simulation.chance import Chance
from tests.simulation.loop import Process, VirtualLoop

MEMORY_MB: Final = 1024
ROOMY_MB: Final = 4096
"""Machines with so much do not run out of it."""
IDLE_S: Final = 4.0
CLAIM_WAIT_MS: Final = 2_000
REPORT_FOR_S: Final = 60.0
HEARTBEAT_S: Final = 2.0

Env = dict[str, str]


class Zips(Protocol):
    """What workers that make archives do to the object store."""

    def begin(self, env: Env) -> None: ...

    def finish(self, env: Env) -> dict[str, Any]: ...

    def give_up(self, env: Env) -> None: ...


class Front(Protocol):
    """The way of a worker to the service."""

    async def callback(self, url: str, body: bytes) -> tuple[int, Any]: ...

    async def claim(self, body: dict[str, Any], token: str) -> tuple[int, Any]: ...

    def uploaded(self, key: str) -> None: ...

    @property
    def zips(self) -> Zips: ...


class Watcher(Protocol):
    """Who notes what the machines do."""

    def spawned(self, spec: MachineSpec, by: Process | None) -> None: ...

    def made(self, machine: "SimMachine") -> None: ...

    def prepared(self, spec: MachineSpec, by: Process | None) -> None: ...

    def started(self, machine: "SimMachine", by: Process | None) -> None: ...

    def destroyed(self, machine: "SimMachine | None", which: str, by: Process | None) -> None: ...

    def started_task(self, machine: "SimMachine", env: Env) -> None: ...

    def listed(self, alive: list["SimMachine"], by: Process | None) -> None: ...

    def wrong(self, what: str) -> None: ...


class SimMachine:
    """One machine: a process, and what its provider says of it."""

    def __init__(self, loop: VirtualLoop, spec: MachineSpec, number: int, *, is_late: bool) -> None:
        """`is_late`: whoever has asked for it may have been told since that there is no such machine."""
        self.spec, self.provider_id, self.is_late = spec, f"p-{number}", is_late
        self._loop = loop
        self.starts = 0
        self.has_started = False
        self.boot()

    def boot(self) -> None:
        """A process from the beginning: nothing is left of an earlier one."""
        self.starts += 1
        name = self.spec.env["MACHINE_NAME"]
        self.process = Process(self._loop, name if self.starts <= 2 else f"{name}/{self.starts - 1}")
        self.code: int | None = None
        self.has_exited = self.is_out_of_memory = False
        self.is_told_to_stop = asyncio.Event()
        self.slots: list[asyncio.Task[Any]] = []

    @property
    def runs(self) -> bool:
        """Whether its program does."""
        return self.has_started and not self.has_exited

    @property
    def status(self) -> MachineStatus:
        """As the provider sees it. One that was prepared counts as running, as with Fly.io: it might."""
        return MachineStatus(
            name=self.spec.name,
            provider_id=self.provider_id,
            state="exited" if self.has_exited else "running",
            code=self.code,
            oom=self.is_out_of_memory,
            memory_mb=self.memory_mb,
        )

    @property
    def memory_mb(self) -> int:
        """What it has."""
        return max(MEMORY_MB, self.spec.memory_mb or 0)

    def end_of(self, process: Process, code: int) -> Callable[[], None]:
        """What ends this process of it, and no later one."""
        return lambda: self.end(code) if self.process is process else None

    def end(self, code: int | None, is_out_of_memory: bool = False) -> None:
        """The process is over."""
        if not self.has_exited:
            self.has_exited, self.code, self.is_out_of_memory = True, code, is_out_of_memory
            self.process.kill()


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
        self._is_original = self._times.random() < 0.1 and "TASK_ID" in self._env
        self._claims = 0
        self._in_hand: dict[str, Env] = {}  # by CALLBACK_URL
        self._late: set[asyncio.Task[Any]] = set()

    async def run(self) -> None:
        """Boot, work until nothing is left, exit."""
        await asyncio.sleep(0.2 + self._times.random())
        self._trace("has booted")
        first: Env | None = {name: self._env[name] for name in self._env if name != "CLAIM_URL"}
        if "TASK_ID" not in self._env:  # of the pool
            first = None
        if self._is_original and first is not None:
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
        if self._chance.hits("claim.forged"):
            forged = body | {"machine": _neighbour(body["machine"])}
            self._expect_refusal(await self._front.claim(forged, self._env["MACHINE_TOKEN"]))
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
        if env["KIND"] == "zip":
            self._front.zips.begin(env)
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
        elif self._machine.memory_mb < ROOMY_MB and self._chance.hits("machine.oom"):
            self._trace(f"will run out of memory in {when:.1f} s")
            self._loop.outside(when, self._machine.end, 137, True)
        elif self._chance.hits("machine.hangs"):
            process = self._machine.process
            self._trace(f"will hang in {when:.1f} s")
            self._loop.outside(when, process.stop)
            self._loop.outside(when + 5 + 60 * self._times.random(), process.go_on)

    def _outcome(self, env: Env, accepts_next: bool) -> dict[str, Any]:
        body: dict[str, Any] = {"accepts_next": accepts_next}
        failed = self._failure()
        if failed is None:
            return body | self._success(env)
        if env["KIND"] == "zip":
            self._front.zips.give_up(env)
        return body | failed

    def _failure(self) -> dict[str, Any] | None:
        if self._chance.hits("work.fails"):
            return {"status": "error", "error": "Disk full"}
        if self._chance.hits("work.fails_for_good"):
            return {"status": "error", "error": "404 Not Found", "retryable": False}
        return None

    def _success(self, env: Env) -> dict[str, Any]:
        key = env["OUTPUT_R2_KEY"]
        if env["KIND"] == "zip":
            return self._front.zips.finish(env)
        if env["KIND"] == "mods":
            self._front.uploaded(key)
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
            self._watcher.wrong("1: a forged or broken callback or claim was accepted")

    async def _give_back_when_told(self) -> None:
        await self._machine.is_told_to_stop.wait()
        for env in list(self._in_hand.values()):
            if self._times.random() < 0.5:
                await self._report(env, {"status": "released"}, 2)


def batch_and_task(url: str) -> tuple[str, str, bytes]:
    """Of a CALLBACK_URL: batch, task, query. An export alone is its own batch."""
    parts = urlsplit(url)
    _, _, batch, *task = parts.path.split("/")
    return batch, task[0] if task else batch, parts.query.encode()


def _neighbour(machine: str) -> str:
    """The name of a machine that was made just before or after this one, and may well run."""
    made, _, number = machine.rpartition("-")
    return f"{made}-{int(number) - 1 if int(number) > 1 else 2}" if number.isdecimal() else f"{machine}0"
