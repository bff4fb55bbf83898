"""The command line: what it asks the service for, what it shows, and its exit codes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from orchestrator.cli.main import main
from orchestrator.cli.remote import Remote
from orchestrator.cli.serving import ready_line
from orchestrator.cli.watching import rate
from orchestrator.client import ArkeClient
from orchestrator.supervisor import Ready

Run = Callable[..., int]


class Service:
    """Answers by path; keeps what was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, list[httpx.Response]] = {}
        self.requests: list[httpx.Request] = []

    def on(self, path: str, *answers: dict[str, Any], status: int = 200) -> None:
        self.answers[path] = [httpx.Response(status, json=answer) for answer in answers]

    def handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answers = self.answers[request.url.path]
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def make(self, url: str, **more: Any) -> ArkeClient:
        return ArkeClient(url, transport=httpx.MockTransport(self.handle), **more)

    def sent(self) -> Any:
        return json.loads(self.requests[0].content)


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def arke(service: Service) -> Run:
    """Run a command against the service; its exit code."""

    def run(*arguments: str) -> int:
        with pytest.raises(SystemExit) as ended:
            main(arguments, remote=Remote("http://arke", "k", "a", make=service.make))
        return int(ended.value.code or 0)

    return run


def stands(status: str, completed: int = 0, failed: int = 0, **more: Any) -> dict[str, Any]:
    progress = {"tasks_total": 4, "tasks_completed": completed, "tasks_failed": failed}
    return {"batch_id": "b", "status": status, "progress": progress, **more}


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--help",),
        ("serve", "--help"),
        ("demo", "--help"),
        ("submit", "--help"),
        ("watch", "--help"),
        ("list", "--help"),
        ("task", "env", "--help"),
        ("--version",),
    ],
)
def test_help_teaches(arke: Run, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    """Every help is there, with exit code 0 and on standard output."""
    assert arke(*arguments) == 0
    assert "arke" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("unknown",), "No such command"),
        (("watch",), "Missing argument"),
        (("submit",), "Say what to convert"),
        (("submit", "a.tif"), "Name one JSON file"),
        (("submit", "missing.json"), "does not exist"),
        (("submit", "--prefix", "p/", "--files", "k"), "exclude each other"),
        (("submit", "--prefix", ""), "--prefix is empty"),
        (("submit", "--data-dir", "elsewhere", "a.tif"), "elsewhere is not the data folder of a service"),
        (("submit", "--files", "k", "--batch-id", "../x"), "'../x' is not the id of a batch"),
        (("status", "../x"), "`arke list` shows them"),
        (("status", "a", "b"), "(b). See `arke status --help`."),
        (("status", "b", "--server", "http://x"), "--server is given before the command"),
        (("serve", "--port", "99999"), "--port"),
        (("serve", "--host", "0.0.0.0"), "HOST must be a loopback address"),
    ],
)
def test_wrong_use_is_one_sentence_and_2(
    arke: Run,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: tuple[str, ...],
    sentence: str,
) -> None:
    """Wrong use ends with exit code 2 and says what is wrong."""
    monkeypatch.chdir(tmp_path)
    assert arke(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: ")
    assert sentence in error
    assert "Traceback" not in error


def test_refusal_is_one_sentence_and_1(service: Service, arke: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """What the service says is shown as it is, with exit code 1."""
    service.on("/batches/b/retry", {"error": "The batch still runs: wait.", "code": "conflict"}, status=409)
    assert arke("retry", "b") == 1
    assert capsys.readouterr().err == "Error: The batch still runs: wait.\n"


def test_unknown_id_says_where_ids_are_shown(service: Service, arke: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """A 404 of the service names the command that lists what there is."""
    service.on("/status/b", {"error": "No batch has this id.", "code": "not_found"}, status=404)
    assert arke("status", "b") == 1
    assert capsys.readouterr().err.startswith("Error: No batch has this id. `arke list`")


@pytest.mark.parametrize("address", ["foo", "http://", "http://127.0.0.1:99999", "ftp://x"])
def test_address_that_is_none(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot be the address of a service is refused before anything is asked."""
    with pytest.raises(SystemExit, match="2"):
        main(["--server", address, "list"])
    assert "such as http://127.0.0.1:8787" in capsys.readouterr().err


def test_key_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    """A key that no header can carry is refused, not a fault of ours."""
    with pytest.raises(SystemExit, match="2"):
        main(["--api-key", "é", "list"])
    assert "ASCII" in capsys.readouterr().err


def test_no_service_says_how_to_start_one(capsys: pytest.CaptureFixture[str]) -> None:
    """Where nothing answers, it says at once that it asks again, and in the end what to do; exit code 1."""

    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    def make(url: str, **more: Any) -> ArkeClient:
        return ArkeClient(url, transport=httpx.MockTransport(refuse), **more | {"patience_s": 0.7})  # two pauses

    with pytest.raises(SystemExit, match="1"):
        main(["list"], remote=Remote("http://arke", make=make))
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("http://arke does not answer: does `arke serve` run there?")
    assert told[1].startswith("Error: http://arke cannot be reached.")
    assert "`arke serve` starts it" in told[1]
    assert len(told) == 2


def test_something_else_at_the_address(service: Service, arke: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """An answer without our body asks whether the address is right."""
    service.answers["/batches"] = [httpx.Response(501, text="<html>")]
    assert arke("list") == 1
    assert "ARKE_URL" in capsys.readouterr().err


def test_missing_key_says_how_to_give_one(service: Service, arke: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """On 401 the option and the variable are named."""
    service.on("/batches", {"error": "A valid key is needed."}, status=401)
    assert arke("list") == 1
    assert "--api-key" in capsys.readouterr().err


def test_unexpected_error_shows_no_traceback(service: Service, arke: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """A fault of ours is a sentence as well."""
    service.on("/status/b", {"batch_id": "b", "progress": {"tasks_total": "many"}})
    assert arke("status", "b") == 1
    assert capsys.readouterr().err.startswith("Error: This should not happen: ValueError")


def test_watch_tells_what_a_batch_has_cost(service: Service, arke: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """On one line; money where the service knows a price, nothing where no machine has worked."""
    costs = {"machines": 12, "machine_seconds": 204.0, "spawns": 14, "starts": 1, "retries": 2, "throttled_ms": 0}
    ended = stands("DONE", 4)
    service.on("/status/b", ended | {"costs": costs}, ended | {"costs": costs | {"usd": 0.00123}}, ended)
    line = "12 machines, 3.4 machine-minutes, 14 spawn calls, 1 start, 2 retries, 0.0 s throttled"
    for expected in (f"costs      {line}\n", f"costs      {line}, $0.0012\n"):
        assert arke("watch", "b") == 0
        assert expected in capsys.readouterr().out
    assert arke("watch", "b") == 0
    assert "costs" not in capsys.readouterr().out


def test_watch_ends_with_0_on_done(service: Service, arke: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """DONE is exit code 0."""
    service.on("/status/b", stands("DONE", 4))
    assert arke("watch", "b") == 0
    shown = capsys.readouterr()
    assert "4 of 4 completed" in shown.out
    assert "retry" not in shown.err


def test_watch_says_what_to_do_about_failures(service: Service, arke: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """A batch that is DONE with failed tasks names the commands that show and repeat them."""
    service.on("/status/b", stands("DONE", 3, 1))
    assert arke("watch", "b") == 0
    assert "arke tasks b --status failed" in capsys.readouterr().err


def test_watch_ends_with_1_on_error(service: Service, arke: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """ERROR is exit code 1, and the reason is shown."""
    service.on("/status/b", stands("ERROR", error="Cancelled: by me"))
    assert arke("watch", "b") == 1
    assert "Cancelled: by me" in capsys.readouterr().out


def test_watch_asks_until_the_end(
    service: Service, arke: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch is asked for again until it ends, and each change of status is told."""
    monkeypatch.setattr("orchestrator.cli.watching.POLL_S", 0.0)
    service.on("/status/b", stands("TIFF_CONVERSION", 1), stands("TIFF_CONVERSION", 2), stands("DONE", 4))
    assert arke("watch", "b") == 0
    told = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in told] == ["b: TIFF_CONVERSION", "b: DONE"]


@pytest.mark.parametrize(("ended", "seconds", "shown"), [(0, 5.0, ""), (10, 4.0, "2.5/s"), (3, 0.0, "")])
def test_rate(ended: int, seconds: float, shown: str) -> None:
    """The rate is tasks per second, and nothing while it cannot be known."""
    assert rate(ended, seconds) == shown


def test_submit_message(service: Service, arke: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A queue message is sent as it is, unknown fields included."""
    service.on("/batches", stands("TIFF_CONVERSION"), status=202)
    message = {"batch_id": "b", "manifest_r2_key": "m.json", "root_pi": "x"}
    (tmp_path / "m.json").write_text(json.dumps(message))
    assert arke("submit", str(tmp_path / "m.json")) == 0
    assert service.sent() == message
    assert capsys.readouterr().out == "b\n"


def test_submit_manifest(service: Service, arke: Run, tmp_path: Path) -> None:
    """A manifest's directories become the list of files, with the config of their directory."""
    service.on("/batches", stands("TIFF_CONVERSION"), status=202)
    file = {"r2_key": "a/p.tif", "logical_path": "/a/p.tif", "file_name": "p.tif"}
    manifest = {"batch_id": "b", "directories": [{"processing_config": {"ocr": True}, "files": [file]}]}
    (tmp_path / "m.json").write_text(json.dumps(manifest))
    assert arke("submit", str(tmp_path / "m.json")) == 0
    assert service.sent() == {"batch_id": "b", "files": [file | {"processing_config": {"ocr": True}}]}


@pytest.mark.parametrize(
    "content", [b"[]", b"{", b'{"directories": 7}', b'{"directories": [{}]}', b"\xff\xfe", b"[" * 200_000]
)
def test_submit_of_a_broken_file(arke: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    """A file that is no message is refused before anything is sent, in one sentence that names it."""
    (tmp_path / "m.json").write_bytes(content)
    assert arke("submit", str(tmp_path / "m.json")) == 2
    assert "should not happen" not in capsys.readouterr().err


def test_submit_keys_and_prefix(service: Service, arke: Run) -> None:
    """Keys become file entries; a prefix is passed on; --batch-id names the batch."""
    service.on("/batches", stands("TIFF_CONVERSION"), status=202)
    assert arke("submit", "--files", "a/p.tif", "--batch-id", "mine") == 0
    assert service.sent()["batch_id"] == "mine"
    assert service.sent()["files"] == [
        {"r2_key": "a/p.tif", "logical_path": "/a/p.tif", "file_name": "p.tif", "content_type": "image/tiff"}
    ]
    service.requests.clear()
    assert arke("submit", "--prefix", "a/") == 0
    assert service.sent()["r2_prefix"] == "a/"


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """The data folder of a service that has run."""
    folder = tmp_path / "data"
    (folder / "objects" / "arke-staging").mkdir(parents=True)
    return folder


def test_submit_local_files(service: Service, arke: Run, tmp_path: Path, data_dir: Path) -> None:
    """Local files are copied into the object folder, and submitted with their size and their place."""
    service.on("/batches", stands("TIFF_CONVERSION"), status=202)
    (tmp_path / "scans" / "x").mkdir(parents=True)
    (tmp_path / "scans" / "x" / "p.tif").write_bytes(b"12345")
    assert arke("submit", "--data-dir", str(data_dir), "--batch-id", "b", str(tmp_path / "scans")) == 0
    [entry] = service.sent()["files"]
    assert (entry["r2_key"], entry["logical_path"], entry["file_size"]) == ("uploads/b/x/p.tif", "/x/p.tif", 5)
    assert (data_dir / "objects" / "arke-staging" / "uploads" / "b" / "x" / "p.tif").read_bytes() == b"12345"


def test_submit_again_does_not_overwrite(service: Service, arke: Run, tmp_path: Path, data_dir: Path) -> None:
    """The same files under the same id may be submitted again; others under that id would replace the batch's own."""
    service.on("/batches", stands("TIFF_CONVERSION"), status=202)
    source = tmp_path / "p.tif"
    command = ("submit", "--data-dir", str(data_dir), "--batch-id", "b", str(source))
    source.write_bytes(b"mine")
    assert [arke(*command), arke(*command)] == [0, 0]
    source.write_bytes(b"else")
    assert arke(*command) == 2
    assert (data_dir / "objects" / "arke-staging" / "uploads" / "b" / "p.tif").read_bytes() == b"mine"
    assert len(service.requests) == 2


def test_submit_of_local_files_needs_a_local_folder(
    arke: Run, data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A service whose objects are on S3 never sees a folder: nothing is copied."""
    for name, value in (("ENDPOINT_URL", "http://127.0.0.1:1"), ("ACCESS_KEY_ID", "k"), ("SECRET_ACCESS_KEY", "s")):
        monkeypatch.setenv(f"R2_{name}", value)
    assert arke("submit", "--data-dir", str(data_dir), str(data_dir)) == 2
    assert "S3" in capsys.readouterr().err


def test_submit_refuses_two_files_of_one_name(
    arke: Run, tmp_path: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two local files that would get one key are refused, not overwritten."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "p.tif").write_bytes(b"1")
    sources = [str(tmp_path / "a" / "p.tif"), str(tmp_path / "b" / "p.tif")]
    assert arke("submit", "--data-dir", str(data_dir), *sources) == 2
    assert "Two files are called p.tif" in capsys.readouterr().err


def test_list_of_nothing(service: Service, arke: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty list says so to people, and is empty for programs."""
    service.on("/batches", {"items": [], "next": None})
    assert arke("list") == 0
    shown = capsys.readouterr()
    assert (shown.out, shown.err.startswith("No batch is found.")) == ("", True)


def test_ready_line_tells_how_to_get_into_the_dashboard(tmp_path: Path) -> None:
    """Ray's dashboard asks a browser for a token: the one line that `serve` says names the file that holds it."""
    line = ready_line(Ready("http://127.0.0.1:1", "http://127.0.0.1:2", tmp_path / "the_token"))
    assert f"http://127.0.0.1:2, its token is in {tmp_path / 'the_token'}" in line
    assert "token" not in ready_line(Ready("http://127.0.0.1:1", None))


def test_list_and_tasks_are_tables(service: Service, arke: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows are whole lines in a pipe; brackets in keys are not taken for markup; the next page is named."""
    service.on("/batches", {"items": [stands("DONE", 4)], "next": "c2"})
    assert arke("list") == 0
    shown = capsys.readouterr()
    assert "DONE" in shown.out
    assert "--cursor c2" in shown.err
    item = {"task_id": "b_tiff_0", "status": "failed", "attempt": 5, "input_r2_key": "a/[red]p.tif", "error": "x" * 300}
    service.on("/batches/b/tasks", {"items": [item], "next": None})
    assert arke("tasks", "b", "--status", "failed") == 0
    out = capsys.readouterr().out
    assert "a/[red]p.tif" in out
    assert "x" * 300 in out


@pytest.mark.parametrize(
    ("arguments", "path", "key"),
    [
        (("cancel", "b", "--reason", "r"), "/batches/b/cancel", "k"),
        (("retry", "b"), "/batches/b/retry", "k"),
        (("redeliver", "b"), "/batches/b/redeliver", "k"),
        (("reset", "b"), "/admin/reset/b", "a"),
    ],
)
def test_commands_on_a_batch(service: Service, arke: Run, arguments: tuple[str, ...], path: str, key: str) -> None:
    """Each command is one request, with the key that it needs."""
    service.on(path, {"ok": True})
    assert arke(*arguments) == 0
    assert service.requests[0].headers["Authorization"] == f"Bearer {key}"


def test_task_env_can_be_evaluated(service: Service, arke: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Values are quoted for the shell."""
    service.on("/batches/b/tasks/t/env", {"TASK_ID": "t", "CALLBACK_URL": "http://x/?run=1&sig=a b"})
    assert arke("task", "env", "b", "t") == 0
    assert capsys.readouterr().out == "CALLBACK_URL='http://x/?run=1&sig=a b'\nTASK_ID=t\n"


def test_json_is_for_programs(service: Service, arke: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """--json prints the answer of the service, whole."""
    service.on("/status/b", stands("DONE", 4, more="x"))
    assert arke("status", "b", "--json") == 0
    assert json.loads(capsys.readouterr().out) == stands("DONE", 4, more="x")


def test_settings_are_shown_without_secrets(
    arke: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`arke settings` masks what is secret."""
    monkeypatch.setenv("ADMIN_KEY", "tell-nobody")
    assert arke("settings") == 0
    shown = capsys.readouterr().out
    assert "ADMIN_KEY=***" in shown
    assert "tell-nobody" not in shown


def test_control_characters_of_others_are_shown_not_obeyed(
    service: Service, arke: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """A reason, a key or an error may hold what clears or recolours a terminal; lists and JSON show it as escapes."""
    evil = "\x1b[2J\x9b31m\u202eé"
    service.on("/status/b1", stands("ERROR", error=evil))
    item = {"task_id": "t", "status": "failed", "attempt": 1, "input_r2_key": evil, "error": evil}
    service.on("/batches/b1/tasks", {"items": [item], "next": evil})
    for command in (("status", "b1"), ("tasks", "b1"), ("watch", "b1")):
        arke(*command)
        shown = "".join(capsys.readouterr())
        assert r"\x1b[2J\x9b31m\u202eé" in shown
        assert shown.replace("\n", "").isprintable()
    arke("status", "b1", "--json")
    printed = capsys.readouterr().out
    assert printed.replace("\n", "").isprintable()
    assert json.loads(printed)["error"] == evil


def test_control_characters_in_a_refusal_are_shown(
    service: Service, arke: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the service answers to a command is a text of others, too."""
    service.on("/status/b1", {"error": "No \x1b[2J.", "code": "invalid_input"}, status=400)
    assert arke("status", "b1") == 1
    assert capsys.readouterr().err == "Error: No \\x1b[2J.\n"


MACHINE = {
    "machine": "m-1-2", "name": "pool-x", "provider": "fly", "provider_id": "one/17", "kind": "tiff",
    "state": "running", "pool": True, "batch_id": "b1", "task_id": None, "created_at": "2023-11-14T22:13:20.000Z",
    "started_at": None, "reason": None,
}  # fmt: skip


def test_machines_tells_for_whom_and_why(service: Service, arke: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """With the key of the administrator."""
    service.on("/admin/machines", {"items": [MACHINE, MACHINE | {"machine": "m-1-3", "reason": "destroyed: x"}]})
    assert arke("machines") == 0
    first, second = capsys.readouterr().out.splitlines()[1:]
    assert ("b1" in first, "of the pool" in first, "destroyed: x" in second) == (True, True, True)
    assert service.requests[0].headers["Authorization"] == "Bearer a"
    service.on("/admin/machines", {"items": []})
    assert arke("machines") == 0
    assert "No machine runs." in capsys.readouterr().err


def test_machines_pool_waits_until_it_is_full(
    service: Service, arke: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a bar; where there is none it says how to get one."""
    counts = {"size": 2, "ready": 1, "preparing": 1, "working": 0, "outdated": 0}
    service.on("/admin/machines/pool", {"pools": {"tiff": counts}})
    full = {"pools": {"tiff": counts | {"ready": 1, "working": 1, "preparing": 0}}}
    monkeypatch.setattr("time.sleep", lambda _: service.on("/admin/machines/pool", full))
    assert arke("machines", "pool", "--wait") == 0
    assert "working" in capsys.readouterr().out
    service.on("/admin/machines/pool", {"pools": {}})
    assert arke("machines", "pool", "--wait") == 0
    assert "MACHINE_POOL" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "destroyed", "sentence"),
    [
        (("--dry-run",), 0, "1 would be destroyed, once seen for 10 s."),
        ((), 1, "1 destroyed."),
        ((), 0, "0 destroyed; 1 are seen for too short a time."),
    ],
)
def test_machines_sweep_tells_what_is_nobodys(
    service: Service, arke: Run, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], destroyed: int,
    sentence: str,
) -> None:  # fmt: skip
    """And asks for no more than was said."""
    item = {"provider_id": "one/17", "name": "x", "since": "2023-11-14T22:13:20.000Z"}
    service.on("/admin/machines/sweep", {"destroyed": destroyed, "items": [item]})
    assert arke("machines", "sweep", *options) == 0
    shown = capsys.readouterr()
    assert "one/17" in shown.out
    assert sentence in shown.err
    assert json.loads(service.requests[0].content) == {"dry_run": bool(options)}
