"""Batches: create, list, look at the tasks, cancel, run again, deliver again."""

from typing import Annotated, Final

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from actors.errors import NotFound
from actors.rules.states import JobState, TaskStatus
from orchestrator import auth
from orchestrator.decoding import decode
from orchestrator.routes.base import (
    MAX_PAGE,
    BatchPage,
    BatchStatus,
    Caller,
    EngineOf,
    Ok,
    Responses,
    TaskPage,
    failures,
    job_view,
    json_body,
    read_body,
    respond,
    task_view,
)
from orchestrator.routing import Engine, check_job_id, find_job

router = APIRouter(tags=["batches"])

MAX_REASON_BYTES: Final = 64 * 1024

AGAIN: Final[Responses] = {200: {"model": BatchStatus, "description": "The same body was sent before."}}
CREATE_BODY: Final = json_body(
    {
        "message": {
            "summary": "A queue message that names a manifest",
            "value": {
                "batch_id": "01KAHTV88C21B76TF9DCV3AEPP",
                "manifest_r2_key": "staging/01KAHTV88C21B76TF9DCV3AEPP/_manifest.json",
                "r2_prefix": "staging/01KAHTV88C21B76TF9DCV3AEPP/",
                "uploader": "name",
                "root_path": "/",
                "total_files": 2,
                "total_bytes": 123,
                "uploaded_at": "2025-11-21T09:58:00.000Z",
                "finalized_at": "2025-11-21T09:59:00.000Z",
                "metadata": {},
            },
        },
        "files": {
            "summary": "The files themselves",
            "value": {
                "batch_id": "my-scans-1",
                "files": [
                    {
                        "r2_key": "staging/my-scans-1/a/p1.tiff",
                        "logical_path": "/a/p1.tiff",
                        "file_name": "p1.tiff",
                        "file_size": 100,
                        "content_type": "image/tiff",
                    }
                ],
            },
        },
        "prefix": {"summary": "Every object under a prefix", "value": {"r2_prefix": "staging/my-scans-1/"}},
    }
)


class CancelBody(msgspec.Struct):
    """Why a batch is cancelled."""

    reason: str | None = None


@router.post(
    "/batches",
    status_code=202,
    response_model=BatchStatus,
    responses=AGAIN | failures(400, 401, 409, 413, 503),
    openapi_extra=CREATE_BODY,
)
async def create(request: Request, engine: EngineOf, owner: Caller) -> Response:
    """Create a batch, from a queue message, a list of files, or a prefix. Over a batch in ERROR: a new run."""
    return await _create(request, engine, owner)


@router.post(
    "/test",
    status_code=202,
    response_model=BatchStatus,
    responses=failures(400, 401, 404, 409, 413, 503),
    openapi_extra=CREATE_BODY,
)
async def create_test(request: Request, engine: EngineOf, owner: Caller) -> Response:
    """The same as POST /batches, in development only (ENVIRONMENT=development)."""
    if engine.settings.environment != "development":
        raise NotFound("POST /test exists in development only: use POST /batches.")
    return await _create(request, engine, owner)


async def _create(request: Request, engine: Engine, owner: str | None) -> Response:
    raw = await read_body(request, engine.settings.max_body_bytes)
    job, created = await engine.create(raw, owner)
    return respond(job_view(job), 202 if created else 200)


@router.get("/batches", response_model=BatchPage, responses=failures(400, 401))
async def list_batches(
    engine: EngineOf,
    owner: Caller,
    status: Annotated[str | None, Query(description="A phase's name, DONE or ERROR", max_length=64)] = None,
    state: JobState | None = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50,
    cursor: Annotated[str | None, Query(max_length=1000)] = None,
) -> Response:
    """Batches, newest first."""
    jobs, following = await engine.store.list_jobs(
        state=state.value if state else None, status=status, limit=limit, cursor=cursor
    )
    return respond({"items": [job_view(job) for job in jobs], "next": following})


@router.get("/batches/{batch_id}/tasks", response_model=TaskPage, responses=failures(400, 401, 404))
async def list_tasks(
    batch_id: str,
    engine: EngineOf,
    owner: Caller,
    status: TaskStatus | None = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 100,
    cursor: Annotated[str | None, Query(max_length=1000)] = None,
) -> Response:
    """The tasks of a batch."""
    job = await find_job(engine, batch_id)
    tasks, following = await engine.store.list_tasks(
        job.id, status=status.value if status else None, limit=limit, cursor=cursor
    )
    return respond({"items": [task_view(task) for task in tasks], "next": following})


@router.get("/batches/{batch_id}/tasks/{task_id}/env", response_model=dict[str, str], responses=failures(401, 403, 404))
async def task_environment(batch_id: str, task_id: str, request: Request, engine: EngineOf) -> Response:
    """The environment of a task, signed, for running a worker by hand."""
    auth.require_any_key(engine.settings, request.headers.get("authorization"))
    return respond(await engine.task_environment(check_job_id(batch_id), task_id))


@router.post(
    "/batches/{batch_id}/cancel",
    response_model=Ok,
    responses=failures(400, 401, 404, 409, 503),
    openapi_extra=json_body(
        {"reason": {"summary": "With a reason", "value": {"reason": "wrong scans"}}}, required=False
    ),
)
async def cancel(batch_id: str, request: Request, engine: EngineOf, owner: Caller) -> Response:
    """Stop a batch: its machines are stopped, tasks that have not begun never begin."""
    raw = await read_body(request, MAX_REASON_BYTES)
    reason = decode(raw, CancelBody).reason if raw.strip() else None
    check_job_id(batch_id)
    await engine.call(batch_id, {"op": "cancel", "job": batch_id, "reason": reason or "by request"})
    return respond({"ok": True})


@router.post(
    "/batches/{batch_id}/retry",
    status_code=202,
    response_model=BatchStatus,
    responses=failures(401, 404, 409, 503),
)
async def retry(batch_id: str, engine: EngineOf, owner: Caller) -> Response:
    """Run the failed tasks of a finished batch again: a new run."""
    check_job_id(batch_id)
    seen = await find_job(engine, batch_id)
    return await _ask(engine, batch_id, "retry", after_run=seen.run, created_at=seen.created_at)


@router.post(
    "/batches/{batch_id}/redeliver",
    status_code=202,
    response_model=BatchStatus,
    responses=failures(401, 404, 409, 503),
)
async def redeliver(batch_id: str, engine: EngineOf, owner: Caller) -> Response:
    """Send the final callback again, under the same key."""
    return await _ask(engine, batch_id, "redeliver")


async def _ask(engine: Engine, batch_id: str, op: str, **more: int) -> Response:
    check_job_id(batch_id)
    await engine.call(batch_id, {"op": op, "job": batch_id, **more})
    return respond(job_view(await find_job(engine, batch_id)), 202)
