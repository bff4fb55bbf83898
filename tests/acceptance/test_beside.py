"""The service and what is beside it on the machine: its sockets, a second service, workers that people run."""

import contextlib
import ipaddress
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from tests.acceptance.service import ROOT, Service, eventually
from tests.stand_ins.receiver import Receiver

WORKER_KEY, API_KEY, ADMIN_KEY = "worker-key-of-the-test", "api-key-of-the-test", "admin-key-of-the-test"


def test_all_sockets_are_on_loopback(service: Service) -> None:
    """Nothing that the service starts can be reached from outside: not Ray's, not HAProxy's, not the front."""
    bound = [
        (process.pid, connection.laddr)
        for process in service.processes()
        for connection in connections(process)
        if connection.status == psutil.CONN_LISTEN or connection.type == socket.SOCK_DGRAM
    ]
    assert service.port in {address.port for _, address in bound}
    assert len(bound) > 10, "Ray's own are among them"
    assert [(pid, address) for pid, address in bound if not is_loopback(address.ip)] == []


def connections(process: psutil.Process) -> list[Any]:
    """Its sockets; none, where it has ended meanwhile: Ray starts and ends idle workers as it likes."""
    try:
        return list(process.net_connections("inet"))
    except psutil.NoSuchProcess:
        return []


def is_loopback(ip: str) -> bool:
    """127.0.0.0/8, also as an IPv6 socket shows it, and ::1."""
    address = ipaddress.ip_address(ip)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def test_folder_of_the_sockets_is_private(service: Service) -> None:
    """Other users of the machine reach neither the actors nor the secrets."""
    assert service.settings.run_dir.stat().st_mode & 0o077 == 0
    assert service.settings.callback_secret_file.stat().st_mode & 0o077 == 0


@pytest.fixture(scope="module")
def second(receiver: Receiver) -> Iterator[Service]:
    """A service that runs no workers, and that asks for keys."""
    made = Service(receiver, MACHINE_PROVIDER="external", WORKER_KEYS=WORKER_KEY, API_KEYS=API_KEY, ADMIN_KEY=ADMIN_KEY)
    made.http.headers["Authorization"] = f"Bearer {API_KEY}"
    try:
        made.start()
        yield made
    finally:
        made.remove()


@contextlib.contextmanager
def pull_worker(service: Service) -> Iterator["subprocess.Popen[bytes]"]:
    """A worker as a person runs it on another machine."""
    environment = {"PATH": os.environ["PATH"], "OBJECTS_DIR": str(service.settings.objects_dir)}
    environment["R2_BUCKET"] = service.settings.r2_bucket
    command = [sys.executable, "-m", "worker", "--pull", service.url, "--key", WORKER_KEY, "--name", "mine"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)


def test_pull_worker_of_a_second_service(service: Service, second: Service, receiver: Receiver, tiff: bytes) -> None:
    """Beside the first service: a batch waits until somebody's worker pulls it; SIGTERM ends that worker cleanly."""
    for n in range(20):
        second.put(f"pulled/p{n}.tif", tiff)
    second.create({"batch_id": "pulled", "r2_prefix": "pulled/"})
    eventually(lambda: second.status("pulled")["state"] == "running", "the batch waits for a worker")
    assert second.completed("pulled") == 0
    with pull_worker(second) as worker:
        status = second.until_over("pulled")
        assert status["status"] == "DONE"
        assert status["progress"]["tasks_completed"] == 20
        assert {task["machine"] for task in second.tasks("pulled")} == {"mine"}
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(10) == 0
    eventually(lambda: receiver.accepted("pulled"), "the delivery")
    assert service.roles_missing() == []
    assert service.http.get("/status/pulled").status_code == 404


def test_keys_guard_the_second_service(second: Service) -> None:
    """Without a key 401 on every route that acts or tells, with the caller's key no /admin, and no key in any body."""
    for method, path in (
        ("POST", "/batches"),
        ("GET", "/batches"),
        ("GET", "/status/x"),
        ("POST", "/batches/x/cancel"),
    ):
        answer = second.http.request(method, path, headers={"Authorization": "Bearer wrong"})
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    answer = second.http.post("/admin/reset/x")
    assert answer.status_code in (401, 403)
    assert second.http.post("/admin/reset/x", headers={"Authorization": f"Bearer {ADMIN_KEY}"}).status_code == 404
    log = "".join(path.read_text() for path in (second.data_dir / "logs").iterdir())
    assert "[Arke] ready" in log
    assert not any(key in log or key in " ".join(second.said) for key in (WORKER_KEY, API_KEY, ADMIN_KEY))
