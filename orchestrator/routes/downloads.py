"""What jobs have made, to be downloaded."""

from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from actors import telemetry
from actors.errors import ArkeError, InvalidInput, NotFound, Unavailable
from actors.rules import archive as archive_rules
from actors.rules.model import Job, Task
from actors.store.catalog_rows import CatalogExport
from orchestrator import archives, downloads, zipping
from orchestrator.exports import batch_view, file_name, find, find_batch, is_id, is_task_of_a_batch, word
from orchestrator.routes.base import Caller, Downloader, EngineOf, failures
from orchestrator.routing import Engine
from worker import errors as worker_errors
from worker.objects.base import Opened

router = APIRouter(tags=["downloads"])

XML: Final = "application/xml"
FILE: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "The file.", "content": {XML: {}}},
    206: {"description": "The range that was asked for.", "content": {XML: {}}},
    304: {"description": "It is the one that the caller has."},
    416: {"description": "The range begins beyond the end of the file."},
}
ARCHIVE: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "The archive.", "content": {"application/zip": {}}}
}


@router.head("/download/{export_id}", include_in_schema=False)
@router.get("/download/{export_id}", response_class=Response, responses=FILE | failures(400, 401, 404, 410, 503))
async def download(export_id: str, request: Request, engine: EngineOf, owner: Downloader) -> Response:
    """The file of an export of metadata, an archive, or the index of its parts. Ranges, ETag and HEAD as in RFC
    9110."""
    if not is_task_of_a_batch(export_id) and not is_id(export_id):
        return await _archive_of(export_id, request, engine)
    job, task = await find(engine, export_id)
    if word(job, task) != "success":
        raise InvalidInput(f"Export not ready or failed. Status: {word(job, task)}")

    async def done() -> None:
        await _downloaded(engine, job)

    goes = job.message.get("removeAfterDownload") and job.kind == "export"
    try:
        return await downloads.serve(
            request, lambda start: engine.export_objects.open(task.output_r2_key, start),
            name=file_name(task), media_type=XML, done=done if goes else None,
        )  # fmt: skip
    except worker_errors.ObjectMissing as error:
        raise NotFound("The file of this export is not there any more. Start the export again.") from error
    except worker_errors.WorkerError as error:
        raise Unavailable("The object store does not answer. Send the same request again.") from error


async def _archive_of(export_id: str, request: Request, engine: Engine) -> Response:
    job = await archives.ready(engine, export_id, engine.now())
    if isinstance(job, CatalogExport):
        return await _stored_archive(request, engine, job.r2_key or "")
    if len(archive_rules.parts(job)) == 1:
        return await _stored_archive(request, engine, archive_rules.archive_key(job, 0, 1))
    tasks = await engine.store.all_tasks(job.id)
    body = msgspec.json.format(msgspec.json.encode(archive_rules.index(job, tasks)))
    name = archive_rules.index_key(job).rpartition("/")[2]
    return Response(
        body if request.method == "GET" else None, 200,
        {"Content-Disposition": downloads.disposition(name), "Content-Length": str(len(body)),
         "Cache-Control": "private", "X-Content-Type-Options": "nosniff"},
        media_type="application/json",
    )  # fmt: skip


async def _stored_archive(request: Request, engine: Engine, key: str) -> Response:
    try:
        return await downloads.serve(
            request, lambda start: engine.archive_objects.open(key, start), name=key.rpartition("/")[2],
            media_type="application/zip",
        )  # fmt: skip
    except (worker_errors.ObjectMissing, worker_errors.BadInput) as error:
        raise NotFound("The archive is not there any more. Start the export again.") from error
    except worker_errors.WorkerError as error:
        raise Unavailable("The object store does not answer. Send the same request again.") from error


@router.head("/download/batch/{batch_id}", include_in_schema=False)
@router.get(
    "/download/batch/{batch_id}", response_class=Response, responses=ARCHIVE | failures(400, 401, 404)
)  # fmt: skip
async def download_batch(batch_id: str, request: Request, engine: EngineOf, owner: Caller) -> Response:
    """The files of the successful exports of a batch, as one ZIP. Its length is not known before."""
    job = await find_batch(engine, batch_id)
    tasks = await engine.store.all_tasks(job.id)
    view = batch_view(job, tasks)
    if view["processing"] or not view["completed"]:
        status = "processing" if view["processing"] else "error"
        raise InvalidInput(f"Export not ready or failed. Status: {status}")
    ready = [task for task in tasks if word(job, task) == "success"]
    headers = {
        "Content-Disposition": downloads.disposition(f"{job.id}.zip"),
        "Cache-Control": "private",
        "X-Content-Type-Options": "nosniff",
    }
    if request.method == "HEAD":
        return Response(None, 200, headers, media_type="application/zip")
    return StreamingResponse(_archive(engine, job, ready), 200, headers, media_type="application/zip")


@router.head("/download/{export_id}/{part}", include_in_schema=False)
@router.get(
    "/download/{export_id}/{part}", response_class=Response, responses=ARCHIVE | failures(400, 401, 404, 410, 503)
)  # fmt: skip
async def download_part(export_id: str, part: int, request: Request, engine: EngineOf, owner: Downloader) -> Response:
    """One of the archives of an export, from 1; each opens by itself. Ranges, ETag and HEAD as in RFC 9110."""
    job = await archives.ready(engine, export_id, engine.now())
    count = 0 if isinstance(job, CatalogExport) else len(archive_rules.parts(job))
    if isinstance(job, CatalogExport) or not 1 <= part <= count:
        raise NotFound(f"The export has parts 1 to {count}." if count else "The export is not known to have parts.")
    return await _stored_archive(request, engine, archive_rules.archive_key(job, part - 1, count))


async def _archive(engine: Engine, job: Job, tasks: list[Task]) -> AsyncIterator[bytes]:
    async def entries() -> AsyncIterator[zipping.Entry]:
        for task in tasks:
            yield zipping.Entry(file_name(task), _opener(engine, task))

    async for chunk in zipping.stream(entries()):
        yield chunk
    if job.message.get("removeAfterDownload"):
        await _downloaded(engine, job)


async def _downloaded(engine: Engine, job: Job) -> None:
    """The caller has it all, whatever becomes of this: what is not told here expires later."""
    try:
        await engine.call(job.id, {"op": "downloaded", "job": job.id})
    except ArkeError as error:
        telemetry.warning("export.not_told_of_download", export=job.id, why=error)


def _opener(engine: Engine, task: Task) -> Any:
    def opened() -> Opened:
        return engine.export_objects.open(task.output_r2_key)

    return opened
