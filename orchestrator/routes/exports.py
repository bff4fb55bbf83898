"""Exports of metadata: create them, alone or together."""

from typing import Final

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response

from actors import exports
from orchestrator.exports import ExportBatchStatus, batch_view, find_batch
from orchestrator.routes.base import Caller, EngineOf, failures, json_body, read_body, respond
from orchestrator.routing import Engine

router = APIRouter(tags=["exports"])

STARTED: Final = "Export job started. Use task_id to check status."
MAX_BODY_BYTES: Final = 1 << 20
PI: Final = "01K8W0AG70YQWM0ESYWV3FY5SR"
OPTIONS: Final = {
    "recursive": True, "maxDepth": 10, "parallelBatchSize": 10, "includeOcr": True, "cheimarrosMode": "full",
}  # fmt: skip
ONE: Final = json_body({"tree": {"summary": "An entity and all below it", "value": {"pi": PI, "options": OPTIONS}}})
ONE_OF_A_FORMAT: Final = json_body(
    {"tree": {"summary": "An entity and all below it", "value": {"format": "dc", "pi": PI, "options": OPTIONS}}}
)
SEVERAL: Final = json_body({"trees": {"summary": "Each as a file of its own", "value": {"pis": [PI], "options": {}}}})


class ExportStarted(BaseModel):
    """It is accepted; ask for its status."""

    task_id: str
    status: str
    message: str


class BatchStarted(BaseModel):
    """All are accepted; ask for the status of the batch or of each."""

    batch_id: str
    task_ids: list[str]
    status: str
    message: str


@router.post(
    "/export", status_code=202, response_model=ExportStarted, responses=failures(400, 401, 413, 503),
    openapi_extra=ONE_OF_A_FORMAT,
)  # fmt: skip
async def export(request: Request, engine: EngineOf, owner: Caller) -> Response:
    """Export an entity, in the format that the body names: mods (when it names none), dc or marcxml."""
    return await _one(request, engine, owner, None)


@router.post(
    "/export/mods", status_code=202, response_model=ExportStarted, responses=failures(400, 401, 413, 503),
    openapi_extra=ONE,
)  # fmt: skip
async def export_mods(request: Request, engine: EngineOf, owner: Caller) -> Response:
    """Export an entity as MODS 3.8; with `recursive` all entities below it, each as a record of the same file."""
    return await _one(request, engine, owner, "mods")


@router.post(
    "/export/dc", status_code=202, response_model=ExportStarted, responses=failures(400, 401, 413, 503),
    openapi_extra=ONE,
)  # fmt: skip
async def export_dc(request: Request, engine: EngineOf, owner: Caller) -> Response:
    """The same as Dublin Core (oai_dc)."""
    return await _one(request, engine, owner, "dc")


@router.post(
    "/export/marcxml", status_code=202, response_model=ExportStarted, responses=failures(400, 401, 413, 503),
    openapi_extra=ONE,
)  # fmt: skip
async def export_marcxml(request: Request, engine: EngineOf, owner: Caller) -> Response:
    """The same as MARCXML."""
    return await _one(request, engine, owner, "marcxml")


@router.post(
    "/export/mods/batch", status_code=202, response_model=BatchStarted, responses=failures(400, 401, 413, 503),
    openapi_extra=SEVERAL,
)  # fmt: skip
async def export_batch(request: Request, engine: EngineOf, owner: Caller) -> Response:
    """Export several entities, each as a file of its own; the body may name another `format`."""
    raw = await read_body(request, MAX_BODY_BYTES, "Send fewer entities at a time.")
    wanted = exports.understand(raw, None, is_batch=True, removes_after_download=_removes(engine))
    job, task_ids = await engine.export(wanted, owner)
    tasks = "1 task" if len(task_ids) == 1 else f"{len(task_ids)} tasks"
    return respond(
        {
            "batch_id": job.id, "task_ids": task_ids, "status": "processing",
            "message": f"Batch export started with {tasks}.{_ignored(wanted)}",
        },
        202,
    )  # fmt: skip


@router.get("/status/batch/{batch_id}", response_model=ExportBatchStatus, responses=failures(401, 404))
async def batch_status(batch_id: str, engine: EngineOf, owner: Caller) -> Response:
    """Where a batch of exports is."""
    job = await find_batch(engine, batch_id)
    return respond(batch_view(job, await engine.store.all_tasks(job.id)))


async def _one(request: Request, engine: Engine, owner: str | None, format: str | None) -> Response:
    raw = await read_body(request, MAX_BODY_BYTES, "Send fewer entities at a time.")
    wanted = exports.understand(raw, format, is_batch=False, removes_after_download=_removes(engine))
    _, (task_id,) = await engine.export(wanted, owner)
    return respond({"task_id": task_id, "status": "processing", "message": STARTED + _ignored(wanted)}, 202)


def _ignored(wanted: exports.ExportRequest) -> str:
    """What a caller has written wrongly, perhaps."""
    names = ", ".join(name[:40] for name in wanted.unknown[:5])
    return f" Options that are not known were ignored: {names}." if names else ""


def _removes(engine: Engine) -> bool:
    return engine.settings.export_remove_after_download
