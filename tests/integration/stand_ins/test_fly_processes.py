"""Machines that are real workers, and the stand-in as it is run by hand: over HTTP, as a process of its own."""

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from PIL import Image

from tests.integration.stand_ins.bench import WITHIN_S, Flies, ours, sent, task
from tests.stand_ins.fly import FlyStandIn, Settings, launched, serving
from tests.stand_ins.fly.stand_in import ROOT
from tests.stand_ins.orchestrator import StandIn

PROGRAM = "import signal, time; signal.signal(signal.SIGINT, signal.{}); print('up', flush=True); time.sleep(60)"
LISTENS = (sys.executable, "-c", PROGRAM.format("SIG_DFL"))
STUBBORN = (sys.executable, "-c", PROGRAM.format("SIG_IGN"))


def objects(folder: Path, *names: str) -> dict[str, str]:
    """A folder of objects with one TIFF for each task."""
    for name in names:
        path = folder / "arke-staging" / "in" / f"{name}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), "red").save(path)
    return {"OBJECTS_DIR": str(folder)}


async def test_a_machine_is_a_real_worker_that_converts(make_fly: Flies, orchestrator: StandIn, tmp_path: Path) -> None:
    fly = make_fly(machines="processes", logs=tmp_path / "logs")
    orchestrator.work = [task(orchestrator, "t2")]
    env = task(orchestrator, "t1") | ours(orchestrator) | objects(tmp_path, "t1", "t2")
    machine = await fly.reach(await fly.created(env=env), "stopped")
    assert sent(orchestrator) == [("t1", "success"), ("t2", "success")]
    assert (tmp_path / "arke-staging" / "in" / "t2.jpg").read_bytes()[:2] == b"\xff\xd8"
    assert machine["events"][0]["request"]["exit_event"]["exit_code"] == 0
    assert (tmp_path / "logs" / "m.log").is_file()


async def test_a_simulated_and_a_real_worker_report_alike(
    make_fly: Flies, orchestrator: StandIn, tmp_path: Path
) -> None:
    told: list[dict[str, Any]] = []
    for machines in ("processes", "simulated"):
        fly = make_fly(machines=machines)
        env = task(orchestrator, "t1") | ours(orchestrator, WORKER_IDLE_S="0") | objects(tmp_path, "t1")
        await fly.reach(await fly.created(env=env), "stopped")
        told.append(orchestrator.callbacks()[-1])
    for report in told:
        report.pop("throttled_ms", None)  # the real one tells what this computer's own host takes, where there is one
    real, simulated = told
    assert set(simulated) == set(real)
    assert all(real[field] == simulated[field] for field in ("status", "output_r2_key", "output_file_name", "pages"))
    claims = orchestrator.claims()
    assert set(claims[0]) == set(claims[-1])


@pytest.mark.parametrize(
    ("command", "timeout", "signal"), [(LISTENS, "20s", 2), (STUBBORN, "0.1s", 9)], ids=["listens", "stubborn"]
)
async def test_a_stop_sends_sigint_and_kills_who_does_not_listen(
    make_fly: Flies, tmp_path: Path, command: tuple[str, ...], timeout: str, signal: int
) -> None:
    fly = make_fly(machines="processes", command=command, logs=tmp_path)
    machine = await fly.created()
    await up(tmp_path / "m.log")
    await fly.ask("POST", machine, "/stop", json={"timeout": timeout})
    told = (await fly.reach(machine, "stopped"))["events"][0]["request"]["exit_event"]
    assert (told["signal"], told["exit_code"], told["requested_stop"]) == (signal, 128 + signal, True)


async def up(log: Path) -> None:
    """Until a program has said so."""
    async with asyncio.timeout(WITHIN_S):
        while not (log.exists() and log.read_text()):  # noqa: ASYNC110  (another process, which sends no event)
            await asyncio.sleep(0.02)


def running(command: tuple[str, ...]) -> int:
    """How many children of ours run this."""
    return sum(_line_of(child) == list(command) for child in psutil.Process().children())


def _line_of(process: psutil.Process) -> list[str]:
    """Its command line; empty when it has ended, reaped or not: another test may have left one of those."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


async def test_no_process_outlives_its_machine_or_the_stand_in(make_fly: Flies, tmp_path: Path) -> None:
    fly = make_fly(machines="processes", command=LISTENS, logs=tmp_path)
    machine = await fly.created("m")
    await fly.created("other")
    await up(tmp_path / "m.log")
    await up(tmp_path / "other.log")
    assert running(LISTENS) == 2
    await fly.ask("DELETE", machine, params={"force": "true"})
    await fly.reach(machine, "destroyed")
    await fly.inside.close()
    assert running(LISTENS) == 0


@pytest.mark.parametrize(("fault", "code", "oom_killed"), [("dies", 1, False), ("oom", 137, True)])
async def test_real_machines_can_be_made_to_die(make_fly: Flies, fault: str, code: int, oom_killed: bool) -> None:
    fly = make_fly({fault: 1.0}, machines="processes", command=LISTENS)
    machine = await fly.reach(await fly.created(), "stopped")
    told = machine["events"][0]["request"]["exit_event"]
    assert (told["exit_code"], told["oom_killed"]) == (code, oom_killed)


# Behind a socket


async def test_it_serves_http_until_it_is_left(orchestrator: StandIn) -> None:
    stand_in = FlyStandIn(Settings(token="FlyV1 secret"))
    async with serving(stand_in) as url, httpx.AsyncClient(headers={"Authorization": "FlyV1 secret"}) as client:
        assert url.endswith("/v1")
        body = {"name": "a", "skip_launch": True, "config": {"image": "a"}}
        made = await client.post(f"{url}/apps/arke-tiff-worker/machines", json=body)
        assert made.status_code == 200
        assert (await client.get(f"{url}/apps/arke-tiff-worker/machines")).json()[0]["name"] == "a"


async def test_answers_are_not_held_back() -> None:
    """Headers and body are sent apart: without TCP_NODELAY each answer would wait 40 ms for an acknowledgement."""
    took_s: list[float] = []
    stand_in = FlyStandIn(Settings(limits=False))
    async with serving(stand_in) as url, httpx.AsyncClient(headers={"Authorization": "Bearer fly-stand-in"}) as client:
        for n in range(10):
            begun = time.monotonic()
            body = {"name": f"m{n}", "skip_launch": True, "config": {"image": "a"}}
            await client.post(f"{url}/apps/arke-tiff-worker/machines", json=body)
            took_s.append(time.monotonic() - begun)
    assert sorted(took_s)[3] < 0.03


def test_it_runs_by_hand_with_what_its_options_say() -> None:
    faults = ("--fault", "quota@iad=1")
    durations = ("--boot", "0", "--pull", "0..0.01", "--work", "0.01", "--cpu", "0")
    options = ("--quiet", "--app", "one", "--app", "two", "--token", "t", "--no-limits", *faults, *durations)
    with launched(options) as url, httpx.Client(headers={"Authorization": "Bearer t"}) as client:
        for n in range(5):
            made = client.post(f"{url}/apps/two/machines", json={"name": f"m{n}", "config": {"image": "a"}})
            assert made.status_code == 200, made.text
        refused = client.post(f"{url}/apps/one/machines", json={"region": "iad", "config": {"image": "a"}})
        assert refused.status_code == 403
        root = url.removesuffix("/v1")
        assert client.get(f"{root}/_counters").json()["create"] == 5
        assert client.get(f"{root}/_faults").json()["rates"] == {"quota@iad": 1.0}


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--help"], 0, {"never_boots", "--boot", "FLY_API_URL"}),
        (["--fault", "nonsense=1"], 2, {"nonsense", "never_boots"}),
        (["--boot", "soon"], 2, {"--boot"}),
    ],
)
def test_its_help_names_the_faults_and_wrong_options_say_why(options: list[str], code: int, words: set[str]) -> None:
    command = (sys.executable, "-m", "tests.stand_ins.fly", *options)
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == code
    assert {word for word in words if word in ended.stdout + ended.stderr} == words


def test_token_and_apps_are_those_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the service needs FLY_API_URL only, where both read the same environment."""
    monkeypatch.setenv("FLY_API_TOKEN", "FlyV1 fm2_x")
    monkeypatch.setenv("FLY_APP_NAMES", "one, two")
    with launched(["--quiet"]) as url:
        for app, status in (("one", 200), ("two", 200), ("arke-tiff-worker", 404)):
            answer = httpx.get(f"{url}/apps/{app}/machines", headers={"Authorization": "FlyV1 fm2_x"})
            assert answer.status_code == status


def test_it_ends_when_asked_though_a_request_still_hangs() -> None:
    headers = {"Authorization": "Bearer t"}
    body = {"name": "m", "config": {"image": "a"}}
    begun = time.monotonic()
    options = ["--quiet", "--fault", "create_times_out=1", "--token", "t", "--app", "one"]
    with launched(options) as url, pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{url}/apps/one/machines", timeout=0.5, headers=headers, json=body)
    assert time.monotonic() - begun < 10
