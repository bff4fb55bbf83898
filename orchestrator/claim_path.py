"""What a claim is answered: `POST /machines/claim`, through which machines and pull workers take work."""

import re
from typing import Any, Final

import msgspec

from actors.errors import InvalidInput
from orchestrator import auth
from orchestrator.decoding import decode
from orchestrator.routing import Engine
from worker.contract import MAX_CLAIM_FREE, MAX_CLAIM_WAIT_MS, Claim

PATH: Final = "/machines/claim"
MAX_CLAIM_BYTES: Final = 16 * 1024
_NAME: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")


async def take(engine: Engine, authorization: str | None, body: bytes) -> list[dict[str, Any]]:
    """The environments of tasks; waits as long as the claim says, and gives none then. Raises ArkeError."""
    asked = decode(body, Claim)
    internal = auth.require_machine(engine, asked.machine, authorization)
    _check(asked)
    bounded = msgspec.structs.replace(asked, wait_ms=min(asked.wait_ms, MAX_CLAIM_WAIT_MS))
    reply: dict[str, Any] = await engine.fleet(
        {"op": "claim", "claim": msgspec.to_builtins(bounded), "internal": internal}
    )
    tasks: list[dict[str, Any]] = reply["tasks"]
    return tasks


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
