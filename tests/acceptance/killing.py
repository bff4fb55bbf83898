"""What tests that kill processes share: whom, when, and what must be true afterwards."""

import os
import signal
from collections.abc import Callable, Sequence
from typing import Final

from tests.acceptance.service import Service, eventually
from tests.stand_ins.receiver import Receiver

Victim = Callable[[Service, str], int | None]
"""The process to be killed, of a service and for a batch; None while it does not run."""


def actor(name: str) -> Victim:
    """The process that listens under this name; `{batch}` is the batch's id."""
    return lambda service, batch: service.pid_of_actor(name.format(batch=batch))


def role(name: str) -> Victim:
    """The first process of this role."""
    return lambda service, batch: next(iter(service.pids(name)), None)


QUIET: Final[dict[str, Victim]] = {
    "batch": actor("batch:{batch}"),
    "worker": role("WarmWorker"),
    "replica": role("ServeReplica:arke:front"),
    "store": actor("store"),
    "fleet": actor("fleet"),
    "maintenance": actor("maintenance"),
    "controller": role("ServeController"),
}
"""Nobody outside notices the death of one of these."""


def create(service: Service, name: str, keys: Sequence[str]) -> str:
    """A batch of these objects."""
    return service.create({"batch_id": name, "files": [{"r2_key": key, "file_size": 1} for key in keys]})


def kill(service: Service, batch: str, victim: Victim) -> int:
    """SIGKILL while the batch runs. Returns the pid."""
    pid = eventually(lambda: victim(service, batch), "the process to be killed runs")
    status = service.status(batch)
    assert status["completed_at"] is None, "the batch was over before anything was killed"
    os.kill(pid, signal.SIGKILL)
    return pid


def check_complete(service: Service, receiver: Receiver, batch: str, keys: Sequence[str]) -> None:
    """DONE, every file converted, every task counted once, told once. `keys` are the objects, all TIFFs."""
    status = service.status(batch)
    tasks = service.tasks(batch)
    assert (status["status"], status["error"]) == ("DONE", None)
    assert status["progress"] == {"tasks_total": len(keys), "tasks_completed": len(keys), "tasks_failed": 0}
    assert [task["status"] for task in tasks] == ["completed"] * len(keys)
    assert len({task["task_id"] for task in tasks}) == len(keys)
    assert sorted(task["input_r2_key"] for task in tasks) == sorted(keys)
    outputs = {task["output_r2_key"] for task in tasks}
    assert outputs == {key.removesuffix(".tif") + ".jpg" for key in keys}
    for key in outputs:
        assert (service.objects / key).read_bytes().startswith(b"\xff\xd8\xff"), key
    eventually(lambda: service.status(batch)["delivery"] == "delivered", "the delivery")
    (taken,) = receiver.accepted(batch)
    assert {post.key for post in receiver.posts(batch)} == {f"{batch}:1"}
    assert len(taken.body["files"]) == 2 * len(keys)
