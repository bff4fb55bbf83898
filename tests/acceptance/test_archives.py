"""Archives by the whole service, with real workers; processes are killed meanwhile."""

import base64
import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from actors.rules.placement import standing_host
from tests.acceptance.killing import actor, role
from tests.acceptance.service import ROOT as PROJECT
from tests.acceptance.service import Service, eventually
from worker.objects.local import LocalObjects

MB = 1_000_000
FILES, FILE_BYTES = 12, 5 * MB
PARTS = 2
MANY = 3_000
VICTIMS = {"worker": role("WarmWorker"), "store": actor("store"), "fleet": actor("fleet")}


@pytest.fixture(scope="module")
def bodies() -> dict[str, bytes]:
    """What takes a while to pack, and stays large enough for several parts of an upload."""
    noise = random.Random(3).randbytes
    return {f"packed/{n:02}.txt": base64.b64encode(noise(FILE_BYTES * 3 // 4)) for n in range(FILES)}


@pytest.fixture
def large(service: Service, bodies: dict[str, bytes]) -> dict[str, bytes]:
    """They are there."""
    for key, body in bodies.items():
        path = service.objects / key
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_bytes(body)
    return bodies


def begun(service: Service, **body: Any) -> str:
    answer = service.http.post("/export/zip", json=body)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["export_id"])


def until_over(service: Service, export: str) -> dict[str, Any]:
    return eventually(
        lambda: status if (status := service.status(export))["status"] not in ("pending", "processing") else None,
        f"{export} is over", 120,
    )  # fmt: skip


def archives(service: Service, export: str, parts: int) -> list[zipfile.ZipFile]:
    return [
        zipfile.ZipFile(io.BytesIO(service.http.get(f"/download/{export}/{part}").content))
        for part in range(1, parts + 1)
    ]


def digests(opened: list[zipfile.ZipFile]) -> dict[str, str]:
    """Of all files in all parts; each archive is whole, and its manifest tells the same."""
    found = {}
    for one in opened:
        told = {each["path"]: each["sha256"] for each in json.loads(one.read("manifest.json"))["files"]}
        read = {name: hashlib.sha256(one.read(name)).hexdigest() for name in told}
        assert read == told
        assert set(one.namelist()) == {"README.txt", "manifest.json", *told}
        assert not found.keys() & read.keys()
        found |= read
    return found


def check(service: Service, export: str, bodies: dict[str, bytes]) -> None:
    status = until_over(service, export)
    assert (status["status"], status["parts_total"], status["file_count"]) == ("completed", PARTS, FILES)
    expected = {key.removeprefix("packed/"): hashlib.sha256(body).hexdigest() for key, body in bodies.items()}
    assert digests(archives(service, export, PARTS)) == expected


def uploads(service: Service) -> list[tuple[str, str]]:
    return LocalObjects(service.objects.parent, service.objects.name).uploads("exports/")


@pytest.mark.parametrize("victim", [*VICTIMS, "host"])
def test_a_kill_costs_nothing(service: Service, large: dict[str, bytes], victim: str) -> None:
    """The export goes on; every file is in it once, in archives that are whole."""
    export = begun(service, r2_prefix="packed/", level=9)
    eventually(
        lambda: service.rows("SELECT 1 FROM tasks WHERE job_id = ? AND status = 'processing'", export), "one has"
    )
    eventually(lambda: uploads(service), "a part is uploaded")
    kill = actor(standing_host("archive", export)) if victim == "host" else VICTIMS[victim]
    pid = eventually(lambda: kill(service, ""), "the process to be killed runs")
    os.kill(pid, signal.SIGKILL)
    check(service, export, large)
    service.settle()


def test_no_upload_is_left(service: Service, large: dict[str, bytes]) -> None:
    """What an attempt has left behind that nobody knows of goes, by a duty that begins with its process."""
    (service.objects / "one").write_bytes(b"1")
    export = begun(service, keys=["one"])
    key = until_over(service, export)["r2_key"]
    LocalObjects(service.objects.parent, service.objects.name).begin_upload(key, "application/zip", {})
    pid = eventually(lambda: service.pid_of_actor("maintenance"), "it runs")
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not uploads(service), "all uploads are gone")
    service.settle()


def test_a_kill_while_files_are_verified(service: Service) -> None:
    """None is lost, none is twice."""
    folder = service.objects / "listed"
    folder.mkdir(exist_ok=True)
    for n in range(MANY):
        (folder / f"{n:04}").write_bytes(b"%d" % n)
    export = begun(service, keys=[f"listed/{n:04}" for n in range(MANY + 5)])
    pid = eventually(lambda: service.pid_of_actor(standing_host("archive", export)), "the host runs")
    eventually(lambda: service.status(export)["files_verified"], "some are verified")
    os.kill(pid, signal.SIGKILL)
    status = until_over(service, export)
    assert (status["status"], status["file_count"], status["files_missing"]) == ("completed", MANY, 5)
    (opened,) = archives(service, export, 1)
    assert digests([opened]) == {
        f"listed/{n:04}": hashlib.sha256(b"%d" % n).hexdigest() for n in range(MANY)
    }  # fmt: skip
    assert len(json.loads(opened.read("manifest.json"))["missing"]) == 5
    service.settle()


def test_cancelled_amid_its_work(service: Service, large: dict[str, bytes]) -> None:
    """The reason is told; no object and no upload of it stays."""
    export = begun(service, r2_prefix="packed/", level=9)
    eventually(lambda: uploads(service), "a part is uploaded")
    assert service.http.post(f"/exports/{export}/cancel", json={"reason": "wrong files"}).status_code == 200
    status = until_over(service, export)
    assert (status["status"], status["state"], status["error"]) == ("failed", "cancelled", "Cancelled: wrong files")
    folder = service.objects / "exports" / "_" / export
    eventually(lambda: service.status(export)["expired"], "its objects are removed")
    eventually(
        lambda: not [path for path in folder.rglob("*") if path.is_file()] and not uploads(service), "all is gone"
    )
    answer = service.http.get(f"/download/{export}")
    assert (answer.status_code, answer.json()["code"]) == (410, "expired")


def test_a_users_files_by_the_originals_paths(service: Service, large: dict[str, bytes]) -> None:
    """Added to the catalog, exported, looked at, fetched."""
    files = [{"user_id": "u-7", "r2_key": key, "product": "blog", "category": "texts"} for key in list(large)[:2]]
    assert service.http.post("/api/storage/files", json={"files": files}).json() == {"ok": True, "files": 2}
    answer = service.http.post("/api/storage/export", json={"type": "blog"}, headers={"X-User-ID": "u-7"})
    assert answer.status_code == 202
    export = answer.json()["export_id"]
    again = service.http.post("/api/storage/export", json={"type": "blog", "user_id": "u-7"})
    assert again.status_code == 409
    until_over(service, export)
    row = service.http.get(f"/api/storage/export/{export}").json()
    assert (row["status"], row["file_count"], row["user_id"]) == ("completed", 2, "u-7")
    told = service.http.get(f"/api/storage/export/{export}/download").json()
    assert (told["size_bytes"], told["file_count"]) == (row["size_bytes"], 2)
    opened = zipfile.ZipFile(io.BytesIO(service.http.get(told["download_url"]).content))
    assert set(digests([opened])) == {"blog/texts/00.txt", "blog/texts/01.txt"}
    (listed,) = service.http.get("/exports", params={"user_id": "u-7"}).json()["items"]
    assert listed == row


def test_the_command_waits_and_downloads(service: Service, large: dict[str, bytes], tmp_path: Path) -> None:
    """Every part, numbered; a range of one is what it is of the whole."""
    env = {**os.environ, "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-m", "orchestrator.cli.main", "zip", "--server", service.url, "packed/", "-o", "a.zip"]
    ended = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert f"a-1.zip, a-2.zip: {FILES} files" in ended.stderr
    paths = [tmp_path / "a-1.zip", tmp_path / "a-2.zip"]
    assert len(digests([zipfile.ZipFile(path) for path in paths])) == FILES
    export = ended.stderr.split(" ", 1)[0]
    part = service.http.get(f"/download/{export}/2", headers={"Range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, paths[1].read_bytes()[100:200])
