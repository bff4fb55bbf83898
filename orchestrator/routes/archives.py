"""Archives of files: created, listed, cancelled; and the same under the paths of the originals."""

import asyncio
import hashlib
from typing import Annotated, Final

import msgspec
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel
from starlette.responses import Response

from actors.archives import TYPES, ArchiveRequest, of_type, understand, user
from actors.bodies import as_object
from actors.errors import Conflict, Expired, InvalidInput, NotFound
from actors.rules import archive
from actors.sources.base import check_key
from actors.store.catalog_rows import COMPLETED, StorageFile
from orchestrator.archives import NO_FILE, StorageExport, current, find_job, find_row, row_view, unknown
from orchestrator.decoding import decode
from orchestrator.routes.base import MAX_PAGE, Caller, EngineOf, Ok, failures, json_body, read_body, respond
from orchestrator.routing import Engine
from worker.contract import MAX_COUNT

router = APIRouter(tags=["archives"])

MAX_BODY_BYTES: Final = 1 << 20
SMALL_BODY_BYTES: Final = 64 * 1024
"""Understood in some milliseconds; a larger body on a thread, so that callbacks are answered meanwhile."""
MOST_FILES: Final = 10_000
SMALLER: Final = "Send fewer at a time; archives can be made of a prefix, too."
USER_HEADER: Final = "x-user-id"
STARTED: Final = "Export started. Use export_id to check its status."

CREATE: Final = json_body({
    "catalog": {"summary": "All files of a user", "value": {"user_id": "u-7", "export_type": "full", "name": "Mine"}},
    "category": {
        "summary": "Those of a category",
        "value": {"user_id": "u-7", "export_type": "category", "filter_params": {"category": "recipes"}},
    },
    "row": {"summary": "A row of the catalog that waits", "value": {"export_id": "exp-1"}},
    "prefix": {"summary": "The objects below a prefix", "value": {"r2_prefix": "staging/my-scans/"}},
    "keys": {"summary": "Some objects", "value": {"keys": ["a/1.tif", "b/2.pdf"]}},
})  # fmt: skip


class ArchiveStarted(BaseModel):
    """It is accepted; ask for its status."""

    export_id: str
    status: str
    message: str


class ExportPage(BaseModel):
    """A page of the exports of a user, newest first. `next` is the cursor of the page after it."""

    items: list[StorageExport]
    next: str | None


class StorageDownload(BaseModel):
    """Where the archive is to be fetched: `download_url` needs no key, for an hour. Of several archives it gives their
    index, and `part_urls` each of them. Times are ISO 8601 UTC."""

    download_url: str
    part_urls: list[str]
    expires_at: str | None
    size_bytes: int | None
    file_count: int | None


class FilesAdded(BaseModel):
    """They are in the catalog."""

    ok: bool
    files: int


class CancelBody(msgspec.Struct):
    """POST …/cancel."""

    reason: str | None = None


class NewFile(msgspec.Struct, kw_only=True):
    """A file for the catalog. Without an id, it is known by its key."""

    user_id: str
    r2_key: str
    id: str | None = None
    filename: str | None = None
    mime_type: str | None = None
    size_bytes: int = 0
    product: str | None = None
    category: str | None = None
    deleted: bool = False


class NewFiles(msgspec.Struct):
    """POST /api/storage/files."""

    files: list[NewFile]


@router.post(
    "/export/zip", status_code=202, response_model=ArchiveStarted, responses=failures(400, 401, 404, 409, 413, 503),
    openapi_extra=CREATE,
)  # fmt: skip
async def export_zip(request: Request, engine: EngineOf, owner: Caller) -> Response:
    """Make archives of files: of a user, by the catalog; below a prefix; or of a list of keys."""
    raw = await read_body(request, engine.settings.max_body_bytes, SMALLER)
    wanted = understand(raw) if len(raw) <= SMALL_BODY_BYTES else await asyncio.to_thread(understand, raw)
    return await _started(engine, wanted, owner)


async def _started(engine: Engine, wanted: ArchiveRequest, owner: str | None) -> Response:
    job = await engine.archive(wanted, owner)
    return respond({"export_id": job.id, "status": "pending", "message": STARTED}, 202)


@router.get("/exports", response_model=ExportPage, responses=failures(400, 401, 503))
async def list_exports(
    engine: EngineOf,
    owner: Caller,
    user_id: Annotated[str, Query(min_length=1, max_length=200)],
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50,
    cursor: Annotated[str | None, Query(max_length=1000)] = None,
) -> Response:
    """The exports that a user has in the catalog, newest first."""
    rows, following = await engine.catalog.exports(user_id, limit=limit, cursor=cursor)
    items = [row_view(await current(engine, row)) for row in rows]
    return respond({"items": items, "next": following})


@router.post(
    "/exports/{export_id}/cancel", response_model=Ok, responses=failures(400, 401, 404, 409, 503),
    openapi_extra=json_body(
        {"reason": {"summary": "With a reason", "value": {"reason": "wrong files"}}}, required=False
    ),
)  # fmt: skip
async def cancel(export_id: str, request: Request, engine: EngineOf, owner: Caller) -> Response:
    """Stop an export: its machines are stopped, and all its objects removed. The reason stays in its row."""
    raw = await read_body(request, MAX_BODY_BYTES)
    reason = decode(raw, CancelBody).reason if raw.strip() else None
    await _existing(engine, export_id)
    await engine.call(export_id, {"op": "cancel", "job": export_id, "reason": reason or "by request"})
    return respond({"ok": True})


async def _existing(engine: Engine, export_id: str) -> None:
    if await find_job(engine, export_id) is not None:
        return
    row = await engine.catalog.export(export_id)
    if row is None:
        raise unknown(export_id)
    raise Conflict(f"The export {export_id} is {row.status}, and nothing of it runs: there is nothing to cancel.")


# --- the originals' paths -------------------------------------------------------------------------


@router.post(
    "/api/storage/export", status_code=202, response_model=ArchiveStarted,
    responses=failures(400, 401, 409, 413, 503),
    openapi_extra=json_body({"all": {"summary": "All files", "value": {"type": "full", "user_id": "u-7"}}}),
)  # fmt: skip
async def storage_export(request: Request, engine: EngineOf, owner: Caller) -> Response:
    """Make an archive of a user's files. The user is `user_id` of the body, the header X-User-ID, or else who calls."""
    body = as_object(await read_body(request, MAX_BODY_BYTES))
    if not body.get("type"):
        raise InvalidInput(f"type is missing: one of {', '.join(TYPES)}.", field="type")
    who = user(body.get("user_id") or request.headers.get(USER_HEADER) or owner)
    if who is None:
        raise InvalidInput(
            "user_id is missing: whose files? The header X-User-ID may name the user, too.", field="user_id"
        )
    asked = ArchiveRequest(user_id=who, alone=True)
    return await _started(engine, of_type(asked, body["type"], body.get("filters"), fields=("type", "filters")), owner)


@router.get("/api/storage/export/{export_id}", response_model=StorageExport, responses=failures(401, 404, 503))
async def storage_row(export_id: str, engine: EngineOf, owner: Caller) -> Response:
    """The row of an export."""
    row = await find_row(engine, export_id)
    if row is None:
        raise unknown(export_id)
    return respond(row_view(row))


@router.get(
    "/api/storage/export/{export_id}/download", response_model=StorageDownload,
    responses=failures(401, 404, 410, 503),
)  # fmt: skip
async def storage_download(export_id: str, engine: EngineOf, owner: Caller) -> Response:
    """Where its archive is."""
    row = await find_row(engine, export_id)
    if row is None:
        raise unknown(export_id)
    if row.expires_at is not None and row.expires_at <= engine.now():
        raise Expired
    if row.status != COMPLETED:
        raise NotFound(f"Export not ready. Status: {row.status}")
    if row.r2_key is None:
        raise NotFound(NO_FILE)
    job = await find_job(engine, export_id)
    keys = [] if job is None else archive.keys(job)
    several = keys if len(keys) > 1 else []
    shown = row_view(row)
    return respond(
        {
            "download_url": engine.download_url(export_id, None if several else row.r2_key),
            "part_urls": [engine.download_url(export_id, key, n) for n, key in enumerate(several, start=1)],
        }
        | {name: shown[name] for name in ("expires_at", "size_bytes", "file_count")}
    )


@router.post(
    "/api/storage/files", status_code=200, response_model=FilesAdded, responses=failures(400, 401, 409, 413, 503),
    openapi_extra=json_body({
        "file": {
            "summary": "One file",
            "value": {"files": [
                {"user_id": "u-7", "r2_key": "u-7/p1.jpg", "filename": "p1.jpg", "product": "blog"},
            ]},
        }
    }),
)  # fmt: skip
async def add_files(request: Request, engine: EngineOf, owner: Caller) -> Response:
    """Add files to the service's own catalog, or change them; `deleted` takes one out of it. The same again changes
    nothing. With CATALOG_URL that database is the catalog, and files are added there."""
    given = decode(await read_body(request, engine.settings.max_body_bytes, SMALLER), NewFiles).files
    if len(given) > MOST_FILES:
        raise InvalidInput(f"files has {len(given)} entries: send at most {MOST_FILES} at a time.", field="files")
    now = engine.now()
    await engine.add_files([_catalogued(file, f"files[{n}]", now) for n, file in enumerate(given)])
    return respond({"ok": True, "files": len(given)})


def _catalogued(file: NewFile, field: str, now: int) -> StorageFile:
    check_key(file.r2_key, f"{field}.r2_key")
    if not 0 <= file.size_bytes <= MAX_COUNT:
        raise InvalidInput(
            f"{field}.size_bytes must not be negative, nor over {MAX_COUNT}.", field=f"{field}.size_bytes"
        )
    return StorageFile(
        id=file.id or hashlib.sha256(file.r2_key.encode()).hexdigest()[:32],
        user_id=user(file.user_id, f"{field}.user_id") or "",
        r2_key=file.r2_key,
        filename=file.filename or file.r2_key.rpartition("/")[2],
        mime_type=file.mime_type,
        size_bytes=file.size_bytes,
        product=file.product,
        category=file.category,
        created_at=now,
        deleted_at=now if file.deleted else None,
    )
