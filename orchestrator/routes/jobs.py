"""What all kinds of jobs have: a status, and callbacks of their workers."""

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response

from orchestrator import callback_path
from orchestrator.routes.base import BatchStatus, Caller, EngineOf, failures, job_view, json_body, read_body, respond
from orchestrator.routing import find_job
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


@router.get("/status/{job_id}", response_model=BatchStatus, responses=failures(401, 404))
async def status(job_id: str, engine: EngineOf, owner: Caller) -> Response:
    """Where a batch is."""
    return respond(job_view(await find_job(engine, job_id)))


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
