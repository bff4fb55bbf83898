"""ray_cluster.yaml, brought up here on Ray's fake provider, with the service in it; and a node of it that is lost."""

import contextlib
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from actors.settings import Settings
from orchestrator.serve import role_of
from tests.acceptance.fake_cluster import FakeCluster, freeze, running
from tests.acceptance.service import eventually

LOST_WITHIN_S = 30.0
QUICK = {"ALARM_DELAY_TIFF_CONVERSION": "500", "ALARM_DELAY_ERROR_RETRY": "500", "TASK_TIMEOUT_TIFF_CONVERSION": "5000",
         "BOOT_TIMEOUT_MS": "5000", "MAX_MACHINES": "2"}  # fmt: skip


@pytest.mark.soak
def test_a_cluster_comes_up_serves_and_outlives_a_node(tiff: bytes) -> None:
    """Both node types are started by the autoscaler, with tokens and certificates; a batch is converted; a node that
    answers nothing is taken for lost within half a minute, and a batch that came meanwhile is converted by the rest.

    That another node takes its place is not seen: the fake provider has no way to mend one, and keeps it.
    """
    begun = time.monotonic()
    with running(**QUICK) as cluster:
        eventually(lambda: len(cluster.alive("converter")) == 2, "two converters", 120)
        _tell("the head and two converters", begun)
        assert len(cluster.alive()) == 3
        known = cluster.status_of()
        assert known.returncode == 0, known.stdout + known.stderr
        stranger = cluster.status_of(RAY_AUTH_TOKEN_PATH=str(_wrong_token(cluster)))
        assert stranger.returncode != 0, stranger.stdout

        cluster.deploy()
        with httpx.Client(base_url=f"http://127.0.0.1:{cluster.port}", timeout=30, trust_env=False) as http:
            eventually(lambda: _well(http), "the service is well", 120)
            _tell("the service", begun)
            _create(cluster, http, "before", tiff)
            _until_converted(cluster, http, "before")
            eventually(lambda: _is_spread(cluster), "workers and replicas on both converters", 60)
            _lose_a_node(cluster, http, tiff)
            _tell("all of it", begun)


def _is_spread(cluster: FakeCluster) -> bool:
    """Whether each converter has a warm worker and a replica of the front, and no actor listens at a path."""
    wanted = ("WarmWorker", "ServeReplica:arke:front")
    listening = {path.name for path in _settings(cluster).run_dir.glob("*.sock")}
    everywhere = all(
        any(role.startswith(one) for role in roles) for roles in _roles(cluster).values() for one in wanted
    )
    return everywhere and listening == {"store.sock"}


def _roles(cluster: FakeCluster) -> dict[str, list[str]]:
    return {node: [role_of(each) for each in found] for node, found in cluster.of_type("converter").items()}


def _lose_a_node(cluster: FakeCluster, http: httpx.Client, tiff: bytes) -> None:
    nodes = cluster.of_type("converter")
    node = max(sorted(nodes), key=lambda one: len(_actors(nodes[one])))
    _tell(f"{len(_actors(nodes[node]))} actors of the engine are on the node that is lost", time.monotonic())
    begun = time.monotonic()
    frozen = freeze(nodes, node)
    try:
        eventually(lambda: cluster.heard > begun and node not in cluster.alive(), "the node is lost", 60)
        assert time.monotonic() - begun < LOST_WITHIN_S
        _tell("a node that answers nothing is lost", begun)
        _create(cluster, http, "after", tiff)
        _until_converted(cluster, http, "after")
        _tell("a batch is converted without it", begun)
        _wake(frozen)
        _create(cluster, http, "woken", tiff)
        _until_converted(cluster, http, "woken")
    finally:
        for process in frozen:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def _wake(frozen: list[psutil.Process]) -> None:
    """The node goes on, and is told that it is dead: its actors, which have successors by now, end by themselves. (What
    else is on it Ray ends with the node's own process, unless that stays as a zombie, as it does here.)"""
    begun, actors = time.monotonic(), _actors(frozen)
    for process in frozen:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.resume()
    eventually(lambda: not any(_lives(process) for process in actors), "the actors of the woken node end", 60)
    _tell("the actors of a node that wakes have ended", begun)


def _actors(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those of the engine."""
    return [process for process in processes if role_of(process).endswith("Actor")]


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _tell(what: str, begun: float) -> None:
    sys.stdout.write(f"{what}: {time.monotonic() - begun:.1f} s\n")


def _wrong_token(cluster: FakeCluster) -> Path:
    path = cluster.folder / "wrong_token"
    path.write_text("f" * 64)
    return path


def _well(http: httpx.Client) -> bool:
    try:
        return http.get("/health").status_code == 200
    except httpx.HTTPError:
        return False


def _create(cluster: FakeCluster, http: httpx.Client, name: str, tiff: bytes) -> None:
    for number in range(3):
        path = _bucket(cluster) / name / f"{number}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tiff)
    created = eventually(lambda: _accepted(http, name), f"{name} is taken", 60)
    assert created["batch_id"] == name


def _settings(cluster: FakeCluster) -> Settings:
    return Settings.load({}, data_dir=cluster.folder / "data")


def _bucket(cluster: FakeCluster) -> Path:
    settings = _settings(cluster)
    return settings.objects_dir / settings.r2_bucket


def _until_converted(cluster: FakeCluster, http: httpx.Client, name: str) -> None:
    def over() -> str | None:
        try:
            status = http.get(f"/status/{name}")
        except httpx.HTTPError:
            return None
        return str(status.json()["status"]) if status.status_code == 200 and status.json()["completed_at"] else None

    assert eventually(over, f"{name} is over", 60) == "DONE"
    assert len(list((_bucket(cluster) / name).glob("*.jpg"))) == 3


def _accepted(http: httpx.Client, name: str) -> dict[str, str] | None:
    try:
        answer = http.post("/batches", json={"batch_id": name, "r2_prefix": f"{name}/"})
    except httpx.HTTPError:
        return None
    said: dict[str, str] = answer.json() if answer.status_code in (200, 202) else {}
    return said or None
