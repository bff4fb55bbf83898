"""What an operator sees of the machines, and does about them. ADMIN_KEY, where it is set."""

from typing import Any, Final

import msgspec
from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response

from orchestrator import auth
from orchestrator.decoding import decode
from orchestrator.routes.base import EngineOf, failures, iso, json_body, read_body, respond

router = APIRouter(prefix="/admin/machines", tags=["admin"])

MAX_BODY_BYTES: Final = 1024


class MachineView(BaseModel):
    """One machine. `batch_id` and `task_id`: the work that it took last; `reason`: why it ends."""

    machine: str
    name: str | None = None
    provider: str
    provider_id: str | None = None
    kind: str
    state: str
    pool: bool
    batch_id: str | None = None
    task_id: str | None = None
    created_at: str | None = None
    started_at: str | None = None
    reason: str | None = None


class MachinesReply(BaseModel):
    """All machines that are not gone, oldest first."""

    items: list[MachineView]


class PoolCounts(BaseModel):
    """`size` machines shall be there; those of an older image or configuration are outdated, and are replaced."""

    size: int
    ready: int
    preparing: int
    working: int
    outdated: int


class PoolReply(BaseModel):
    """By kind of work."""

    pools: dict[str, PoolCounts]


class Unowned(BaseModel):
    """A machine at the provider that no row knows, and since when it was seen so."""

    provider_id: str
    name: str | None = None
    since: str | None = None


class SweepReply(BaseModel):
    """`items` are nobody's; of those `destroyed` were destroyed: what was seen just now may be under way."""

    destroyed: int
    items: list[Unowned]


class Sweep(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a sweep."""

    dry_run: bool = False


@router.get("", response_model=MachinesReply, responses=failures(401, 403, 503))
async def machines(request: Request, engine: EngineOf) -> Response:
    """What runs, for whom, since when and why."""
    auth.require_admin(engine.settings, request.headers.get("authorization"))
    rows: list[dict[str, Any]] = await engine.fleet({"op": "list"})
    return respond({"items": [_view(row) for row in sorted(rows, key=lambda row: (row["created_at"], row["id"]))]})


@router.get("/pool", response_model=PoolReply, responses=failures(401, 403, 503))
async def pool(request: Request, engine: EngineOf) -> Response:
    """The stopped machines that wait for work. They are made in the background, as fast as the provider permits."""
    auth.require_admin(engine.settings, request.headers.get("authorization"))
    return respond({"pools": await engine.fleet({"op": "pool"})})


@router.post(
    "/sweep",
    response_model=SweepReply,
    responses=failures(400, 401, 403, 413, 502, 503),
    openapi_extra=json_body({"look": {"summary": "Only look", "value": {"dry_run": True}}}),
)
async def sweep(request: Request, engine: EngineOf) -> Response:
    """Destroy the machines that are nobody's. The service does that by itself every 10 s."""
    auth.require_admin(engine.settings, request.headers.get("authorization"))
    asked = decode(await read_body(request, MAX_BODY_BYTES) or b"{}", Sweep)
    told: dict[str, Any] = await engine.fleet({"op": "sweep", "dry_run": asked.dry_run})
    items = [item | {"since": iso(item["since"])} for item in told["items"]]
    return respond({"destroyed": told["destroyed"], "items": items})


def _view(row: dict[str, Any]) -> dict[str, Any]:
    kept = ("name", "provider", "provider_id", "kind", "state", "task_id", "reason")
    return {
        "machine": row["id"],
        **{name: row[name] for name in kept},
        "pool": row["pool"] is not None,
        "batch_id": row["job_id"],
        "created_at": iso(row["created_at"]),
        "started_at": iso(row["started_at"]),
    }
