"""Exports as callers see them: found by the id of a task, and in the originals' words."""

import re
from typing import Any, Final

from pydantic import BaseModel

from actors.errors import NotFound
from actors.rules.model import JOB_ID, Job, Task
from actors.rules.states import TERMINAL_JOBS, TERMINAL_TASKS, JobState, TaskStatus
from orchestrator.routing import Engine

OF_A_BATCH: Final = re.compile(r"(batch_\d+_[0-9a-f]{8})_mods_\d+")
ALONE: Final = re.compile(r"export_(?:mods|dc|marcxml)_\d+_[0-9a-f]{8}")
WORDS: Final = {
    TaskStatus.PENDING: "processing",
    TaskStatus.PROCESSING: "processing",
    TaskStatus.COMPLETED: "success",
    TaskStatus.FAILED: "error",
}
"""What the originals call the status of a task."""


class ExportStatus(BaseModel):
    """An export. Times are milliseconds since 1970; sizes are bytes. `metrics` are those of the finished export,
    `progress` those of one at work. `expires_at`: when it is removed, with its file."""

    task_id: str
    status: str
    pi: str
    created_at: int
    completed_at: int | None
    output_r2_key: str | None
    output_file_name: str | None
    output_file_size: int | None
    metrics: dict[str, Any] | None
    error: str | None
    state: str
    code: str | None
    format: str
    progress: dict[str, Any] | None
    expires_at: int | None


class ExportOfBatch(BaseModel):
    """One line of a batch of exports."""

    task_id: str
    pi: str
    status: str


class ExportBatchStatus(BaseModel):
    """A batch of exports."""

    batch_id: str
    total_tasks: int
    completed: int
    failed: int
    processing: int
    tasks: list[ExportOfBatch]
    state: str
    error: str | None
    expires_at: int | None


def is_id(text: str) -> bool:
    """Whether an export alone could have this id."""
    return bool(ALONE.fullmatch(text))


def is_task_of_a_batch(text: str) -> bool:
    """Whether an export of a batch could have this id."""
    return bool(OF_A_BATCH.fullmatch(text))


def batch_view(job: Job, tasks: list[Task]) -> dict[str, Any]:
    """The status object of a batch of exports."""
    words = [word(job, task) for task in tasks]
    return {
        "batch_id": job.id,
        "total_tasks": len(tasks),
        "completed": words.count("success"),
        "failed": words.count("error"),
        "processing": words.count("processing"),
        "tasks": [
            {"task_id": task.task_id, "pi": task.input_r2_key, "status": status}
            for task, status in zip(tasks, words, strict=True)
        ],
        "state": job.state.value,
        "error": job.error,
        "expires_at": job.expires_at if job.state in TERMINAL_JOBS else None,
    }


async def find(engine: Engine, task_id: str) -> tuple[Job, Task]:
    """An export alone, or one of a batch. Raises NotFound."""
    of_batch = OF_A_BATCH.fullmatch(task_id)
    job_id = of_batch[1] if of_batch else task_id
    job = await engine.store.job(job_id) if JOB_ID.fullmatch(job_id) else None
    if job is None or job.kind not in ("export", "exports"):
        raise unknown()
    rows = await engine.store.tasks(job.id, [task_id])
    if not rows:
        raise unknown()
    return job, rows[0]


async def find_batch(engine: Engine, batch_id: str) -> Job:
    """A batch of exports. Raises NotFound."""
    job = await engine.store.job(batch_id) if JOB_ID.fullmatch(batch_id) else None
    if job is None or job.kind != "exports":
        raise NotFound("Batch not found")
    return job


def unknown() -> NotFound:
    """The originals' words, which their clients may look for."""
    return NotFound("Task not found")


def word(job: Job, task: Task) -> str:
    """The originals' `status`. What waits when its job ends has failed with it, whatever its row says."""
    if job.state in TERMINAL_JOBS and task.status not in TERMINAL_TASKS:
        return "error"
    return WORDS[task.status]


def view(job: Job, task: Task) -> dict[str, Any]:
    """The status object of one export. Times are milliseconds since 1970."""
    status = word(job, task)
    ended = status != "processing"
    told = task.performance or None
    return {
        "task_id": task.task_id,
        "status": status,
        "pi": task.input_r2_key,
        "created_at": job.created_at,
        "completed_at": (task.completed_at or job.completed_at) if ended else None,
        "output_r2_key": task.output_r2_key if status == "success" else None,
        "output_file_name": file_name(task) if status == "success" else None,
        "output_file_size": task.output_file_size if status == "success" else None,
        "metrics": told if status == "success" else None,
        "error": (task.error or job.error) if status == "error" else None,
        "state": _state(job, status).value,
        "code": job.code,
        "format": job.message["format"],
        "progress": told if status == "processing" else None,
        "expires_at": job.expires_at if job.state in TERMINAL_JOBS else None,
    }


def _state(job: Job, status: str) -> JobState:
    """Of an export, which is one task: the job's, but that of one whose task has ended is how that has."""
    if status == "error" and job.state is not JobState.CANCELLED:
        return JobState.FAILED
    return JobState.DONE if status == "success" else job.state


def file_name(task: Task) -> str:
    """As callers get the file. Of the key, which is ours, and nothing that a worker says."""
    return task.output_r2_key.rpartition("/")[2]
