"""The front as it is served: Ray Serve, HAProxy and the middleware, over an engine without actors.

Two services side by side, each a process as the supervisor starts it. The tests stand in the order of
the life of a service: the last ones end it.
"""

import ipaddress
import json
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from actors.signing import sign_task
from orchestrator.processes import is_alive, kill
from orchestrator.serve import free_ports, processes_of
from tests.unit.orchestrator.fakes import SECRET

pytestmark = pytest.mark.acceptance

ROOT = Path(__file__).parents[2]
READY_S = 90
STOP_S = 10
CHILD = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tests.unit.orchestrator.fakes import serve; serve()"


FAILING_CHILD = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from tests.unit.orchestrator import fakes

def start(settings):
    raise OSError(98, "Address already in use")

fakes.start = start
fakes.serve()
"""


@dataclass
class Service:
    """One service and the folder it runs in."""

    port: int
    run_dir: Path
    process: subprocess.Popen[bytes]
    said: dict[str, Any]

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def everything(self) -> list[psutil.Process]:
        """All its processes, its first one included."""
        return [psutil.Process(self.process.pid), *processes_of(self.run_dir)]


def launch(port: int, run_dir: Path, program: str = CHILD) -> Service:
    """Start one; it is not ready yet."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(port), str(run_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    return Service(port, run_dir, process, {})


def await_ready(service: Service) -> Service:
    """Wait for the one line that it says."""
    assert service.process.stdout is not None
    readable, _, _ = select.select([service.process.stdout], [], [], READY_S)
    assert readable, "the service was not ready in time"
    service.said = json.loads(service.process.stdout.readline())
    return service


@pytest.fixture(scope="module")
def services() -> Iterator[list[Service]]:
    """Two of them, started at the same time."""
    folders = [Path(tempfile.mkdtemp(prefix="arke-t")) for _ in range(2)]
    made = [launch(port, folder) for port, folder in zip(free_ports(2), folders, strict=True)]
    try:
        for each in made:
            await_ready(each)
        yield made  # a test that starts one again puts it here, so that it is ended too
    finally:
        for each in made:
            each.process.kill()
            each.process.communicate()
            kill(processes_of(each.run_dir))
            shutil.rmtree(each.run_dir, ignore_errors=True)


def callback(service: Service, **change: Any) -> httpx.Response:
    """One signed callback."""
    signature = sign_task(SECRET, "b1", "t", 1, 1)
    body = {"task_id": "t", "batch_id": "b1", "status": "success"} | change
    return httpx.post(f"{service.url}/callback/b1/t?run=1&attempt=1&sig={signature}", json=body)


def test_services_stand_side_by_side(services: list[Service]) -> None:
    """Both answer under their own address, with processes of their own and a dashboard each."""
    for service in services:
        assert service.said["ready"] is True
        assert service.said["url"] == service.url
        assert httpx.get(f"{service.url}/health").status_code == 200
        assert httpx.get(service.said["dashboard"]).status_code == 200
        assert len(service.said["pids"]["ServeReplica:arke:front"]) == 2
        assert service.said["pids"]["haproxy"]
    first, second = ({process.pid for process in service.everything()} for service in services)
    assert not first & second


def test_dashboard_opens_with_the_token_of_the_folder(services: list[Service]) -> None:
    """What Ray tells is for who can read `ray_token` in the service's private folder: the command line names it."""
    for service in services:
        assert service.said["dashboard_token_file"] == str(service.run_dir / "ray_token")
        nodes = f"{service.said['dashboard']}/api/v0/actors"
        assert httpx.get(nodes).status_code == 401
        token = (service.run_dir / "ray_token").read_text()
        assert httpx.get(nodes, headers={"Authorization": f"Bearer {token}"}).status_code == 200


def test_every_listening_socket_is_on_loopback(services: list[Service]) -> None:
    """Whoever reaches Ray's ports can run code: none of any process of a service is open to others."""
    for service in services:
        listening = [
            (process.pid, connection.laddr)
            for process in service.everything()
            for connection in connections(process)
            if connection.status == psutil.CONN_LISTEN
        ]
        assert len(listening) > 10
        assert [each for each in listening if not on_loopback(each[1].ip)] == []


def connections(process: psutil.Process) -> list[Any]:
    """Its sockets; none, where it has ended meanwhile: Ray starts and ends idle workers as it likes."""
    try:
        return list(process.net_connections("inet"))
    except psutil.NoSuchProcess:
        return []


def on_loopback(address: str) -> bool:
    """Whether only this machine reaches it, IPv4 written as IPv6 included."""
    parsed = ipaddress.ip_address(address)
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return (mapped or parsed).is_loopback


def test_callbacks_are_answered_in_front_of_the_application(services: list[Service]) -> None:
    """A callback is answered by the middleware: it has none of the headers that the application adds."""
    answer = callback(services[0])
    assert (answer.status_code, answer.json()) == (200, {"ok": True, "received": True})
    assert "access-control-allow-origin" not in answer.headers
    assert callback(services[0], task_id="other").status_code == 400


def test_a_large_body_is_refused_while_it_is_sent(services: list[Service]) -> None:
    """413 reaches the client through HAProxy."""
    answer = httpx.post(f"{services[0].url}/batches", content=b"x" * 3_000_000)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def test_what_is_unknown_has_our_shape(services: list[Service]) -> None:
    """Serve's own 404 is not seen."""
    assert httpx.get(f"{services[0].url}/no/such").json()["code"] == "not_found"


def test_the_death_of_a_replica_is_not_noticed(services: list[Service]) -> None:
    """With one of two replicas gone, every callback is answered."""
    victim = psutil.Process(services[0].said["pids"]["ServeReplica:arke:front"][0])
    victim.kill()
    assert {callback(services[0]).status_code for _ in range(100)} == {200}


def test_what_a_killed_service_left_is_ended_at_the_next_start(services: list[Service]) -> None:
    """kill -9 leaves processes behind; a start on the same folder ends them, and serves on the same port."""
    before = services[1].everything()
    services[1].process.kill()
    services[1].process.communicate()
    services[1] = await_ready(launch(services[1].port, services[1].run_dir))
    assert httpx.get(f"{services[1].url}/health").status_code == 200
    assert [process for process in before if is_alive(process)] == []


def test_sigterm_ends_everything_in_time(services: list[Service]) -> None:
    """Exit code 0 within 10 s, and no process is left; the other service goes on."""
    before = services[0].everything()
    begun = time.monotonic()
    services[0].process.send_signal(signal.SIGTERM)
    services[0].process.communicate(timeout=STOP_S)
    assert services[0].process.returncode == 0
    assert time.monotonic() - begun < STOP_S
    assert [process for process in before if is_alive(process)] == []
    assert callback(services[1]).status_code == 200


def test_what_fails_when_ray_is_up_is_told_and_ends_in_time() -> None:
    """The line with the reason comes first; the end of Ray then takes seconds, not its minute, and leaves nothing."""
    run_dir = Path(tempfile.mkdtemp(prefix="arke-t"))
    service = launch(free_ports(1)[0], run_dir, FAILING_CHILD)
    try:
        await_ready(service)
        assert service.said == {"ready": False, "why": "OSError: [Errno 98] Address already in use", "again": True}
        assert service.process.wait(STOP_S) == 1
        assert processes_of(run_dir) == []
    finally:
        service.process.kill()
        service.process.communicate()
        kill(processes_of(run_dir))
        shutil.rmtree(run_dir, ignore_errors=True)
