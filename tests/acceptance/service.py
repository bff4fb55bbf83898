"""The service as users run it (`arke serve`), and what tests do with it: wait, look, kill one process by its pid."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import httpx
import psutil
import psycopg

from actors import wire
from actors.settings import Settings
from actors.signing import sign_task
from orchestrator.serve import pids_by_role
from tests.stand_ins.receiver import Receiver

ROOT: Final = Path(__file__).parents[2]
PATIENCE_S: Final = 60.0
START_S: Final = 90.0
QUICK: Final[Mapping[str, str]] = {
    "ALARM_DELAY_TIFF_CONVERSION": "500",
    "ALARM_DELAY_ERROR_RETRY": "500",
    "TASK_TIMEOUT_TIFF_CONVERSION": "5000",
    "BOOT_TIMEOUT_MS": "5000",
    "TASK_TIMEOUT_MODS": "5000",
    "TASK_TIMEOUT_ZIP": "5000",
    "PART_SIZE_LIMIT": "30000000",
    "MAX_BODY_BYTES": str(1 << 20),
}
"""Short times, so that what waits for a deadline does not wait long; and a limit that a small body is over."""
STANDING: Final[Mapping[str, int]] = {
    "FleetActor": 1, "MaintenanceActor": 1, "ServeController": 1, "haproxy": 1,
    "gcs_server": 1, "raylet": 1, "ServeReplica:arke:front": 2,
}  # fmt: skip
"""Role to the number of processes that always run."""

HAND_KEY: Final = "key-of-the-hands"
"""With it tests take work over HTTP, as people's own workers do."""

T = TypeVar("T")


def eventually(look: Callable[[], T | None], what: str, within_s: float = PATIENCE_S) -> T:
    """What `look` gives as soon as it is true. Asks again every 50 ms; fails, naming `what`, when time is over."""
    deadline = time.monotonic() + within_s
    pause = threading.Event()
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {within_s:.0f} s: {what}"
        pause.wait(0.05)
    return found


class Service:
    """One `arke serve` on a data folder and a port of its own; it can be started again on both."""

    def __init__(self, receiver: Receiver, **environment: str) -> None:
        self.receiver = receiver
        # Short: unix sockets are below a folder whose name follows from this one.
        self.data_dir = Path(tempfile.mkdtemp(prefix="arke-t-"))
        self.port = free_port()
        self._environment = {**QUICK, "WORKER_URL": receiver.url, "WORKER_KEYS": HAND_KEY, **environment}
        self._process: subprocess.Popen[str] | None = None
        self.settings = Settings.load(self._environment, data_dir=self.data_dir, port=self.port, dashboard=False)
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx.Client(base_url=self.url, timeout=60.0, trust_env=False)
        self.said: list[str] = []
        self._reader: threading.Thread | None = None

    # ---- life

    def start(self) -> None:
        """Start it, and wait until it says that it is ready."""
        command = (sys.executable, "-m", "orchestrator.cli.main", "serve", "--no-dashboard", "--port", str(self.port))
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "ARKE_"))}
        self.said = []
        self._process = subprocess.Popen(
            [*command, "--data-dir", str(self.data_dir)],
            cwd=ROOT, env={**clean, **self._environment}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()
        eventually(lambda: self.has_said("Ready at") or self._ended(), "the service is ready", START_S)
        assert not self._ended(), self.last_words()

    def set(self, **environment: str) -> None:
        """For the next start."""
        self._environment |= environment

    def stop(self) -> float:
        """SIGTERM; returns how many seconds the end took."""
        assert self._process is not None
        begun = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(30)
        took = time.monotonic() - begun
        self._after_end()
        return took

    def kill_everything(self) -> None:
        """SIGKILL to each process of it, the supervisor first, so that nobody starts anything again."""
        assert self._process is not None
        processes = self.processes()
        self._process.kill()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait(10)
        psutil.wait_procs(processes, timeout=10)
        self._after_end()

    def remove(self) -> None:
        """End it, however it is, and delete its folder."""
        if self._process is not None and self._process.poll() is None:
            self.kill_everything()
        self.http.close()
        shutil.rmtree(self.data_dir, ignore_errors=True)
        shutil.rmtree(self.settings.run_dir, ignore_errors=True)

    def runs(self) -> bool:
        """Whether the supervisor lives."""
        return not self._ended()

    def has_said(self, words: str) -> bool:
        """Whether a line with these words was printed."""
        return any(words in line for line in list(self.said))

    def last_words(self) -> str:
        """For people: what it printed, the end of its log, and the ends of the logs of its actors."""
        logs = [self.data_dir / "logs" / "serve.log"]
        logs += sorted(self.settings.run_dir.glob("r/session_latest/logs/worker-*.err"))
        ends = [f"{path.name}\n{text[-2500:]}" for path in logs if path.exists() and len(text := path.read_text()) > 80]
        missing = self.roles_missing() if self.runs() else "the supervisor"
        return "\n\n".join(["\n".join(self.said), f"missing: {missing}", *ends])

    @contextlib.contextmanager
    def next_line(self, words: str) -> Iterator[None]:
        """Wait, after the block, until a line with these words was printed that was not there before."""
        known = len(self.said)
        yield
        eventually(lambda: any(words in line for line in self.said[known:]), f"it says {words!r}", START_S)

    def _ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout as output:
            for line in output:
                self.said.append(line.strip())

    def _after_end(self) -> None:
        if self._reader is not None:
            self._reader.join(10)
        self._process = None

    # ---- processes

    def processes(self) -> list[psutil.Process]:
        """Everything below the supervisor that lives."""
        if self._process is None:
            return []
        try:
            children = psutil.Process(self._process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        return [process for process in children if _lives(process)]

    def pids(self, role: str) -> list[int]:
        """The processes of a role, oldest first."""
        return sorted(pids_by_role(self.processes()).get(role, []))

    def pid_of_actor(self, name: str) -> int | None:
        """The process that listens on the socket of this actor (`store`, `fleet`, `batch:{id}`, …)."""
        path = wire.socket_path(self.settings.run_dir, name)
        for process in self.processes():
            # The socket was bound under a draft name that ends in the pid, then renamed.
            bound = str(path.with_suffix(f".{process.pid}"))
            with contextlib.suppress(psutil.Error):
                if any(str(connection.laddr) == bound for connection in process.net_connections("unix")):
                    return process.pid
        return None

    def roles_missing(self) -> list[str]:
        """What should run and does not, or does not answer."""
        roles = pids_by_role(self.processes())
        counts = {**STANDING, "StoreActor": int(self._has_file), "WarmWorker": self.settings.max_machines}
        actors = ("store", "fleet", "maintenance") if self._has_file else ("fleet", "maintenance")
        missing = [role for role, number in counts.items() if len(roles.get(role, [])) < number]
        missing += [name for name in actors if not self._listens(name)]
        return missing if missing or self._healthy() else ["health"]

    @property
    def _has_file(self) -> bool:
        """Whether the store is a file, which one process owns."""
        return isinstance(self.settings.store, Path)

    def settle(self, within_s: float = PATIENCE_S) -> None:
        """Wait until all that stands always stands again."""
        eventually(lambda: not self.roles_missing(), f"all runs again; missing {self.roles_missing()}", within_s)

    def _listens(self, actor: str) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(wire.socket_path(self.settings.run_dir, actor)))
            except OSError:
                return False
        return True

    def _healthy(self) -> bool:
        try:
            return self.http.get("/health", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    # ---- objects and batches

    @property
    def objects(self) -> Path:
        """The folder of the bucket."""
        return self.settings.objects_dir / self.settings.r2_bucket

    def put(self, key: str, content: bytes) -> None:
        """Put an object in, as a person would: by copying a file."""
        path = self.objects / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def create(self, body: Mapping[str, Any]) -> str:
        """Create a batch; returns its id."""
        answer = self.http.post("/batches", json=body)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["batch_id"])

    def status(self, batch: str) -> dict[str, Any]:
        """The status object; asks again where the service is restarting."""

        def ask() -> dict[str, Any] | None:
            try:
                answer = self.http.get(f"/status/{batch}")
            except httpx.HTTPError:
                return None
            # While HAProxy is being replaced, Serve answers by itself, without our body.
            return answer.json() if answer.status_code == 200 else None

        return eventually(ask, f"a status of {batch}", START_S)

    def completed(self, batch: str) -> int:
        """How many tasks are completed."""
        return int(self.status(batch)["progress"]["tasks_completed"])

    def until_over(self, batch: str, within_s: float = PATIENCE_S) -> dict[str, Any]:
        """The status once it is DONE or ERROR."""

        def look() -> dict[str, Any] | None:
            status = self.status(batch)
            return status if status["status"] in ("DONE", "ERROR") else None

        return eventually(look, f"{batch} is over", within_s)

    def tasks(self, batch: str) -> list[dict[str, Any]]:
        """All tasks, page by page."""
        items: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:
            query = {"limit": "1000", **({"cursor": cursor} if cursor else {})}
            page = self.http.get(f"/batches/{batch}/tasks", params=query)
            assert page.status_code == 200, page.text
            items += page.json()["items"]
            cursor = page.json()["next"]
            if cursor is None:
                return items

    def rows(self, question: str, *values: str) -> list[tuple[Any, ...]]:
        """What the database says while the front cannot be asked, or of what it does not tell."""
        store = self.settings.store
        if isinstance(store, Path):
            with contextlib.closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as database:
                return database.execute(question, values).fetchall()
        with psycopg.connect(store) as connection:
            return connection.execute(question.replace("?", "%s").encode(), values).fetchall()

    def callback_path(self, batch: str, task: str, *, run: int = 1, attempt: int = 1) -> str:
        """The signed address of an attempt, without the base."""
        secret = self.settings.callback_secret_file.read_text().strip()
        signature = sign_task(secret, batch, task, run, attempt)
        return f"/callback/{batch}/{task}?run={run}&attempt={attempt}&sig={signature}"


class Traffic:
    """Status requests and callbacks, one after the other, while something is being killed.

    The callbacks are duplicates of one that was counted: they take the whole way and must change nothing.
    """

    def __init__(self, service: Service, batch: str, task: Mapping[str, Any]) -> None:
        self._service = service
        self._callback = service.callback_path(batch, task["task_id"], attempt=task["attempt"])
        self._body = {"task_id": task["task_id"], "batch_id": batch, "status": "success"}
        self._status = f"/status/{batch}"
        self._over = threading.Event()
        self.answers: list[tuple[str, int, str]] = []
        self._threads = [threading.Thread(target=self._ask, args=(way,)) for way in ("status", "callback")]

    @contextlib.contextmanager
    def flowing(self) -> Iterator["Traffic"]:
        """The traffic flows inside the block."""
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._over.set()
            for thread in self._threads:
                thread.join()

    def not_answered(self) -> Sequence[tuple[str, int, str]]:
        """Everything but 200, with what the body said. A refused connection is status 0."""
        return [answer for answer in list(self.answers) if answer[1] != 200]

    def _ask(self, way: str) -> None:
        with httpx.Client(base_url=self._service.url, timeout=30.0, trust_env=False) as http:
            while not self._over.is_set():
                try:
                    answer = http.get(self._status) if way == "status" else http.post(self._callback, json=self._body)
                    self.answers.append((way, answer.status_code, answer.text[:200]))
                except httpx.HTTPError as error:
                    self.answers.append((way, 0, repr(error)))
                self._over.wait(0.01)


class Report(NamedTuple):
    """One callback of a hand and its answer; a connection that broke is status 0. `at`: when it was answered, in
    seconds since 1970."""

    task_id: str
    mark: str
    status: int
    text: str
    at: float


class Employer(Protocol):
    """A service that hands work to whoever comes."""

    url: str

    def put(self, key: str, content: bytes) -> None:
        """Put an object into its bucket."""


class Hands:
    """Workers that the test is itself: callbacks with something to commit, before, during and after a kill.

    One hand works on and on. The others `hold` tasks and report them at the moment that the test chooses. What they
    make is the least that looks like a JPEG. Each report carries a mark, which the row of its task shows once it was
    counted. They repeat a claim or a report that was not taken, as workers do, until they are told to stop.
    """

    JPEG: Final = b"\xff\xd8\xff\xd9"

    def __init__(self, service: Employer) -> None:
        self._service = service
        self._over = threading.Event()
        self._held: list[dict[str, str]] = []
        self._threads = [threading.Thread(target=self._work)]
        self.reports: list[Report] = []

    @contextlib.contextmanager
    def working(self) -> Iterator["Hands"]:
        """They work inside the block."""
        self._threads[0].start()
        try:
            yield self
        finally:
            self._over.set()
            for thread in self._threads:
                thread.join()

    def hold(self, number: int) -> int:
        """Take tasks, and do not report them yet. How many are held: fewer, where there are no more for now."""
        with self._client() as http:
            while len(self._held) < number and (more := self._claim(http, "hand-that-holds", number - len(self._held))):
                self._held += more
        return len(self._held)

    def let_go(self) -> None:
        """Report all that is held, all at once."""
        fresh = [threading.Thread(target=self._report_one, args=(task,)) for task in self._held]
        self._held = []
        self._threads += fresh
        for thread in fresh:
            thread.start()

    def not_answered(self) -> list[Report]:
        """Every answer but 200."""
        return [report for report in list(self.reports) if report.status != 200]

    def check_counted(self, tasks: Sequence[Mapping[str, Any]]) -> None:
        """Each report that was answered 200 is what its task's row shows: it was on disk (invariant 1)."""
        shown = {task["task_id"]: (task["performance"] or {}).get("mark") for task in tasks}
        taken = {report.task_id: report.mark for report in self.reports if report.status == 200}
        assert {task_id: shown.get(task_id, mark) for task_id, mark in taken.items()} == taken

    def _work(self) -> None:
        with self._client() as http:
            while not self._over.is_set():
                for task in self._claim(http, "hand-that-works", 1):
                    following: dict[str, str] | None = task
                    while following is not None:
                        following = self._report(http, following, accepts_next=not self._over.is_set())

    def _claim(self, http: httpx.Client, machine: str, free: int) -> list[dict[str, str]]:
        """At most `free` tasks; the same claim is repeated until it is answered."""
        body = {"machine": machine, "claim": secrets.token_hex(8), "kinds": ["tiff"], "free": free, "wait_ms": 500}
        while not self._over.is_set():
            with contextlib.suppress(httpx.HTTPError):
                answer = http.post("/machines/claim", json=body, headers={"Authorization": f"Bearer {HAND_KEY}"})
                if answer.status_code == 200:
                    return list(answer.json()["tasks"])
                if answer.status_code == 204:
                    break
            self._over.wait(0.05)
        return []

    def _report_one(self, task: dict[str, str]) -> None:
        with self._client() as http:
            self._report(http, task, accepts_next=False)

    def _report(self, http: httpx.Client, task: dict[str, str], *, accepts_next: bool) -> dict[str, str] | None:
        """Success, until it is taken. The next task, where the answer carries one."""
        key, mark = task["OUTPUT_R2_KEY"], secrets.token_hex(8)
        while not self._put(key):
            if self._over.wait(0.2):
                return None
        body = {
            "task_id": task["TASK_ID"], "batch_id": task["BATCH_ID"], "status": "success", "output_r2_key": key,
            "output_file_name": key.rpartition("/")[2], "output_file_size": len(self.JPEG),
            "performance": {"mark": mark}, "accepts_next": accepts_next,
        }  # fmt: skip
        while True:
            try:
                answer = http.post(task["CALLBACK_URL"], json=body)
                report = Report(task["TASK_ID"], mark, answer.status_code, answer.text[:200], time.time())
            except httpx.HTTPError as error:
                report = Report(task["TASK_ID"], mark, 0, repr(error), time.time())
            self.reports.append(report)
            over = self._over.wait(0.05)  # between reports too: a hand is no faster than a worker
            if report.status == 200:
                following: dict[str, str] | None = answer.json().get("next")
                return following
            if over:
                return None

    def _put(self, key: str) -> bool:
        """Whether there was room for it: the disk may be full."""
        try:
            self._service.put(key, self.JPEG)
        except OSError:
            return False
        return True

    def _client(self) -> httpx.Client:
        return httpx.Client(base_url=self._service.url, timeout=30.0, trust_env=False)


def free_port() -> int:
    """A port of 127.0.0.1 that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
