"""Warm Ray actors that run the worker's loop, as many as there are cores.

Each actor `machine:{i}` is a detached process that outlives the fleet and is made again by Ray when it dies. One
machine is one run of `worker.loop.run` in a thread of such an actor: nothing has to be started for it. Which
machine runs where is asked of the actors; nobody else remembers it.
"""

import asyncio
import importlib
import os
import threading
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import ray
from ray.exceptions import RayActorError, RayError

from actors import telemetry
from actors.machines.base import MachineSpec, MachineStatus, ProviderUnavailable, SpawnRefused, gone

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

    def __init__(self, log_dir: Path | None = None) -> None:
        if log_dir is not None:
            telemetry.configure(folder=log_dir, part="machine")
        self._lock = threading.Lock()
        self._name: str | None = None
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._code: int | None = None
        self._leaving = False

    def start(self, name: str, env: dict[str, str]) -> bool:
        """Run this machine. True also when it is the one that runs or ran here; False when another one runs."""
        with self._lock:
            if self._name == name:
                return True
            if self._alive() or self._leaving:
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

    def leave(self) -> None:
        """Have this process end, for Ray to make it again elsewhere: its node is about to go. First the machine gives
        back what it has. Asking again changes nothing."""
        with self._lock:
            if not self._leaving:
                self._leaving = True
                threading.Thread(target=self._leave, daemon=True).start()

    def _leave(self) -> None:
        with self._lock:
            name = self._name
        if name is not None:
            self.stop(name, GRACE_S)
        os._exit(1)

    def _alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _run(self, env: dict[str, str], stop: threading.Event) -> None:
        try:
            loop = self.loop or importlib.import_module("worker.loop")  # heavy: only in the actor's own process
            self._code = int(loop.run(env, stop=stop))
        except BaseException:  # noqa: BLE001 - logged; the machine has ended, its actor stays
            telemetry.fault("fleet.worker_failed", machine=self._name)
            self._code = 1


class RayMachines:
    """The warm actors of this cluster as a provider. An id is "machine:{i}/{name}".

    An actor that does not answer is taken to be at work on the machine that it was last known to have, so it keeps
    nobody waiting for the others; to destroy that machine ends the actor's process.
    """

    name = "ray"

    def __init__(self, workers: int, *, cores: int = 0, log_dir: Path | None = None, grace_s: float = GRACE_S,
                 answer_s: float = ANSWER_S, worker_class: type = WarmWorker):  # fmt: skip
        """`cores`: what each actor asks Ray for. On one machine nothing, since nothing else asks; in a cluster one, so
        that they are on nodes that have cores, all of them, and Ray's autoscaler adds nodes for those that have none.
        `answer_s`: how long an actor may take to answer, beyond the `grace_s` that a machine has to stop."""
        self._cores = cores
        self._log_dir = log_dir
        self.capacity = workers
        self._grace_s = grace_s
        self._answer_s = answer_s
        self._class: Any = ray.remote(worker_class)
        self._handles: dict[int, Any] = {}
        self._names: dict[int, str | None] = {}  # the machine each actor was last known to have; a hint, never truth
        self._unanswered: dict[int, asyncio.Future[Any]] = {}  # what a silent actor was asked
        self._one_by_one = asyncio.Lock()

    async def spawn(self, spec: MachineSpec) -> str:
        async with self._one_by_one:
            runs = await self._runs()
            for i, run in runs.items():
                if run.name == spec.name:
                    return _id(i, spec.name)
            free = [i for i, run in runs.items() if run.name is None and not run.running]
            over = [i for i, run in runs.items() if run.name is not None and not run.running]
            for i in free + over:
                if await self._start(i, spec):
                    return _id(i, spec.name)
            raise SpawnRefused("All workers are busy.")

    async def _start(self, i: int, spec: MachineSpec) -> bool:
        try:
            started = bool(await self._call(i, "start", spec.name, spec.env))
        except ProviderUnavailable:
            self._names[i] = spec.name  # it may be there
            raise
        if started:
            self._names[i] = spec.name
        return started

    async def inspect(self, which: str) -> MachineStatus:
        """As `Provider.inspect`. By a name alone, a machine that may be on a silent actor is not known to be gone."""
        i, name = _parts(which)
        runs = await self._runs()
        for k, run in runs.items():
            if run.name == name:
                return _status(k, name, run)
        if any(self._may_have(k, name, run) for k, run in runs.items() if i in (k, None)):
            if i is None:
                raise ProviderUnavailable("A worker does not answer.")
            return MachineStatus(name=name, provider_id=which, state="running")
        return gone(which)

    async def list(self) -> list[MachineStatus]:
        return [_status(i, run.name, run) for i, run in (await self._runs()).items() if run.name is not None]

    async def destroy(self, which: str) -> None:
        """As `Provider.destroy`. By a name alone, a silent actor that may have the machine is ended with it."""
        i, name = _parts(which)
        if i is not None:
            await self._end(i, name)
            return
        for k, run in (await self._runs()).items():
            if run.name == name or self._may_have(k, name, run):
                await self._end(k, name)

    def _may_have(self, i: int, name: str, run: Run) -> bool:
        """Whether it is silent and nobody knows what it has, so that it may be this machine."""
        return run.running and run.name is None and self._names.get(i, name) == name

    async def _end(self, i: int, name: str) -> None:
        try:
            stopped = await self._call(i, "stop", name, self._grace_s, patience_s=self._grace_s + self._answer_s)
        except ProviderUnavailable:
            if self._names.get(i, name) != name:
                return  # the actor has another machine since: this one is gone
            stopped = False
        if not stopped:
            telemetry.warning("fleet.worker_ended", machine=name, why="it does not stop; its process is made again")
            ray.kill(await self._handle(i), no_restart=False)
            self._unanswered.pop(i, None)
        if self._names.get(i) == name:
            self._names[i] = None

    async def _runs(self) -> dict[int, Run]:
        runs = await asyncio.gather(*(self._run(i) for i in range(self.capacity)))
        return dict(enumerate(runs))

    async def _run(self, i: int) -> Run:
        """What the actor says; while it is silent: at work on what it was last known to have, None if on nothing."""
        unanswered = self._unanswered.get(i)
        if unanswered is not None and not unanswered.done():
            return Run(self._names.get(i), running=True)  # waited for long enough: nobody waits again
        self._unanswered.pop(i, None)
        try:
            run = Run(*await self._call(i, "running"))
        except ProviderUnavailable as silence:
            telemetry.warning("fleet.worker_silent", why=silence)
            return Run(self._names.get(i), running=True)
        self._names[i] = run.name
        return run

    async def _call(self, i: int, method: str, *args: Any, patience_s: float | None = None) -> Any:
        try:
            answer = asyncio.ensure_future(getattr(await self._handle(i), method).remote(*args))
            await asyncio.wait([answer], timeout=patience_s or self._answer_s)
            if answer.done():
                return answer.result()
        except RayActorError as failure:
            self._handles.pop(i, None)
            raise ProviderUnavailable(f"machine:{i} is starting again") from failure
        except RayError as failure:
            raise ProviderUnavailable(f"machine:{i} failed: {type(failure).__name__}") from failure
        answer.add_done_callback(_retrieved)
        self._unanswered[i] = answer
        raise ProviderUnavailable(f"machine:{i} does not answer")

    async def _handle(self, i: int) -> Any:
        if i not in self._handles:
            self._handles[i] = await asyncio.to_thread(self._make, i)
        return self._handles[i]

    def _make(self, i: int) -> Any:
        return self._class.options(
            name=f"machine:{i}", namespace=NAMESPACE, lifetime="detached", get_if_exists=True,
            max_restarts=-1, num_cpus=self._cores, scheduling_strategy="SPREAD", max_concurrency=2,
        ).remote(self._log_dir)  # fmt: skip


def _id(i: int, name: str) -> str:
    return f"machine:{i}/{name}"


def _parts(which: str) -> tuple[int | None, str]:
    """The number of the actor, None when `which` is a name alone, and the name."""
    actor, _, name = which.rpartition("/")
    number = actor.removeprefix("machine:")
    return (int(number) if number.isdecimal() else None), name


def _status(i: int, name: str, run: Run) -> MachineStatus:
    state: Literal["running", "exited"] = "running" if run.running else "exited"
    return MachineStatus(name=name, provider_id=_id(i, name), state=state, code=run.code)


def _retrieved(answer: "asyncio.Future[Any]") -> None:
    """An answer that came too late is nobody's any more, its error neither."""
    if not answer.cancelled():
        answer.exception()
