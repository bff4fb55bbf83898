"""Each fault switch does what its name says, and the journal tells whom it hit."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from tests.integration.stand_ins.bench import Flies, Fly, ours, sent, task
from tests.stand_ins.fly import always
from tests.stand_ins.fly.chance import Chance
from tests.stand_ins.fly.faults import FAULTS, TASK
from tests.stand_ins.orchestrator import StandIn


def faults(fly: Fly) -> list[tuple[str, str | None, str | None, int | None]]:
    """Fault, machine, task and attempt of all that struck."""
    return [
        (entry["fault"], entry.get("machine"), entry.get("task"), entry.get("attempt"))
        for entry in fly.told(what="fault")
    ]


# Of requests


@pytest.mark.parametrize(
    ("fault", "status", "message"),
    [
        ("rate_limited", 429, "rate limit"),
        ("no_capacity", 412, "insufficient resources"),
        ("no_memory", 409, "could not reserve resource for machine"),
        ("quota", 403, "which is over the allowed quota"),
    ],
)
async def test_a_creation_is_refused_and_makes_nothing(
    make_fly: Flies, orchestrator: StandIn, fault: str, status: int, message: str
) -> None:
    fly = make_fly({fault: 1.0})
    answer = await fly.create(env=task(orchestrator, "t1", attempt=3))
    assert answer.status_code == status
    assert message in answer.json()["error"]
    assert ("Retry-After" in answer.headers) is (fault == "rate_limited")
    fly.inside.faults.set({fault: 0.0})
    assert (await fly.http.get("arke-tiff-worker/machines")).json() == []
    entry = fly.told(what="fault")[0]
    assert (entry["fault"], entry["machine"], entry["request"]) == (fault, "m", "create")
    if fault != "rate_limited":
        assert (entry["task"], entry["attempt"]) == ("t1", 3)


async def test_server_errors_have_any_status_from_500_and_sometimes_the_text_of_a_limit(make_fly: Flies) -> None:
    fly = make_fly({"server_error": 1.0})
    answers = [await fly.create(f"m{n}") for n in range(40)]
    assert {answer.status_code for answer in answers} == {500, 502, 503, 504}
    assert any("rate limit exceeded" in answer.json()["error"] for answer in answers)
    assert fly.told(what="create") == []


async def test_capacity_can_lack_in_one_region_and_for_a_start(make_fly: Flies) -> None:
    fly = make_fly({"no_capacity@ord": 1.0, "never_runs": 1.0})
    assert (await fly.create("a", region="ord")).status_code == 412
    machine = await fly.created("b", region="iad", skip_launch=True)
    await fly.reach(machine, "stopped")
    fly.inside.faults.set({"no_memory@iad": 1.0})
    assert (await fly.ask("POST", machine, "/start")).status_code == 409
    assert (await fly.show(machine))["state"] == "stopped"


@pytest.mark.parametrize("action", ["create", "start"])
async def test_an_answer_is_lost_and_what_was_asked_for_is_done(make_fly: Flies, action: str) -> None:
    fly = make_fly({f"{action}_times_out": 1.0, "never_runs": 1.0}, unanswered_s=0.05)
    made = await fly.create(skip_launch=action == "start")
    if action == "start":
        machine = await fly.reach(made.json(), "stopped")
        made = await fly.ask("POST", machine, "/start")
    assert made.status_code == 504
    started = await fly.until(what="start")
    assert started["machine"] == "m"
    assert (await fly.create()).status_code == 409, "whoever asks again finds the name taken"
    assert faults(fly)[0][0] == f"{action}_times_out"


async def test_a_request_tried_again_draws_again(make_fly: Flies) -> None:
    fly = make_fly({"no_capacity": 0.5}, seed=3)
    answers = [(await fly.create(f"m{n % 4}")).status_code for n in range(40)]
    assert {200, 412} <= set(answers)
    assert len(fly.told(what="create")) == 4


# Of starts


async def test_a_machine_that_never_boots_stays_in_starting(make_fly: Flies, orchestrator: StandIn) -> None:
    fly = make_fly({"never_boots": 1.0})
    machine = await fly.created(env=task(orchestrator, "t1"))
    await fly.until(what="fault")
    assert (await fly.show(machine))["state"] == "starting"
    assert faults(fly) == [("never_boots", "m", "t1", 1)]
    await fly.ask("DELETE", machine, params={"force": "true"})
    await fly.reach(machine, "destroyed")


async def test_a_machine_whose_program_never_runs_is_started_and_silent(make_fly: Flies, orchestrator: StandIn) -> None:
    fly = make_fly({"never_runs": 1.0})
    machine = await fly.created(env=task(orchestrator, "t1"))
    await fly.reach(machine, "started")
    assert faults(fly) == [("never_runs", "m", "t1", 1)]
    assert orchestrator.requests == []


# Of tasks


@pytest.mark.parametrize(("fault", "code", "oom_killed"), [("dies", 1, False), ("oom", 137, True)])
async def test_a_machine_that_dies_in_its_task_exits_without_a_callback(
    make_fly: Flies, orchestrator: StandIn, fault: str, code: int, oom_killed: bool
) -> None:
    fly = make_fly({fault: 1.0})
    machine = await fly.created(env=task(orchestrator, "t1", attempt=2) | ours(orchestrator, WORKER_CONCURRENCY="2"))
    stopped = await fly.reach(machine, "stopped")
    told = stopped["events"][0]["request"]["exit_event"]
    assert (told["exit_code"], told["oom_killed"], told["requested_stop"]) == (code, oom_killed, False)
    assert faults(fly) == [(fault, "m", "t1", 2)]
    assert sent(orchestrator) == []


async def test_the_other_tasks_of_a_machine_that_dies_are_lost_with_it_and_told(
    make_fly: Flies, orchestrator: StandIn
) -> None:
    """So that every attempt can be accounted for: a fault names the task that it was drawn for."""
    fly = make_fly({}, work=always(0.3))
    orchestrator.work = [task(orchestrator, "t2")]
    machine = await fly.created(env=task(orchestrator, "t1") | ours(orchestrator, WORKER_CONCURRENCY="2"))
    await fly.until(what="task", task="t2")
    fly.inside.faults.set({"dies": 1.0})  # the two that run were drawn already: a third is hit
    orchestrator.work = [task(orchestrator, "t3"), task(orchestrator, "t4")]
    await fly.reach(machine, "stopped")
    begun = {entry["task"] for entry in fly.told(what="task")}
    reported = {entry["task"] for entry in fly.told(what="callback")}
    lost = {entry["task"] for entry in fly.told(what="lost")}
    assert begun == reported | lost
    assert not reported & lost
    assert {struck for _, _, struck, _ in faults(fly)} <= lost


async def test_nothing_comes_from_a_frozen_machine_not_even_of_its_other_task(
    make_fly: Flies, orchestrator: StandIn
) -> None:
    fly = make_fly({"freezes": 0.5}, seed=_seed("freezes", "t1", spares="t2"), work=always(0.05))
    orchestrator.work = [task(orchestrator, "t2")]
    machine = await fly.created(env=task(orchestrator, "t1") | ours(orchestrator, WORKER_CONCURRENCY="2"))
    await fly.until(what="fault", fault="freezes", task="t1")
    await fly.until(what="task", task="t2")
    await asyncio.sleep(0.1)
    assert orchestrator.callbacks() == []
    await fly.ask("DELETE", machine, params={"force": "true"})
    await fly.reach(machine, "destroyed")
    assert {entry["task"] for entry in fly.told(what="lost")} == {"t1", "t2"}


def _seed(fault: str, hits: str, *, spares: str) -> int:
    """A seed with which half a rate hits the first attempt of one task and not of the other."""
    return next(
        seed
        for seed in range(1000)
        if Chance(seed).fraction(fault, hits, 1, 1) < 0.5 <= Chance(seed).fraction(fault, spares, 1, 1)
    )


async def test_enough_memory_cures_a_task_that_ran_out_of_it(make_fly: Flies, orchestrator: StandIn) -> None:
    fly = make_fly({"oom": 1.0}, oom_cured_mb=2048)
    for name, memory_mb in (("small", 1024), ("large", 2048)):
        guest = {"cpus": 2, "memory_mb": memory_mb}
        await fly.reach(await fly.created(name, env=task(orchestrator, name), guest=guest), "stopped")
    assert faults(fly) == [("oom", "small", "small", 1)]
    assert sent(orchestrator) == [("large", "success")]


async def test_a_machine_that_vanishes_is_not_found_and_its_name_is_free(
    make_fly: Flies, orchestrator: StandIn
) -> None:
    fly = make_fly({"vanishes": 1.0})
    machine = await fly.created(env=task(orchestrator, "t1"))
    await fly.until(what="vanish")
    assert (await fly.ask("GET", machine)).status_code == 404
    deleted = await fly.http.get("arke-tiff-worker/machines", params={"include_deleted": "true"})
    assert deleted.json() == []
    assert fly.told(what="exit") == []
    assert (await fly.create()).status_code == 200


@pytest.mark.parametrize(("fault", "gives_signs"), [("runs_forever", True), ("freezes", False)])
async def test_a_task_that_never_ends_gives_signs_of_life_or_none(
    make_fly: Flies, orchestrator: StandIn, fault: str, gives_signs: bool
) -> None:
    fly = make_fly({fault: 1.0})
    env = task(orchestrator, "t1") | ours(orchestrator, WORKER_HEARTBEAT_S="0.01")
    machine = await fly.created(env=env)
    await fly.until(what="fault", fault=fault)
    if gives_signs:
        await fly.until(what="sign_of_life")
    else:
        await asyncio.sleep(0.05)
        assert orchestrator.requests == []
    assert (await fly.show(machine))["state"] == "started"
    await fly.ask("POST", machine, "/stop", json={"timeout": "0.05s"})
    await fly.reach(machine, "stopped")
    assert fly.told(what="exit")[0]["code"] == (0 if gives_signs else 137), "a frozen machine has to be killed"
    assert (("t1", "released") in sent(orchestrator)) is gives_signs


@pytest.mark.parametrize(("fault", "retryable"), [("bad_input", False), ("error", True)])
async def test_an_error_is_permanent_or_not(
    make_fly: Flies, orchestrator: StandIn, fault: str, retryable: bool
) -> None:
    fly = make_fly({fault: 1.0})
    await fly.reach(await fly.created(env=task(orchestrator, "t1")), "stopped")
    body = orchestrator.callbacks()[0]
    assert (body["status"], body.get("retryable", True)) == ("error", retryable)
    assert body["error"]
    assert fly.told(what="exit")[0]["code"] == 1, "its only task failed"


async def test_a_callback_comes_twice_byte_for_byte(make_fly: Flies, orchestrator: StandIn) -> None:
    fly = make_fly({"callback_twice": 1.0})
    await fly.reach(await fly.created(env=task(orchestrator, "t1")), "stopped")
    first, second = orchestrator.callbacks()
    assert first == second
    assert faults(fly) == [("callback_twice", "m", "t1", 1)]
    assert len(fly.told(what="callback", task="t1")) == 2


async def test_a_task_that_the_second_answer_brings_is_lost_and_told(make_fly: Flies, orchestrator: StandIn) -> None:
    fly = make_fly({"callback_twice": 1.0})
    orchestrator.work = [task(orchestrator, "t2"), task(orchestrator, "t3", attempt=4)]
    await fly.reach(await fly.created(env=task(orchestrator, "t1") | ours(orchestrator)), "stopped")
    lost = fly.told(what="next_lost")[0]
    assert (lost["task"], lost["attempt"]) == ("t3", 4)
    assert {entry["task"] for entry in fly.told(what="task")} == {"t1", "t2"}


async def test_a_callback_comes_late(make_fly: Flies, orchestrator: StandIn) -> None:
    fly = make_fly({"callback_late": 1.0}, late=always(0.1))
    await fly.reach(await fly.created(env=task(orchestrator, "t1")), "stopped")
    struck, came = fly.told(what="fault")[0], fly.told(what="callback")[0]
    assert came["at"] - struck["at"] >= 0.09
    assert sent(orchestrator) == [("t1", "success")]


async def test_garbage_comes_in_place_of_the_callback(make_fly: Flies, monkeypatch: pytest.MonkeyPatch) -> None:
    bodies: set[bytes] = set()

    async def post(self: Any, url: str, body: bytes, **_: Any) -> tuple[int, bytes]:
        bodies.add(body)
        return 400, b'{"error": "not valid"}'

    monkeypatch.setattr("tests.stand_ins.fly.world.Http.post", post)
    fly = make_fly({"callback_garbage": 1.0})
    for n in range(60):
        env = {"TASK_ID": f"t{n}", "BATCH_ID": "b", "INPUT_R2_KEY": "i.tif", "CALLBACK_URL": f"http://o/{n}?attempt=1"}
        await fly.reach(await fly.created(f"m{n}", env=env), "stopped")
    assert len(bodies) > 5
    assert not any(b'"task_id": "t' in body for body in bodies)
    assert fly.inside.journal.counters["fault.callback_garbage"] == 60
    assert fly.told(what="callback") == []


async def test_every_attempt_has_one_fate_that_the_journal_tells(make_fly: Flies, orchestrator: StandIn) -> None:
    """With all faults of tasks at once: each task that began has a callback, a fault, or both; none has neither."""
    fly = make_fly(dict.fromkeys(TASK, 0.1), seed=11)
    for n in range(60):
        await fly.created(f"m{n}", env=task(orchestrator, f"t{n}"))
    for n in range(60):
        hung = fly.told(what="fault", machine=f"m{n}", fault="runs_forever")
        if not hung and not fly.told(what="fault", machine=f"m{n}", fault="freezes"):
            await _over(fly, f"m{n}")
    struck = {task: fault for fault, _, task, _ in faults(fly)}
    assert len(struck) == len(faults(fly)), "one fault an attempt at most"
    reported = {entry["task"] for entry in fly.told(what="callback")}
    silent = {"dies", "oom", "vanishes", "runs_forever", "freezes", "callback_garbage"}
    assert reported == {f"t{n}" for n in range(60) if struck.get(f"t{n}") not in silent}
    assert len(set(struck.values())) == len(TASK)


async def _over(fly: Fly, machine: str) -> None:
    tasks = [
        asyncio.ensure_future(fly.until(what="exit", machine=machine)),
        asyncio.ensure_future(fly.until(what="vanish", machine=machine)),
        asyncio.ensure_future(fly.until(what="fault", machine=machine, fault="runs_forever")),
        asyncio.ensure_future(fly.until(what="fault", machine=machine, fault="freezes")),
    ]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for waiting in tasks:
        waiting.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# The switches


async def test_faults_are_switched_by_http_without_a_token(make_fly: Flies) -> None:
    fly = make_fly()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=fly.inside.asgi), base_url="http://fly") as anybody:
        answer = await anybody.post("/_faults", json={"quota": 1, "no_capacity@iad": 0.5})
        assert answer.json()["rates"] == {"quota": 1.0, "no_capacity@iad": 0.5}
        assert (await fly.create()).status_code == 403
        assert (await anybody.post("/_faults", json={"quota": 0})).json()["rates"]["quota"] == 0
        assert (await fly.create()).status_code == 200
        assert (await anybody.post("/_faults", json={"nonsense": 1})).status_code == 400
        assert (await anybody.post("/_faults", content=b"x")).status_code == 400
        assert set((await anybody.get("/_faults")).json()["faults"]) == set(FAULTS)
        lines = [json.loads(line) for line in (await anybody.get("/_log")).text.splitlines()]
        assert [line["n"] for line in lines] == list(range(1, len(lines) + 1))
        assert {"switched", "fault", "create"} <= {line["what"] for line in lines}
        later = (await anybody.get("/_log", params={"after": str(len(lines) - 1)})).text.splitlines()
        assert json.loads(later[0])["n"] == len(lines)


async def test_a_machine_may_be_destroyed_in_the_moment_in_which_it_dies(
    make_fly: Flies, orchestrator: StandIn
) -> None:
    """Its program has ended, and nobody has noticed yet: what was asked for last counts."""
    fly = make_fly({"dies": 1.0})
    made = await fly.created(env=task(orchestrator, "t1"))
    await fly.until(what="fault")
    machine = fly.inside.fleet.machine("arke-tiff-worker", made["id"])
    fly.inside.fleet.destroy(machine, force=True)
    await fly.reach(made, "destroyed")
    assert fly.told(what="bug") == []
    assert fly.told(what="exit") == []
