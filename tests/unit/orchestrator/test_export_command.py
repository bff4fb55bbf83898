"""`arke export`, `arke download`, `arke schemas`: how they are called wrongly, and what they show."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from orchestrator.cli import main
from orchestrator.cli.remote import Remote
from orchestrator.client import ArkeClient, Refused, Unreachable

PI = "01K8W0AG70YQWM0ESYWV3FY5SR"
TASK = "export_mods_1_00000000"
METRICS = {
    "total_time_ms": 1500, "entities_exported": 3, "entities_failed": 0, "entities_incomplete": 1, "peak_memory_mb": 40,
    "validated": True, "changes": {"characters removed that XML cannot hold": 1200}, "warnings": {}, "failures": [],
}  # fmt: skip
STATUS = {
    "task_id": TASK, "status": "success", "pi": PI, "format": "mods", "metrics": METRICS, "output_file_name": "a.xml",
    "output_file_size": 7, "error": None,
}  # fmt: skip

Answer = Callable[[httpx.Request], httpx.Response]


def called(capsys: pytest.CaptureFixture[str], *arguments: str, answer: Answer | None = None) -> tuple[int, str, str]:
    """Exit code, output, errors."""
    transport = httpx.MockTransport(answer) if answer else None

    def make(url: str, **more: Any) -> ArkeClient:
        return ArkeClient(url, transport=transport, **more)

    with pytest.raises(SystemExit) as ended:
        main.main(arguments, remote=Remote("http://service.test", make=make))
    code = ended.value.code
    out, err = capsys.readouterr()
    return (code if isinstance(code, int) else 0), out, err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["export", "nonsense"], "is no entity id"), (["export", PI, "--format", "pdf"], "--format"),
        (["export", PI, "--max-depth", "51"], "--max-depth"), (["export", PI, "--wait"], "--wait is for --server"),
        (["export", PI, "--server", "http://a.test", "-o", "x"], "needs --wait"), (["export", PI, "--nonsense"],
        "--nonsense"),
        (["export", "--recursive"], "PI"), (["export", "validate", "/nonexistent.xml"], "does not exist"),
        (["export", PI, "-o", "/"], "is a folder"),
    ],
)  # fmt: skip
def test_wrong_calls_say_what_is_wrong(capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    """Exit code 2, one line, nothing written."""
    code, out, err = called(capsys, *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["export", "--help"], ["export", "entity", "-h"], ["schemas", "--help"], ["download", "-h"]]
)
def test_help_teaches(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    """What it does, and how it is called."""
    code, out, _ = called(capsys, *arguments)
    assert code == 0
    assert "Usage: arke" in out


def test_a_service_is_asked_and_the_id_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """On standard output the id alone could be cut out; how to go on is said beside it."""
    asked: list[Any] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append((request.url.path, request.read().decode()))
        return httpx.Response(202, json={"task_id": TASK, "status": "processing", "message": ""})

    code, out, err = called(capsys, "export", PI, "--recursive", "--server", "http://a.test", "--no-ocr", answer=answer)
    assert (code, out) == (0, f"{TASK} is under way.\n")
    assert f"arke --server http://a.test download {TASK}" in err
    ((path, body),) = asked
    assert path == "/export"
    assert '"recursive":true' in body
    assert '"includeOcr":false' in body


def test_it_waits_and_downloads(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file appears when it is complete; the account of it is on standard error."""
    monkeypatch.setattr("orchestrator.cli.exporting.POLL_S", 0.0)
    statuses = iter([{"task_id": TASK, "status": "processing", "progress": None}, STATUS])

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == f"/download/{TASK}":
            return httpx.Response(200, content=b"<mods/>")
        if request.method == "POST":
            return httpx.Response(202, json={"task_id": TASK})
        return httpx.Response(200, json=next(statuses))

    target = tmp_path / "tree.xml"
    code, out, err = called(
        capsys, "export", PI, "--server", "http://a.test", "--wait", "-o", str(target), answer=answer
    )
    assert (code, out) == (0, "")
    assert target.read_bytes() == b"<mods/>"
    assert "3 exported, 0 failed, 1 incomplete, in 1.5 s." in err
    assert "changed: characters removed that XML cannot hold (1,200)" in err


def test_a_failed_export_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """With its error, and exit code 1."""
    failed = STATUS | {"status": "error", "error": "Failed to fetch manifest: 404 Not Found"}

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"task_id": TASK} if request.method == "POST" else failed)

    code, _, err = called(capsys, "export", PI, "--server", "http://a.test", "--wait", answer=answer)
    assert code == 1
    assert "Failed to fetch manifest: 404 Not Found" in err


def test_a_download_leaves_nothing_half(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Where it is refused, or breaks off."""

    def refused(request: httpx.Request) -> httpx.Response:
        if request.url.path.startswith("/status"):
            return httpx.Response(200, json=STATUS | {"status": "processing"})
        return httpx.Response(400, json={"error": "Export not ready or failed. Status: processing", "code": "x"})

    def broken(request: httpx.Request) -> httpx.Response:
        if request.url.path.startswith("/status"):
            return httpx.Response(200, json=STATUS)
        raise httpx.ReadError("broke off", request=request)

    for answer, words in ((refused, "not ready"), (broken, "broke off. Start it again")):
        code, _, err = called(capsys, "download", TASK, "-o", str(tmp_path / "a.xml"), answer=answer)
        assert code == 1
        assert words in err
    assert list(tmp_path.iterdir()) == []


def test_the_status_of_an_export_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """And that of a batch of them."""
    _, out, _ = called(capsys, "status", TASK, answer=lambda _: httpx.Response(200, json=STATUS))
    assert "3 exported, 1 incomplete, 0 failed" in out
    batch = {"batch_id": "batch_1_00000000", "total_tasks": 3, "completed": 2, "failed": 1, "processing": 0,
    "state": "done",
             "error": None, "tasks": []}  # fmt: skip
    _, out, _ = called(capsys, "status", "batch_1_00000000", answer=lambda _: httpx.Response(200, json=batch))
    assert "2 of 3 done, 1 failed" in out


def test_the_client_tells_the_providers_fault_at_once() -> None:
    """The service is well, and asking again does not help its provider."""

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(502, json={"error": "The Fly token is not accepted.", "code": "provider_unavailable"})

    with ArkeClient("http://a.test", transport=httpx.MockTransport(answer)) as arke, pytest.raises(Refused) as raised:
        arke.sweep()
    assert (raised.value.status, str(raised.value)) == (502, "The Fly token is not accepted.")
    gone = httpx.MockTransport(lambda _: httpx.Response(502))
    with ArkeClient("http://a.test", transport=gone, patience_s=0) as arke, pytest.raises(Unreachable):
        arke.sweep()
