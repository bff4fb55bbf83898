"""Simulated machines behave as `python -m worker` does: tasks by environment, by answer and by claim, then an end."""

import asyncio
import time
from collections.abc import Mapping

import pytest

from tests.integration.stand_ins.bench import WITHIN_S, Flies, ours, sent, task
from tests.stand_ins.fly import Duration, always
from tests.stand_ins.fly.bodies import Config, CreateMachine, Restart
from tests.stand_ins.fly.world import Http
from tests.stand_ins.orchestrator import StandIn


async def test_a_worker_of_the_originals_does_one_task_and_ends(make_fly: Flies, orchestrator: StandIn) -> None:
    fly = make_fly()
    machine = await fly.created(env=task(orchestrator, "t1"))
    await fly.reach(machine, "stopped")
    path, body, _ = orchestrator.requests[0]
    assert path == "/callback/b/t1?run=1&attempt=1&sig=a%2Fb", "the URL is sent verbatim"
    assert body["output_r2_key"] == "in/t1.jpg"
    assert (body["output_file_name"], body["status"], body["cpu_ms"]) == ("t1.jpg", "success", 0)
    assert body["output_file_size"] > 0
    assert "accepts_next" not in body
    assert len(orchestrator.requests) == 1
    entry = fly.told(what="task")[0]
    assert (entry["machine"], entry["task"], entry["run"], entry["attempt"], entry["by"]) == ("m", "t1", 1, 1, "env")
    assert fly.told(what="callback")[0]["status"] == 200
    assert fly.told(what="exit")[0]["code"] == 0
    assert fly.told(what="create")[0]["task"] == "t1"


async def test_a_worker_of_ours_takes_what_answers_bring_then_claims_then_ends(
    make_fly: Flies, orchestrator: StandIn
) -> None:
    fly = make_fly()
    orchestrator.work = [task(orchestrator, "t2"), task(orchestrator, "t3")]
    orchestrator.on_callback = lambda body: (200, {"ok": True}) if body["task_id"] == "t2" else None
    machine = await fly.created(env=task(orchestrator, "t1") | ours(orchestrator))
    await fly.reach(machine, "stopped")
    assert [(entry["task"], entry["by"]) for entry in fly.told(what="task")] == [
        ("t1", "env"), ("t2", "next"), ("t3", "claim"),
    ]  # fmt: skip
    assert all(body["accepts_next"] for body in orchestrator.callbacks())
    claim, headers = next((body, headers) for path, body, headers in orchestrator.requests if path.endswith("/claim"))
    assert (claim["machine"], claim["free"], claim["wait_ms"], claim["kinds"]) == ("m", 1, 50, ["tiff"])
    assert headers["Authorization"] == "Bearer secret"
    assert fly.told(what="exit")[0]["code"] == 0


async def test_a_machine_without_a_task_claims_its_first(make_fly: Flies, orchestrator: StandIn) -> None:
    fly = make_fly()
    orchestrator.work = [task(orchestrator, "t1")]
    await fly.reach(await fly.created(env=ours(orchestrator)), "stopped")
    assert sent(orchestrator) == [("t1", "success")]


async def test_a_retired_machine_ends_at_once(make_fly: Flies, orchestrator: StandIn) -> None:
    fly = make_fly()
    orchestrator.on_claim = lambda: (410, {"error": "retired"})
    await fly.reach(await fly.created(env=ours(orchestrator, WORKER_IDLE_S="60")), "stopped")
    assert len(fly.told(what="retired")) == 1
    assert fly.told(what="exit")[0]["code"] == 0


async def test_a_refused_claim_ends_it_with_1(make_fly: Flies, orchestrator: StandIn) -> None:
    fly = make_fly()
    orchestrator.on_claim = lambda: (401, {"error": "wrong token"})
    await fly.reach(await fly.created(env=ours(orchestrator)), "stopped")
    assert fly.told(what="exit")[0]["code"] == 1


async def test_a_machine_that_has_used_its_allowance_takes_no_more(make_fly: Flies, orchestrator: StandIn) -> None:
    fly = make_fly(work=always(0.02), cpu=always(0.02))
    orchestrator.work = [task(orchestrator, f"t{n}") for n in range(2, 9)]
    env = task(orchestrator, "t1") | ours(orchestrator, WORKER_CPU_BURST_S="0.05", WORKER_CPU_RATE="0")
    await fly.reach(await fly.created(env=env, guest={"cpus": 2, "memory_mb": 512}), "stopped")
    assert sent(orchestrator) == [("t1", "success"), ("t2", "success")], "a third one would exceed 0.05 s"
    assert ["accepts_next" in body for body in orchestrator.callbacks()] == [True, False]
    assert orchestrator.claims() == []


async def test_it_runs_as_many_tasks_at_once_as_it_is_told(make_fly: Flies, orchestrator: StandIn) -> None:
    fly = make_fly(work=always(0.5))
    orchestrator.work = [task(orchestrator, "t2")]
    env = task(orchestrator, "t1") | ours(orchestrator, WORKER_CONCURRENCY="2")
    await fly.created(env=env)
    await fly.until(what="task", task="t2")
    assert fly.told(what="callback") == []
    await fly.until(what="callback", task="t2")


async def test_long_tasks_give_signs_of_life_and_end_when_they_are_not_wanted(
    make_fly: Flies, orchestrator: StandIn
) -> None:
    fly = make_fly(work=always(60))
    orchestrator.on_callback = lambda body: (200, {"ok": True, "stop": len(orchestrator.callbacks()) > 2})
    env = task(orchestrator, "t1") | ours(orchestrator, WORKER_HEARTBEAT_S="0.02")
    await fly.reach(await fly.created(env=env), "stopped")
    assert sent(orchestrator) == [("t1", "running")] * 3


async def test_a_stop_gives_the_task_back_or_ends_a_worker_of_the_originals(
    make_fly: Flies, orchestrator: StandIn
) -> None:
    fly = make_fly(work=always(60))
    ours_, theirs = (
        await fly.created("ours", env=task(orchestrator, "t1") | ours(orchestrator)),
        await fly.created("theirs", env=task(orchestrator, "t2")),
    )
    for machine in (ours_, theirs):
        await fly.until(what="task", machine=machine["name"])
        await fly.ask("POST", machine, "/stop")
        await fly.reach(machine, "stopped")
    assert sent(orchestrator) == [("t1", "released")]
    assert [entry["code"] for entry in fly.told(what="exit")] == [0, 130]
    assert all(entry["requested_stop"] for entry in fly.told(what="exit"))


async def test_a_task_that_an_answer_brings_while_the_machine_stops_is_given_back(
    make_fly: Flies, orchestrator: StandIn
) -> None:
    fly = make_fly()
    loop = asyncio.get_running_loop()
    orchestrator.work = [task(orchestrator, "t2")]

    def stop(body: dict[str, object]) -> None:
        machine = fly.inside.fleet.machines("arke-tiff-worker")[0]
        if machine.state == "started":
            asked = asyncio.run_coroutine_threadsafe(fly.ask("POST", {"id": machine.id}, "/stop"), loop)
            asked.result(WITHIN_S)

    orchestrator.on_callback = stop
    machine = await fly.created(env=task(orchestrator, "t1") | ours(orchestrator))
    await fly.reach(machine, "stopped")
    assert sent(orchestrator) == [("t1", "success"), ("t2", "released")]
    assert fly.told(what="lost") == []


async def test_a_task_without_its_variables_ends_the_machine_with_1(make_fly: Flies, orchestrator: StandIn) -> None:
    fly = make_fly()
    orchestrator.work = [{"TASK_ID": "t1"}]
    await fly.reach(await fly.created(env=ours(orchestrator)), "stopped")
    assert "CALLBACK_URL" in fly.told(what="undelivered")[0]["why"]
    assert fly.told(what="exit")[0]["code"] == 1


async def test_a_stop_ends_a_claim_that_waits(make_fly: Flies, orchestrator: StandIn) -> None:
    fly = make_fly()
    machine = await fly.created(env=ours(orchestrator, WORKER_IDLE_S="inf"))
    await fly.until(what="claim")
    await fly.ask("POST", machine, "/stop")
    await fly.reach(machine, "stopped")
    assert fly.told(what="exit")[0]["code"] == 0


async def test_a_destroyed_machine_says_nothing_more(make_fly: Flies, orchestrator: StandIn) -> None:
    fly = make_fly(work=always(60))
    machine = await fly.created(env=task(orchestrator, "t1") | ours(orchestrator))
    await fly.until(what="task")
    await fly.ask("DELETE", machine, params={"force": "true"})
    await fly.reach(machine, "destroyed")
    assert orchestrator.requests == []
    assert fly.told(what="destroy")[0]["was"] == "started"


async def test_a_callback_is_tried_again_until_it_is_answered(make_fly: Flies, orchestrator: StandIn) -> None:
    fly = make_fly()
    orchestrator.script = [(503, {"error": "away"}), (200, {"ok": True})]
    await fly.reach(await fly.created(env=task(orchestrator, "t1") | ours(orchestrator)), "stopped")
    assert sent(orchestrator) == [("t1", "success")] * 2


async def test_a_worker_of_the_originals_exits_with_1_when_nobody_answers(
    make_fly: Flies, orchestrator: StandIn
) -> None:
    fly = make_fly()
    orchestrator.script = [(503, {"error": "away"})]
    await fly.reach(await fly.created(env=task(orchestrator, "t1")), "stopped")
    assert fly.told(what="exit")[0]["code"] == 1
    assert fly.told(what="unreported")[0]["task"] == "t1"


async def test_a_machine_that_is_spent_all_the_same_is_slow_and_counted(make_fly: Flies, orchestrator: StandIn) -> None:
    """The worker does not know its allowance: its second task meets a machine that has only its share."""
    fly = make_fly(work=always(0.02), cpu=always(0.02), cpu_burst_s=0.02 * 0.9375)
    orchestrator.work = [task(orchestrator, "t2")]
    await fly.reach(await fly.created(env=task(orchestrator, "t1") | ours(orchestrator)), "stopped")
    took_s = {
        entry["task"]: entry["at"] - fly.told(what="task", task=entry["task"])[0]["at"]
        for entry in fly.told(what="callback")
    }
    assert took_s["t2"] > 0.02 * 16 * 0.9
    assert took_s["t1"] < took_s["t2"] / 2
    counters = fly.inside.fleet.counters()
    assert counters["throttled_ms"] == pytest.approx(300, abs=15)
    told = [body.get("throttled_ms") for body in orchestrator.callbacks()]
    assert told == [None, counters["throttled_ms"]]
    assert counters["cpu_ms"] == pytest.approx(40, abs=2)


@pytest.mark.parametrize(("keeps", "is_slow"), [(True, True), (False, False)])
async def test_whether_a_start_renews_the_balance_is_a_setting(
    make_fly: Flies, orchestrator: StandIn, keeps: bool, is_slow: bool
) -> None:
    fly = make_fly(work=always(0.02), cpu=always(0.02), cpu_burst_s=0.02 * 0.9375, keep_balance=keeps)
    machine = await fly.reach(await fly.created(env=task(orchestrator, "t1")), "stopped")
    await fly.ask("POST", machine, "/start")
    await fly.until(what="start", starts=2)
    await fly.reach(machine, "stopped")
    assert (fly.inside.fleet.counters()["throttled_ms"] > 150) is is_slow


async def test_a_seed_repeats_what_each_attempt_takes_on_whichever_machine(
    make_fly: Flies, orchestrator: StandIn
) -> None:
    took: list[dict[str, int]] = []
    for names in ("abcd", "dcba"):
        fly = make_fly(seed=5, work=always(0.1), cpu=Duration.parse("0.001..0.1"))
        for number, name in enumerate(names):
            await fly.reach(await fly.created(f"m{number}", env=task(orchestrator, name)), "stopped")
        took.append({body["task_id"]: body["cpu_ms"] for body in orchestrator.callbacks()[-4:]})
    assert took[0] == took[1]
    assert len(set(took[0].values())) > 1


async def test_a_thousand_machines_are_cheap(make_fly: Flies, monkeypatch: pytest.MonkeyPatch) -> None:
    """All alive at once in this process, each with two tasks of two seconds."""
    given: set[str] = set()

    async def post(
        self: Http, url: str, body: bytes, *, timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        if url.endswith("/claim") and len(given) < 1000:
            given.add(name := f"c{len(given)}")
            url = f"http://o/callback/b/{name}?run=1&attempt=1"
            env = f'{{"TASK_ID": "{name}", "BATCH_ID": "b", "INPUT_R2_KEY": "i.tif", "CALLBACK_URL": "{url}"}}'
            return 200, f'{{"tasks": [{env}]}}'.encode()
        return (204, b"") if url.endswith("/claim") else (200, b'{"ok": true}')

    monkeypatch.setattr(Http, "post", post)
    fly = make_fly(work=always(2.0), cpu=always(0.1))
    own = {"CLAIM_URL": "http://o/claim", "WORKER_CONCURRENCY": "1", "WORKER_IDLE_S": "0"}
    begun, used_s = time.monotonic(), time.process_time()
    for n in range(1000):
        env = {"TASK_ID": f"t{n}", "BATCH_ID": "b", "INPUT_R2_KEY": "i.tif", "CALLBACK_URL": f"http://o/{n}?attempt=1"}
        body = CreateMachine(name=f"m{n}", config=Config(image="w", env=env | own, restart=Restart(policy="no")))
        fly.inside.fleet.create("arke-tiff-worker", body, {})
    assert time.monotonic() - begun < 2.0, "all are alive before the first is done"
    async with asyncio.timeout(WITHIN_S):
        for machine in fly.inside.fleet.everywhere():
            await machine.until(lambda machine: machine.state == "stopped")
    counters = fly.inside.journal.counters
    assert (counters["create"], counters["exit"], counters["task"], counters["callback"]) == (1000, 1000, 2000, 2000)
    assert fly.inside.fleet.counters()["throttled_ms"] == 0
    assert time.process_time() - used_s < 3.0, "processor seconds; about one where nothing else runs"


async def test_a_machine_ends_before_it_is_slow(make_fly: Flies, orchestrator: StandIn) -> None:
    """With the allowance that its processors have, whichever of them work; all that it could do is done."""
    fly = make_fly(work=always(0.02), cpu=always(0.02), cpu_burst_s=0.1)
    orchestrator.work = [task(orchestrator, f"t{n}") for n in range(2, 99)]
    allowance = ours(orchestrator, WORKER_CONCURRENCY="2", WORKER_CPU_BURST_S="0.2", WORKER_CPU_RATE="0.125")
    env = task(orchestrator, "t1") | allowance
    await fly.reach(await fly.created(env=env, guest={"cpus": 2, "memory_mb": 512}), "stopped")
    assert fly.inside.fleet.counters()["throttled_ms"] == 0
    assert 8 <= len(sent(orchestrator)) <= 12
