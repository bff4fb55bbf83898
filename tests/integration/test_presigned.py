"""With WORKER_PRESIGNED: workers get URLs and no keys, against an S3 server that checks signatures."""

import asyncio
import io
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from PIL import Image

from actors import assembly
from actors.clock import Clock, WallClock
from actors.host import Host
from actors.settings import Settings
from actors.store import Store
from actors.store.writer import LocalWriter, Writer
from tests.stand_ins import seaweed
from tests.stand_ins.orchestrator import StandIn
from worker import loop, objects
from worker.errors import Unavailable
from worker.objects.s3 import S3Objects

ROOT = Path(loop.__file__).resolve().parents[1]
HOUR_MS = 3_600_000
LATER_MS = 2_000_000_000_000
WORKER_S = 120


@pytest.fixture(scope="module")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the S3 server."""
    with seaweed.serving(tmp_path_factory.mktemp("seaweed")) as endpoint:
        yield endpoint


class Service:
    """A batch of two TIFFs on the S3 server, its host, and a fleet that is told and does nothing."""

    def __init__(self, folder: Path, endpoint: str, orchestrator_url: str) -> None:
        keys = {"R2_ACCESS_KEY_ID": seaweed.ACCESS_KEY, "R2_SECRET_ACCESS_KEY": seaweed.SECRET}
        self.settings = Settings.load(
            keys | {"R2_ENDPOINT_URL": endpoint, "WORKER_PRESIGNED": "true", "ORCHESTRATOR_URL": orchestrator_url},
            data_dir=folder,
        )
        self.folder, self.clock, self.wanted = folder, Clock(), asyncio.Event()
        self.objects = S3Objects(endpoint, seaweed.BUCKET, access_key_id=seaweed.ACCESS_KEY, secret=seaweed.SECRET)
        self.writer = Writer(self.settings.store)
        self.store = Store(LocalWriter(self.writer), self.settings.store)
        self.way: Any = SimpleNamespace(fleet=self._told, admit=None)
        self.host: Host = assembly.host("batch:b", self.settings, self.store, self.way, self.clock)

    async def _told(self, request: dict[str, Any]) -> dict[str, Any]:
        if request["op"] == "demand" and request["want"] > 0:
            self.wanted.set()
        return {}

    async def begin(self) -> None:
        """The TIFFs are there, and the batch runs."""
        files = ["s/a 1/ü.tif", "s/2.tif"]
        for key in files:
            out = io.BytesIO()
            Image.linear_gradient("L").save(out, "TIFF")
            self.objects.put(key, out.getvalue(), "image/tiff")
        await assembly.intake(self.settings, self.store, self.clock).create({"batch_id": "b", "files": files}, None)
        await self.store.admit("b", max_active=9, small_tasks=0, shared_hosts=1, now=self.clock.now())
        await self.ask({"op": "activate", "job": "b"})
        await self.wanted.wait()

    async def ask(self, request: dict[str, Any]) -> Any:
        (answer,) = await self.host.handle([request])
        assert not isinstance(answer, BaseException), answer
        return answer

    async def take(self, free: int = 1) -> list[dict[str, Any]]:
        claim = {"op": "take", "job": "b", "machine": "m", "claim": "c", "free": free, "kind": "tiff"}
        tasks: list[dict[str, Any]] = (await self.ask(claim))["tasks"]
        return tasks

    async def end(self, task: dict[str, Any]) -> Any:
        body = {"task_id": task["task_id"], "batch_id": "b", "status": "success", "accepts_next": True}
        return await self.ask({"op": "callback", "job": "b", "run": 1, "attempt": task["attempt"], "body": body})


@pytest.fixture
def server() -> Iterator[StandIn]:
    """Takes the callbacks of the worker, and has its work."""
    stand_in = StandIn()
    yield stand_in
    stand_in.close()


@pytest.fixture
async def service(s3_endpoint: str, server: StandIn, tmp_path: Path) -> AsyncIterator[Service]:
    made = Service(tmp_path, s3_endpoint, server.url)
    await made.begin()
    yield made
    await made.store.close()
    made.writer.close()


def check_has_urls_only(env: dict[str, str]) -> None:
    assert not {name for name in env if name.startswith("R2_")}
    assert seaweed.SECRET not in str(env)
    for name in ("INPUT_URL", "OUTPUT_URL"):
        assert "X-Amz-Signature" in parse_qs(urlsplit(env[name]).query)


def without_urls(env: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name not in ("INPUT_URL", "OUTPUT_URL")}


async def test_a_repeated_answer_has_new_urls_for_the_same_task(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Claims and `next` alike: a worker that asks again, however late, gets the task that it has, and can do it."""
    (task,) = await service.take()
    (soon,) = await service.take()
    monkeypatch.setattr(WallClock, "now", lambda _: LATER_MS)
    (late,) = await service.take()
    answer = await service.end(task)
    monkeypatch.setattr(WallClock, "now", lambda _: LATER_MS + HOUR_MS)
    again = await service.end(task)
    for former, newer in ((soon["env"], late["env"]), (answer["next"], again["next"])):
        check_has_urls_only(former)
        check_has_urls_only(newer)
        assert without_urls(former) == without_urls(newer)
        assert not {former["INPUT_URL"], former["OUTPUT_URL"]} & {newer["INPUT_URL"], newer["OUTPUT_URL"]}


async def test_no_url_is_written_or_shown(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    """Neither in the database nor in a log, nor where the environment of a task is shown: that has no keys either."""
    (task,) = await service.take()
    held = (await service.end(task))["next"]
    engine = assembly.Engine(service.settings, service.store, service.way, service.clock)
    shown = await engine.task_environment("b", held["TASK_ID"])
    assert shown == without_urls(held) | {"R2_BUCKET": seaweed.BUCKET}
    written = b"".join(path.read_bytes() for path in service.folder.glob("arke.db*"))
    assert held["TASK_ID"].encode() in written
    for secret in ("X-Amz-", parse_qs(urlsplit(held["INPUT_URL"]).query)["X-Amz-Signature"][0], seaweed.SECRET):
        assert secret.encode() not in written
        assert secret not in caplog.text


@pytest.mark.parametrize("begins_with_a_task", [True, False])
async def test_a_worker_converts_without_keys(service: Service, server: StandIn, begins_with_a_task: bool) -> None:
    """One that was spawned for a task, and one of the pool that claims it; the second task comes by `next`."""
    first, second = [task["env"] for task in await service.take(free=2)]
    machine = assembly.machine_environment(service.settings) | {
        "MACHINE_NAME": "m", "MACHINE_TOKEN": "t", "WORKER_IDLE_S": "0", "WORKER_CONCURRENCY": "1",
    }  # fmt: skip
    server.work = [second] if begins_with_a_task else [first, second]
    code, told = await asyncio.to_thread(run_worker, machine | (first if begins_with_a_task else {}))
    assert code == 0, told
    reports = [report for report in server.callbacks() if report["status"] != "running"]
    assert [report["status"] for report in reports] == ["success", "success"], reports
    for task in (first, second):
        key = task["OUTPUT_R2_KEY"]
        picture = Image.open(io.BytesIO(service.objects.read(key, 1 << 20)))
        assert (picture.format, picture.size) == ("JPEG", (256, 256))
        assert service.objects._client.head_object(Bucket=seaweed.BUCKET, Key=key)["ContentType"] == "image/jpeg"
        service.objects.delete(key)
    assert "X-Amz-" not in told + str(reports)


async def test_a_url_is_for_its_object_and_method_alone(service: Service, tmp_path: Path) -> None:
    """Whoever has it can neither read another object nor write over the input."""
    (task,) = await service.take()
    env, key = task["env"], task["env"]["INPUT_R2_KEY"]
    (tmp_path / "file").write_bytes(b"other")
    elsewhere = objects.from_environment(env | {"INPUT_URL": env["INPUT_URL"].replace("/s/", "/other/")})
    with pytest.raises(Unavailable, match=r"^403 "):
        elsewhere.get_file(key, tmp_path / "got")
    with pytest.raises(Unavailable, match=r"^403 "):
        objects.from_environment(env | {"OUTPUT_URL": env["INPUT_URL"]}).put_file(key, tmp_path / "file", "image/tiff")
    objects.from_environment(env).get_file(key, tmp_path / "got")


def run_worker(env: dict[str, str]) -> tuple[int, str]:
    """Exit code, and all that it says. It has the variables of a machine, and none of this process's keys."""
    kept = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-m", "worker"], env=kept | env, cwd=ROOT, timeout=WORKER_S, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    return done.returncode, done.stdout
