"""`arke serve`: keeps the process that holds Ray running, and ends everything with it.

The supervisor imports no ray, so that nothing of Ray's can take it down. It starts the driver
(`python -m orchestrator.serve`) in a session of its own, waits for the one line that it prints when
ready, records every descendant, asks /health, and starts the driver again when it ends, does not
answer, or has lost one of Ray's vital processes (a driver itself notices the loss of its GCS only
after a minute). At its own end nothing that it started is left; what a kill -9 leaves is ended at
the next start on the same data folder.
"""

import contextlib
import dataclasses
import errno
import fcntl
import http.client
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Final, TypeVar

import psutil

from actors import telemetry
from actors.errors import CANNOT_WRITE
from actors.settings import Settings
from orchestrator import processes
from orchestrator.tail import followed

DRIVER: Final = (sys.executable, "-P", "-m", "orchestrator.serve")
"""Without -P the current folder would be searched first, and its files be taken for modules."""
RAY_VITAL: Final = frozenset({"gcs_server", "raylet"})
T = TypeVar("T")


class CannotServe(Exception):
    """The service cannot start; the text is one sentence for a person."""


@dataclasses.dataclass(frozen=True)
class Failure:
    """What the driver said when it could not serve: one sentence, and whether another start may mend it."""

    why: str
    again: bool


@dataclasses.dataclass(frozen=True)
class Ready:
    """What the driver said when it was ready. `dashboard` and the file with its token are None where there is none."""

    url: str
    dashboard: str | None
    dashboard_token_file: Path | None = None

    @property
    def way_in(self) -> str | None:
        """The address of Ray's dashboard, and the file with the token that it asks a browser for."""
        return self.dashboard and f"{self.dashboard}, its token is in {self.dashboard_token_file}"


@dataclasses.dataclass(frozen=True)
class Limits:
    """Times in seconds. HAProxy is started again by Serve within 10 s, so `silent_s` must be more than that.

    `first_starts` is how often the service is started before it counts as one that cannot be.
    """

    look_s: float = 1.0
    idle_look_s: float = 3.0
    health_every_s: float = 2.0
    health_timeout_s: float = 2.0
    silent_s: float = 20.0
    degraded_s: float = 60.0
    start_s: float = 120.0
    first_starts: int = 3
    grace_s: float = 6.0
    backoff_s: float = 1.0
    longest_backoff_s: float = 30.0
    settled_s: float = 60.0


class Supervisor:
    """Runs one service on one data folder until `stop` is called.

    `say` gets each line for people; `on_ready` is called once, in this thread, when the service is first ready.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        say: Callable[[str], None],
        on_ready: Callable[[Ready], None],
        log: Path | None = None,
        command: Sequence[str] = DRIVER,
        vital: frozenset[str] = RAY_VITAL,
        limits: Limits | None = None,
    ) -> None:
        self._settings = settings
        self._say = _unless_full(say)
        self._on_ready = _unless_full(on_ready)
        self._log_path = log
        self._command = tuple(command)
        self._vital = vital
        self._limits = limits or Limits()
        self._folder = settings.data_dir / "run"
        self._mark = str(settings.data_dir)
        self._stops = 0
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_writer, False)
        self._is_reaper = False
        self._driver: _Driver | None = None
        self._was_ready = False
        self._ledger = processes.Ledger(self._folder / "pids.json", tell=self._say)

    def stop(self) -> None:
        """End the service; a second call skips the time that is given to it. Safe in a signal handler."""
        self._stops += 1
        self._wake()

    def run(self) -> None:
        """Serve until `stop`. Raises CannotServe, or InvalidSetting, where the service cannot start."""
        self._settings.check_exposure()
        self._settings.prepare()
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._alone(), self._log() as log:
            self._is_reaper = processes.become_reaper()
            self._end_leftovers()
            self._require_free_port()
            try:
                self._keep_running(log)
            finally:
                if self._stopping():
                    self._say("Stopping …")
                self._end_all()

    def _keep_running(self, log: IO[bytes]) -> None:
        backoff_s = self._limits.backoff_s
        reason, lost_at, starts = "", 0.0, 0
        while not self._stopping():
            starts += 1
            begun = time.monotonic()
            self._driver = _Driver(self._command, self._environment(), log, self._wake)
            trouble = self._await_ready(self._driver)
            if trouble is None and not self._stopping():
                self._announce(self._driver, reason, lost_at)
                trouble = self._watch(self._driver)
            if self._stopping():
                return
            if not self._was_ready and (starts >= self._limits.first_starts or not self._driver.may_start_again):
                raise CannotServe(f"The service could not start: {trouble}{self._see_log()}.")
            lost_at = lost_at if reason and not self._driver.ready else time.monotonic()
            reason = trouble or "it ended"
            self._end_all()
            settled = time.monotonic() - begun > self._limits.settled_s
            backoff_s = self._limits.backoff_s if settled else min(2 * backoff_s, self._limits.longest_backoff_s)
            if not self._driver.ready:
                self._say(f"Trying again in {backoff_s:.0f} s: {reason}{self._see_log()}.")
            self._pause(0.0 if settled else backoff_s)

    def _await_ready(self, driver: "_Driver") -> str | None:
        """None when the driver is ready (or `stop` was called), else what went wrong."""
        deadline = time.monotonic() + self._limits.start_s
        while not self._stopping() and driver.ready is None:
            self._look(driver)
            if trouble := self._lost(driver):
                return trouble
            if time.monotonic() > deadline:
                return f"it was not ready after {self._limits.start_s:.0f} s"
            self._pause(min(self._limits.look_s, deadline - time.monotonic() + 0.01))
        return None

    def _watch(self, driver: "_Driver") -> str | None:
        """What ended the service; None when `stop` was called."""
        health = _Health(self._settings, self._limits)
        begun = looked = time.monotonic()
        while not self._stopping():
            now = time.monotonic()
            # looking reads all of /proc: once a second while much is being started, later less often
            if now - looked >= (
                self._limits.look_s if now - begun < self._limits.settled_s else self._limits.idle_look_s
            ):
                self._look(driver)
                looked = now
            trouble = self._lost(driver) or health.trouble()
            if trouble:
                return trouble
            self._pause(self._limits.look_s)
        return None

    def _lost(self, driver: "_Driver") -> str | None:
        if (code := driver.exit_code()) is not None:
            driver.read_out()
        if driver.failure is not None:
            return driver.failure.why.rstrip(".")
        if code is not None:
            return _ended(code)
        driver.vital |= {seen.pid: seen for seen in self._ledger.named(self._vital)}
        for seen in driver.vital.values():
            if not processes.lives(seen):
                return f"its process {seen.name} ended"
        return None

    def _look(self, driver: "_Driver") -> None:
        """Record what runs, and take the exit status of orphans that ended."""
        running = []
        for process in self._ours(driver):
            if processes.is_alive(process):
                running.append(process)
            elif process.pid != driver.pid:
                processes.reap([process.pid])
        self._ledger.note(running)

    def _ours(self, driver: "_Driver") -> list[psutil.Process]:
        if self._is_reaper:
            return processes.descendants(os.getpid())
        children = processes.descendants(driver.pid)
        return [psutil.Process(driver.pid), *children] if psutil.pid_exists(driver.pid) else children

    def _announce(self, driver: "_Driver", reason: str, lost_at: float) -> None:
        assert driver.ready is not None
        if self._was_ready:
            waited_s = time.monotonic() - lost_at
            ray = f" Ray dashboard now at {driver.ready.way_in}." if driver.ready.way_in else ""
            self._say(f"Restarted: {reason}; serving again at {driver.ready.url} after {waited_s:.0f} s.{ray}")
        else:
            self._was_ready = True
            self._on_ready(driver.ready)

    def _end_all(self) -> None:
        """SIGTERM to the driver, and after the grace time SIGKILL to whatever is left of what it started."""
        driver = self._driver
        if driver is None:
            return
        driver.terminate()
        deadline = time.monotonic() + self._limits.grace_s
        while driver.exit_code() is None and self._stops < 2 and time.monotonic() < deadline:
            self._pause(min(0.2, self._limits.look_s))
            self._look(driver)
        for _ in range(3):  # what was just being started when its parent ended is found the second time
            if not (left := self._left(driver)):
                break
            processes.kill(left)
        driver.close()
        self._ledger.note([])

    def _left(self, driver: "_Driver") -> list[psutil.Process]:
        found = {process.pid: process for process in (*self._ours(driver), *self._ledger.former())}
        found |= {process.pid: process for process in processes.marked(self._mark)}
        return [process for process in found.values() if processes.is_alive(process)]

    def _end_leftovers(self) -> None:
        found = {process.pid: process for process in (*self._ledger.former(), *processes.marked(self._mark))}
        left = [process for process in found.values() if processes.is_alive(process)]
        if left:
            processes.kill(left, within_s=5.0)
            self._say(f"Ended {len(left)} process{'es' if len(left) > 1 else ''} that a former run left behind.")

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the lock of the data folder; the system lets go of it when this process ends, however it ends."""
        with open(self._folder / "lock", "a+b") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                folder = self._settings.data_dir
                raise CannotServe(
                    f"Another `arke serve` uses the data folder {folder}; stop it, or choose another with --data-dir."
                ) from None
            yield

    @contextlib.contextmanager
    def _log(self) -> Iterator[IO[bytes]]:
        """Where the driver's output goes: a file of which one former part is kept, or, with the log, standard error."""
        if self._log_path is None:
            with followed(self._settings.log_dir / telemetry.FILE, sys.stderr.buffer):
                yield sys.stderr.buffer
            return
        self._log_path.parent.mkdir(parents=True, exist_ok=True)
        if self._log_path.exists() and self._log_path.stat().st_size > 50_000_000:
            self._log_path.replace(self._log_path.with_suffix(".1"))
        with open(self._log_path, "ab", buffering=0) as log:  # what a full disk refuses is not kept for later
            yield log

    def _require_free_port(self) -> None:
        host, port = self._settings.host, self._settings.port
        try:
            family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind, number) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise CannotServe(f"Port {port} of {host} is in use; choose another with --port.") from None
            raise CannotServe(f"Cannot listen on port {port} of {host}: {error.strerror}.") from None

    def _environment(self) -> dict[str, str]:
        path = [str(Path(__file__).resolve().parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        own = {processes.MARKER: self._mark, "PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(path)}
        return os.environ | self._settings.to_environ() | own

    def _see_log(self) -> str:
        return f" (see {self._log_path})" if self._log_path else ""

    def _stopping(self) -> bool:
        return self._stops > 0

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # full: then it wakes anyway
            os.write(self._wake_writer, b"!")

    def _pause(self, seconds: float) -> None:
        """Wait, but no longer than until something calls `_wake`."""
        readable, _, _ = select.select([self._wake_reader], [], [], max(0.0, seconds))
        if readable:
            os.read(self._wake_reader, 4096)


class _Driver:
    """The child process that holds Ray."""

    def __init__(
        self, command: Sequence[str], environ: dict[str, str], log: IO[bytes], wake: Callable[[], None]
    ) -> None:
        self.ready: Ready | None = None
        self.failure: Failure | None = None
        self.vital: dict[int, processes.Seen] = {}
        self._log = log
        self._wake = wake
        self._process = subprocess.Popen(
            command,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,  # a Ctrl-C in the terminal reaches the supervisor only
        )
        self.pid = self._process.pid
        self._reader = threading.Thread(target=self._read, name="driver-output", daemon=True)
        self._reader.start()

    @property
    def may_start_again(self) -> bool:
        return self.failure is None or self.failure.again

    def exit_code(self) -> int | None:
        return self._process.poll()

    def read_out(self) -> None:
        """Wait until what an ended driver said is read; not long, since others may have inherited its output."""
        self._reader.join(timeout=1)

    def terminate(self) -> None:
        self._process.terminate()

    def close(self) -> None:
        """Take the exit status. The pipe closes when the last process that inherited it ends."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=2)
        self._reader.join(timeout=2)

    def _read(self) -> None:
        """Standard output: what it says of its start is understood, everything else goes to the log."""
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in output:
                said = _said(line) if self.ready is None else None
                if isinstance(said, Ready):
                    self.ready = said
                elif said is not None:
                    self.failure = said
                else:
                    self._write(line)
                    continue
                self._wake()
        self._wake()

    def _write(self, line: bytes) -> None:
        with contextlib.suppress(OSError):  # a full disk: the log has a gap, and the output must be read on
            self._log.write(line)
            self._log.flush()


class _Health:
    """Asks GET /health, and says when the service has been silent or degraded for too long.

    A full disk does not count: another start mends nothing, and might not succeed on it, while this one still reads.
    """

    def __init__(self, settings: Settings, limits: Limits) -> None:
        self._host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
        self._port = settings.port
        self._limits = limits
        self._heard = self._well = self._asked = time.monotonic()

    def trouble(self) -> str | None:
        """None as long as it may go on."""
        if time.monotonic() - self._asked < self._limits.health_every_s:
            return None
        said = self._ask()
        now = self._asked = time.monotonic()
        if said is not None:
            self._heard = now
            if said["status"] == "ok" or said.get("store") == CANNOT_WRITE:
                self._well = now
        if now - self._heard > self._limits.silent_s:
            return f"it did not answer for {now - self._heard:.0f} s"
        if now - self._well > self._limits.degraded_s:
            return f"it was not healthy for {now - self._well:.0f} s"
        return None

    def _ask(self) -> dict[str, Any] | None:
        """The answer of /health; None when nothing, or not the service itself, answered."""
        connection = http.client.HTTPConnection(self._host, self._port, timeout=self._limits.health_timeout_s)
        try:
            connection.request("GET", "/health")
            said = json.loads(connection.getresponse().read())
        except (OSError, http.client.HTTPException, ValueError):
            return None
        finally:
            connection.close()
        return said if isinstance(said, dict) and "status" in said else None


def handle_signals(supervisor: Supervisor) -> None:
    """Have Ctrl-C, SIGTERM and a closed terminal stop the supervisor. Main thread only."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: supervisor.stop())


def _unless_full(say: Callable[[T], None]) -> Callable[[T], None]:
    """`say`, where output that cannot be written (a full disk, a closed terminal) ends nothing."""

    def said(what: T) -> None:
        with contextlib.suppress(OSError):
            say(what)

    return said


def _said(line: bytes) -> Ready | Failure | None:
    """What a line of the driver says of its start; None for every other line."""
    try:
        said: Any = json.loads(line)
    except ValueError:
        return None
    if not isinstance(said, dict) or not isinstance(said.get("ready"), bool):
        return None
    if not said["ready"]:
        return Failure(str(said.get("why")), bool(said.get("again")))
    token_file = said.get("dashboard_token_file")
    return Ready(str(said["url"]), said.get("dashboard") or None, Path(token_file) if token_file else None)


def _ended(code: int) -> str:
    return f"its process was ended by signal {-code}" if code < 0 else f"its process ended with exit code {code}"
