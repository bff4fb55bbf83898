"""Archives as callers see them: the job while there is one, and the row of the catalog that outlives it."""

from datetime import UTC, datetime
from typing import Any, Final

from pydantic import BaseModel

from actors.errors import Expired, InvalidInput, NotFound, Unavailable
from actors.rules import archive
from actors.rules.archive import told
from actors.rules.model import JOB_ID, Job, Task
from actors.rules.states import JobState, TaskStatus
from actors.store.catalog_rows import COMPLETED, ENDS, CatalogExport, row_of
from orchestrator import exports
from orchestrator.routing import Engine

MOST_SHOWN: Final = 1000
NO_FILE: Final = "The export has no file, so there is no archive of it."
MILLISECONDS: Final = 1000


class ArchivePart(BaseModel):
    """One archive of several, or the only one. Sizes are bytes."""

    part: int
    status: str
    files: int
    missing: int
    bytes: int
    size_bytes: int | None
    r2_key: str | None
    error: str | None


class ArchiveStatus(BaseModel):
    """An export of files. Times are milliseconds since 1970; sizes are bytes; `bytes` are those of the files, and
    `size_bytes` those of the archives. `estimate_s`: seconds to its end, as far as one can tell. `delivery`:
    whether the catalog was told of its end."""

    export_id: str
    status: str
    state: str
    phase: str
    user_id: str | None
    export_type: str | None
    filter_params: dict[str, Any] | None
    name: str | None
    files_verified: int
    files_missing: int
    bytes: int
    parts_total: int
    parts_completed: int
    parts: list[ArchivePart]
    percent: float | None
    estimate_s: float | None
    r2_key: str | None
    size_bytes: int | None
    file_count: int | None
    created_at: int
    started_at: int | None
    completed_at: int | None
    expires_at: int | None
    expired: bool
    error: str | None
    code: str | None
    delivery: str
    delivery_error: str | None


class StorageExport(BaseModel):
    """The row of an export, as the originals answer it. Times are ISO 8601 UTC."""

    id: str
    user_id: str
    status: str
    export_type: str
    filter_params: dict[str, Any] | None
    r2_key: str | None
    size_bytes: int | None
    file_count: int | None
    created_at: str
    completed_at: str | None
    expires_at: str | None
    error_message: str | None


async def find_job(engine: Engine, export_id: str) -> Job | None:
    """The job of an archive, while there is one."""
    job = await engine.store.job(export_id) if JOB_ID.fullmatch(export_id) else None
    return job if job is not None and job.kind == "archive" else None


async def find_row(engine: Engine, export_id: str) -> CatalogExport | None:
    """Its row of the catalog, as its job says by now: the catalog is told later."""
    job = await find_job(engine, export_id)
    if job is not None:
        return row_of(job, await engine.store.all_tasks(job.id)) if job.message["source"] == "catalog" else None
    return await engine.catalog.export(export_id)


async def current(engine: Engine, row: CatalogExport) -> CatalogExport:
    """A row of the catalog as its job says by now. What is over there is over."""
    job = None if row.status in ENDS else await find_job(engine, row.id)
    return row if job is None else row_of(job, await engine.store.all_tasks(job.id))


async def history(engine: Engine, export_id: str) -> CatalogExport | None:
    """The row of an export whose job is gone. None also where the catalog is away: most ids that are asked for and not
    known are of nothing at all."""
    try:
        return await engine.catalog.export(export_id) if JOB_ID.fullmatch(export_id) else None
    except Unavailable:
        return None


def unknown(export_id: str) -> NotFound:
    """The error for an id of nothing."""
    return NotFound(f"No export has the id {export_id}.")


def view(job: Job, tasks: list[Task], now: int) -> dict[str, Any]:
    """The status object."""
    is_whole = archive.word(job) == "completed"
    percent = _percent(job, tasks)
    return {
        "export_id": job.id,
        "status": archive.word(job),
        "state": job.state.value,
        "phase": "VERIFYING" if job.queued_at is None else "ARCHIVING",
        "user_id": job.message.get("user_id"),
        "export_type": job.message.get("export_type"),
        "filter_params": job.message.get("filter_params"),
        "name": job.message.get("name"),
        "files_verified": job.files_total - job.files_missing,
        "files_missing": job.files_missing,
        "bytes": job.bytes_total,
        "parts_total": len(archive.parts(job)),
        "parts_completed": sum(task.status is TaskStatus.COMPLETED for task in tasks),
        "parts": [_part(job, task) for task in tasks[:MOST_SHOWN]],
        "percent": percent,
        "estimate_s": _estimate_s(job, percent, now),
        "r2_key": archive.result_key(job),
        "size_bytes": archive.size_bytes(tasks) if is_whole else None,
        "file_count": archive.file_count(tasks) if is_whole else None,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "completed_at": job.completed_at,
        "expires_at": archive.expires_at(job),
        "expired": job.removed_since is not None,
        "error": archive.error(job, tasks),
        "code": job.code,
        "delivery": job.delivery.value,
        "delivery_error": job.delivery_error,
    }


def _part(job: Job, task: Task) -> dict[str, Any]:
    planned = archive.parts(job)[task.n] if task.n < len(archive.parts(job)) else {}
    is_made = task.status is TaskStatus.COMPLETED
    return {
        "part": task.n + 1,
        "status": task.status.value,
        "files": told(task, "files") if is_made else planned.get("files", 0),
        "missing": told(task, "missing"),
        "bytes": planned.get("bytes", 0),
        "size_bytes": task.output_file_size,
        "r2_key": task.output_r2_key if is_made else None,
        "error": task.error,
    }


def _percent(job: Job, tasks: list[Task]) -> float | None:
    """Of the bytes that are to be read. How much there is to verify is not known before."""
    if archive.word(job) == "completed":
        return 100.0
    if job.queued_at is None:
        return None
    if not job.bytes_total:
        return 0.0
    done = sum(
        min(told(task, "bytes"), planned["bytes"]) for task, planned in zip(tasks, archive.parts(job), strict=False)
    )
    return round(min(99.9, 100 * done / job.bytes_total), 1)


def _estimate_s(job: Job, percent: float | None, now: int) -> float | None:
    """From what the work so far has taken."""
    if job.state is not JobState.RUNNING or not percent or job.started_at is None:
        return None
    return round((now - job.started_at) / MILLISECONDS * (100 - percent) / percent, 1)


def row_view(row: CatalogExport) -> dict[str, Any]:
    """A row of the catalog as the originals answer it."""
    return {
        "id": row.id,
        "user_id": row.user_id,
        "status": row.status,
        "export_type": row.export_type,
        "filter_params": row.filter_params or None,
        "r2_key": row.r2_key,
        "size_bytes": row.size_bytes,
        "file_count": row.file_count,
        "created_at": _iso(row.created_at),
        "completed_at": _iso(row.completed_at),
        "expires_at": _iso(row.expires_at),
        "error_message": row.error_message,
    }


def of_row(row: CatalogExport, now: int) -> dict[str, Any]:
    """The status object of an export whose job is history."""
    words = {"completed": JobState.DONE, "failed": JobState.FAILED, "processing": JobState.RUNNING}
    is_whole = row.status == "completed"
    return {
        "export_id": row.id, "status": row.status, "state": words.get(row.status, JobState.QUEUED).value,
        "phase": "ARCHIVING" if is_whole else "VERIFYING", "user_id": row.user_id, "export_type": row.export_type,
        "filter_params": row.filter_params, "name": None, "files_verified": row.file_count or 0, "files_missing": 0,
        "bytes": 0, "parts_total": 0, "parts_completed": 0, "parts": [], "percent": 100.0 if is_whole else None,
        "estimate_s": None, "r2_key": row.r2_key, "size_bytes": row.size_bytes, "file_count": row.file_count,
        "created_at": row.created_at, "started_at": None, "completed_at": row.completed_at,
        "expires_at": row.expires_at, "expired": row.expires_at is not None and row.expires_at <= now,
        "error": row.error_message, "code": None, "delivery": "none", "delivery_error": None,
    }  # fmt: skip


async def ready(engine: Engine, export_id: str, now: int) -> Job | CatalogExport:
    """An archive that can be downloaded: a job's, or one that somebody else has made, by its row of the catalog.

    Raises:
        NotFound: there is none.
        Expired: its files are gone.
        InvalidInput: it is not ready, has failed, or has no file.
    """
    job = await find_job(engine, export_id)
    if job is None:
        row = await history(engine, export_id)
        if row is None:
            raise exports.unknown()  # the id may be of any kind of export
        if row.expires_at is not None and row.expires_at <= now:
            raise Expired
        if row.status == COMPLETED and row.r2_key is not None:
            return row
        if row.status == COMPLETED:
            raise InvalidInput(NO_FILE)
        raise InvalidInput(f"Export not ready or failed. Status: {row.status}")
    if job.removed_since is not None or job.state is JobState.CANCELLED:
        raise Expired("It was cancelled. Start another one.") if job.state is JobState.CANCELLED else Expired()
    word = archive.word(job)
    if word != "completed":
        raise InvalidInput(f"Export not ready or failed. Status: {word}")
    if not archive.parts(job):
        raise InvalidInput(NO_FILE)
    return job


def _iso(ms: int | None) -> str | None:
    if ms is None:
        return None
    return datetime.fromtimestamp(ms / MILLISECONDS, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
