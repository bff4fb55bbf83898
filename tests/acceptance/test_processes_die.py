"""kill -9 of each process of the service while a batch of 200 files runs: the batch ends as if nothing had happened."""

import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection
from itertools import count, islice

import pytest

from actors.rules.placement import shared_host
from tests.acceptance.killing import QUIET, check_complete, create, kill, role
from tests.acceptance.service import Hands, Service, Traffic, eventually
from tests.stand_ins.receiver import Receiver

FILES = 200
KEYS = [f"kill/p{n:03}.tif" for n in range(FILES)]
EARLY = 10
"""Tasks that are completed when the process is killed: the batch is well under way."""
HELD = 8
"""Results that are reported in the moment after the kill, or were begun before it."""
CONTINUE = b"HTTP/1.1 100 "
"""Begins what asks a client for the body of its request."""
SMALL = 10
"""Batches that are created at once. Some of them get an actor each, and the others share one."""
SMALL_FILES = 30


@pytest.fixture(scope="session")
def pictures(_shared: Service, tiff: bytes) -> None:
    """200 pictures that are used by all tests, each of which deletes what it has made of them."""
    for key in KEYS:
        _shared.put(key, tiff)


@pytest.fixture
def batch(service: Service, pictures: None, request: pytest.FixtureRequest) -> Iterator[str]:
    """A batch of 200 files that is under way."""
    name = "".join(letter if letter.isalnum() else "-" for letter in request.node.name)
    create(service, name, KEYS)
    eventually(lambda: service.completed(name) >= EARLY, "the batch is under way")
    yield name
    if service.status(name)["state"] == "running":
        service.http.post(f"/batches/{name}/cancel")
    for path in (service.objects / "kill").glob("*.jpg"):
        path.unlink()


@pytest.mark.parametrize("victim", QUIET)
def test_kill_is_not_noticed(service: Service, receiver: Receiver, batch: str, victim: str) -> None:
    """The batch ends DONE with everything counted once, and meanwhile no request is refused: no status, no duplicate,
    and no result, of which some are reported in the moment after the kill."""
    done = next(task for task in service.tasks(batch) if task["status"] == "completed")
    with Traffic(service, batch, done).flowing() as traffic, Hands(service).working() as hands:
        held = hands.hold(HELD)
        assert held > 0
        killed = kill(service, batch, QUIET[victim])
        hands.let_go()
        service.until_over(batch)
        if victim != "batch":  # its work was done, it need not come back
            eventually(lambda: QUIET[victim](service, batch) not in (None, killed), f"the {victim} runs again")
            service.settle()
    assert traffic.not_answered() == []
    assert hands.not_answered() == []
    assert len(traffic.answers) > 20
    assert len(hands.reports) >= held
    check_complete(service, receiver, batch, KEYS)
    hands.check_counted(service.tasks(batch))


def test_kill_amid_a_request(service: Service, batch: str) -> None:
    """Of some requests the head was sent when a replica is killed, and the body follows: all are answered.

    HAProxy must not pass on a head without its body: it could not repeat the request, and where its connection was
    used before, it would close the client's without an answer.
    """
    done = next(task for task in service.tasks(batch) if task["status"] == "completed")
    path = service.callback_path(batch, done["task_id"], attempt=done["attempt"])
    body = json.dumps({"task_id": done["task_id"], "batch_id": batch, "status": "success"}).encode()
    head = {"Content-Type": "application/json", "Content-Length": str(len(body)), "Expect": "100-continue"}
    with ExitStack() as stack:
        clients = [stack.enter_context(closing(HTTPConnection("127.0.0.1", service.port, 60))) for _ in range(HELD)]
        for client in clients:
            client.request("POST", path, body, {"Content-Type": "application/json"})
            client.getresponse().read()
            client.request("POST", path, headers=head)
        for client in clients:  # whoever asks for the body, HAProxy or a replica, has the head
            assert client.sock.recv(len(CONTINUE), socket.MSG_PEEK) == CONTINUE
        kill(service, batch, QUIET["replica"])
        for client in clients:
            client.send(body)
        assert [client.getresponse().status for client in clients] == [200] * HELD
    service.settle()


def test_kill_of_a_shared_actor(service: Service, receiver: Receiver, tiff: bytes) -> None:
    """A burst of small batches runs in one process: its end is noticed by none of them, nor by their workers."""
    names = list(islice((f"small-{n}" for n in count() if shared_host(f"small-{n}", 2) == "batches:0"), SMALL))
    keys = {name: [f"{name}/p{n:02}.tif" for n in range(SMALL_FILES)] for name in names}
    for key in (key for several in keys.values() for key in several):
        service.put(key, tiff)
    with Hands(service).working() as hands:
        for name in names:
            create(service, name, keys[name])
        pid = eventually(lambda: service.pid_of_actor("batches:0"), "the shared actor runs")
        shared = eventually(lambda: several_half_done(service, "batches:0"), "several of its batches are under way")
        done = next(task for task in service.tasks(shared[0]) if task["status"] == "completed")
        assert hands.hold(HELD) > 0
        with Traffic(service, shared[0], done).flowing() as traffic:
            os.kill(pid, signal.SIGKILL)
            assert half_done(service, "batches:0"), "it died with nothing under way"
            hands.let_go()
            for name in names:
                service.until_over(name)
    assert traffic.not_answered() == []
    assert hands.not_answered() == []
    for name in names:
        check_complete(service, receiver, name, keys[name])
        hands.check_counted(service.tasks(name))


def several_half_done(service: Service, host: str) -> list[str]:
    """`half_done`, once there are at least two."""
    found = half_done(service, host)
    return found if len(found) > 1 else []


def half_done(service: Service, host: str) -> list[str]:
    """The batches that run in this actor and have some tasks completed and some not."""
    found = service.rows("SELECT id FROM jobs WHERE placement = ? AND state = 'running' AND tasks_completed > 0", host)
    return [name for (name,) in found]


def test_kill_of_haproxy(service: Service, receiver: Receiver, batch: str) -> None:
    """It serves again within 10 s, and the batch is complete: workers repeat what was refused meanwhile."""
    killed = kill(service, batch, role("haproxy"))
    eventually(lambda: killed not in service.pids("haproxy") and not service.roles_missing(), "it serves again", 10)
    service.until_over(batch)
    check_complete(service, receiver, batch, KEYS)


@pytest.mark.parametrize("vital", ["gcs_server", "raylet"])
def test_kill_of_what_ray_cannot_do_without(service: Service, receiver: Receiver, batch: str, vital: str) -> None:
    """The process that holds Ray is started again, on the same port within 90 s, and says so."""
    with service.next_line("Restarted:"):
        kill(service, batch, role(vital))
    service.settle()
    service.until_over(batch)
    check_complete(service, receiver, batch, KEYS)


def test_kill_of_everything(service: Service, receiver: Receiver, batch: str) -> None:
    """All processes at once, then a start on the same data folder: the batch goes on by itself."""
    service.kill_everything()
    service.start()
    service.until_over(batch)
    check_complete(service, receiver, batch, KEYS)


def test_stop_leaves_nothing(service: Service) -> None:
    """SIGTERM ends everything that was started, within 10 s; a start on the same folder then serves the old state."""
    with everything_ended(service):
        assert service.stop() < 10
    service.start()
    assert service.http.get("/batches?limit=1").status_code == 200


@contextmanager
def everything_ended(service: Service) -> Iterator[None]:
    """What ran before the block does not run after it."""
    before = service.processes()
    assert before
    yield
    assert [process for process in before if process.is_running() and process.status() != "zombie"] == []
