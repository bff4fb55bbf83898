"""`arke zip --server`, and what other commands show of archives."""

import io
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from orchestrator.cli.archiving import numbered, progress_line
from orchestrator.client import ArkeClient, Unreachable
from tests.unit.orchestrator.test_export_command import called

EXPORT = "export_zip_1_00000000"
SERVER = ("--server", "http://service.test")
PART = {"part": 1, "status": "completed", "files": 2, "missing": 0, "bytes": 10, "size_bytes": 5, "r2_key": "k"}
STATUS: dict[str, Any] = {
    "export_id": EXPORT, "status": "completed", "state": "done", "phase": "ARCHIVING", "user_id": "u-1",
    "export_type": "full", "files_verified": 2, "files_missing": 0, "bytes": 1_500_000, "parts_total": 1,
    "parts_completed": 1, "parts": [PART], "percent": 100.0, "estimate_s": None, "file_count": 2,
    "size_bytes": 700_000, "expired": False, "error": None,
}  # fmt: skip


class Service:
    """Answers as one does; what it was asked for is in `asked`."""

    def __init__(self, *statuses: dict[str, Any]) -> None:
        self.statuses = list(statuses)
        self.asked: list[dict[str, Any]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            self.asked.append(msgspec.json.decode(request.content))
            return httpx.Response(202, json={"export_id": EXPORT, "status": "pending", "message": "."})
        if request.url.path.startswith("/status/"):
            return httpx.Response(200, json=self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0])
        return httpx.Response(200, content=request.url.path.encode())


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.cli.archiving.POLL_S", 0)


@pytest.mark.parametrize(
    ("arguments", "body"),
    [
        (["staging/x/"], {"r2_prefix": "staging/x/"}),
        (["--user", "u-1"], {"user_id": "u-1", "export_type": "full"}),
        (["--user", "u-1", "--type", "ivy"], {"user_id": "u-1", "export_type": "ivy"}),
        (
            ["--user", "u-1", "--category", "c"],
            {"user_id": "u-1", "export_type": "category", "filter_params": {"category": "c"}},
        ),
        (["x/", "--title", "T", "--level", "9", "--codec", "isal"], {"r2_prefix": "x/", "name": "T"}),
    ],
)
def test_a_service_is_asked(capsys: pytest.CaptureFixture[str], arguments: list[str], body: dict[str, Any]) -> None:
    """And without -o not waited for."""
    service = Service(STATUS)
    code, out, err = called(capsys, "zip", *SERVER, *arguments, answer=service)
    assert (code, out) == (0, f"{EXPORT} is under way.\n")
    assert f"arke --server http://service.test download {EXPORT}" in err
    is_own = "--level" in arguments
    assert service.asked == [body | {"level": 9 if is_own else 6, "codec": "isal" if is_own else "zlib-ng"}]


def test_keys_come_from_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "keys.txt").write_text("a\nb c\n\n")
    service = Service(STATUS)
    assert called(capsys, "zip", *SERVER, "--keys", str(tmp_path / "keys.txt"), answer=service)[0] == 0
    assert service.asked[0]["keys"] == ["a", "b c"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["zip", *SERVER], "Name a prefix"),
        (["zip", *SERVER, "a/", "--user", "u"], "Name a prefix"),
        (["zip", *SERVER, "a/", "--type", "blog"], "are for --user"),
        (["zip", *SERVER, "--user", "u", "--type", "blog", "--category", "c"], "leave the other out"),
        (["zip", *SERVER, "--user", "u", "--type", "some"], "--type"),
        (["zip", *SERVER, "./here"], "is a folder of this machine"),
        (["zip", *SERVER, "a/", "-o", "/"], "is a folder"),
        (["zip", *SERVER, "a/", "-o", "/nowhere/x.zip"], "is not there"),
        (["zip", "a/", "--user", "u", "-o", "x"], "are for --server"),
        (["zip", "a/"], "-o is missing"),
    ],
)
def test_wrong_calls_say_what_is_wrong(capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    code, out, err = called(capsys, *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1


def test_it_is_waited_for_and_downloaded(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    verifying = STATUS | {"status": "pending", "phase": "VERIFYING", "parts": [], "parts_total": 0, "percent": None}
    archiving = STATUS | {"status": "processing", "percent": 40.0, "estimate_s": 3.0}
    service = Service(verifying, archiving, STATUS)
    output = tmp_path / "a.zip"
    code, out, err = called(capsys, "zip", *SERVER, "x/", "-o", str(output), answer=service)
    assert (code, out) == (0, "")
    assert output.read_bytes() == f"/download/{EXPORT}".encode()
    assert err.splitlines()[-1] == f"{output}: 2 files, 1.5 MB in 0.7 MB."


def test_parts_are_numbered(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """What is missing in any of them is told, and by the exit code too."""
    status = STATUS | {"parts_total": 2, "parts": [PART, PART | {"part": 2, "missing": 1}]}
    code, _, err = called(capsys, "zip", *SERVER, "x/", "-o", str(tmp_path / "a.zip"), answer=Service(status))
    assert code == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-1.zip", "a-2.zip"]
    assert (tmp_path / "a-2.zip").read_bytes() == f"/download/{EXPORT}/2".encode()
    assert "2 files, 1 left out" in err


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (STATUS | {"status": "failed", "error": "the disk is full"}, "failed: the disk is full"),
        (STATUS | {"parts_total": 0, "parts": []}, "There is no such file"),
        (STATUS | {"parts_total": 2}, "-o must name a file"),
    ],
)
def test_what_is_not_had(capsys: pytest.CaptureFixture[str], status: dict[str, Any], words: str) -> None:
    code, out, err = called(capsys, "zip", *SERVER, "x/", "-o", "-", answer=Service(status))
    assert (code != 0, out) == (True, "")
    assert words in err


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        ({}, ["status     completed", "files      2", "parts      1 of 1", "bytes      700000"]),
        ({"expired": True}, ["status     expired"]),
        (
            {"status": "processing", "state": "running", "percent": 40.0, "estimate_s": 3.0, "files_missing": 1},
            ["status     processing", "phase      ARCHIVING", "files      2, 1 missing", "percent    40.0",
             "left       about 3 s"],
        ),
        ({"status": "failed", "state": "cancelled", "error": "Cancelled: x"}, ["error      Cancelled: x"]),
    ],
)  # fmt: skip
def test_status_for_people(capsys: pytest.CaptureFixture[str], change: dict[str, Any], lines: list[str]) -> None:
    code, out, _ = called(capsys, "status", EXPORT, answer=Service(STATUS | change))
    assert code == 0
    for line in lines:
        assert line in out.splitlines()


def test_download_of_parts(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = called(capsys, "download", EXPORT, answer=Service(STATUS | {"parts_total": 2}))
    assert code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{EXPORT}-1.zip", f"{EXPORT}-2.zip"]
    assert err.count("is written.") == 2


@pytest.mark.parametrize(("name", "of_two"), [("a.zip", "a-2.zip"), ("d.e/a", "d.e/a-2"), ("a.tar.zip", "a.tar-2.zip")])
def test_names_of_parts(name: str, of_two: str) -> None:
    assert numbered(name, 2) == of_two


def test_progress() -> None:
    verifying = STATUS | {"phase": "VERIFYING", "files_verified": 1, "files_missing": 2}
    assert progress_line(verifying) == "verifying: 1 file, 2 left out"
    running = STATUS | {"percent": 33.4, "parts_total": 3, "parts_completed": 1, "estimate_s": 12.3}
    assert progress_line(running) == "archiving: 33 % of 2 MB, 1 of 3 parts, about 12 s left"


class Breaking:
    """A service whose downloads break off after some bytes; the rest comes where it is asked for."""

    def __init__(self, body: bytes, *, etag: str = '"1"', later: str = '"1"', after: int = 4) -> None:
        self.body, self.etag, self.later, self.after = body, etag, later, after
        self.ranges: list[str | None] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.startswith("/status/"):
            return httpx.Response(200, json=STATUS)
        asked = request.headers.get("range")
        self.ranges.append(asked)
        etag = self.etag if asked is None else self.later
        if asked is None or request.headers["if-range"] != etag:
            return httpx.Response(200, headers={"ETag": etag}, stream=_Broken(self.body[: self.after]))
        start = int(asked.removeprefix("bytes=").rstrip("-"))
        return httpx.Response(206, headers={"ETag": etag}, content=self.body[start:])


class _Broken(httpx.SyncByteStream):
    def __init__(self, body: bytes) -> None:
        self.body = body

    def __iter__(self) -> Any:
        yield self.body
        raise httpx.ReadError("broken off")


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.client.LONGEST_WAIT_S", 0.0)


@pytest.mark.usefixtures("patient")
def test_a_download_goes_on(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    service = Breaking(b"all of it")
    assert called(capsys, "download", EXPORT, "-o", str(tmp_path / "a.zip"), answer=service)[0] == 0
    assert (tmp_path / "a.zip").read_bytes() == b"all of it"
    assert service.ranges == [None, "bytes=4-"]


@pytest.mark.usefixtures("patient")
def test_another_file_is_no_part_of_the_first(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    service = Breaking(b"x" * 9, later='"2"')
    code, _, err = called(capsys, "download", EXPORT, "-o", str(tmp_path / "a.zip"), answer=service)
    assert code == 1
    assert "has changed" in err
    assert list(tmp_path.iterdir()) == []


def test_a_download_that_gets_nothing_ends() -> None:
    """When the patience is over, counted from the last byte."""
    times = iter(range(0, 100, 4))
    transport = httpx.MockTransport(Breaking(b""))
    with (
        ArkeClient(
            "http://service.test", patience_s=10, transport=transport, sleep=lambda s: None, clock=lambda: next(times)
        ) as arke,
        pytest.raises(Unreachable, match="broke off"),
    ):
        arke.download(EXPORT, io.BytesIO())
    assert next(times) < 30
