"""Is it alive, and what is it."""

import html
import time
from typing import Final

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import HTMLResponse, Response

from orchestrator.routes.base import EngineOf, iso, respond

router = APIRouter(tags=["health"])

_PAGE: Final = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{name}</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:40rem;margin:3rem auto;padding:0 1rem}}</style>
<h1>{name}</h1>
<p>The service runs. Batches of files go through phases here, each task on a machine of its own.</p>
<ul>
<li><a href="/docs">API documentation</a> (<a href="/openapi.json">OpenAPI</a>)</li>
<li><a href="/batches">Batches</a>, newest first</li>
<li><a href="/health">Health</a></li>
</ul>
</html>
"""


class Health(BaseModel):
    """`status` is `ok`, or `degraded` where `store` or `objects` says what is wrong (503)."""

    status: str
    service: str
    timestamp: str
    store: str
    objects: str

    model_config = {
        "json_schema_extra": {
            "example": {
                "status": "ok",
                "service": "arke-preprocessing-orchestrator",
                "timestamp": "2025-11-21T10:00:00.000Z",
                "store": "ok",
                "objects": "ok",
            }
        }
    }


@router.get(
    "/health", response_model=Health, responses={503: {"model": Health, "description": "A part does not answer."}}
)
async def health(engine: EngineOf) -> Response:
    """Whether the service and what it stands on answer."""
    parts = await engine.health()
    well = all(state == "ok" for state in parts.values())
    body = {
        "status": "ok" if well else "degraded",
        "service": engine.settings.service_name,
        "timestamp": iso(time.time_ns() // 1_000_000),
        **parts,
    }
    return respond(body, 200 if well else 503)


@router.get("/", include_in_schema=False)
async def index(engine: EngineOf) -> Response:
    """A page for people who open the address in a browser."""
    return HTMLResponse(_PAGE.format(name=html.escape(engine.settings.service_name)))
