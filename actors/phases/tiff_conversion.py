"""TIFF_CONVERSION: each TIFF becomes a JPEG beside it; every other file passes through."""

import re
from typing import Final

from actors.phases.base import Phase
from actors.rules.model import Job, Task
from actors.rules.states import TaskStatus
from worker.contract import IMAGE_JPEG, Environment, FileRef

TIFF_NAME: Final = re.compile(r"\.tiff?$", re.IGNORECASE)
TIFF_TYPES: Final = frozenset({"image/tiff", "image/tif", "image/x-tiff"})


def wants(file: FileRef) -> bool:
    return bool(TIFF_NAME.search(file.file_name)) or file.content_type.lower() in TIFF_TYPES


def to_jpg(name: str) -> str:
    """The originals' rule: `.tif` and `.tiff` become `.jpg`; another name gets it appended."""
    renamed, count = TIFF_NAME.subn(".jpg", name)
    return renamed if count else f"{name}.jpg"


def output_key(file: FileRef) -> str:
    return to_jpg(file.r2_key)


def environment(job: Job, task: Task) -> Environment:
    return {
        "KIND": "tiff",
        "TASK_ID": task.task_id,
        "BATCH_ID": job.id,
        "INPUT_R2_KEY": task.input_r2_key,
        "OUTPUT_R2_KEY": task.output_r2_key,
    }


def files_after(file: FileRef, task: Task) -> tuple[FileRef, ...]:
    """The tagged TIFF and its JPEG; a TIFF that failed passes through as it is."""
    if task.status is not TaskStatus.COMPLETED:
        return (file,)
    source = FileRef(
        r2_key=file.r2_key,
        logical_path=file.logical_path,
        file_name=file.file_name,
        file_size=file.file_size,
        content_type=file.content_type,
        cid=file.cid,
        processing_config=file.processing_config,
        source_file=file.source_file,
        preprocessor_tags=(*file.preprocessor_tags, "TiffConverter:source"),
    )
    name = task.output_r2_key.rsplit("/", 1)[-1]
    folder, slash, _ = file.logical_path.rpartition("/")
    jpeg = FileRef(
        r2_key=task.output_r2_key,
        logical_path=f"{folder}{slash}{name}",
        file_name=name,
        file_size=task.output_file_size or 0,
        content_type=IMAGE_JPEG,
        processing_config=file.processing_config,
        source_file=file.file_name,
        preprocessor_tags=("TiffConverter",),
    )
    return (source, jpeg)


PHASE: Final = Phase(
    name="TIFF_CONVERSION",
    kind="tiff",
    wants=wants,
    output_key=output_key,
    environment=environment,
    files_after=files_after,
)
