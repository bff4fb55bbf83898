"""The service on machines of Fly.io, which a stand-in of its API simulates."""

from collections.abc import Iterator

import httpx
import pytest

from tests.acceptance.service import Service, eventually
from tests.stand_ins.fly import launched
from tests.stand_ins.receiver import Receiver

TASKS = 12


@pytest.fixture(scope="module")
def api() -> Iterator[str]:
    """The Machines API with two apps and its limits; some requests fail, and some answers to creations are lost."""
    quick = ("--work", "0.1", "--cpu", "0.05", "--pull", "0.2", "--boot", "0.1")
    apps = ("--app", "one", "--app", "two", "--token", "t0k3n-of-the-test", "--unanswered-s", "1")
    with launched((*quick, *apps, "--quiet", "--fault", "server_error=0.1", "--fault", "create_times_out=0.2")) as url:
        yield url


@pytest.fixture(scope="module")
def fly(receiver: Receiver, api: str) -> Iterator[Service]:
    made = Service(
        receiver, MACHINE_PROVIDER="fly", FLY_API_URL=api, FLY_API_TOKEN="t0k3n-of-the-test", FLY_APP_NAMES="one,two",
        FLY_WORKER_IMAGE="registry.fly.io/worker:1", MAX_MACHINES="5",
    )  # fmt: skip
    try:
        made.start()
        yield made
    finally:
        made.remove()


def test_a_batch_is_done_by_machines_of_fly(fly: Service, api: str) -> None:
    """Every task is done; by the API's own log each machine was made once, for this service, and none is left."""
    for n in range(TASKS):
        fly.put(f"in/{n}.tif", b"II*\0")
    batch = fly.create({"batch_id": "on-fly", "r2_prefix": "in/"})
    status = fly.until_over(batch)
    assert (status["status"], status["progress"]["tasks_completed"]) == ("DONE", TASKS), fly.last_words()
    base = api.removesuffix("/v1")
    with httpx.Client(base_url=base, headers={"Authorization": "Bearer t0k3n-of-the-test"}, trust_env=False) as http:
        journal = [httpx.Response(200, content=line).json() for line in http.get("/_log").text.splitlines()]
        names = [entry["machine"] for entry in journal if entry["what"] == "create"]
        assert 1 <= len(names) == len(set(names))
        eventually(lambda: not _alive(http), "no machine is left")
    assert "t0k3n" not in (fly.settings.log_dir / "engine.log").read_text()


def _alive(http: httpx.Client) -> int:
    states = http.get("/_counters").json()["states"]
    return sum(number for state, number in states.items() if state != "destroyed")
