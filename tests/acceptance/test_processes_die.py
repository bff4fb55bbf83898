"""kill -9 of each process of the service while a batch of 200 files runs: the batch ends as if nothing had happened."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.acceptance.service import Service, Traffic, eventually
from tests.stand_ins.receiver import Receiver

FILES = 200
EARLY = 10
"""Tasks that are completed when the process is killed: the batch is well under way."""

Victim = Callable[[Service, str], int | None]


def actor(name: str) -> Victim:
    """The process that listens under this name; `{batch}` is the batch's id."""
    return lambda service, batch: service.pid_of_actor(name.format(batch=batch))


def role(name: str) -> Victim:
    """The first process of this role."""
    return lambda service, batch: next(iter(service.pids(name)), None)


QUIET: dict[str, Victim] = {
    "batch": actor("batch:{batch}"),
    "worker": role("WarmWorker"),
    "replica": role("ServeReplica:arke:front"),
    "store": actor("store"),
    "fleet": actor("fleet"),
    "maintenance": actor("maintenance"),
    "controller": role("ServeController"),
}
"""Nobody outside notices the death of one of these."""


@pytest.fixture(scope="session")
def pictures(_shared: Service, tiff: bytes) -> str:
    """The prefix of 200 pictures; it is used by all tests, each of which deletes what it has made of them."""
    for n in range(FILES):
        _shared.put(f"kill/p{n:03}.tif", tiff)
    return "kill/"


@pytest.fixture
def batch(service: Service, pictures: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """A batch of 200 files that is under way."""
    name = "".join(letter if letter.isalnum() else "-" for letter in request.node.name)
    files = [{"r2_key": f"{pictures}p{n:03}.tif", "file_size": 1} for n in range(FILES)]
    service.create({"batch_id": name, "files": files})
    eventually(lambda: service.completed(name) >= EARLY, "the batch is under way")
    yield name
    if service.status(name)["state"] == "running":
        service.http.post(f"/batches/{name}/cancel")
    for path in (service.objects / pictures).glob("*.jpg"):
        path.unlink()


@pytest.mark.parametrize("victim", QUIET)
def test_kill_is_not_noticed(service: Service, receiver: Receiver, batch: str, victim: str) -> None:
    """The batch ends DONE with everything counted once, and meanwhile no request is refused."""
    done = next(task for task in service.tasks(batch) if task["status"] == "completed")
    with Traffic(service, batch, done).flowing() as traffic:
        killed = kill(service, batch, QUIET[victim])
        service.until_over(batch)
        if victim != "batch":  # its work was done, it need not come back
            eventually(lambda: QUIET[victim](service, batch) not in (None, killed), f"the {victim} runs again")
            service.settle()
    assert traffic.not_answered() == []
    assert len(traffic.answers) > 20
    check_complete(service, receiver, batch)


def test_kill_of_haproxy(service: Service, receiver: Receiver, batch: str) -> None:
    """It serves again within 10 s, and the batch is complete: workers repeat what was refused meanwhile."""
    killed = kill(service, batch, role("haproxy"))
    eventually(lambda: killed not in service.pids("haproxy") and not service.roles_missing(), "it serves again", 10)
    service.until_over(batch)
    check_complete(service, receiver, batch)


@pytest.mark.parametrize("vital", ["gcs_server", "raylet"])
def test_kill_of_what_ray_cannot_do_without(service: Service, receiver: Receiver, batch: str, vital: str) -> None:
    """The process that holds Ray is started again, on the same port within 90 s, and says so."""
    with service.next_line("Restarted:"):
        kill(service, batch, role(vital))
    service.settle()
    service.until_over(batch)
    check_complete(service, receiver, batch)


def test_kill_of_everything(service: Service, receiver: Receiver, batch: str) -> None:
    """All processes at once, then a start on the same data folder: the batch goes on by itself."""
    service.kill_everything()
    service.start()
    service.until_over(batch)
    check_complete(service, receiver, batch)


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


def kill(service: Service, batch: str, victim: Victim) -> int:
    """SIGKILL while the batch runs."""
    pid = eventually(lambda: victim(service, batch), "the process to be killed runs")
    assert service.completed(batch) < FILES, "the batch was over before anything was killed"
    os.kill(pid, signal.SIGKILL)
    return pid


def check_complete(service: Service, receiver: Receiver, batch: str) -> None:
    """DONE, every file converted, every task counted once, told once."""
    status = service.status(batch)
    tasks = service.tasks(batch)
    assert (status["status"], status["error"]) == ("DONE", None)
    assert status["progress"] == {"tasks_total": FILES, "tasks_completed": FILES, "tasks_failed": 0}
    assert [task["status"] for task in tasks] == ["completed"] * FILES
    assert len({task["task_id"] for task in tasks}) == FILES
    outputs = {task["output_r2_key"] for task in tasks}
    assert outputs == {f"kill/p{n:03}.jpg" for n in range(FILES)}
    for key in outputs:
        assert (service.objects / key).read_bytes().startswith(b"\xff\xd8\xff"), key
    eventually(lambda: service.status(batch)["delivery"] == "delivered", "the delivery")
    (taken,) = receiver.accepted(batch)
    assert {post.key for post in receiver.posts(batch)} == {f"{batch}:1"}
    assert len(taken.body["files"]) == 2 * FILES
