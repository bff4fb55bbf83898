"""Exports by the whole service, with real workers and the sample archive over HTTP; processes are killed meanwhile."""

import io
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from actors.rules.placement import EXPORTS_ACTORS, standing_host
from tests.acceptance.killing import actor, role
from tests.acceptance.service import ROOT as PROJECT
from tests.acceptance.service import Service, eventually
from tests.integration.mods.bench import records
from tests.stand_ins.arke_api import ROOT, pi_of

ENTITIES = 242
BURST = 40
VICTIMS = {"worker": role("WarmWorker"), "store": actor("store"), "fleet": actor("fleet")}


def begun(service: Service, pi: str = ROOT, **options: Any) -> str:
    """The id of an export that was asked for."""
    answer = service.http.post("/export/mods", json={"pi": pi, "options": {"recursive": True} | options})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["task_id"])


def until_over(service: Service, task: str) -> dict[str, Any]:
    """Its status then."""
    return eventually(
        lambda: status if (status := service.status(task))["status"] != "processing" else None, f"{task} is over", 90
    )


@pytest.fixture(scope="module")
def expected(_shared: Service) -> bytes:
    """The file of an export that nothing happened to."""
    task = begun(_shared)
    assert until_over(_shared, task)["status"] == "success"
    return bytes(_shared.http.get(f"/download/{task}").content)


def test_an_export_is_what_was_asked_for(service: Service, expected: bytes) -> None:
    """Every record, and an account of what is missing."""
    task = begun(service)
    status = until_over(service, task)
    assert status["metrics"]["entities_exported"] == ENTITIES
    assert {failure["pi"] for failure in status["metrics"]["failures"]} == {pi_of("deleted"), pi_of("nowhere")}
    assert len(records(expected)) == ENTITIES
    assert status["output_file_size"] == len(expected)
    part = service.http.get(f"/download/{task}", headers={"Range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, expected[100:200])
    assert service.http.head(f"/download/{task}").headers["content-length"] == str(len(expected))


@pytest.mark.parametrize("victim", [*VICTIMS, "host"])
def test_a_kill_costs_nothing(service: Service, expected: bytes, victim: str) -> None:
    """The export goes on, or is begun again, and its file is the same byte for byte."""
    task = begun(service)
    eventually(lambda: service.status(task)["state"] == "running", "a machine may take it")
    eventually(lambda: service.rows("SELECT 1 FROM tasks WHERE job_id = ? AND status = 'processing'", task), "one has")
    kill = actor(standing_host("export", task)) if victim == "host" else VICTIMS[victim]
    pid = eventually(lambda: kill(service, ""), "the process to be killed runs")
    os.kill(pid, signal.SIGKILL)
    assert until_over(service, task)["status"] == "success"
    assert service.http.get(f"/download/{task}").content == expected
    service.settle()


def test_a_burst_shares_the_standing_actors(service: Service) -> None:
    """All are accepted and done; there are no more processes than that."""
    tasks = [begun(service, pi_of("letters-0-0"), recursive=False) for _ in range(BURST)]
    assert {until_over(service, task)["status"] for task in tasks} == {"success"}
    hosts = {
        name for name in (standing_host("export", task) for task in tasks) if service.pid_of_actor(name) is not None
    }
    assert 0 < len(hosts) <= EXPORTS_ACTORS
    assert service.pid_of_actor(f"batch:{tasks[0]}") is None


def test_a_batch_is_downloaded_as_one_archive(service: Service) -> None:
    """What failed is told, and not in it."""
    body = {"pis": [pi_of("letters"), pi_of("nowhere"), pi_of("letters")], "format": "dc"}
    batch = service.http.post("/export/mods/batch", json=body).json()["batch_id"]
    status = eventually(
        lambda: found if not (found := service.http.get(f"/status/batch/{batch}").json())["processing"] else None,
        "all are over",
    )
    assert (status["completed"], status["failed"]) == (2, 1)
    with zipfile.ZipFile(io.BytesIO(service.http.get(f"/download/batch/{batch}").content)) as archive:
        assert archive.testzip() is None
        assert len(archive.namelist()) == 2
        assert all(len(records(archive.read(name), "dc")) == 1 for name in archive.namelist())


def test_a_root_that_is_not_there_fails_at_once(service: Service) -> None:
    """With the originals' words."""
    status = until_over(service, begun(service, pi_of("nowhere")))
    assert (status["status"], status["error"]) == ("error", "Failed to fetch manifest: 404 Not Found")


def test_a_download_may_remove_it(service: Service) -> None:
    """The file and the rows."""
    answer = service.http.post("/export/mods", json={"pi": pi_of("letters"), "removeAfterDownload": True})
    task = answer.json()["task_id"]
    key = until_over(service, task)["output_r2_key"]
    assert (service.objects / key).is_file()
    assert service.http.get(f"/download/{task}").status_code == 200
    eventually(lambda: service.http.get(f"/status/{task}").status_code == 404, "it is gone")
    assert not (service.objects / key).exists()


def test_the_command_line_does_the_same_here_and_there(
    service: Service, archive: str, expected: bytes, tmp_path: Path
) -> None:
    """Byte for byte; a Ctrl-C leaves no half file."""
    env = {**os.environ, "ARKE_API_URL": archive, "IPFS_GATEWAY": archive, "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-m", "orchestrator.cli.main", "export", ROOT, "--recursive", "-o"]
    for name, more in (("here.xml", []), ("there.xml", ["--server", service.url, "--wait"])):
        ended = subprocess.run(
            [*command, name, *more], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False
        )
        assert ended.returncode == 1, "two entities cannot be had"
        assert f"{name}: {ENTITIES} exported, 2 failed, 3 incomplete" in ended.stderr
        assert (tmp_path / name).read_bytes() == expected
    with subprocess.Popen([*command, "cut.xml"], cwd=tmp_path, env=env, stderr=subprocess.PIPE) as running:
        eventually(lambda: list(tmp_path.glob(".cut.xml.*")), "it has begun to write")
        running.send_signal(signal.SIGINT)
        assert running.wait(20) == 130
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here.xml", "there.xml"]
