"""What the measurements share: services under test, prepared requests, the load generator, tables."""

import contextlib
import json
import os
import selectors
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Self

import psutil

from actors.settings import Settings
from orchestrator import processes, serve

HERE: Final = Path(__file__).parent
WORKER_KEY: Final = "bench-worker-key"
START_WITHIN_S: Final = 120.0
CONNECTIONS: Final = 64


class Broken(Exception):
    """A measurement cannot go on. The message says what happened."""


class Fsyncs:
    """The shim that counts fsyncs of databases and makes each slower."""

    def __init__(self, folder: Path, delay_ms: float) -> None:
        self.library = compiled("fsync.c", folder, "-shared", "-fPIC", "-ldl")
        self.delay_ms = delay_ms
        self._counts: dict[str, Path] = {}
        self._folder = folder

    def environment(self, who: str) -> dict[str, str]:
        """For the processes of one service."""
        path = self._counts.setdefault(who, self._folder / f"fsyncs-{who}")
        path.write_bytes(bytes(8))
        return {
            "LD_PRELOAD": str(self.library),
            "BENCH_FSYNC_FILE": str(path),
            "BENCH_FSYNC_DELAY_US": str(int(self.delay_ms * 1000)),
        }

    def count(self, who: str) -> int:
        """Fsyncs so far."""
        (count,) = struct.unpack("=Q", self._counts[who].read_bytes())
        return int(count)


def compiled(source: str, folder: Path, *options: str) -> Path:
    """The program or library of a C file of this folder. Needs gcc."""
    if shutil.which("gcc") is None:
        raise Broken("gcc is needed to compile the load generator and the fsync shim.")
    target = folder / source.removesuffix(".c")
    libraries = [option for option in options if option.startswith("-l")]
    flags = [option for option in options if option not in libraries]
    subprocess.run(["gcc", "-O2", *flags, "-o", str(target), str(HERE / source), *libraries], check=True)
    return target


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder for one measurement."""
    folder = Path(tempfile.mkdtemp(prefix="arke-bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    """A port of 127.0.0.1 that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        return int(held.getsockname()[1])


class Process:
    """A process under test, and its end."""

    def __init__(self, module: str, arguments: list[str], environment: Mapping[str, str], log: Path) -> None:
        self.log = log
        with log.open("wb") as errors:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=HERE.parent,
                env={**os.environ, **environment},
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )

    def first_line(self) -> bytes:
        """Its first line of output. Raises Broken if it ends or says nothing."""
        assert self.popen.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.popen.stdout, selectors.EVENT_READ)
            if not selector.select(START_WITHIN_S):
                raise Broken(f"no sign of a start within {START_WITHIN_S:.0f} s: {self.tail()}")
        line = self.popen.stdout.readline()
        if not line:
            raise Broken(f"it ended: {self.tail()}")
        return line

    def tail(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-2000:]

    def stop(self) -> None:
        """SIGTERM, and SIGKILL after 20 s."""
        if self.popen.poll() is None:
            self.popen.terminate()
            try:
                self.popen.wait(20)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()
        if self.popen.stdout is not None:
            self.popen.stdout.close()


class Service:
    """The service (or, `what="empty"`, Ray and Serve alone) on a port and a data folder of its own, `folder/at`."""

    def __init__(self, folder: Path, environment: Mapping[str, str], what: str = "service", at: str = "") -> None:
        self.port = free_port()
        self.data_dir = folder / (at or what)
        self.environment = {
            "MACHINE_PROVIDER": "external", "WORKER_KEYS": WORKER_KEY, "LOG_LEVEL": "WARNING", "DASHBOARD": "false",
            **environment,
        }  # fmt: skip
        self.settings = Settings.load(self.environment, data_dir=str(self.data_dir), port=self.port)
        begun = time.perf_counter()
        arguments = [what, str(self.data_dir), str(self.port)]
        self._process = Process("bench.driver", arguments, self.environment, folder / f"{self.data_dir.name}.log")
        try:
            self.ready = json.loads(self._process.first_line())
        except BaseException:
            self.close()
            raise
        self.start_s = time.perf_counter() - begun

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop it, with all its processes."""
        self._process.stop()
        processes.kill(serve.processes_of(self.settings.run_dir))
        shutil.rmtree(self.settings.run_dir, ignore_errors=True)

    def processes(self) -> dict[str, list[psutil.Process]]:
        """All living processes by their role."""
        found: dict[str, list[psutil.Process]] = {"driver": [psutil.Process(self._process.popen.pid)]}
        for process in serve.processes_of(self.settings.run_dir):
            found.setdefault(serve.role_of(process), []).append(process)
        return found

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Status and JSON of one request."""
        return request(self.port, method, path, body, **headers)

    def create(self, batch: str, tasks: int) -> None:
        """A batch of that many TIFFs, by a manifest in the object folder."""
        prefix = f"staging/{batch}/"
        folder = self.settings.objects_dir / self.settings.r2_bucket / prefix
        folder.mkdir(parents=True, exist_ok=True)
        files = [
            {"r2_key": f"{prefix}p{n}.tif", "logical_path": f"/p{n}.tif", "file_name": f"p{n}.tif", "file_size": 1}
            for n in range(tasks)
        ]
        manifest = {"batch_id": batch, "total_files": tasks, "total_bytes": tasks, "directories": [
            {"directory_path": "/", "processing_config": {}, "file_count": tasks, "total_bytes": tasks, "files": files}
        ]}  # fmt: skip
        (folder / "_manifest.json").write_text(json.dumps(manifest))
        message = {"batch_id": batch, "r2_prefix": prefix, "manifest_r2_key": f"{prefix}_manifest.json",
                   "total_files": tasks, "total_bytes": tasks}  # fmt: skip
        status, answer = self.call("POST", "/batches", message)
        if status not in (200, 202):
            raise Broken(f"POST /batches: {status} {answer}")

    def state(self, batch: str) -> dict[str, Any]:
        """The status object."""
        return dict(self.call("GET", f"/status/{batch}")[1])


def request(port: int, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    """Status and JSON (None where there is none) of one request."""
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", data=data, method=method,
        headers={"Content-Type": "application/json", **headers},
    )  # fmt: skip
    try:
        with urllib.request.urlopen(asked, timeout=60) as answer:
            text = answer.read()
            return answer.status, json.loads(text) if text else None
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")


def wait_for(what: str, done: Any, within_s: float = 60.0) -> None:
    """Ask until `done()`. Raises Broken."""
    deadline = time.monotonic() + within_s
    while not done():
        if time.monotonic() > deadline:
            raise Broken(f"{what}: not within {within_s:.0f} s")
        time.sleep(0.05)


def post(path: str, body: bytes) -> bytes:
    """A prepared request."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def callback_body(batch: str, task: str, n: int) -> bytes:
    """What a worker reports: some 330 bytes."""
    report = {
        "task_id": task, "batch_id": batch, "status": "success", "output_r2_key": f"staging/{batch}/p{n}.jpg",
        "output_file_name": f"p{n}.jpg", "output_file_size": 524288,
        "performance": {"total_time_ms": 1234, "download_time_ms": 456, "conversion_time_ms": 678,
                        "upload_time_ms": 100},
    }  # fmt: skip
    return json.dumps(report).encode()


def send(program: Path, port: int, requests: Iterable[bytes], folder: Path) -> dict[str, float]:
    """Send each request once over CONNECTIONS connections. Raises Broken unless every answer was 200."""
    path = folder / "requests"
    with path.open("wb") as file:
        for one in requests:
            file.write(struct.pack(">I", len(one)) + one)
    ran = subprocess.run(
        [str(program), str(port), str(CONNECTIONS), str(path)], capture_output=True, text=True, check=False
    )
    if ran.returncode:
        raise Broken(f"the load generator ended with {ran.returncode}: {ran.stderr}")
    result: dict[str, float] = json.loads(ran.stdout)
    if result["refused"]:
        raise Broken(f"{result['refused']} answers were not 200. {ran.stderr}")
    return result


def cpu_seconds(processes: Iterable[psutil.Process]) -> float:
    """Processor seconds, of the living ones."""
    total = 0.0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def settle(processes: list[psutil.Process], below: float = 0.3, within_s: float = 15.0) -> None:
    """Wait until they use less than `below` of a core: starting processes are not what is measured."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        before, begun = cpu_seconds(processes), time.monotonic()
        time.sleep(0.5)
        if (cpu_seconds(processes) - before) / (time.monotonic() - begun) < below:
            return


def pss_mb(processes: Iterable[psutil.Process]) -> float:
    """Proportional memory."""
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            total += process.memory_full_info().pss
    return total / 1e6


def median(values: Iterable[float]) -> float:
    """The median; nan of nothing."""
    found = list(values)
    return statistics.median(found) if found else float("nan")


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join('---' for _ in head)} |"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
