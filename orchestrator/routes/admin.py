"""What an operator does by hand."""

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response

from orchestrator import auth
from orchestrator.routes.base import EngineOf, failures, respond
from orchestrator.routing import check_job_id

router = APIRouter(prefix="/admin", tags=["admin"])


class ResetReply(BaseModel):
    """The batch is in ERROR now."""

    ok: bool
    message: str

    model_config = {"json_schema_extra": {"example": {"ok": True, "message": "Batch reset"}}}


@router.post("/reset/{batch_id}", response_model=ResetReply, responses=failures(401, 403, 404, 409, 503))
async def reset(batch_id: str, request: Request, engine: EngineOf) -> Response:
    """Put a batch into ERROR, with its machines stopped. ADMIN_KEY, where it is set."""
    auth.require_admin(engine.settings, request.headers.get("authorization"))
    check_job_id(batch_id)
    await engine.call(batch_id, {"op": "reset", "job": batch_id})
    return respond({"ok": True, "message": "Batch reset"})
