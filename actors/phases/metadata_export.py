"""METADATA_EXPORT: the entity tree of each PI becomes a file. Not a phase of batches of files: its jobs are exports."""

from typing import Final

import msgspec

from actors.phases.base import Phase
from actors.rules.model import Job, Task
from worker.contract import SINGLE, Environment, FileRef


def environment(job: Job, task: Task) -> Environment:
    """As the originals' workers read it; KIND, EXPORT_FORMAT and OUTPUT_R2_KEY beside it are for ours."""
    return {
        "KIND": "mods",
        "TASK_ID": task.task_id,
        "BATCH_ID": SINGLE if job.kind == "export" else job.id,
        "PI": task.input_r2_key,
        "EXPORT_FORMAT": job.message["format"],
        "EXPORT_OPTIONS": msgspec.json.encode(job.message["options"]).decode(),
        "OUTPUT_R2_KEY": task.output_r2_key,
    }


def _takes_none(file: FileRef) -> bool:
    return False


def _same_key(file: FileRef) -> str:
    return file.r2_key


def _same_file(file: FileRef, task: Task) -> tuple[FileRef, ...]:
    return (file,)


PHASE: Final = Phase(
    name="METADATA_EXPORT",
    kind="mods",
    wants=_takes_none,
    output_key=_same_key,
    environment=environment,
    files_after=_same_file,
    is_of_batches=False,
)
