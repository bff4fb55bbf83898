"""A machine's program that is a real `python -m worker`, in a session of its own."""

import asyncio
import contextlib
import os
import signal as signals
import subprocess
from pathlib import Path
from typing import IO

import worker
from actors.machines.base import PASSED_ON
from tests.stand_ins.fly.machine import OUT_OF_MEMORY, Exit, Machine
from tests.stand_ins.fly.world import World


class WorkerProcess:
    """One run of it. Of the faults of tasks it knows those that befall a whole machine: dies, oom, freezes; they strike
    once half the time of a task has passed."""

    def __init__(self, machine: Machine, env: dict[str, str], world: World) -> None:
        self._machine = machine
        self._env = env
        self._world = world
        self._process: asyncio.subprocess.Process | None = None
        self._fate: Exit | None = None

    async def run(self) -> Exit:
        inherited = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        home = str(Path(worker.__file__).resolve().parents[1])
        log = self._log()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._world.settings.command,
                env=inherited | {"PYTHONPATH": home, "PYTHONUNBUFFERED": "1"} | self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        finally:
            if log != subprocess.DEVNULL and not isinstance(log, int):
                log.close()
        striking = asyncio.ensure_future(self._strike())
        try:
            code = await self._process.wait()
        finally:
            striking.cancel()
            self._signal_all(signals.SIGKILL)  # also what it started itself
            await asyncio.shield(self._process.wait())
        return self._fate or (Exit(code=code) if code >= 0 else Exit(code=128 - code, signal=-code))

    def interrupt(self, signal: str) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signals.Signals[signal])

    def kill(self) -> None:
        self._signal_all(signals.SIGKILL)

    def _signal_all(self, number: signals.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    def _log(self) -> IO[bytes] | int:
        folder = self._world.settings.logs
        if folder is None:
            return subprocess.DEVNULL
        folder.mkdir(parents=True, exist_ok=True)
        return (folder / f"{self._machine.name}.log").open("ab")

    async def _strike(self) -> None:
        machine, world = self._machine, self._world
        fault = world.faults.first(("dies", "oom", "freezes"), machine.name, machine.starts, region=machine.region)
        if fault is None:
            return
        await asyncio.sleep(world.chance.seconds(world.settings.work, "work", machine.name, machine.starts) / 2)
        world.journal.note("fault", fault=fault, app=machine.app, machine=machine.name)
        if fault == "freezes":
            self._signal_all(signals.SIGSTOP)
        else:
            self._fate = OUT_OF_MEMORY if fault == "oom" else Exit(code=1)
            self._signal_all(signals.SIGKILL)
