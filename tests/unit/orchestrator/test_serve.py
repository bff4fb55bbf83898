"""What is prepared for Ray and HAProxy before either is started."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from orchestrator import serve


def test_importing_the_module_does_not_import_ray() -> None:
    """Ray reads its settings on import, so they must be set first: nothing here imports it at module level."""
    code = "import sys, orchestrator.serve; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_free_ports_differ() -> None:
    """Ports asked for together are all different."""
    assert len(set(serve.free_ports(8))) == 8


def test_free_ports_are_not_ephemeral(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is bound only seconds later is not what any connection may get meanwhile; Linux says where that begins."""
    stated = tmp_path / "range"
    stated.write_text("25000\t60999\n")
    monkeypatch.setattr(serve, "EPHEMERAL_RANGE", stated)
    assert all(20_000 <= port < 25_000 for port in serve.free_ports(50))
    stated.unlink()
    assert all(20_000 <= port < 32_768 for port in serve.free_ports(50))


def test_where_all_ports_are_ephemeral_there_still_are_some() -> None:
    """A system whose ephemeral ports begin at 1024 leaves none below them."""
    assert len(serve.candidate_ports(1024)) > 40_000


def test_ports_in_use_are_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is tried by binding; one that another listens on is passed over."""
    with socket.create_server((serve.LOOPBACK, 0)) as other:
        taken = other.getsockname()[1]
        monkeypatch.setattr("random.sample", lambda *_, **__: [taken, *range(20_000, 20_400)])
        assert serve.free_ports(1)[0] in range(20_000, 20_400)


RUN = """
import os, sys
from pathlib import Path
from orchestrator import serve
from tests.unit.orchestrator import fakes
from actors.errors import CannotStart

def hopeless(settings):
    raise CannotStart("The database is none.")

def unlucky(settings):
    raise OSError(98, "Address already in use")

sys.modules["made"] = sys.modules["__main__"]
os._exit(serve.run(fakes.FakeServeSettings(1, Path(sys.argv[1])), check="made:" + sys.argv[2]))
"""


@pytest.mark.parametrize(
    ("check", "why", "again"),
    [
        ("hopeless", "The database is none.", False),
        ("unlucky", "OSError: [Errno 98] Address already in use", True),
    ],
)
def test_what_prevents_serving_is_told_and_logged(tmp_path: Path, check: str, why: str, again: bool) -> None:
    """One line for the supervisor says why, and whether another start may help; the log has the traceback."""
    done = subprocess.run([sys.executable, "-c", RUN, tmp_path, check], capture_output=True, text=True, check=False)
    assert json.loads(done.stdout) == {"ready": False, "why": why, "again": again}
    assert (done.returncode, done.stderr) == (1, "")
    logged = (tmp_path / "logs" / "engine.log").read_text()
    assert "cannot_serve" in logged
    assert "Traceback" in logged


def test_an_error_of_an_actor_is_told_without_its_traceback() -> None:
    """Ray's exception has a traceback as its text and the cause beside it: the cause is told."""
    error = RuntimeError("ray::StoreActor.ready()\n  File 'x.py', line 1")
    vars(error)["cause"] = ValueError("not this one\nnor that")
    assert serve.sentence_of(error) == "ValueError: not this one"
    assert serve.sentence_of(KeyError()) == "KeyError"


def test_the_wrapper_moves_only_the_listeners_it_is_told(tmp_path: Path) -> None:
    """Statistics and metrics go to 127.0.0.1; the front's own listener stays where it was asked for."""
    config = tmp_path / "haproxy.cfg"
    config.write_text("  bind *:8404\n    bind :9101\n    bind *:8787\n  bind *:84040\n")
    wrapper = serve.write_wrapper(tmp_path / "haproxy", "/bin/echo", (8404, 9101))
    done = subprocess.run([wrapper, "-db", "-f", config, "-sf", "1"], check=True, capture_output=True, text=True)
    assert done.stdout == f"-db -f {config} -sf 1\n"
    assert config.read_text() == "  bind 127.0.0.1:8404\n    bind 127.0.0.1:9101\n    bind *:8787\n  bind *:84040\n"


def test_the_wrapper_has_requests_wait_for_their_bodies(tmp_path: Path) -> None:
    """The option is in the section of defaults once, however often the file has passed."""
    config = tmp_path / "haproxy.cfg"
    config.write_text("global\n    maxconn 9\ndefaults\n    mode http\nfrontend defaults_too\n    mode http\n")
    wrapper = serve.write_wrapper(tmp_path / "haproxy", "/bin/true", (8404, 9101))
    for _ in range(2):
        subprocess.run([wrapper, "-f", config], check=True)
        assert config.read_text() == (
            "global\n    maxconn 9\ndefaults\n    option http-buffer-request\n    mode http\n"
            "frontend defaults_too\n    mode http\n"
        )


def test_the_wrapper_has_haproxy_answer_as_the_service_does(tmp_path: Path) -> None:
    """Where no replica is left the caller is told to send it again, in the words of the contract."""
    config = tmp_path / "haproxy.cfg"
    config.write_text("defaults\n    errorfile 502 /x/500.http\n    errorfile 503 /x/500.http\n    errorfile 400 /y\n")
    wrapper = serve.write_wrapper(tmp_path / "haproxy", "/bin/true", (8404, 9101))
    for _ in range(2):
        subprocess.run([wrapper, "-f", config], check=True)
    file = tmp_path / "unavailable.http"
    assert config.read_text().splitlines()[2:] == [
        f"    errorfile 502 {file}", f"    errorfile 503 {file}", "    errorfile 400 /y"
    ]  # fmt: skip
    head, _, body = file.read_bytes().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After: 1" in head
    assert json.loads(body)["code"] == "unavailable"


def test_services_have_files_and_ports_of_their_own(tmp_path: Path) -> None:
    """Of two services, no socket, file or fixed port of HAProxy is the same."""
    made = []
    for name in ("a", "b"):
        (tmp_path / name / "h").mkdir(parents=True)
        made.append(serve.ray_environment(tmp_path / name, "/bin/true"))
    kept = {
        name
        for name in made[0]
        if name.startswith("RAY_SERVE_HAPROXY") and name.endswith(("PORT", "PATH", "LOC", "BASE", "FILE"))
    }
    assert len(kept) == 8
    assert all(made[0][name] != made[1][name] for name in kept)


def test_without_haproxy_the_default_proxy_is_used(tmp_path: Path) -> None:
    """Where there is no HAProxy, none of its settings is set; Ray's ports are on loopback all the same."""
    environment = serve.ray_environment(tmp_path, None)
    assert not any("HAPROXY" in name or "HA_PROXY" in name for name in environment)
    assert environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"


def test_the_token_of_the_cluster_is_private(tmp_path: Path) -> None:
    """Each start makes a new token, readable by its owner alone."""
    tokens = set()
    for _ in range(2):
        path = Path(serve.ray_environment(tmp_path, None)["RAY_AUTH_TOKEN_PATH"])
        assert path.stat().st_mode & 0o777 == 0o600
        tokens.add(path.read_text())
    assert len(tokens) == 2


def test_processes_are_found_by_their_mark(tmp_path: Path) -> None:
    """A process that inherited the mark of this folder is found, one of another folder is not."""
    children = [
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env={serve.MARK: str(folder)})
        for folder in (tmp_path / "a", tmp_path / "b")
    ]
    try:
        assert [each.pid for each in serve.processes_of(tmp_path / "a")] == [children[0].pid]
    finally:
        for child in children:
            child.communicate(b"\n")


def test_the_role_of_a_process_is_readable() -> None:
    """A process that is not one of Ray's is named after its program or script."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert serve.role_of(psutil.Process(child.pid)).startswith("python")
        child.communicate(b"\n")
    assert serve.role_of(psutil.Process(1)) != ""


def test_session_folders_of_former_runs_are_removed(tmp_path: Path) -> None:
    """All but the newest of Ray's folders go, which says why the run before ended; what others keep there stays."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    for age, name in enumerate(("session_b", "session_c", "session_a", "other")):
        (tmp_path / "r" / name / "logs").mkdir(parents=True)
        (tmp_path / "r" / name / "link").symlink_to(outside)
        os.utime(tmp_path / "r" / name, (1_000 - age, 1_000 - age))
    (tmp_path / "r" / "session_latest").symlink_to(outside)
    serve.remove_sessions(tmp_path)
    assert {path.name for path in (tmp_path / "r").iterdir()} == {"session_b", "other", "session_latest"}
    assert (outside / "kept").exists()


def test_a_first_start_has_no_session_folders(tmp_path: Path) -> None:
    """Where Ray never ran there is nothing to remove."""
    serve.remove_sessions(tmp_path)
