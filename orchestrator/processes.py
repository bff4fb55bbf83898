"""Processes that the supervisor answers for: which they are, a record of them that survives it, and their end.

A process is known by its pid *and* its start time, since pids are used again. After a kill -9 of the
supervisor the record tells the next one what to end; what the record missed (it is written once a
second) is found by a variable that every process of one data folder inherits.
"""

import ctypes
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec
import psutil

MARKER: Final = "ARKE_SUPERVISED"
SAME_START_S: Final = 0.5
PR_SET_CHILD_SUBREAPER: Final = 36


class Seen(msgspec.Struct, frozen=True):
    """One process as it was first seen; `created` is seconds since 1970."""

    pid: int
    created: float
    program: str
    name: str


class Ledger:
    """The record of living processes in a file, replaced as a whole, and written only when something changed.

    A file that cannot be written ends nothing: `tell` gets one sentence, and the next call writes it.
    """

    def __init__(self, path: Path, tell: Callable[[str], None]) -> None:
        self._path = path
        self._tell = tell
        self._seen: dict[tuple[int, float], Seen] = {}
        self._is_written = True
        self._is_told = False

    def note(self, processes: Iterable[psutil.Process]) -> None:
        """Make the record say: these, and no others."""
        now: dict[tuple[int, float], Seen] = {}
        for process in processes:
            key = (process.pid, _created(process))
            if seen := self._seen.get(key) or _look(process, key[1]):
                now[key] = seen
        if now.keys() != self._seen.keys():
            self._seen, self._is_written = now, False
        if not self._is_written:
            self._try_to_write()

    def named(self, names: frozenset[str]) -> list[Seen]:
        """The recorded processes that bear one of these names."""
        return [seen for seen in self._seen.values() if seen.name in names]

    def former(self) -> list[psutil.Process]:
        """What a former supervisor recorded and what still runs, each checked by start time and program."""
        try:
            recorded = msgspec.json.decode(self._path.read_bytes(), type=list[Seen])
        except (FileNotFoundError, msgspec.DecodeError):  # never written, or cut off: the marker finds them
            return []
        return [process for seen in recorded if (process := _still(seen)) is not None]

    def _try_to_write(self) -> None:
        try:
            self._write()
        except OSError as error:
            if not self._is_told:
                self._tell(f"The service goes on, but cannot write {self._path}: {error.strerror}. It is tried again.")
            self._is_told = True
        else:
            self._is_written, self._is_told = True, False

    def _write(self) -> None:
        draft = self._path.with_suffix(".new")
        draft.write_bytes(msgspec.json.encode(list(self._seen.values())))
        draft.replace(self._path)


def become_reaper() -> bool:
    """Have orphaned descendants become children of this process (Linux), so that none gets out of sight."""
    if sys.platform != "linux":
        return False
    return bool(ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def descendants(pid: int) -> list[psutil.Process]:
    """Children, their children, and so on."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def marked(value: str) -> Iterator[psutil.Process]:
    """Processes of this user whose environment says that they belong to `value`; not this one."""
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(MARKER) == value:
                yield process
        except (psutil.Error, OSError):  # ended meanwhile, or of another user
            continue


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def lives(seen: Seen) -> bool:
    """Whether a recorded process still runs."""
    process = _still(seen)
    return process is not None and is_alive(process)


def kill(processes: Iterable[psutil.Process], within_s: float = 2.0) -> None:
    """SIGKILL each (psutil compares start times, so never a later process of the same pid) and wait for their end."""
    gone = []
    for process in processes:
        try:
            process.kill()
            gone.append(process)
        except psutil.NoSuchProcess:
            continue
    deadline = time.monotonic() + within_s
    while any(is_alive(process) for process in gone) and time.monotonic() < deadline:
        psutil.wait_procs(gone, timeout=0.05)
    reap(process.pid for process in gone)


def reap(pids: Iterable[int]) -> None:
    """Take the exit status of dead children, so that they do not stay as zombies; others are left alone."""
    for pid in pids:
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            continue


def _created(process: psutil.Process) -> float:
    try:
        return process.create_time()
    except psutil.NoSuchProcess:
        return 0.0


def _look(process: psutil.Process, created: float) -> Seen | None:
    try:
        return Seen(process.pid, created, _program(process), process.name())
    except psutil.Error:
        return None


def _program(process: psutil.Process) -> str:
    try:
        return process.exe() or " ".join(process.cmdline()[:1])
    except psutil.AccessDenied:
        return process.name()


def _still(seen: Seen) -> psutil.Process | None:
    try:
        process = psutil.Process(seen.pid)
        same = abs(process.create_time() - seen.created) < SAME_START_S and _program(process) == seen.program
    except psutil.Error:
        return None
    return process if same else None
