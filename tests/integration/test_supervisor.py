"""The supervisor, with a small program in place of the driver: what it starts, watches, restarts and ends."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from actors.errors import CANNOT_WRITE

ROOT = Path(__file__).parents[2]
PATIENCE_S = 15.0
T = TypeVar("T")

DRIVER = textwrap.dedent(
    """
    import http.server, json, os, pathlib, signal, subprocess, sys
    folder = pathlib.Path(sys.argv[1])
    with open(folder / "starts", "a") as starts:
        starts.write(".")
    if (folder / "broken").exists():
        sys.exit("broken on purpose")
    if (folder / "fails_once").exists():
        (folder / "fails_once").unlink()
        print(json.dumps({"ready": False, "why": "A port is taken.", "again": True}), flush=True)
        os._exit(1)
    if (folder / "hopeless").exists():
        print(json.dumps({"ready": False, "why": "The database is none.", "again": False}), flush=True)
        signal.pause()
    if (folder / "loses").exists():
        (folder / "loses").unlink()
        child = subprocess.Popen([str(folder / "vital"), "1000"])
        (folder / "vital.pid").write_text(str(child.pid))
        child.wait()
        signal.pause()
    if (folder / "stubborn").exists():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([str(folder / "vital"), "1000"], start_new_session=True)
    subprocess.Popen(["sh", "-c", "sleep 1000 & sleep 1000 &"], start_new_session=True).wait()

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if (folder / "silent").exists():
                return
            health = folder / "health"
            body = health.read_bytes() if health.exists() else b'{"status": "ok"}'
            (folder / "asked").touch()
            self.send_response(503 if health.exists() else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Answer)
    print("a line for the log", flush=True)
    ready = {"ready": True, "url": "http://127.0.0.1:" + os.environ["PORT"]}
    ready |= {"dashboard": "http://ray:" + str(os.getpid()), "dashboard_token_file": "/the/token"}
    print(json.dumps(ready), flush=True)
    (folder / "driver.pid").write_text(str(os.getpid()))
    (folder / "vital.pid").write_text(str(child.pid))
    server.serve_forever()
    """
)

RUNNER = textwrap.dedent(
    """
    import pathlib, sys
    from actors.settings import Settings
    from orchestrator import supervisor
    folder, port = pathlib.Path(sys.argv[1]), int(sys.argv[2])
    service = supervisor.Supervisor(
        Settings.load({}, data_dir=folder / "data", port=port),
        say=lambda line: print(line, flush=True),
        on_ready=lambda ready: print("ready " + ready.url, flush=True),
        log=folder / "log",
        command=(sys.executable, str(folder / "driver.py"), str(folder)),
        vital=frozenset({"vital"}),
        limits=supervisor.Limits(look_s=0.1, health_every_s=0.1, health_timeout_s=0.5, silent_s=1.0,
                                 degraded_s=1.0, start_s=10.0, grace_s=1.0, backoff_s=0.1),
    )
    supervisor.handle_signals(service)
    try:
        service.run()
    except (supervisor.CannotServe, ValueError) as error:
        sys.exit(str(error))
    """
)


class Bench:
    """One folder, one port, and the supervisors that were started on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.started: list[subprocess.Popen[str]] = []
        (folder / "driver.py").write_text(DRIVER)
        (folder / "runner.py").write_text(RUNNER)
        shutil.copy(shutil.which("sleep") or "/bin/sleep", folder / "vital")

    def start(self) -> subprocess.Popen[str]:
        command = [sys.executable, str(self.folder / "runner.py"), str(self.folder), str(self.port)]
        service = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        self.started.append(service)
        return service

    def start_ready(self) -> subprocess.Popen[str]:
        service = self.start()
        assert said(service).startswith("ready "), service.communicate(timeout=5)
        self.pid("vital")
        return service

    def pid(self, name: str, *, other_than: int = 0) -> int:
        """The pid that the driver wrote; waits for it, and for one that is new."""

        def read() -> int:
            with contextlib.suppress(FileNotFoundError, ValueError):
                found = int((self.folder / f"{name}.pid").read_text())
                return found if found != other_than else 0
            return 0

        return eventually(read)

    def ours(self) -> list[int]:
        """Pids of all living processes that belong to this folder."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                mark = process.environ().get("ARKE_SUPERVISED")
                if mark == str(self.folder / "data") and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process.pid)
        return found

    def end(self) -> None:
        for service in self.started:
            if service.poll() is None:
                service.kill()
            service.communicate(timeout=5)
        for pid in self.ours():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.end()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def said(service: subprocess.Popen[str]) -> str:
    """The next line that the supervisor prints."""
    assert service.stdout is not None
    return service.stdout.readline().strip()


def eventually(look: Callable[[], T]) -> T:
    """What `look` gives as soon as it is true."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := look()):
        assert time.monotonic() < deadline, "it did not happen in time"
        threading.Event().wait(0.02)  # what other processes do has no descriptor to wait for
    return found


def test_sigterm_ends_everything(bench: Bench) -> None:
    """After SIGTERM nothing that was started is left, daemons in their own sessions included."""
    service = bench.start_ready()
    assert len(bench.ours()) == 4
    service.terminate()
    assert said(service) == "Stopping …"
    assert service.wait(PATIENCE_S) == 0
    assert bench.ours() == []


def test_stopping_is_said_once_and_at_once(bench: Bench) -> None:
    """While the driver is still being waited for, one line says that Ctrl-C was heard; a second one adds none."""
    (bench.folder / "stubborn").touch()
    service = bench.start_ready()
    service.send_signal(signal.SIGINT)
    assert said(service) == "Stopping …"
    assert bench.pid("driver") in bench.ours()
    service.send_signal(signal.SIGINT)
    assert service.communicate(timeout=PATIENCE_S)[0] == ""
    assert service.returncode == 0


def test_driver_that_ignores_sigterm_is_killed_in_time(bench: Bench) -> None:
    """A driver that does not end by itself is killed after the grace time."""
    (bench.folder / "stubborn").touch()
    service = bench.start_ready()
    begun = time.monotonic()
    service.send_signal(signal.SIGINT)
    assert service.wait(PATIENCE_S) == 0
    assert 0.9 < time.monotonic() - begun < 6
    assert bench.ours() == []


def test_driver_that_dies_is_started_again(bench: Bench) -> None:
    """A killed driver is replaced, its orphans are ended, and one line says why."""
    service = bench.start_ready()
    first, orphan = bench.pid("driver"), bench.pid("vital")
    os.kill(first, signal.SIGKILL)
    told = said(service)
    assert told.startswith("Restarted: its process was ended by signal 9; serving again at http://127.0.0.1:")
    second = bench.pid("driver", other_than=first)
    assert told.endswith(f" s. Ray dashboard now at http://ray:{second}, its token is in /the/token.")
    assert orphan not in bench.ours()
    assert len(bench.ours()) == 4


def test_loss_of_a_vital_process_restarts_the_driver(bench: Bench) -> None:
    """When a process without which the driver cannot work ends, the driver is not waited for."""
    service = bench.start_ready()
    recorded(bench, bench.pid("vital"))
    os.kill(bench.pid("vital"), signal.SIGKILL)
    assert said(service).startswith("Restarted: its process vital ended;")


def test_silent_driver_is_started_again(bench: Bench) -> None:
    """A driver that runs but does not answer /health is replaced."""
    service = bench.start_ready()
    first = bench.pid("driver")
    (bench.folder / "silent").touch()
    eventually(lambda: first not in bench.ours())
    (bench.folder / "silent").unlink()
    assert "did not answer for" in said(service)


def test_what_a_kill_left_is_ended_at_the_next_start(bench: Bench) -> None:
    """After kill -9 of the supervisor, the next one ends the leftovers and serves on the same port."""
    first = bench.start_ready()
    left = set(bench.ours())
    first.kill()
    first.wait()
    assert set(bench.ours()) == left
    second = bench.start()
    assert said(second) == "Ended 4 processes that a former run left behind."
    assert said(second).startswith("ready ")
    assert not left & set(bench.ours())


def test_pid_that_was_used_again_is_left_alone(bench: Bench) -> None:
    """A recorded pid that now is another process (other start time) is not ended."""
    bystander = subprocess.Popen(["sleep", "1000"])
    try:
        (bench.folder / "data" / "run").mkdir(parents=True)
        record = [{"pid": bystander.pid, "created": 1.0, "program": psutil.Process(bystander.pid).exe(), "name": "x"}]
        (bench.folder / "data" / "run" / "pids.json").write_text(json.dumps(record))
        bench.start_ready()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_descendants_are_recorded(bench: Bench) -> None:
    """pids.json names every descendant with its start time."""
    bench.start_ready()
    process = psutil.Process(bench.pid("vital"))
    seen = recorded(bench, process.pid)
    assert seen["created"] == pytest.approx(process.create_time(), abs=0.1)
    assert seen["program"] == str(bench.folder / "vital")


def test_second_supervisor_on_one_folder_is_refused(bench: Bench) -> None:
    """The data folder belongs to one supervisor; the other says so, and disturbs nothing."""
    bench.start_ready()
    before = bench.ours()
    second = bench.start()
    _, error = second.communicate(timeout=PATIENCE_S)
    assert second.returncode == 1
    assert "uses the data folder" in error
    assert bench.ours() == before


def test_occupied_port_is_refused(bench: Bench) -> None:
    """A port that another program uses is named, with the way out."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", bench.port))
        other.listen()
        _, error = bench.start().communicate(timeout=PATIENCE_S)
    assert error.strip() == f"Port {bench.port} of 127.0.0.1 is in use; choose another with --port."


def test_first_start_that_fails_is_tried_again_a_few_times(bench: Bench) -> None:
    """A service that never was ready ends, after three starts, with the reason and the place of the log."""
    (bench.folder / "broken").touch()
    service = bench.start()
    _, error = service.communicate(timeout=PATIENCE_S)
    assert service.returncode == 1
    assert error.strip() == (
        f"The service could not start: its process ended with exit code 1 (see {bench.folder / 'log'})."
    )
    assert (bench.folder / "log").read_text().count("broken on purpose") == 3


def test_what_another_start_mends_is_tried_again(bench: Bench) -> None:
    """A driver that says that it failed, and that another start may mend it, gets one, and the reason is told."""
    (bench.folder / "fails_once").touch()
    service = bench.start()
    assert said(service) == f"Trying again in 0 s: A port is taken (see {bench.folder / 'log'})."
    assert said(service).startswith("ready ")


def test_what_no_start_mends_ends_at_once(bench: Bench) -> None:
    """The driver's own sentence is the reason, it is not started again, and its end is not waited for."""
    (bench.folder / "hopeless").touch()
    service = bench.start()
    told, error = service.communicate(timeout=PATIENCE_S)
    assert (service.returncode, told) == (1, "")
    assert error.strip() == f"The service could not start: The database is none (see {bench.folder / 'log'})."
    assert (bench.folder / "starts").read_text() == "."


def test_loss_of_a_vital_process_before_ready_is_seen(bench: Bench) -> None:
    """A driver that lost a vital process while it started is not waited for, but started again."""
    (bench.folder / "loses").touch()
    service = bench.start()
    lost = bench.pid("vital")
    recorded(bench, lost)
    os.kill(lost, signal.SIGKILL)
    assert "its process vital ended" in said(service)
    assert said(service).startswith("ready ")


def test_degraded_service_is_started_again(bench: Bench) -> None:
    """A service of which a part does not answer for too long is replaced."""
    service = bench.start_ready()
    first = bench.pid("driver")
    (bench.folder / "health").write_text('{"status": "degraded", "store": "It does not answer."}')
    eventually(lambda: first not in bench.ours())
    (bench.folder / "health").unlink()
    assert "was not healthy for" in said(service)


def test_full_disk_is_no_reason_to_start_again(bench: Bench) -> None:
    """Another start mends no full disk: the service that says so goes on, longer than it may be degraded."""
    bench.start_ready()
    first = bench.pid("driver")
    (bench.folder / "health").write_text(json.dumps({"status": "degraded", "store": CANNOT_WRITE}))
    asked_until = time.time() + 2.0  # twice `degraded_s`

    def was_asked_then() -> bool:
        return (bench.folder / "asked").exists() and (bench.folder / "asked").stat().st_mtime > asked_until

    eventually(was_asked_then)
    assert first in bench.ours()


def test_record_that_cannot_be_written_ends_nothing(bench: Bench) -> None:
    """The supervisor says it once and goes on, restarts included; the record is there as soon as it can be."""
    draft = bench.folder / "data" / "run" / "pids.new"
    draft.mkdir(parents=True)  # in its place nothing can be written
    service = bench.start()
    assert said(service).startswith(f"The service goes on, but cannot write {draft.with_suffix('.json')}: ")
    assert said(service).startswith("ready ")
    first, vital = bench.pid("driver"), bench.pid("vital")
    os.kill(first, signal.SIGKILL)
    assert said(service).startswith("Restarted: ")
    bench.pid("driver", other_than=first)
    draft.rmdir()
    recorded(bench, bench.pid("vital", other_than=vital))
    assert service.poll() is None


def test_closed_output_ends_nothing(bench: Bench) -> None:
    """Where its own lines cannot be written any more, the supervisor goes on."""
    service = bench.start_ready()
    assert service.stdout is not None
    service.stdout.close()
    first, vital = bench.pid("driver"), bench.pid("vital")
    os.kill(first, signal.SIGKILL)
    second = bench.pid("driver", other_than=first)
    recorded(bench, bench.pid("vital", other_than=vital))
    assert second in bench.ours()
    service.stdout = None
    assert service.poll() is None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_log_that_cannot_be_written_ends_nothing(bench: Bench) -> None:
    """The driver's ready line is understood though the line before it found the disk full."""
    (bench.folder / "log").symlink_to("/dev/full")
    service = bench.start_ready()
    service.terminate()
    assert said(service) == "Stopping …"
    assert service.wait(PATIENCE_S) == 0


def test_other_output_goes_to_the_log(bench: Bench) -> None:
    """What the driver prints besides its ready line is in the log."""
    bench.start_ready()
    eventually(lambda: "a line for the log" in (bench.folder / "log").read_text())


def recorded(bench: Bench, pid: int) -> dict[str, object]:
    """The entry of pids.json for this pid, as soon as it is there."""

    def look() -> dict[str, object] | None:
        try:
            entries = json.loads((bench.folder / "data" / "run" / "pids.json").read_text())
        except FileNotFoundError:
            return None
        return next((entry for entry in entries if entry["pid"] == pid and entry["name"] == "vital"), None)

    found = eventually(look)
    assert found is not None
    return found
