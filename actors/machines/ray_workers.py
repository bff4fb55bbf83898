"""Warm Ray actors that run the worker's loop, as many as there are cores.

Each actor `machine:{i}` is a detached process that outlives the fleet and is made again by Ray when it dies. One
machine is one run of `worker.loop.run` in a thread of such an actor: nothing has to be started for it. Which
machine runs where is asked of the actors; nobody else remembers it.
"""

import asyncio
import importlib
import logging
import threading
from typing import Any, Final

import msgspec
import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError

from actors.machines.base import MachineSpec, MachineStatus, ProviderUnavailable, SpawnRefused, gone

log = logging.getLogger(__name__)

NAMESPACE: Final = "arke"
ANSWER_S: Final = 10.0
GRACE_S: Final = 3.0


class Run(msgspec.Struct, frozen=True):
    """What an actor says about itself: the machine it runs or ran last (None: none), and its exit code when over."""

    name: str | None = None
    running: bool = False
    code: int | None = None


class WarmWorker:
    """The actor: at most one machine at a time. Two calls at once, so that `running` is answered during `stop`."""

    loop: Any = None  # tests put a stand-in for `worker.loop` here

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._name: str | None = None
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._code: int | None = None

    def start(self, name: str, env: dict[str, str]) -> bool:
        """Run this machine. True also when it is the one that runs or ran here; False when another one runs."""
        with self._lock:
            if self._name == name:
                return True
            if self._alive():
                return False
            self._name, self._code, self._stop = name, None, threading.Event()
            self._thread = threading.Thread(target=self._run, args=(env, self._stop), name=name, daemon=True)
            self._thread.start()
            return True

    def running(self) -> tuple[str | None, bool, int | None]:
        """The fields of `Run`."""
        with self._lock:
            return self._name, self._alive(), self._code

    def stop(self, name: str, grace_s: float) -> bool:
        """End and forget this machine. False: its thread still runs, the process must be ended."""
        with self._lock:
            if self._name != name:
                return True
            thread, stop = self._thread, self._stop
        stop.set()
        if thread is not None:
            thread.join(grace_s)
            if thread.is_alive():
                return False
        with self._lock:
            if self._name == name:
                self._name, self._thread, self._code = None, None, None
        return True

    def _alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _run(self, env: dict[str, str], stop: threading.Event) -> None:
        try:
            loop = self.loop or importlib.import_module("worker.loop")  # heavy: only in the actor's own process
            self._code = int(loop.run(env, stop=stop))
        except BaseException:
            log.exception("The worker's loop ended by an exception.")
            self._code = 1


class RayMachines:
    """The warm actors of this cluster as a provider. An id is "machine:{i}/{name}"."""

    name = "ray"

    def __init__(self, workers: int, *, grace_s: float = GRACE_S, worker_class: type = WarmWorker):
        self.capacity = workers
        self._grace_s = grace_s
        self._class: Any = ray.remote(worker_class)
        self._handles: dict[int, Any] = {}
        self._one_by_one = asyncio.Lock()

    async def warm(self) -> None:
        """Make the actors that do not exist yet, so that the first task does not wait for a process."""
        for i in range(self.capacity):
            await self._handle(i)

    async def spawn(self, spec: MachineSpec) -> str:
        async with self._one_by_one:
            try:
                runs = await self._runs()
            except ProviderUnavailable as failure:
                raise SpawnRefused("A worker's actor is starting again.") from failure
            for i, run in runs.items():
                if run.name == spec.name:
                    return _id(i, spec.name)
            free = [i for i, run in runs.items() if run.name is None]
            over = [i for i, run in runs.items() if run.name is not None and not run.running]
            for i in free + over:
                if await self._call(i, "start", spec.name, spec.env):
                    return _id(i, spec.name)
            raise SpawnRefused("All workers are busy.")

    async def inspect(self, which: str) -> MachineStatus:
        name = which.rpartition("/")[2]
        return next((status for status in await self.list() if status.name == name), gone(which))

    async def list(self) -> list[MachineStatus]:
        return [
            MachineStatus(
                name=run.name,
                provider_id=_id(i, run.name),
                state="running" if run.running else "exited",
                code=run.code,
            )
            for i, run in (await self._runs()).items()
            if run.name is not None
        ]

    async def destroy(self, which: str) -> None:
        name = which.rpartition("/")[2]
        for i, run in (await self._runs()).items():
            if run.name == name and not await self._call(i, "stop", name, self._grace_s):
                log.warning("Machine %s does not stop: its process is ended and made again.", name)
                ray.kill(await self._handle(i), no_restart=False)

    async def end_all(self) -> None:
        """Remove the actors themselves (the service stops)."""
        for i in range(self.capacity):
            ray.kill(await self._handle(i), no_restart=True)
        self._handles.clear()

    async def _runs(self) -> dict[int, Run]:
        answers = await asyncio.gather(*(self._call(i, "running") for i in range(self.capacity)))
        return {i: Run(*answer) for i, answer in enumerate(answers)}

    async def _call(self, i: int, method: str, *args: Any) -> Any:
        try:
            return await asyncio.wait_for(getattr(await self._handle(i), method).remote(*args), ANSWER_S)
        except (RayActorError, GetTimeoutError, TimeoutError) as failure:
            self._handles.pop(i, None)
            raise ProviderUnavailable(f"machine:{i} does not answer") from failure
        except RayError as failure:
            raise ProviderUnavailable(f"machine:{i} failed: {type(failure).__name__}") from failure

    async def _handle(self, i: int) -> Any:
        if i not in self._handles:
            self._handles[i] = await asyncio.to_thread(self._make, i)
        return self._handles[i]

    def _make(self, i: int) -> Any:
        return self._class.options(
            name=f"machine:{i}", namespace=NAMESPACE, lifetime="detached", get_if_exists=True,
            max_restarts=-1, num_cpus=0, max_concurrency=2,
        ).remote()  # fmt: skip


def _id(i: int, name: str) -> str:
    return f"machine:{i}/{name}"
