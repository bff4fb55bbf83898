"""The door through which machines and pull workers take work."""

import re
from typing import Any, Final

import msgspec
from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response

from actors.errors import InvalidInput
from orchestrator import auth
from orchestrator.routes.base import EngineOf, Responses, decode, failures, json_body, read_body, respond
from worker.contract import MAX_CLAIM_FREE, MAX_CLAIM_WAIT_MS, Claim

router = APIRouter(tags=["machines"])

MAX_CLAIM_BYTES: Final = 16 * 1024
NOTHING: Final[Responses] = {204: {"description": "Nothing to do within wait_ms."}}
_NAME: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class ClaimReply(BaseModel):
    """The environments of at most `free` tasks."""

    tasks: list[dict[str, str]]


@router.post(
    "/machines/claim",
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
    asked = decode(await read_body(request, MAX_CLAIM_BYTES), Claim)
    internal = auth.require_machine(engine, asked.machine, request.headers.get("authorization"))
    _check(asked)
    bounded = msgspec.structs.replace(asked, wait_ms=min(asked.wait_ms, MAX_CLAIM_WAIT_MS))
    reply: dict[str, Any] = await engine.fleet(
        {"op": "claim", "claim": msgspec.to_builtins(bounded), "internal": internal}
    )
    if not reply["tasks"]:
        return Response(status_code=204)
    return respond({"tasks": reply["tasks"]})


def _check(asked: Claim) -> None:
    if not _NAME.fullmatch(asked.machine):
        raise InvalidInput("machine has 1 to 128 letters, digits or . _ : -", field="machine")
    if not _NAME.fullmatch(asked.claim):
        raise InvalidInput("claim has 1 to 128 letters, digits or . _ : -", field="claim")
    if not 1 <= asked.free <= MAX_CLAIM_FREE:
        raise InvalidInput(f"free is 1 to {MAX_CLAIM_FREE}.", field="free")
    if asked.wait_ms < 0:
        raise InvalidInput("wait_ms is not negative.", field="wait_ms")
    if not asked.kinds:
        raise InvalidInput("Name at least one kind.", field="kinds")
