"""An archive of files, as its job and its tasks, one for each part, say that it is. Pure, like all rules."""

from collections.abc import Sequence
from typing import Any, Final, Literal

from actors.rules.model import Job, Task
from actors.rules.states import TERMINAL_JOBS, JobState

Word = Literal["pending", "processing", "completed", "failed"]
"""What the originals call the status of an export."""

INDEX_VERSION: Final = 1


def word(job: Job) -> Word:
    """Completed when every part is."""
    if job.state is JobState.RECEIVING and not job.source_cursor:
        return "pending"
    if job.state is JobState.DONE and not job.tasks_failed:
        return "completed"
    return "processing" if job.state in (JobState.RECEIVING, JobState.QUEUED, JobState.RUNNING) else "failed"


def parts(job: Job) -> list[dict[str, int]]:
    """How many files and bytes each part has; none before all files are verified."""
    found: list[dict[str, int]] = job.message.get("parts", [])
    return found


def folder(job: Job) -> str:
    """Where all its objects are: what their keys begin with. Nothing else is there."""
    found: str = job.message["folder"]
    return found


def list_key(job: Job, n: int) -> str:
    """The list of the files of part `n`, from 0."""
    return f"{folder(job)}list-{n + 1}.jsonl"


def archive_key(job: Job, n: int, of: int) -> str:
    """The archive that is part `n`, from 0, of so many."""
    number = "" if of == 1 else f"-{n + 1}"
    return f"{folder(job)}{job.created_at}-export{number}.zip"


def keys(job: Job) -> list[str]:
    """Of all archives, in their order."""
    count = len(parts(job))
    return [archive_key(job, n, count) for n in range(count)]


def index_key(job: Job) -> str:
    """The index of an archive of several parts."""
    return f"{folder(job)}{job.created_at}-export-index.json"


def result_key(job: Job) -> str | None:
    """What a caller fetches: the archive, or the index of its parts; None before it is completed, and without files."""
    count = len(parts(job))
    if word(job) != "completed" or count == 0:
        return None
    return archive_key(job, 0, 1) if count == 1 else index_key(job)


def file_count(tasks: Sequence[Task]) -> int:
    """The files in all archives: without README.txt and manifest.json, and those that could not be read."""
    return sum(told(task, "files") for task in tasks)


def size_bytes(tasks: Sequence[Task]) -> int:
    """Of all archives together."""
    return sum(task.output_file_size or 0 for task in tasks)


def expires_at(job: Job) -> int | None:
    """When the objects of one that is over go, or went."""
    return (job.removed_since or job.expires_at) if job.state in TERMINAL_JOBS else None


def error(job: Job, tasks: Sequence[Task]) -> str | None:
    """Why it has failed: the job's reason, else that of the first part that has."""
    if word(job) != "failed":
        return None
    return job.error or next((task.error for task in tasks if task.error), None)


def index(job: Job, tasks: Sequence[Task]) -> dict[str, Any]:
    """The index of its parts: each is an archive that opens by itself."""
    return {
        "version": INDEX_VERSION,
        "export_id": job.id,
        "created_at": job.created_at,
        "file_count": file_count(tasks),
        "size_bytes": size_bytes(tasks),
        "parts": [
            {
                "part": task.n + 1,
                "r2_key": task.output_r2_key,
                "size_bytes": task.output_file_size,
                "file_count": told(task, "files"),
                "missing": told(task, "missing"),
            }
            for task in tasks
        ],
    }


def told(task: Task, name: str) -> int:
    """A number of what its worker has told last."""
    value = (task.performance or {}).get(name)
    return value if type(value) is int else 0
