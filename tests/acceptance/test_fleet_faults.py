"""The fleet under faults of every kind and kills at any moment, on machines that a stand-in of Fly's API simulates.

What must be true at the end is judged by the stand-in's own log. `make soak` runs the same with FLEET_TASKS and
FLEET_SEEDS.
"""

import os
import random
import signal
import time
from collections.abc import Iterator
from typing import Final

import pytest

from tests.acceptance.fly_account import FOR_GOOD, UNDECIDED, Account, Api
from tests.acceptance.killing import actor, create
from tests.acceptance.service import Service, eventually
from tests.stand_ins.fly import launched
from tests.stand_ins.receiver import Receiver

TOKEN: Final = "t0k3n-of-the-test"
MOST: Final = 16
TRIES: Final = 5
TASKS: Final = int(os.environ.get("FLEET_TASKS", "10000"))
SEEDS: Final = int(os.environ.get("FLEET_SEEDS", "20"))
GONE_WITHIN_S: Final = 75.0
"""No machine is left so long after the end: 5 s without work, 30 s for those that ask for none, two sweeps of 10 s, and
what requests that fail take longer."""
FAULTS: Final = {
    "rate_limited": 0.03, "server_error": 0.03, "no_capacity": 0.03, "no_memory": 0.02, "quota": 0.02,
    "create_times_out": 0.04, "never_boots": 0.03, "never_runs": 0.02, "bad_input": 0.02, "error": 0.04,
    "dies": 0.02, "oom": 0.02, "vanishes": 0.02, "runs_forever": 0.02, "freezes": 0.02, "callback_twice": 0.04,
    "callback_late": 0.02, "callback_garbage": 0.02,
}  # fmt: skip


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    quick = ("--work", "0.1..0.4", "--cpu", "0.02", "--pull", "0.1", "--boot", "0.1", "--destroy", "0.05")
    odd = ("--late", "3", "--unanswered-s", "1", "--oom-cured-mb", "2048", "--no-limits", "--quiet")
    with launched((*quick, *odd, "--app", "one", "--app", "two", "--token", TOKEN)) as started:
        yield started


@pytest.fixture(scope="module")
def api(url: str) -> Iterator[Api]:
    pages = Api(url, TOKEN)
    yield pages
    pages.close()


@pytest.fixture(scope="module")
def fly(receiver: Receiver, url: str) -> Iterator[Service]:
    made = Service(
        receiver, MACHINE_PROVIDER="fly", FLY_API_URL=url, FLY_API_TOKEN=TOKEN, FLY_APP_NAMES="one,two",
        FLY_REGIONS="ord,iad", FLY_WORKER_IMAGE="registry.fly.io/worker:1", MAX_MACHINES=str(MOST),
        FLY_CREATIONS_PER_S="20", MAX_RETRY_ATTEMPTS=str(TRIES), TASK_MAX_MS_TIFF="7000", WORKER_MEMORY_MAX_MB="4096",
    )  # fmt: skip
    try:
        made.start()
        yield made
    finally:
        made.remove()


def keys_of(number: int) -> list[str]:
    return [f"in/{n}.tif" for n in range(number)]


def under_faults(fly: Service, api: Api, batch: str, tasks: int, within_s: float) -> None:
    """A batch while everything fails now and then; then the accounts are compared."""
    before = len(api.log())
    api.switch(FAULTS)
    try:
        create(fly, batch, keys_of(tasks))
        status = fly.until_over(batch, within_s)
    finally:
        api.switch(dict.fromkeys(FAULTS, 0.0))
    eventually(lambda: not api.alive(), "no machine is left", GONE_WITHIN_S)
    account = Account(api.log(before))
    assert status["status"] == "DONE", (status, fly.last_words())
    check_failures(account, {task["task_id"]: task for task in fly.tasks(batch)})
    assert account.made_twice() == []
    assert set(account.created) <= {entry["machine"] for entry in account.of("destroyed", "vanish")}
    costs = status["costs"]
    assert costs["retries"] > 0
    assert costs["machines"] <= costs["spawns"]


def check_failures(account: Account, tasks: dict[str, dict[str, object]]) -> None:
    """Just those have failed that could not succeed, and nothing ran more often than it may."""
    failed = {task_id for task_id, task in tasks.items() if task["status"] == "failed"}
    assert {task["status"] for task in tasks.values()} <= {"completed", "failed"}
    for_good, tries = account.struck_for_good(), account.struck_tries()
    for task_id in failed - for_good:
        assert tries[task_id] >= TRIES, (task_id, tasks[task_id], [k for k in account.struck if k.task == task_id])
    for task_id in for_good - failed:  # a former attempt may have succeeded, late
        late = [faults for key, faults in account.struck.items() if key.task == task_id and faults & UNDECIDED]
        assert late, (task_id, tasks[task_id])
    assert not [task_id for task_id, times in tries.items() if times > TRIES]
    told = {key for key, faults in account.struck.items() if FOR_GOOD in faults}
    assert all(key in account.begun for key in told)


def test_a_batch_under_all_faults_loses_nothing(fly: Service, api: Api) -> None:
    """Each fault at two to four percent."""
    under_faults(fly, api, "faulty", 200, 120)


@pytest.mark.parametrize("kills", [5])
def test_machines_in_flight_are_adopted_whoever_dies(fly: Service, api: Api, kills: int) -> None:
    """The actor of the batch, the fleet, the service as a whole: killed while machines work. None is made anew for work
    that one has in hand, and no task is tried again."""
    under_kills(fly, api, "killed", tasks=120 * kills, kills=kills, seed=1)


def under_kills(fly: Service, api: Api, batch: str, *, tasks: int, kills: int, seed: int) -> None:
    """A batch during which so many processes die, one after the other, when it has come so far."""
    rng, before = random.Random(seed), len(api.log())
    create(fly, batch, keys_of(tasks))
    for number in range(kills):
        reached = tasks * (number + 1) // (kills + 2)
        eventually(lambda at=reached: fly.completed(batch) >= at, f"{reached} tasks are done", 120)
        victim = "everything" if number == kills // 2 else rng.choice(("batch:{batch}", "fleet"))
        if victim == "everything":
            fly.kill_everything()
            fly.set(TASK_TIMEOUT_TIFF_CONVERSION="20000")  # workers wait up to 10 s before they call again
            fly.start()
        else:
            pid = eventually(lambda who=victim: actor(who)(fly, batch), f"{victim} runs")
            os.kill(pid, signal.SIGKILL)
    status = fly.until_over(batch, 180)
    eventually(lambda: not api.alive(), "no machine is left", GONE_WITHIN_S)
    account = Account(api.log(before))
    assert (status["status"], status["progress"]["tasks_completed"]) == ("DONE", tasks), fly.last_words()
    assert account.made_twice() == []
    ended_early = {entry["machine"] for entry in account.of("exit", "destroy") if entry["at"] < last_task_at(account)}
    assert len(account.created) <= MOST + len(ended_early), "a machine that worked was replaced"
    again = [key for key in account.begun if key.attempt > 1]
    assert len({key.task for key in account.begun}) == tasks
    assert status["costs"]["retries"] == 0, again


def last_task_at(account: Account) -> float:
    return float(max(entry["at"] for entry in account.of("task")))


def test_a_small_batch_does_not_wait_for_a_large_one(fly: Service, api: Api) -> None:
    """One task, submitted in the middle of very many."""
    beside(fly, 1500)


def beside(fly: Service, tasks: int) -> tuple[float, float]:
    """Seconds that a batch of one task takes in the middle of a large one, and alone afterwards."""
    large = create(fly, f"large-{tasks}", keys_of(tasks))
    eventually(lambda: fly.completed(large) >= tasks // 4, "the large one is well under way", 120)
    begun = time.monotonic()
    fly.until_over(create(fly, f"small-{tasks}", keys_of(1)))
    beside_s = time.monotonic() - begun
    assert fly.status(large)["completed_at"] is None, "the small one came after the large one"
    fly.until_over(large, 600)
    begun = time.monotonic()
    fly.until_over(create(fly, f"alone-{tasks}", keys_of(1)))
    return beside_s, time.monotonic() - begun


@pytest.mark.soak
def test_soak_ten_thousand_tasks_under_all_faults(fly: Service, api: Api) -> None:
    """FLEET_TASKS of them."""
    under_faults(fly, api, "ten-thousand", TASKS, 3600)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(SEEDS))
def test_soak_many_batches_under_all_faults(fly: Service, api: Api, seed: int) -> None:
    """Draws depend on the task, whose id has the seed in it."""
    under_faults(fly, api, f"faulty-{seed}", 300, 300)


@pytest.mark.soak
def test_soak_fifty_kills(fly: Service, api: Api) -> None:
    """FLEET_SEEDS chooses nothing here: one run, fifty deaths."""
    under_kills(fly, api, "killed-often", tasks=6000, kills=50, seed=2)


@pytest.mark.soak
def test_soak_a_small_batch_beside_twenty_thousand_tasks(fly: Service) -> None:
    """Within 3 s more than alone: that is printed, and bounded by ten times as much."""
    beside_s, alone_s = beside(fly, 20_000)
    print(f"one task: {beside_s:.1f} s beside 20,000, {alone_s:.1f} s alone")  # noqa: T201
    assert beside_s - alone_s < 30
