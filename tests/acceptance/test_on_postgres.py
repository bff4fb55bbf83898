"""A service whose store is a database of Postgres: batches end as on a file, whoever dies, the database included."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.acceptance.killing import QUIET, check_complete, create
from tests.acceptance.service import Hands, Service, Traffic, eventually
from tests.stand_ins import postgres as stand_in
from tests.stand_ins.receiver import Receiver

FILES = 200
KILLED = ("batch", "fleet", "replica")
HELD = 8
EACH = 15
"""Tasks that are completed between one kill and the next."""
AWAY = 503


@pytest.fixture(scope="module")
def server() -> Iterator[stand_in.Postgres]:
    """A server of its own, which writes to the disk as one that is used for work."""
    with stand_in.serving(("fsync=on", "max_connections=200")) as running:
        yield running


@pytest.fixture(scope="module")
def on_postgres(receiver: Receiver, server: stand_in.Postgres) -> Iterator[Service]:
    """One service for these tests."""
    made = Service(receiver, DATABASE_URL=server.url)
    try:
        made.start()
        yield made
    finally:
        made.remove()


@pytest.fixture
def service(on_postgres: Service) -> Service:
    """By this name it is shown with a failure."""
    return on_postgres


def begun(service: Service, name: str, tiff: bytes) -> list[str]:
    """The objects of a batch that is under way."""
    keys = [f"{name}/p{n:03}.tif" for n in range(FILES)]
    for key in keys:
        service.put(key, tiff)
    create(service, name, keys)
    eventually(lambda: service.completed(name) >= EACH, "the batch is under way")
    return keys


def one_done(service: Service, name: str) -> dict[str, object]:
    return next(task for task in service.tasks(name) if task["status"] == "completed")


@pytest.mark.parametrize("victim", KILLED)
def test_a_kill_is_not_noticed(service: Service, receiver: Receiver, tiff: bytes, victim: str) -> None:
    """The actor of the batch, the fleet, a replica: no request is refused, and each result counts once."""
    name = f"pg-kill-{victim}"
    keys = begun(service, name, tiff)
    with Traffic(service, name, one_done(service, name)).flowing() as traffic, Hands(service).working() as hands:
        assert hands.hold(HELD) > 0
        pid = eventually(lambda: QUIET[victim](service, name), f"the {victim} runs")
        os.kill(pid, signal.SIGKILL)
        hands.let_go()
        service.until_over(name)
    service.settle()
    assert traffic.not_answered() == []
    assert hands.not_answered() == []
    check_complete(service, receiver, name, keys)
    hands.check_counted(service.tasks(name))
    assert service.rows("SELECT tasks_completed FROM jobs WHERE id = ?", name) == [(FILES,)]


def test_the_database_goes_and_comes_back(
    service: Service, receiver: Receiver, server: stand_in.Postgres, tiff: bytes
) -> None:
    """What is asked meanwhile is told to ask again, and when; nothing that was acknowledged is lost; the service itself
    is not started again for it."""
    name = "pg-away"
    keys = begun(service, name, tiff)
    done = one_done(service, name)
    before = service.pids("serve")
    with Traffic(service, name, done).flowing() as traffic, Hands(service).working() as hands:
        assert hands.hold(HELD) > 0
        server.stop(at_once=True)
        hands.let_go()
        with ThreadPoolExecutor(3) as threads, service_client(service) as http:
            health = threads.submit(http.get, "/health")
            status = threads.submit(http.get, f"/status/{name}")
            another = threads.submit(http.post, "/batches", json={"batch_id": "pg-new", "files": [{"r2_key": keys[0]}]})
            answers = [each.result() for each in (health, status, another)]
        server.start()
        service.until_over(name)
    assert [answer.status_code for answer in answers] == [AWAY] * 3
    assert "store" in answers[0].text
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in answers[1:])
    assert {answer[1] for answer in traffic.not_answered()} <= {AWAY}
    assert {report.status for report in hands.not_answered()} <= {AWAY}
    service.settle()
    assert service.pids("serve") == before
    assert not service.has_said("Restarted:")
    check_complete(service, receiver, name, keys)
    hands.check_counted(service.tasks(name))
    assert service.rows("SELECT tasks_completed FROM jobs WHERE id = ?", name) == [(FILES,)]


def service_client(service: Service) -> httpx.Client:
    return httpx.Client(base_url=service.url, timeout=60.0, trust_env=False)
