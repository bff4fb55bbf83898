"""An engine without actors, for tests of the front: what it was asked is written down, what it answers is set."""

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actors.archives import ArchiveRequest
from actors.errors import BatchExists, NotFound
from actors.exports import ExportRequest
from actors.intake import decode
from actors.rules.costs import Charge
from actors.rules.model import Job, Task
from actors.store.catalog_rows import CatalogExport, StorageFile

SECRET = "callback-secret"


@dataclass
class FakeSettings:
    """The settings that the front reads."""

    api_keys: tuple[str, ...] = ()
    admin_key: str | None = None
    worker_keys: tuple[str, ...] = ()
    service_name: str = "arke-preprocessing-orchestrator"
    environment: str = "development"
    max_body_bytes: int = 100_000
    export_remove_after_download: bool = False
    orchestrator_url: str = "http://127.0.0.1:8787"


@dataclass
class FakeStore:
    """Rows in memory."""

    jobs: dict[str, Job] = field(default_factory=dict)
    rows: dict[str, list[Task]] = field(default_factory=dict)
    asked: list[dict[str, Any]] = field(default_factory=list)

    async def job(self, id: str, /) -> Job | None:
        """One row."""
        return self.jobs.get(id)

    async def tasks(self, job_id: str, task_ids: list[str], /) -> list[Task]:
        """Those that exist."""
        return [task for task in self.rows.get(job_id, []) if task.task_id in task_ids]

    async def list_jobs(
        self, *, state: str | None = None, status: str | None = None, limit: int = 50, cursor: str | None = None
    ) -> tuple[list[Job], str | None]:
        """All of them; what was asked is in `asked`."""
        self.asked.append({"state": state, "status": status, "limit": limit, "cursor": cursor})
        return list(self.jobs.values())[:limit], "more"

    async def list_tasks(
        self, job_id: str, /, *, status: str | None = None, limit: int = 100, cursor: str | None = None
    ) -> tuple[list[Task], str | None]:
        """All of them; what was asked is in `asked`."""
        self.asked.append({"status": status, "limit": limit, "cursor": cursor})
        return self.rows.get(job_id, [])[:limit], None

    async def all_tasks(self, job_id: str, /) -> list[Task]:
        """All of them."""
        return list(self.rows.get(job_id, []))


class FakeCatalog:
    """Rows in memory."""

    def __init__(self) -> None:
        self.rows: dict[str, CatalogExport] = {}

    async def export(self, export_id: str) -> CatalogExport | None:
        """One row."""
        return self.rows.get(export_id)

    async def exports(
        self, user_id: str, *, limit: int = 50, cursor: str | None = None
    ) -> tuple[list[CatalogExport], str | None]:
        """All of the user."""
        return [row for row in self.rows.values() if row.user_id == user_id][:limit], None


class FakeEngine:
    """Satisfies `orchestrator.routing.Engine`."""

    def __init__(self, settings: FakeSettings | None = None) -> None:
        self.settings = settings or FakeSettings()
        self.secrets: tuple[str, ...] = (SECRET,)
        self.store = FakeStore()
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.fleet_calls: list[dict[str, Any]] = []
        self.created: list[tuple[dict[str, Any] | bytes, str | None]] = []
        self.reply: Any = {"ok": True, "received": True}
        self.fleet_reply: Any = {"tasks": []}
        self.charge = Charge(job_id="b1")
        self.failure: Exception | None = None
        self.parts = {"store": "ok", "objects": "ok"}
        self.exports: list[tuple[ExportRequest, str | None]] = []
        self.export_objects: Any = None
        self.archives: list[tuple[ArchiveRequest, str | None]] = []
        self.archive_objects: Any = None
        self.catalog: Any = FakeCatalog()
        self.files: list[StorageFile] = []

    async def costs(self, job_id: str, /) -> Charge:
        """The same for all."""
        return self.charge

    async def call(self, job_id: str, request: dict[str, Any]) -> Any:
        """Write down and answer `reply`; raise `failure` where one is set."""
        if self.failure is not None:
            raise self.failure
        if job_id not in self.store.jobs:
            raise NotFound(f"No batch has the id {job_id}.")
        self.calls.append((job_id, request))
        return self.reply

    async def fleet(self, request: dict[str, Any]) -> Any:
        """Write down and answer `fleet_reply`; raise `failure` where one is set."""
        if self.failure is not None:
            raise self.failure
        self.fleet_calls.append(request)
        return self.fleet_reply

    async def create(self, body: dict[str, Any] | bytes, owner: str | None) -> tuple[Job, bool]:
        """Checked as intake does. New, unless the id is there: the same body is the same batch, another is refused."""
        if self.failure is not None:
            raise self.failure
        body = decode(body)
        existing = self.store.jobs.get(body.get("batch_id", "made-up"))
        if existing is not None and existing.message != body:
            raise BatchExists
        self.created.append((body, owner))
        job = existing or Job(id=body.get("batch_id", "made-up"), message=body, created_at=1, updated_at=1)
        self.store.jobs[job.id] = job
        return job, existing is None

    async def export(self, wanted: ExportRequest, owner: str | None) -> tuple[Job, list[str]]:
        """Write down; the ids are always the same."""
        if self.failure is not None:
            raise self.failure
        self.exports.append((wanted, owner))
        job = Job(id="batch_1_00000000" if wanted.is_batch else "export_mods_1_00000000")
        return job, [f"{job.id}_mods_{n}" for n in range(len(wanted.pis))] if wanted.is_batch else [job.id]

    def now(self) -> int:
        """Always the same."""
        return 1_800_000_000_000

    def download_url(self, export_id: str, r2_key: str | None, part: int | None = None) -> str:
        """That of the service."""
        return f"{self.settings.orchestrator_url}/download/{export_id}" + (f"/{part}" if part else "")

    async def archive(self, wanted: ArchiveRequest, owner: str | None) -> Job:
        """Write down; the id is always the same."""
        if self.failure is not None:
            raise self.failure
        self.archives.append((wanted, owner))
        return Job(id="export_zip_1_00000000", kind="archive")

    async def add_files(self, files: list[StorageFile]) -> None:
        """Write down."""
        if self.failure is not None:
            raise self.failure
        self.files += files

    async def task_environment(self, job_id: str, task_id: str) -> dict[str, str]:
        """A little of one."""
        if job_id not in self.store.jobs:
            raise NotFound(f"No batch has the id {job_id}.")
        return {"TASK_ID": task_id, "BATCH_ID": job_id}

    async def health(self) -> dict[str, str]:
        """What `parts` says."""
        return self.parts


@dataclass(frozen=True)
class FakeServeSettings:
    """What `orchestrator.serve.run` reads."""

    port: int
    run_dir: Path
    host: str = "127.0.0.1"
    dashboard: bool = True
    log_level: str = "INFO"

    @property
    def log_dir(self) -> Path:
        """Beside the sockets."""
        return self.run_dir / "logs"


class OpenEngine(FakeEngine):
    """An engine of a replica in a process of its own: knows batch b1."""

    def __init__(self) -> None:
        super().__init__()
        self.store.jobs["b1"] = Job(id="b1")


def check(settings: FakeServeSettings) -> None:
    """There is nothing to look at."""


def start(settings: FakeServeSettings) -> None:
    """There are no actors to start."""


def connect(settings: FakeServeSettings) -> OpenEngine:
    """What a replica serves with."""
    return OpenEngine()


def serve() -> None:
    """The process that holds Ray, with an engine without actors. Arguments: port, run_dir."""
    from orchestrator.serve import run

    here = "tests.unit.orchestrator.fakes"
    parts = {name: f"{here}:{name}" for name in ("check", "start", "connect")}
    code = run(FakeServeSettings(int(sys.argv[1]), Path(sys.argv[2])), **parts)
    os._exit(code)
