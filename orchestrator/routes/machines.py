"""The door through which machines and pull workers take work."""

from typing import Final

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response

from orchestrator.claim_path import MAX_CLAIM_BYTES, PATH, take
from orchestrator.routes.base import EngineOf, Responses, failures, json_body, read_body, respond

router = APIRouter(tags=["machines"])

NOTHING: Final[Responses] = {204: {"description": "Nothing to do within wait_ms."}}


class ClaimReply(BaseModel):
    """The environments of at most `free` tasks."""

    tasks: list[dict[str, str]]


@router.post(
    PATH,
    response_model=ClaimReply,
    responses=NOTHING | failures(400, 401, 410, 413, 503),
    openapi_extra=json_body(
        {
            "claim": {
                "summary": "Work for two cores",
                "value": {"machine": "m-7", "claim": "8f2c", "kinds": ["tiff"], "free": 2, "wait_ms": 5000},
            }
        }
    ),
)
async def claim(request: Request, engine: EngineOf) -> Response:
    """Take work; waits up to wait_ms (at most 30 s). The same claim again: the same answer, while it is open."""
    body = await read_body(request, MAX_CLAIM_BYTES)
    tasks = await take(engine, request.headers.get("authorization"), body)
    return respond({"tasks": tasks}) if tasks else Response(status_code=204)
