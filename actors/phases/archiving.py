"""ARCHIVING: each list of files becomes an archive. Not a phase of batches of files: it has lists of its own."""

from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from actors.phases.base import Phase
from actors.rules.model import Job, Task
from worker.contract import Environment, FileRef


def environment(job: Job, task: Task) -> Environment:
    """The list, the archive, the object in which an attempt writes how far it is, and what the archive is of."""
    return {
        "KIND": "zip",
        "TASK_ID": task.task_id,
        "BATCH_ID": job.id,
        "INPUT_R2_KEY": task.input_r2_key,
        "OUTPUT_R2_KEY": task.output_r2_key,
        "CHECKPOINT_R2_KEY": f"{task.output_r2_key}.checkpoint",
        "ARCHIVE_OPTIONS": msgspec.json.encode(_options(job, task.n)).decode(),
    }


def _options(job: Job, n: int) -> dict[str, Any]:
    """As `worker.kinds.zip.task.ArchiveOptions` has it. The time is that of the row: the same input, the same bytes."""
    told, parts = job.message, job.message["parts"]
    created = datetime.fromtimestamp(job.created_at // 1000, UTC).isoformat().replace("+00:00", "Z")
    given = {
        "title": told.get("name"), "created_at": created, "export_id": job.id, "user_id": told.get("user_id"),
        "export_type": told.get("export_type"), "part": n + 1, "parts": len(parts), "level": told.get("level"),
        "codec": told.get("codec"), "files": parts[n]["files"], "bytes": parts[n]["bytes"],
    }  # fmt: skip
    return {name: value for name, value in given.items() if value is not None}


def _takes_none(file: FileRef) -> bool:
    return False


def _same_key(file: FileRef) -> str:
    return file.r2_key


def _same_file(file: FileRef, task: Task) -> tuple[FileRef, ...]:
    return (file,)


PHASE: Final = Phase(
    name="ARCHIVING",
    kind="zip",
    wants=_takes_none,
    output_key=_same_key,
    environment=environment,
    files_after=_same_file,
    is_of_batches=False,
)
