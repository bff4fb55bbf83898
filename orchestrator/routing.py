"""What the front needs of the engine: one small protocol, implemented over `actors.directory`.

The front holds no truth. Reads come from the store and never wake an actor; everything that changes
a job goes to the actor that owns it, through `Engine.call`, which finds or activates it and gathers
concurrent calls into lists.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from actors.archives import ArchiveRequest
from actors.errors import NotFound
from actors.exports import ExportRequest
from actors.rules.costs import Charge
from actors.rules.model import JOB_ID, Job, Task
from actors.store.catalog_rows import Catalog, StorageFile
from worker.objects.base import Opened


class FrontSettings(Protocol):
    """The settings that the front reads (all of them fields of `actors.settings.Settings`)."""

    @property
    def api_keys(self) -> Sequence[str]:
        """Keys for the batch routes; empty: no key is asked for."""

    @property
    def admin_key(self) -> str | None:
        """The key for /admin; None: none of its own."""

    @property
    def worker_keys(self) -> Sequence[str]:
        """Keys with which pull workers claim."""

    @property
    def service_name(self) -> str:
        """The name that /health reports."""

    @property
    def environment(self) -> str:
        """`development` opens POST /test."""

    @property
    def export_remove_after_download(self) -> bool:
        """Whether an export goes once its file was downloaded, where its creation does not say."""

    @property
    def orchestrator_url(self) -> str:
        """Where this service is reached."""

    @property
    def max_body_bytes(self) -> int:
        """The largest request body, in bytes."""


class ReadsObjects(Protocol):
    """What downloads need of the object store. Blocking: called on a thread."""

    def open(self, key: str, start: int = 0) -> Opened:
        """The object from byte `start` on. Raises ObjectMissing, Unavailable."""


class Reads(Protocol):
    """The read side of the store, as far as the front uses it."""

    async def job(self, id: str, /) -> Job | None:
        """The row of one job."""

    async def tasks(self, job_id: str, task_ids: list[str], /) -> list[Task]:
        """The rows of the tasks that exist among `task_ids`."""

    async def list_jobs(
        self, *, state: str | None = None, status: str | None = None, limit: int = 50, cursor: str | None = None
    ) -> tuple[list[Job], str | None]:
        """Jobs, newest first, and the cursor of the next page."""

    async def all_tasks(self, job_id: str) -> list[Task]:
        """All tasks of a job that has not many."""

    async def list_tasks(
        self, job_id: str, /, *, status: str | None = None, limit: int = 100, cursor: str | None = None
    ) -> tuple[list[Task], str | None]:
        """Tasks of the current run and phase, and the cursor of the next page."""


class Engine(Protocol):
    """The engine as the front sees it. Every method raises classes of `actors.errors` for what callers can act on."""

    @property
    def settings(self) -> FrontSettings:
        """What was configured."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """The callback secrets that are accepted, the current one first."""

    @property
    def store(self) -> Reads:
        """Reads; never behind an acknowledgement."""

    async def call(self, job_id: str, request: dict[str, Any]) -> Any:
        """Have the owner of the job handle `request`; answered after its commit.

        Raises NotFound for an unknown job or task, Unavailable after about 10 s without an owner.
        """

    async def fleet(self, request: dict[str, Any]) -> Any:
        """Have the fleet handle `request`. Raises Retired for a machine that shall exit."""

    async def costs(self, job_id: str) -> Charge:
        """What the machines of a job have cost by now."""

    async def create(self, body: dict[str, Any] | bytes, owner: str | None) -> tuple[Job, bool]:
        """Take a batch in, whatever the body says: all of it is checked there, and only there. The flag says whether
        it is new (or a new run). Raises InvalidInput, BatchExists.
        """

    async def export(self, wanted: ExportRequest, owner: str | None) -> tuple[Job, list[str]]:
        """Take exports in: the job, and the ids of its tasks in the order of the entities."""

    @property
    def export_objects(self) -> ReadsObjects:
        """Where the files of exports are."""

    def now(self) -> int:
        """The time, in milliseconds since 1970 UTC."""

    def download_url(self, export_id: str, r2_key: str | None, part: int | None = None) -> str:
        """Where the archive under this key can be fetched for a while without a key of the service: `part` of the
        export, or the only one. None: the index of its parts."""

    async def add_files(self, files: list[StorageFile]) -> None:
        """Add to the service's own catalog. Raises Conflict where it has none, or another file has a key."""

    async def archive(self, wanted: ArchiveRequest, owner: str | None) -> Job:
        """Take an archive in. Raises NotFound, Conflict."""

    @property
    def archive_objects(self) -> ReadsObjects:
        """Where archives are."""

    @property
    def catalog(self) -> Catalog:
        """Whose files are where, and the rows of their exports."""

    async def task_environment(self, job_id: str, task_id: str) -> dict[str, str]:
        """The environment of a task, signed, for running a worker by hand."""

    async def health(self) -> dict[str, str]:
        """`ok`, or one sentence, for each part that requests depend on: `store`, `objects`. Raises nothing."""


def no_batch(job_id: str) -> NotFound:
    """The error for an unknown id, in the words of the engine."""
    return NotFound(f"No batch has the id {job_id}.")


def check_job_id(job_id: str) -> str:
    """The id itself. Raises NotFound where it cannot be one: such a job was never made."""
    if job_id == "batch" or not JOB_ID.fullmatch(job_id):
        raise no_batch(job_id)
    return job_id


async def find_job(engine: Engine, job_id: str) -> Job:
    """The row of a job. Raises NotFound."""
    job = await engine.store.job(check_job_id(job_id))
    if job is None:
        raise no_batch(job_id)
    return job
