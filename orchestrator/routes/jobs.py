"""What all kinds of jobs have: a status, and callbacks of their workers."""

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response

from actors.errors import NotFound
from orchestrator import archives, callback_path, exports
from orchestrator.archives import ArchiveStatus
from orchestrator.exports import ExportStatus
from orchestrator.routes.base import (
    BatchStatusWithCosts,
    Caller,
    EngineOf,
    costs_view,
    failures,
    job_view,
    json_body,
    read_body,
    respond,
)
from orchestrator.routing import find_job, no_batch
from worker.contract import MAX_CALLBACK_BYTES

router = APIRouter(tags=["jobs"])


class CallbackReply(BaseModel):
    """`next` is the environment of the worker's next task; `stop` says that the task is no longer wanted."""

    ok: bool
    received: bool = False
    stop: bool = False
    next: dict[str, str] | None = None


CALLBACK_BODY = json_body(
    {
        "success": {
            "summary": "Converted",
            "value": {
                "task_id": "my-scans-1_tiff_0",
                "batch_id": "my-scans-1",
                "status": "success",
                "output_r2_key": "staging/my-scans-1/a/p1.jpg",
                "output_file_name": "p1.jpg",
                "output_file_size": 524288,
                "performance": {
                    "total_time_ms": 1234,
                    "download_time_ms": 456,
                    "conversion_time_ms": 678,
                    "upload_time_ms": 100,
                },
            },
        },
        "error": {
            "summary": "Failed",
            "value": {
                "task_id": "my-scans-1_tiff_0",
                "batch_id": "my-scans-1",
                "status": "error",
                "error": "Failed to download TIFF: 404 Not Found",
            },
        },
    }
)


@router.get(
    "/status/{job_id}", response_model=BatchStatusWithCosts | ExportStatus | ArchiveStatus, responses=failures(401, 404)
)
async def status(job_id: str, engine: EngineOf, owner: Caller) -> Response:
    """Where a batch of files is, an export of metadata, or an archive of files."""
    if exports.is_task_of_a_batch(job_id):
        return respond(exports.view(*await exports.find(engine, job_id)))
    try:
        job = await find_job(engine, job_id)
    except NotFound:
        row = await archives.history(engine, job_id)
        if row is not None:
            return respond(archives.of_row(row, engine.now()))
        raise exports.unknown() if exports.is_id(job_id) else no_batch(job_id) from None
    if job.kind == "exports":
        return respond(exports.batch_view(job, await engine.store.all_tasks(job.id)))
    costs = {"costs": costs_view(job, await engine.costs(job.id))}
    if job.kind == "archive":
        return respond(archives.view(job, await engine.store.all_tasks(job.id), engine.now()) | costs)
    if job.kind == "export":
        return respond(exports.view(*await exports.find(engine, job_id)) | costs)
    return respond(job_view(job) | costs)


@router.post(
    "/callback/{task_id}",
    response_model=CallbackReply,
    responses=failures(400, 403, 404, 413, 503),
    openapi_extra=CALLBACK_BODY,
)
async def callback_of_one(task_id: str, request: Request, engine: EngineOf) -> Response:
    """The same for an export that is in no batch."""
    return await callback(task_id, task_id, request, engine)


@router.post(
    "/callback/{batch_id}/{task_id}",
    response_model=CallbackReply,
    responses=failures(400, 403, 404, 413, 503),
    openapi_extra=CALLBACK_BODY,
)
async def callback(batch_id: str, task_id: str, request: Request, engine: EngineOf) -> Response:
    """The report of a worker, to the signed CALLBACK_URL of its task. A repeated or late one is 200, and no change."""
    body = await read_body(request, MAX_CALLBACK_BYTES)
    code, content, headers = await callback_path.answer(engine, batch_id, task_id, request.scope["query_string"], body)
    return Response(content, code, headers, media_type="application/json")
