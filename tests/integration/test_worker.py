"""The worker against a real HTTP server that plays the orchestrator: both as a thread and as a process."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.stand_ins.orchestrator import WAIT_S, Answer, StandIn
from worker import callback, loop
from worker.kinds import tiff
from worker.kinds.base import Context, Outcome

BUCKET = "arke-staging"


@pytest.fixture
def server() -> Iterator[StandIn]:
    """A stand-in for the orchestrator."""
    stand_in = StandIn()
    yield stand_in
    stand_in.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeats come at once."""
    monkeypatch.setattr(callback, "BACKOFF_FIRST_S", 0.01)


@pytest.fixture
def objects(tmp_path: Path) -> Path:
    """A folder of objects with one TIFF in it."""
    folder = tmp_path / "objects"
    (folder / BUCKET / "staging").mkdir(parents=True)
    Image.linear_gradient("L").convert("RGB").save(folder / BUCKET / "staging" / "p1.TIFF")
    return folder


def task(server: StandIn, number: int = 1, **more: str) -> dict[str, str]:
    """The variables of a task, as `next` and claims carry them."""
    return {
        "TASK_ID": f"b_tiff_{number}",
        "BATCH_ID": "b",
        "INPUT_R2_KEY": "staging/p1.TIFF",
        "OUTPUT_R2_KEY": f"staging/out-{number}.jpg",
        "CALLBACK_URL": f"{server.url}/callback/b/b_tiff_{number}?run=1&attempt={number}&sig=a%2Fb",
        **more,
    }


def task_without_server(callback_url: str, **more: str) -> dict[str, str]:
    """A task whose reports go elsewhere."""
    return {
        "TASK_ID": "b_tiff_1", "BATCH_ID": "b", "INPUT_R2_KEY": "staging/p1.TIFF", "CALLBACK_URL": callback_url, **more,
    }  # fmt: skip


def machine(server: StandIn, objects: Path, **more: str) -> dict[str, str]:
    """The variables of a machine that claims."""
    return {
        "OBJECTS_DIR": str(objects),
        "CLAIM_URL": f"{server.url}/machines/claim",
        "MACHINE_NAME": "m1",
        "MACHINE_TOKEN": "token",
        "WORKER_IDLE_S": "0",
        "WORKER_CONCURRENCY": "1",
        "WORKER_CALLBACK_S": "5",
        **more,
    }


def run(env: dict[str, str]) -> int:
    """Runs the loop to its end in this process."""
    return loop.run(env, stop=threading.Event())


def start(env: dict[str, str], stop: threading.Event) -> tuple[threading.Thread, list[int]]:
    """Runs the loop in a thread, as a warm actor does."""
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(loop.run(env, stop=stop)), daemon=True)
    thread.start()
    return thread, codes


class Held:
    """A kind whose work lasts until the task is cancelled or the test lets it go."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go = threading.Event()

    def run(self, context: Context) -> Outcome:
        self.begun.set()
        while not self.go.wait(0.01):
            context.check_wanted()
        return Outcome(output_r2_key="k", output_file_name="k", output_file_size=1, performance={})


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    """Replaces the conversion by one that the test controls."""
    kind = Held()
    monkeypatch.setattr(tiff, "run", kind.run)
    return kind


def test_original_contract_from_download_to_callback(server: StandIn, objects: Path) -> None:
    """Without what this project adds, the output goes next to the source, the report has the originals' fields, and the
    URL of the callback is used verbatim."""
    env = task(server, OBJECTS_DIR=str(objects), OUTPUT_R2_KEY="")
    assert run(env) == 0
    (report,) = server.callbacks()
    assert report["status"] == "success"
    assert report["output_r2_key"] == "staging/p1.jpg"
    assert report["output_file_name"] == "p1.jpg"
    output = objects / BUCKET / "staging" / "p1.jpg"
    assert report["output_file_size"] == output.stat().st_size
    assert {"total_time_ms", "download_time_ms", "conversion_time_ms", "upload_time_ms"} <= set(report["performance"])
    assert "accepts_next" not in report
    assert server.requests[0][0] == "/callback/b/b_tiff_1?run=1&attempt=1&sig=a%2Fb"
    with Image.open(output) as picture:
        assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (256, 256))


def test_missing_object_is_reported_and_exits_1(server: StandIn, objects: Path) -> None:
    """The error carries "404 Not Found", is not to be retried, and the process fails as the originals' does."""
    assert run(task(server, OBJECTS_DIR=str(objects), INPUT_R2_KEY="staging/none.tif")) == 1
    (report,) = server.callbacks()
    assert report["error"] == "Failed to download TIFF: 404 Not Found"
    assert report["retryable"] is False


def test_invalid_tiff_is_reported_without_paths(server: StandIn, objects: Path) -> None:
    """What is no TIFF is an error that no retry helps; the sentence names no file of the machine."""
    (objects / BUCKET / "staging" / "bad.tif").write_bytes(b"II*\0 this is not a picture")
    assert run(task(server, OBJECTS_DIR=str(objects), INPUT_R2_KEY="staging/bad.tif")) == 1
    (report,) = server.callbacks()
    assert report["error"].startswith("Failed to convert TIFF: ")
    assert "/" not in report["error"]
    assert report["retryable"] is False


@pytest.mark.parametrize("key", ["../secret.tif", "/etc/passwd", "staging/../../x.tif"])
def test_keys_outside_of_the_bucket_are_refused(server: StandIn, objects: Path, key: str) -> None:
    """A key that would leave the folder of objects fails the task."""
    assert run(task(server, OBJECTS_DIR=str(objects), INPUT_R2_KEY=key)) == 1
    assert "is not allowed" in server.callbacks()[0]["error"]


@pytest.mark.parametrize(
    "answer", [(503, {"error": "busy"}), (429, {}), (408, {}), (404, b"<html>404 page not found</html>"), (500, b"")]
)
def test_callback_is_repeated_until_it_arrives(server: StandIn, objects: Path, answer: Answer) -> None:
    """Errors of the way, and a 404 that is not the service's own, are tried again; the repeats are identical."""
    server.script = [answer, answer]
    assert run(task(server, OBJECTS_DIR=str(objects))) == 0
    first, second, third = server.callbacks()
    assert first == second == third


@pytest.mark.parametrize("status", [400, 403, 404])
def test_refused_callback_is_not_repeated(server: StandIn, objects: Path, status: int) -> None:
    """The service's own refusal ends the matter: logged, exit code 1."""
    server.script = [(status, {"error": "no"})]
    assert run(task(server, OBJECTS_DIR=str(objects))) == 1
    assert len(server.callbacks()) == 1


def test_unreachable_orchestrator_ends_with_1(objects: Path) -> None:
    """With nobody listening, the report is given up after its time and the exit code says so."""
    gone = StandIn()
    gone.close()
    assert run(task(gone, OBJECTS_DIR=str(objects), WORKER_CALLBACK_S="0.2")) == 1


def test_next_in_the_answer_is_run_without_a_claim(server: StandIn, objects: Path) -> None:
    """Answers hand over the next tasks; the machine claims only when an answer brought none."""
    server.work = [task(server, 2), task(server, 3)]
    assert run(machine(server, objects) | task(server)) == 0
    assert [report["task_id"] for report in server.callbacks()] == ["b_tiff_1", "b_tiff_2", "b_tiff_3"]
    assert all(report["accepts_next"] for report in server.callbacks())
    assert len(server.claims()) == 1


def test_claim_carries_name_and_token(server: StandIn, objects: Path) -> None:
    """A machine without a task begins with a claim."""
    server.work = [task(server)]
    assert run(machine(server, objects)) == 0
    claim = server.claims()[0]
    assert (claim["machine"], claim["kinds"], claim["free"]) == ("m1", ["tiff"], 1)
    assert server.requests[0][2]["Authorization"] == "Bearer token"
    assert server.callbacks()[0]["status"] == "success"


def test_claim_keeps_its_id_when_repeated(server: StandIn, objects: Path) -> None:
    """A claim whose answer was lost is sent again under its id, so that no task is assigned twice."""
    server.script = [(503, {"error": "busy"})]
    assert run(machine(server, objects)) == 0
    first, second = server.claims()
    assert first["claim"] == second["claim"]


def test_tasks_cannot_change_the_machine(server: StandIn, objects: Path) -> None:
    """What comes from afar names tasks; where objects are and who asks stays as the machine was given it."""
    server.work = [task(server, OBJECTS_DIR="/nowhere", WORKER_MAX_TASKS="1", MACHINE_TOKEN="other")]
    assert run(machine(server, objects)) == 0
    assert server.callbacks()[0]["status"] == "success"


def test_retired_machine_exits_in_peace(server: StandIn, objects: Path) -> None:
    """410 means exit; it is no failure."""
    server.script = [(410, {"error": "This machine is retired: exit."})]
    assert run(machine(server, objects, WORKER_IDLE_S="inf")) == 0
    assert len(server.claims()) == 1


def test_wrong_token_exits_with_1(server: StandIn, objects: Path) -> None:
    """401 is not repeated."""
    server.script = [(401, {"error": "A valid key is needed"})]
    assert run(machine(server, objects)) == 1
    assert len(server.claims()) == 1


@pytest.mark.parametrize("limit", [{"WORKER_MAX_TASKS": "2"}, {"WORKER_MAX_TASKS": "2", "WORKER_CONCURRENCY": "2"}])
def test_machine_retires_after_its_number_of_tasks(server: StandIn, objects: Path, limit: dict[str, str]) -> None:
    """The last task says that no other is accepted, and nothing is claimed after it."""
    server.work = [task(server, number) for number in range(2, 8)]
    assert run(machine(server, objects, **limit) | task(server)) == 0
    reports = server.callbacks()
    assert len(reports) == 2
    assert "accepts_next" not in reports[-1]


@pytest.mark.parametrize("limit", [{"WORKER_MAX_AGE_S": "0"}, {"WORKER_CPU_BURST_S": "0"}])
def test_spent_machine_takes_no_more(server: StandIn, objects: Path, limit: dict[str, str]) -> None:
    """Age and processor allowance end a machine after the task it has."""
    server.work = [task(server, 2)]
    assert run(machine(server, objects, **limit) | task(server)) == 0
    assert [report["task_id"] for report in server.callbacks()] == ["b_tiff_1"]
    assert server.claims() == []


def test_two_tasks_at_once(server: StandIn, objects: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With WORKER_CONCURRENCY=2 the second thread claims while the first works: both meet at a barrier."""
    barrier = threading.Barrier(2, timeout=WAIT_S)

    def meet(context: Context) -> Outcome:
        barrier.wait()
        return Outcome(output_r2_key="k", output_file_name="k", output_file_size=1, performance={})

    monkeypatch.setattr(tiff, "run", meet)
    server.work = [task(server, 2)]
    env = machine(server, objects, WORKER_CONCURRENCY="2") | task(server)
    assert run(env) == 0
    assert {report["task_id"] for report in server.callbacks()} == {"b_tiff_1", "b_tiff_2"}


def test_stop_gives_the_task_back(server: StandIn, objects: Path, held: Held) -> None:
    """A stop reports `released` once, and nothing else about the task."""
    stop = threading.Event()
    thread, codes = start(machine(server, objects) | task(server), stop)
    assert held.begun.wait(WAIT_S)
    stop.set()
    thread.join(WAIT_S)
    assert codes == [0]
    assert [report["status"] for report in server.callbacks()] == ["released"]


def test_stop_ends_a_waiting_claim_at_once(server: StandIn, objects: Path) -> None:
    """A machine that waits for work in a long poll hangs up when it is stopped."""
    asked, release = threading.Event(), threading.Event()

    def hang() -> Answer:
        asked.set()
        release.wait(WAIT_S)
        return 204, None

    server.on_claim = hang
    stop = threading.Event()
    thread, codes = start(machine(server, objects, WORKER_IDLE_S="inf"), stop)
    assert asked.wait(WAIT_S)
    stop.set()
    thread.join(loop.END_WITHIN_S / 2)
    release.set()
    assert codes == [0]


def test_task_that_arrives_with_the_stop_is_given_back(server: StandIn, objects: Path) -> None:
    """The answer to a result brings a task while the machine is told to stop: that task is released, not run."""
    stop = threading.Event()

    def stop_and_hand_over(body: dict[str, Any]) -> Answer | None:
        stop.set()
        handed = body["status"] == "success"
        return (200, {"ok": True, "next": task(server, 2)}) if handed else None

    server.on_callback = stop_and_hand_over
    thread, codes = start(machine(server, objects) | task(server), stop)
    thread.join(WAIT_S)
    assert codes == [0]
    reports = [(report["task_id"], report["status"]) for report in server.callbacks()]
    assert reports == [("b_tiff_1", "success"), ("b_tiff_2", "released")]


def test_refused_report_does_not_end_the_machine(server: StandIn, objects: Path) -> None:
    """A machine whose report is refused (its batch is gone) asks for other work."""
    server.script = [(404, {"error": "unknown"})]
    server.work = [task(server, 2)]
    assert run(machine(server, objects) | task(server)) == 0
    assert [report["task_id"] for report in server.callbacks()] == ["b_tiff_1", "b_tiff_2"]


def test_long_task_shows_life_and_ends_normally(server: StandIn, objects: Path, held: Held) -> None:
    """A task that lasts says "running" at its interval, then its result."""
    env = machine(server, objects, WORKER_HEARTBEAT_S="0.05") | task(server)
    thread, codes = start(env, threading.Event())
    server.wait_for(lambda: len(server.callbacks()) >= 2)
    held.go.set()
    thread.join(WAIT_S)
    statuses = [report["status"] for report in server.callbacks()]
    assert codes == [0]
    assert statuses[-1] == "success"
    assert set(statuses[:-1]) == {"running"}


def test_unanswered_signs_of_life_keep_no_stop_back(
    server: StandIn, objects: Path, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While two signs of life get no answer, a stop gives both tasks back; neither task gives a second sign."""
    monkeypatch.setattr(callback, "HEARTBEAT_TIMEOUT_S", 3600.0)
    answer, looked = threading.Event(), threading.Semaphore(0)
    look = loop._Machine._signs_of_life

    def looking(machine: loop._Machine) -> None:
        look(machine)
        looked.release()

    monkeypatch.setattr(loop._Machine, "_signs_of_life", looking)

    def hang(body: dict[str, Any]) -> Answer | None:
        if body["status"] == "running":
            answer.wait(WAIT_S)
        return None

    server.on_callback = hang
    server.work = [task(server, 2)]
    stop = threading.Event()
    env = machine(server, objects, WORKER_HEARTBEAT_S="0.05", WORKER_CONCURRENCY="2") | task(server)
    thread, codes = start(env, stop)
    server.wait_for(lambda: len(server.callbacks()) == 2)
    while looked.acquire(blocking=False):
        """What was looked at before."""
    for _ in range(10):  # each half an interval after the other
        assert looked.acquire(timeout=WAIT_S)
    stop.set()
    server.wait_for(lambda: len(server.callbacks()) >= 4)
    thread.join(WAIT_S)
    answer.set()
    reports = sorted((report["task_id"], report["status"]) for report in server.callbacks())
    assert reports == [(f"b_tiff_{number}", status) for number in (1, 2) for status in ("released", "running")]
    assert codes == [0]


def test_stop_in_the_answer_ends_the_task_silently(server: StandIn, objects: Path, held: Held) -> None:
    """A task that is no longer wanted is dropped; the machine goes on with another."""

    def stop_first(body: dict[str, Any]) -> Answer | None:
        unwanted = body["status"] == "running" and body["task_id"] == "b_tiff_1"
        if unwanted:
            held.go.clear()
            server.work.append(task(server, 2))
        else:
            held.go.set()
        return (200, {"ok": True, "stop": True}) if unwanted else None

    server.on_callback = stop_first
    env = machine(server, objects, WORKER_HEARTBEAT_S="0.05") | task(server)
    thread, codes = start(env, threading.Event())
    thread.join(WAIT_S)
    assert codes == [0]
    final = [(report["task_id"], report["status"]) for report in server.callbacks() if report["status"] != "running"]
    assert final == [("b_tiff_2", "success")]


def process(env: dict[str, str], *arguments: str) -> "subprocess.Popen[str]":
    """`python -m worker` as users and providers start it."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    return subprocess.Popen(
        [sys.executable, "-m", "worker", *arguments],
        env=kept | env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=Path(loop.__file__).parent.parent,
    )  # fmt: skip


@pytest.mark.parametrize("missing", ["TASK_ID", "BATCH_ID", "INPUT_R2_KEY", "CALLBACK_URL"])
def test_missing_variable_is_said_on_stderr(server: StandIn, objects: Path, missing: str) -> None:
    """Exit code 1, the variable named, no callback."""
    env = task(server, OBJECTS_DIR=str(objects))
    del env[missing]
    _, errors = (worker := process(env)).communicate(timeout=WAIT_S)
    assert worker.returncode == 1
    assert missing in errors
    assert server.requests == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_gives_back_and_ends(server: StandIn, objects: Path, number: signal.Signals) -> None:
    """A signal in the middle of a conversion: `released`, exit code 0, nothing uploaded."""
    noise = Image.effect_noise((3200, 2600), 100)
    noise.convert("RGB").save(objects / BUCKET / "staging" / "big.tif")
    env = machine(server, objects, WORKER_HEARTBEAT_S="0.2") | task(server, INPUT_R2_KEY="staging/big.tif")
    worker = process(env)
    server.wait_for(lambda: len(server.callbacks()) >= 1)
    worker.send_signal(number)
    _, errors = worker.communicate(timeout=WAIT_S)
    assert worker.returncode == 0, errors
    assert [report["status"] for report in server.callbacks()][-1] == "released"
    assert not (objects / BUCKET / "staging" / "out-1.jpg").exists()


def test_pull_worker_claims_with_its_key(server: StandIn, objects: Path) -> None:
    """`--pull URL --key KEY` asks at the claim address of the service and works until it is stopped."""
    server.work = [task(server)]
    worker = process({"OBJECTS_DIR": str(objects)}, "--pull", server.url, "--key", "KEY", "--concurrency", "1")
    server.wait_for(lambda: len(server.callbacks()) >= 1)
    worker.send_signal(signal.SIGTERM)
    worker.communicate(timeout=WAIT_S)
    assert worker.returncode == 0
    assert server.callbacks()[0]["status"] == "success"
    assert server.requests[0][2]["Authorization"] == "Bearer KEY"


def test_worker_is_slim() -> None:
    """A worker process loads no ray, fastapi, database or pydantic, and no S3 client when it needs none."""
    heavy = ("ray", "fastapi", "starlette", "sqlalchemy", "pydantic", "boto3", "httpx", "PIL")
    code = (
        "import sys, worker.__main__, worker.kinds.tiff, worker.objects.local, worker.vips; worker.vips.load();"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(loop.__file__).parent.parent
    )
    assert done.stdout.strip() == "[]"


def test_help_teaches() -> None:
    """`--help` shows how to pull."""
    out, _ = process({}, "--help").communicate(timeout=WAIT_S)
    assert "--pull" in out
    assert "example:" in out


def test_leaves_no_folders_behind(
    server: StandIn, objects: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a task downloads and makes is removed, whether it succeeds or fails."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    run(task(server, OBJECTS_DIR=str(objects)))
    run(task(server, OBJECTS_DIR=str(objects), INPUT_R2_KEY="staging/none.tif"))
    assert list(scratch.iterdir()) == []
    shutil.rmtree(scratch)


@pytest.mark.parametrize("url", ["notaurl", "file:///etc/passwd", "http://127.0.0.1:99999/?sig=SECRET", "http://h/a b"])
def test_invalid_callback_url_ends_before_the_work(
    objects: Path, capsys: pytest.CaptureFixture[str], held: Held, url: str
) -> None:
    """Exit code 1 and one sentence with the variable's name, before anything is converted."""
    assert run(task_without_server(url, OBJECTS_DIR=str(objects))) == 1
    assert re.fullmatch(r"CALLBACK_URL is not a valid URL[^\n]*\n", capsys.readouterr().err)
    assert not held.begun.is_set()


def test_invalid_input_url_is_final(server: StandIn, caplog: pytest.LogCaptureFixture) -> None:
    """One callback that names the variable, not to be retried; nowhere a part of the URL, nor a traceback."""
    urls = {"INPUT_URL": "http://h/my scan.tif?sig=SECRETSIG", "OUTPUT_URL": "http://h/o?sig=SECRETSIG"}
    assert run(task(server, **urls)) == 1
    (report,) = server.callbacks()
    assert (report["error"], report["retryable"]) == ("INPUT_URL is not a valid URL", False)
    assert "SECRETSIG" not in caplog.text
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("variable", ["OBJECTS_DIR", "R2_ENDPOINT_URL", "R2_ACCOUNT_ID"])
def test_claiming_machine_without_objects_does_not_start(
    server: StandIn, objects: Path, capsys: pytest.CaptureFixture[str], variable: str
) -> None:
    """It would fail every task: exit code 1, the variables named, nothing claimed."""
    server.work = [task(server)]
    env = machine(server, objects)
    del env["OBJECTS_DIR"]
    assert run(env) == 1
    assert variable in capsys.readouterr().err
    assert server.requests == []


def test_task_of_a_machine_without_objects_is_not_lost(server: StandIn) -> None:
    """A task that only another machine can do is an error that may be retried."""
    assert run(task(server)) == 1
    (report,) = server.callbacks()
    assert "OBJECTS_DIR" in report["error"]
    assert report.get("retryable", True) is True


def test_invalid_setting_is_reported(server: StandIn, objects: Path) -> None:
    """A machine that is set wrongly gives the task to another one."""
    assert run(task(server, OBJECTS_DIR=str(objects), WORKER_CONCURRENCY="0")) == 1
    (report,) = server.callbacks()
    assert (report["status"], report.get("retryable", True)) == ("error", True)
    assert report["error"].startswith("WORKER_CONCURRENCY must be a number")


def test_claimed_task_with_invalid_callback_url(
    server: StandIn, objects: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It cannot be reported: the machine ends with 1, as for a task that lacks a variable."""
    server.work = [task(server, CALLBACK_URL="http://h/a b?sig=SECRET")]
    assert run(machine(server, objects)) == 1
    assert server.callbacks() == []
    assert "the orchestrator sent a task whose CALLBACK_URL is not a valid URL" in caplog.text
    assert "Traceback" not in caplog.text


def test_a_claim_waits_no_longer_than_the_machine_stays(server: StandIn, objects: Path) -> None:
    """What is left of its idle time when it asks again: a second whole one would be paid for nothing."""
    assert run(machine(server, objects, WORKER_IDLE_S="1.2")) == 0
    waits_ms = [claim["wait_ms"] for claim in server.claims()]
    assert len(waits_ms) >= 2
    assert waits_ms == sorted(waits_ms, reverse=True)
    assert waits_ms[-1] < waits_ms[0] <= 1200
