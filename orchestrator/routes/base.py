"""What the groups of routes share: reading bodies, rows as the contract shows them, schemas for OpenAPI."""

from datetime import UTC, datetime
from typing import Annotated, Any, Final

import msgspec
from fastapi import Depends, Request
from pydantic import BaseModel
from starlette.responses import Response

from actors.errors import TooLarge
from actors.rules.costs import Charge
from actors.rules.model import Job, PhaseCount, Task
from actors.rules.states import JobState
from orchestrator import auth, errors
from orchestrator.routing import Engine

MAX_PAGE: Final = 1000

Responses = dict[int | str, dict[str, Any]]


async def engine_of(request: Request) -> Engine:
    """The engine that the application was made with. Like all dependencies not a plain function: FastAPI would run that
    in a thread, which costs more than all that it does."""
    engine: Engine = request.app.state.engine
    return engine


EngineOf = Annotated[Engine, Depends(engine_of)]


async def caller(request: Request, engine: EngineOf) -> str | None:
    """The owner behind the key; None where no keys are configured. Raises Unauthorized."""
    return auth.require_api_key(engine.settings, request.headers.get("authorization"))


Caller = Annotated[str | None, Depends(caller)]


async def downloader(request: Request, engine: EngineOf) -> str | None:
    """The same for what an export has made, which a link opens too. Raises Unauthorized."""
    export_id, query = request.path_params.get("export_id", ""), request.query_params
    if auth.is_link(engine, str(export_id), query.get("until", ""), query.get("sig", "")):
        return None
    return auth.require_api_key(engine.settings, request.headers.get("authorization"))


Downloader = Annotated[str | None, Depends(downloader)]


MANIFEST: Final = "Put the list into a manifest object and name that."


async def read_body(request: Request, limit: int, advice: str = MANIFEST) -> bytes:
    """The whole body, at most `limit` bytes. Raises TooLarge with the advice, as soon as it is known and not after
    reading all of it."""
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared) > limit:
        raise _too_large(limit, advice)
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise _too_large(limit, advice)
        parts.append(part)
    return b"".join(parts)


def _too_large(limit: int, advice: str) -> TooLarge:
    return TooLarge(f"The body is over {limit} bytes. {advice}")


def respond(body: Any, status: int = 200) -> Response:
    """A JSON response."""
    return errors.respond(status, body)


def iso(ms: int | None) -> str | None:
    """Milliseconds since 1970 as ISO 8601 UTC with milliseconds and Z."""
    if ms is None:
        return None
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def status_word(job: Job) -> str:
    """The originals' `status`: the name of the phase, DONE or ERROR."""
    if job.state is JobState.DONE:
        return "DONE"
    if job.state in (JobState.FAILED, JobState.CANCELLED):
        return "ERROR"
    return job.phases[min(job.phase, len(job.phases) - 1)]


def job_view(job: Job) -> dict[str, Any]:
    """The status object. `started_at` is never null, as in the originals: until work begins it is the creation."""
    return {
        "batch_id": job.id,
        "status": status_word(job),
        "progress": {
            "tasks_total": job.tasks_total,
            "tasks_completed": job.tasks_completed,
            "tasks_failed": job.tasks_failed,
        },
        "started_at": iso(job.started_at if job.started_at is not None else job.created_at),
        "updated_at": iso(job.updated_at or job.created_at),
        "completed_at": iso(job.completed_at),
        "error": job.error,
        "state": job.state.value,
        "code": job.code,
        "run": job.run,
        "phases": [msgspec.to_builtins(phase) for phase in _phases(job)],
        "files_total": job.files_total,
        "queued_at": iso(job.queued_at),
        "delivery": job.delivery.value,
    }


def costs_view(job: Job, costs: Charge) -> dict[str, Any]:
    """What the machines of a batch have cost so far, in all its runs. Dollars where prices are known."""
    view: dict[str, Any] = {
        "machines": costs.machines,
        "machine_seconds": costs.machine_ms / 1000,
        "spawns": costs.spawns,
        "starts": costs.starts,
        "retries": job.retries,
        "throttled_ms": job.throttled_ms,
    }
    return view | ({"usd": costs.nano_usd / 1e9} if costs.nano_usd else {})


def _phases(job: Job) -> list[PhaseCount]:
    """The history, and the current phase unless the history has it already."""
    name = job.phases[min(job.phase, len(job.phases) - 1)]
    known = list(job.history)
    if not any(phase.name == name and phase.run == job.run for phase in known):
        known.append(job.count)
    return known


def task_view(task: Task) -> dict[str, Any]:
    """One item of `GET /batches/{id}/tasks`."""
    return {
        "task_id": task.task_id,
        "status": task.status.value,
        "attempt": task.attempt,
        "input_r2_key": task.input_r2_key,
        "output_r2_key": task.output_r2_key,
        "error": task.error,
        "started_at": iso(task.started_at),
        "completed_at": iso(task.completed_at),
        "machine": task.machine,
        "performance": task.performance,
    }


class ErrorBody(BaseModel):
    """What every failure answers."""

    error: str
    code: str
    field: str | None = None


class Progress(BaseModel):
    """Counters of the current phase of the current run."""

    tasks_total: int
    tasks_completed: int
    tasks_failed: int


class Phase(BaseModel):
    """Counters of one phase of one run."""

    name: str
    run: int
    tasks_total: int
    tasks_completed: int
    tasks_failed: int
    delivery: str


class Costs(BaseModel):
    """Of a batch, in all its runs. `usd` is there where MACHINE_PRICES tells the price of its machines."""

    machines: int
    machine_seconds: float
    spawns: int
    starts: int
    retries: int
    throttled_ms: int
    usd: float | None = None


class BatchStatus(BaseModel):
    """A batch. Times are ISO 8601 UTC with milliseconds."""

    batch_id: str
    status: str
    progress: Progress
    started_at: str
    updated_at: str
    completed_at: str | None
    error: str | None
    state: str
    code: str | None
    run: int
    phases: list[Phase]
    files_total: int
    queued_at: str | None
    delivery: str

    model_config = {
        "json_schema_extra": {
            "example": {
                "batch_id": "01KAHTV88C21B76TF9DCV3AEPP",
                "status": "TIFF_CONVERSION",
                "progress": {"tasks_total": 200, "tasks_completed": 57, "tasks_failed": 0},
                "started_at": "2025-11-21T10:00:00.120Z",
                "updated_at": "2025-11-21T10:00:31.004Z",
                "completed_at": None,
                "error": None,
                "state": "running",
                "code": None,
                "run": 1,
                "phases": [
                    {
                        "name": "TIFF_CONVERSION",
                        "run": 1,
                        "tasks_total": 200,
                        "tasks_completed": 57,
                        "tasks_failed": 0,
                        "delivery": "none",
                    }
                ],
                "files_total": 260,
                "queued_at": "2025-11-21T10:00:00.090Z",
                "delivery": "none",
            }
        }
    }


class BatchStatusWithCosts(BatchStatus):
    """The same, and what it has cost."""

    costs: Costs


class BatchPage(BaseModel):
    """A page of batches, newest first. `next` is the cursor of the page after it."""

    items: list[BatchStatus]
    next: str | None


class TaskItem(BaseModel):
    """A task of the current run and phase."""

    task_id: str
    status: str
    attempt: int
    input_r2_key: str
    output_r2_key: str
    error: str | None
    started_at: str | None
    completed_at: str | None
    machine: str | None
    performance: dict[str, Any] | None


class TaskPage(BaseModel):
    """A page of tasks."""

    items: list[TaskItem]
    next: str | None


class Ok(BaseModel):
    """Done."""

    ok: bool


def failures(*statuses: int) -> Responses:
    """The `responses` of a route for these statuses."""
    return {status: {"model": ErrorBody, "description": _MEANING[status]} for status in statuses}


_MEANING: Final = {
    400: "The request is not valid; `field` names what is wrong.",
    401: "A valid key is needed.",
    403: "The key or signature does not allow this.",
    404: "Nothing is known under this id.",
    409: "The state of the batch does not allow this.",
    410: "It is gone: a machine that is retired exits, an export that has expired is started again.",
    413: "The body is over the limit.",
    502: "The provider of machines does not answer; `error` says why.",
    503: "Busy or restarting: send the same request again after Retry-After seconds.",
}


def json_body(examples: dict[str, dict[str, Any]], *, required: bool = True) -> dict[str, Any]:
    """`openapi_extra` for a body that the route reads by itself. `examples`: name to {"summary", "value"}."""
    content = {"application/json": {"schema": {"type": "object"}, "examples": examples}}
    return {"requestBody": {"required": required, "content": content}}
