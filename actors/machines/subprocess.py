"""One `python -m worker` process per machine, each in its own session, as on Fly.

The register is a folder with one file per name: written without a pid before the process is started, with it
afterwards. So a spawn whose answer was lost is found again, by the file or, when death came between the two
writes, by the mark in the environment of the process. An id is "pid:start time", since pids are used again.
"""

import asyncio
import contextlib
import errno
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import psutil

import worker
from actors.machines.base import MachineSpec, MachineStatus, ProviderUnavailable, SpawnRefused, gone, worker_environment

GRACE_S: Final = 3.0
KILLED_WITHIN_S: Final = 5.0
MARK: Final = "ARKE_MACHINE_ENTRY"
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
COMMAND: Final = (sys.executable, "-P", "-m", "worker")
"""Without -P the current folder would be searched first, and its files be taken for modules."""
PERMANENT: Final = frozenset({errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.E2BIG})


Statuses = list[MachineStatus]


class Entry(msgspec.Struct, frozen=True):
    """One file of the register. No pid: the process was about to be started. Start time in seconds since 1970."""

    name: str
    pid: int | None = None
    started: float = 0.0
    code: int | None = None
    exited: bool = False

    @property
    def provider_id(self) -> str:
        return f"{self.pid}:{self.started:.2f}"


class SubprocessMachines:
    """Machines that are processes of this host and outlive the process that started them."""

    name = "subprocess"
    capacity = None

    def __init__(
        self, register: Path, logs: Path, *, command: tuple[str, ...] = COMMAND,
        grace_s: float = GRACE_S,
    ):  # fmt: skip
        self._register = register
        self._logs = logs
        self._command = command
        self._grace_s = grace_s
        self._one_by_one = threading.Lock()
        register.mkdir(parents=True, exist_ok=True, mode=0o700)
        logs.mkdir(parents=True, exist_ok=True)

    async def spawn(self, spec: MachineSpec) -> str:
        return await asyncio.to_thread(self._spawn, spec)

    async def inspect(self, which: str) -> MachineStatus:
        return await asyncio.to_thread(self._inspect, which)

    async def list(self) -> Statuses:
        return await asyncio.to_thread(self._list)

    async def destroy(self, which: str) -> None:
        await asyncio.to_thread(self._destroy, which)

    def end_all(self) -> int:
        """End all machines of this register, whoever started them, and wait for it. Returns how many there were."""
        machines = [status for status in self._list() if status.state == "running"]
        for status in machines:
            self._signal(status, signal.SIGTERM)
        for status in machines:
            self._destroy(status.provider_id)
        return len(machines)

    def _spawn(self, spec: MachineSpec) -> str:
        if not NAME.fullmatch(spec.name):
            raise SpawnRefused("The name of the machine has characters that a file name must not have.", permanent=True)
        with self._one_by_one:
            entry = self._read(spec.name)
            status = self._status(entry) if entry else gone(spec.name)
            if status.state != "gone":
                return status.provider_id
            self._write(Entry(spec.name))
            try:
                return self._start(spec).provider_id
            except OSError as failure:
                self._path(spec.name).unlink(missing_ok=True)
                raise SpawnRefused(
                    f"The worker's process could not be started: {failure.strerror}.",
                    permanent=failure.errno in PERMANENT,
                ) from failure

    def _start(self, spec: MachineSpec) -> Entry:
        home = str(Path(worker.__file__).resolve().parents[1])
        env = worker_environment(spec, os.environ)
        env |= {MARK: str(self._path(spec.name)), "PYTHONPATH": home, "PYTHONUNBUFFERED": "1"}
        with (self._logs / f"machine-{spec.name}.log").open("ab") as log:
            child = subprocess.Popen(
                self._command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        child.returncode = 0  # this object is done with: `_exit_code` reaps by pid, whoever looks first
        entry = Entry(spec.name, child.pid, _start_time(child.pid))
        self._write(entry)
        return entry

    def _inspect(self, which: str) -> MachineStatus:
        with self._one_by_one:
            entry = self._find(which)
            return self._status(entry) if entry else gone(which)

    def _list(self) -> Statuses:
        with self._one_by_one:
            statuses = [self._status(entry) for entry in self._entries()]
        return [status for status in statuses if status.state != "gone"]

    def _destroy(self, which: str) -> None:
        with self._one_by_one:
            entry = self._find(which)
            status = self._status(entry) if entry else gone(which)
        if entry is None:
            return
        if status.state == "running" and not self._end(status):
            raise ProviderUnavailable(f"The process of machine {entry.name} does not end.")
        with self._one_by_one:
            self._path(entry.name).unlink(missing_ok=True)

    def _end(self, status: MachineStatus) -> bool:
        """SIGTERM, so that it gives its tasks back; SIGKILL for its whole session after the grace."""
        pid = int(status.provider_id.partition(":")[0])
        self._signal(status, signal.SIGTERM)
        if not self._wait(pid, self._grace_s):
            self._signal(status, signal.SIGKILL)
            return self._wait(pid, KILLED_WITHIN_S)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)  # what it may have started: the session outlives its leader
        return True

    def _signal(self, status: MachineStatus, number: signal.Signals) -> None:
        pid = int(status.provider_id.partition(":")[0])
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, number)

    def _wait(self, pid: int, seconds: float) -> bool:
        """Whether the process is over within that time. Our own children are reaped by it."""
        try:
            psutil.Process(pid).wait(seconds)
        except psutil.NoSuchProcess:
            return True
        except psutil.TimeoutExpired:
            return _is_zombie(pid)
        return True

    def _status(self, entry: Entry) -> MachineStatus:
        """What became of it; what is learnt (a pid found by its mark, an exit code) is written down."""
        if entry.pid is None:
            found = self._by_mark(entry.name)
            if found is None:
                return gone(entry.name)
            entry = found
            self._write(entry)
        assert entry.pid is not None
        if not entry.exited:
            entry = self._look(entry, entry.pid)
        return MachineStatus(
            name=entry.name,
            provider_id=entry.provider_id,
            state="exited" if entry.exited else "running",
            code=entry.code,
        )

    def _look(self, entry: Entry, pid: int) -> Entry:
        code = _exit_code(pid)
        if code is None and self._is_it(entry, pid):
            return entry
        over = msgspec.structs.replace(entry, exited=True, code=code)
        self._write(over)
        return over

    def _is_it(self, entry: Entry, pid: int) -> bool:
        """Whether the living process with this pid is that machine: by start time or, after a jump of the clock
        (start times move with it), by its mark."""
        try:
            process = psutil.Process(pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            if abs(process.create_time() - entry.started) < 1.0:
                return True
            return bool(process.environ().get(MARK) == str(self._path(entry.name)))
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return False

    def _by_mark(self, name: str) -> Entry | None:
        """The process that was started for this name by somebody who died before writing down its pid."""
        mark = str(self._path(name))
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, OSError):
                leads = os.getsid(process.pid) == process.pid
                if leads and process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == mark:
                    return Entry(name, process.pid, process.create_time())
        return None

    def _find(self, which: str) -> Entry | None:
        if ":" not in which:
            return self._read(which)
        return next((entry for entry in self._entries() if entry.provider_id == which), None)

    def _entries(self) -> Iterator[Entry]:
        for path in sorted(self._register.glob("*.json")):
            entry = self._read(path.stem)
            if entry is not None:
                yield entry

    def _path(self, name: str) -> Path:
        return self._register / f"{name}.json"

    def _read(self, name: str) -> Entry | None:
        if not NAME.fullmatch(name):
            return None
        try:
            return msgspec.json.decode(self._path(name).read_bytes(), type=Entry)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError:
            return Entry(name)  # torn by a crash of the host: as if not started; the mark tells

    def _write(self, entry: Entry) -> None:
        path = self._path(entry.name)
        new = path.with_suffix(".new")
        new.write_bytes(msgspec.json.encode(entry))
        new.replace(path)


def _exit_code(pid: int) -> int | None:
    """The exit code (minus the signal that ended it) of a child of ours that is over, which is reaped thereby.

    None: it runs, or its parent is another process, which alone learns the code.
    """
    try:
        over, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return None
    return os.waitstatus_to_exitcode(status) if over else None


def _start_time(pid: int) -> float:
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return 0.0  # over already, and reaped by poll()


def _is_zombie(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
