"""A second phase, for batches that have two: each JPEG gets a note beside it, by machines of another kind."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, cast

from actors.phases import Phase, all_phases
from actors.rules.model import Job, Task
from actors.rules.states import TaskStatus
from worker.contract import Environment, FileRef


def _wants(file: FileRef) -> bool:
    return file.r2_key.endswith(".jpg")


def _output_key(file: FileRef) -> str:
    return f"{file.r2_key}.txt"


def _environment(job: Job, task: Task) -> Environment:
    return {
        "KIND": "note",
        "TASK_ID": task.task_id,
        "BATCH_ID": job.id,
        "INPUT_R2_KEY": task.input_r2_key,
        "OUTPUT_R2_KEY": task.output_r2_key,
    }


def _files_after(file: FileRef, task: Task) -> tuple[FileRef, ...]:
    if task.status is not TaskStatus.COMPLETED:
        return (file,)
    note = FileRef(
        r2_key=task.output_r2_key, logical_path=f"{file.logical_path}.txt", file_name=f"{file.file_name}.txt"
    )
    return (file, note)


NOTED: Final = Phase(
    name="NOTED", kind="note", wants=_wants, output_key=_output_key, environment=_environment, files_after=_files_after
)


@contextmanager
def known() -> Iterator[None]:
    """As if it were a file of `actors.phases`."""
    every = cast(dict[str, Any], all_phases())
    every[NOTED.name] = NOTED
    try:
        yield
    finally:
        del every[NOTED.name]
