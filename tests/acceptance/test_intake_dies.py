"""kill -9 in the middle of an intake: what was read is kept, the rest is read once, and every task has its own id."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import count

import pytest

from actors.rules.placement import shared_host
from actors.sources.prefix import PAGE
from tests.acceptance.service import Service, eventually

FRONT = "ServeReplica:arke:front"
LISTED = 100_000
UNDER_PREFIX = 20 * PAGE
POST = "import sys, httpx; httpx.post(sys.argv[1], content=sys.argv[2], timeout=60, trust_env=False)"


@pytest.fixture
def ended(service: Service, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a batch that is cancelled at the end: its objects are not worth converting."""
    name = "".join(letter if letter.isalnum() else "-" for letter in request.node.name)
    yield name
    service.http.post(f"/batches/{name}/cancel")


def test_kill_of_the_front_in_a_manifest(service: Service, ended: str) -> None:
    """All replicas die before the last page of 100,000 files is written: the same body, sent again, goes on behind
    what there is."""
    keys = [f"cut/p{n}.tif" for n in range(LISTED)]
    service.put(
        "cut/_manifest.json", json.dumps({"directories": [{"files": [{"r2_key": key} for key in keys]}]}).encode()
    )
    body = json.dumps({"batch_id": ended, "manifest_r2_key": "cut/_manifest.json"})
    front = service.pids(FRONT)
    request = subprocess.Popen([sys.executable, "-c", POST, f"{service.url}/batches", body], stderr=subprocess.DEVNULL)
    eventually(lambda: received(service, ended), "the first pages are written")
    kill_all(front)
    assert 0 < received(service, ended) < LISTED, "the kill came before the last page"
    request.wait(60)
    service.settle()
    answer = service.http.post("/batches", content=body)
    assert answer.status_code in (200, 202), answer.text
    check_each_once(service, ended, keys)


def test_kill_of_the_reader_and_the_front_in_a_prefix(service: Service, ended: str) -> None:
    """Who reads the prefix and all who could be asked about it die before its last page: it is read on by itself."""
    folder = service.objects / "many"
    folder.mkdir()
    keys = [f"many/p{n:05}.tif" for n in range(UNDER_PREFIX)]
    for key in keys:
        (service.objects / key).touch()
    processes = [reader_of(service, ended), *service.pids(FRONT)]
    service.create({"batch_id": ended, "r2_prefix": "many/"})
    eventually(lambda: received(service, ended), "the first pages are written")
    kill_all(processes)
    assert 0 < received(service, ended) < UNDER_PREFIX, "the kill came before the last page"
    service.settle()
    check_each_once(service, ended, keys)


def reader_of(service: Service, batch: str) -> int:
    """The standing actor that will read the batch's prefix; an empty prefix before it makes sure that it stands."""
    hosts = service.settings.shared_hosts
    host = shared_host(batch, hosts)
    before = next(name for n in count() if shared_host(name := f"{batch}-{n}", hosts) == host)
    service.create({"batch_id": before, "r2_prefix": "none/"})
    assert service.until_over(before)["code"] == "empty_batch"
    pid = service.pid_of_actor(host)
    assert pid is not None
    return pid


def received(service: Service, batch: str) -> int:
    """The files of an intake that is not over; 0 before its first page. From the database: the front may be dead."""
    found = service.rows("SELECT files_total FROM jobs WHERE id = ? AND state = 'receiving'", batch)
    return int(found[0][0]) if found else 0


def kill_all(pids: list[int]) -> None:
    """SIGKILL to all of them."""
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def check_each_once(service: Service, batch: str, keys: list[str]) -> None:
    """The intake ends: each file is there once, in its order, with a task id of its own."""
    eventually(lambda: service.status(batch)["state"] != "receiving", "the intake is over")
    assert service.http.post(f"/batches/{batch}/cancel").status_code == 200
    status = service.status(batch)
    assert (status["files_total"], status["progress"]["tasks_total"]) == (len(keys), len(keys))
    tasks = service.tasks(batch)
    assert [task["input_r2_key"] for task in tasks] == keys
    assert len({task["task_id"] for task in tasks}) == len(keys)
