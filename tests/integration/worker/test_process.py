"""`python -m worker` as machines run it, with servers for its objects and its reports: every outcome is told once."""

import io
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.stand_ins.orchestrator import WAIT_S, StandIn
from tests.stand_ins.presigned import PresignedServer
from worker import loop

ROOT = Path(loop.__file__).resolve().parents[1]
KEY = "staging/a/p1.TIFF"


def task(server: StandIn, presigned: PresignedServer, **more: str) -> dict[str, str]:
    """The environment of a machine with one task and presigned URLs."""
    return {
        "TASK_ID": "b_tiff_1",
        "BATCH_ID": "b",
        "INPUT_R2_KEY": KEY,
        "CALLBACK_URL": f"{server.url}/callback/b/b_tiff_1?sig=s",
        "INPUT_URL": presigned.link(KEY),
        "OUTPUT_URL": presigned.link("staging/a/p1.jpg"),
        **more,
    }


def start(env: dict[str, str], *command: str) -> "subprocess.Popen[str]":
    """The worker in a session of its own, as a provider starts it."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "PYTHONPATH") if name in os.environ}
    return subprocess.Popen(
        [sys.executable, *(command or ("-m", "worker"))],
        env=kept | env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True,
    )  # fmt: skip


def run(env: dict[str, str], *command: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    worker = start(env, *command)
    out, errors = worker.communicate(timeout=120)
    return worker.returncode, out, errors


def tiff(size: tuple[int, int] = (300, 200), **more: Any) -> bytes:
    """A grey gradient as a TIFF."""
    out = io.BytesIO()
    Image.linear_gradient("L").resize(size).save(out, "TIFF", **more)
    return out.getvalue()


def wrecked() -> bytes:
    """Valid at its ends, and nonsense where the compressed pixels are."""
    whole = bytearray(tiff((900, 700), compression="tiff_lzw"))
    whole[2000:6000] = b"\xff\x00\xaa" * 1333 + b"\xff"
    return bytes(whole)


def bomb(width: int, height: int) -> bytes:
    """A few hundred kB that unpack to one bit a pixel."""
    out = io.BytesIO()
    Image.new("1", (width, height)).save(out, "TIFF", compression="tiff_adobe_deflate")
    return out.getvalue()


def only_error(server: StandIn) -> dict[str, Any]:
    """The one report, which must be an error in one sentence without a path."""
    (report,) = server.callbacks()
    assert report["status"] == "error"
    sentence = report["error"]
    assert "\n" not in sentence
    assert len(sentence) <= 400
    assert not re.search(r"/(tmp|var|home|root|work)\b|input\.tif|Traceback", sentence)
    return report


@pytest.mark.parametrize(
    ("body", "sentence", "retryable"),
    [
        pytest.param(tiff()[:30_000], ".", False, id="truncated"),
        pytest.param(wrecked(), ".", False, id="corrupt"),
        pytest.param(b"%PDF-1.7 and so on" * 99, ".", False, id="not a TIFF"),
        pytest.param(b"", ".", False, id="empty"),
        pytest.param(bomb(60_000, 5_000), "300000000 pixels; the limit is 268402689", False, id="bomb"),
        pytest.param(bomb(70_000, 10), "at most 65535 a side", False, id="too wide"),
        pytest.param(bomb(5_000, 4_000), r"20000000 pixels and needs 143 MB .* with \d+ MB would do", True, id="large"),
        pytest.param(b"do: segfault", r"The decoder crashed on this file \(segmentation fault\)", False, id="crash"),
        pytest.param(b"do: abort", r"The decoder crashed on this file \(aborted\)", False, id="abort"),
        pytest.param(b"do: killed", r"The converter was killed \(SIGKILL\), perhaps .*", True, id="killed"),
        pytest.param(b"do: hang", "The conversion took longer than 2 s, the limit", True, id="hang"),
        pytest.param(b"do: bug", "RuntimeError: odd", True, id="bug"),
    ],
)  # fmt: skip
def test_each_failure_is_one_error_callback(
    server: StandIn, presigned: PresignedServer, decoder_stand_in: str, body: bytes, sentence: str, retryable: bool
) -> None:
    """Whatever the file is or does to the decoder: one error callback with one sentence, exit code 1, no output."""
    presigned.objects[KEY] = body
    limits = {"WORKER_MEMORY_MB": "128"} | ({"WORKER_TASK_MAX_S": "2"} if body == b"do: hang" else {})
    code, _, errors = run(task(server, presigned, **limits))
    report = only_error(server)
    assert re.match(f"Failed to convert TIFF: .*{sentence}", report["error"])
    assert report.get("retryable", True) is retryable
    assert code == 1, errors
    assert "staging/a/p1.jpg" not in presigned.objects


def test_hundred_megapixels_in_a_gigabyte(server: StandIn, presigned: PresignedServer) -> None:
    """A machine of 1 GB converts them; worker and converter together stay below it."""
    presigned.objects[KEY] = bomb(10_000, 10_000)
    code, _, errors = run(task(server, presigned, WORKER_MEMORY_MB="1024", WORKER_HEARTBEAT_S="1000"))
    (report,) = server.callbacks()
    assert (code, report["status"]) == (0, "success"), errors
    assert 600 < report["performance"]["peak_memory_mb"] < 880


def test_missing_object(server: StandIn, presigned: PresignedServer) -> None:
    """The originals' words, exit code 1."""
    code, _, _ = run(task(server, presigned))
    assert (code, only_error(server)["error"]) == (1, "Failed to download TIFF: 404 Not Found")


def test_expired_url(server: StandIn, presigned: PresignedServer) -> None:
    """The task may be tried again, with another URL."""
    presigned.objects[KEY] = tiff()
    presigned.faults["GET"] = ["expired"]
    code, _, _ = run(task(server, presigned))
    report = only_error(server)
    assert report["error"].startswith("Failed to download TIFF: 403 Request has expired")
    assert (code, "retryable" in report) == (1, False)


def test_upload_that_is_refused(server: StandIn, presigned: PresignedServer) -> None:
    """The step is named."""
    presigned.objects[KEY] = tiff()
    presigned.faults["PUT"] = ["expired"]
    code, _, _ = run(task(server, presigned))
    assert only_error(server)["error"].startswith("Failed to upload JPEG: 403 ")
    assert code == 1


def test_network_that_recovers_costs_nothing(server: StandIn, presigned: PresignedServer) -> None:
    """Cuts and a busy server on both ways, and the picture arrives."""
    presigned.objects[KEY] = tiff()
    presigned.faults["GET"] = ["cut", "reset"]
    presigned.faults["PUT"] = ["busy"]
    code, _, errors = run(task(server, presigned))
    (report,) = server.callbacks()
    assert (code, report["status"]) == (0, "success"), errors
    assert len(presigned.objects["staging/a/p1.jpg"]) == report["output_file_size"]


def test_unreachable_orchestrator(server: StandIn, presigned: PresignedServer) -> None:
    """Logged with its place but not its signature, exit code 1."""
    presigned.objects[KEY] = tiff()
    server.close()
    code, _, errors = run(task(server, presigned, WORKER_CALLBACK_S="0.3"))
    assert code == 1
    assert f"{server.url}/callback/b/b_tiff_1" in errors
    assert "sig=s" not in errors


def test_environment_of_the_originals(server: StandIn, presigned: PresignedServer) -> None:
    """R2_* and an endpoint: read from the bucket, written next to the source; nothing that originals do not send."""
    presigned.objects[f"scans/{KEY}"] = tiff()
    env = {
        "TASK_ID": "b_tiff_1", "BATCH_ID": "b", "INPUT_R2_KEY": KEY,
        "CALLBACK_URL": f"{server.url}/callback/b/b_tiff_1",
        "R2_ACCOUNT_ID": "account", "R2_ENDPOINT_URL": presigned.url, "R2_BUCKET": "scans",
        "R2_ACCESS_KEY_ID": "k", "R2_SECRET_ACCESS_KEY": "s",
    }  # fmt: skip
    code, _, errors = run(env)
    (report,) = server.callbacks()
    assert (code, report["status"], report["output_r2_key"]) == (0, "success", "staging/a/p1.jpg"), errors
    assert presigned.types["scans/staging/a/p1.jpg"] == "image/jpeg"
    assert report["cpu_ms"] > 0
    assert report["performance"]["peak_memory_mb"] > 0


def test_presigned_urls_load_no_s3_client(server: StandIn, presigned: PresignedServer) -> None:
    """With presigned URLs a whole task imports neither boto3 nor the decoder into the worker's own process."""
    presigned.objects[KEY] = tiff()
    heavy = ("boto3", "botocore", "pyvips", "PIL", "httpx", "numpy", "ray")
    code = f"import sys; from worker.__main__ import main; main([]); print([n for n in {heavy} if n in sys.modules])"
    status, out, errors = run(task(server, presigned), "-c", code)
    assert (status, out.strip()) == (0, "[]"), errors
    assert server.callbacks()[0]["status"] == "success"


def test_hanging_decoder_still_shows_life(server: StandIn, presigned: PresignedServer, decoder_stand_in: str) -> None:
    """While the decoder hangs the worker says "running", and ends it once the task is no longer wanted."""
    presigned.objects[KEY] = b"do: hang"
    seen: list[str] = []

    def stop_at_the_third(body: dict[str, Any]) -> tuple[int, Any]:
        seen.append(body["status"])
        return 200, {"ok": True, "stop": len(seen) == 3}

    server.on_callback = stop_at_the_third
    code, _, errors = run(task(server, presigned, WORKER_HEARTBEAT_S="0.1"))
    assert seen == ["running"] * 3
    assert code == 0, errors


def test_signal_to_the_whole_group(server: StandIn, presigned: PresignedServer, decoder_stand_in: str) -> None:
    """A provider that signals worker and converter together gets the task back, not a crash."""
    presigned.objects[KEY] = b"do: sleep"
    worker = start(task(server, presigned, WORKER_HEARTBEAT_S="0.1"))
    server.wait_for(lambda: len(server.callbacks()) >= 1)
    os.killpg(worker.pid, signal.SIGTERM)
    _, errors = worker.communicate(timeout=WAIT_S)
    assert worker.returncode == 0, errors
    assert {report["status"] for report in server.callbacks()} == {"running", "released"}


def test_crash_does_not_end_the_machine(server: StandIn, presigned: PresignedServer, decoder_stand_in: str) -> None:
    """After a decoder crashed the machine takes the next task, and converts it."""
    presigned.objects |= {KEY: b"do: segfault", "staging/ok.tif": tiff()}
    second = {"TASK_ID": "b_tiff_2", "INPUT_R2_KEY": "staging/ok.tif", "INPUT_URL": presigned.link("staging/ok.tif")}
    server.work = [task(server, presigned, **second)]
    claims = {"CLAIM_URL": f"{server.url}/machines/claim", "WORKER_IDLE_S": "0", "WORKER_CONCURRENCY": "1"}
    code, _, errors = run(task(server, presigned, **claims))
    reports = [(report["task_id"], report["status"]) for report in server.callbacks()]
    assert reports == [("b_tiff_1", "error"), ("b_tiff_2", "success")], errors
    assert code == 0


def test_processor_allowance_counts_the_converters(
    server: StandIn, presigned: PresignedServer, decoder_stand_in: str
) -> None:
    """A machine whose allowance the conversions used up is spent, although the worker itself hardly worked."""
    presigned.objects[KEY] = b"do: work"
    server.work = [task(server, presigned, TASK_ID="b_tiff_2")]
    claims = {"CLAIM_URL": f"{server.url}/machines/claim", "WORKER_IDLE_S": "0", "WORKER_CPU_BURST_S": "0.9"}
    code, _, _ = run(task(server, presigned, WORKER_CONCURRENCY="1", **claims))
    (report,) = server.callbacks()
    assert (code, report["status"]) == (0, "success")
    assert "accepts_next" not in report
    assert server.claims() == []


def test_next_worker_removes_what_a_killed_one_left(
    server: StandIn, presigned: PresignedServer, tmp_path: Path
) -> None:
    """After SIGKILL in the middle of a download the folder of the task stays, and goes with the next worker's start."""
    presigned.objects[KEY] = tiff()
    presigned.faults["GET"] = ["stall"]
    place = {"TMPDIR": str(tmp_path)}
    worker = start(task(server, presigned, **place))
    assert presigned.arrived.wait(WAIT_S)
    worker.kill()
    worker.communicate(timeout=WAIT_S)
    assert len(list(tmp_path.glob("arke-worker-*"))) == 1
    code, _, errors = run(task(server, presigned, **place))
    assert (code, list(tmp_path.glob("arke-worker-*"))) == (0, []), errors
