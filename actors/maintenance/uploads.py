"""Uploads: those of archives that are over for good are given up. An attempt that dies may leave one that no other
attempt knows of; nobody sees it, and it costs what its parts do.

Only what belongs to an archive of this service is touched: others may write into the bucket too. One that has failed
keeps its uploads, since a new run goes on with them, until its objects are removed.
"""

import asyncio
from typing import Final, Protocol

from actors import telemetry
from actors.maintenance.base import Report
from actors.rules import archive
from actors.rules.model import Job
from actors.rules.states import JobState
from worker.errors import WorkerError

PREFIX: Final = "exports/"
PLACE: Final = 2
"""Which part of a key is the id of its job, from 0: exports/{user}/{id}/{name}."""
PARTS: Final = 4


class UploadStore(Protocol):
    async def job(self, job_id: str) -> Job | None: ...


class Uploading(Protocol):
    """What this needs of the object store. Blocking: called on a thread."""

    def uploads(self, prefix: str) -> list[tuple[str, str]]: ...
    def abort_upload(self, key: str, upload: str) -> None: ...


async def run_once(store: UploadStore, objects: Uploading) -> Report:
    """Look at all uploads that may be an archive's."""
    try:
        begun = await asyncio.to_thread(objects.uploads, PREFIX)
    except WorkerError as failure:
        telemetry.warning("duty.uploads_not_listed", why=failure)
        return Report(duty="uploads", failed=1)
    done = failed = 0
    for key, upload in begun:
        if key.count("/") != PARTS - 1 or not await _is_given_up(store, key):
            continue
        try:
            await asyncio.to_thread(objects.abort_upload, key, upload)
            done += 1
        except WorkerError as failure:
            failed += 1
            telemetry.warning("duty.upload_stays", key=key, why=failure)
    return Report(duty="uploads", done=done, failed=failed)


async def _is_given_up(store: UploadStore, key: str) -> bool:
    job = await store.job(key.split("/")[PLACE])
    if job is None or job.kind != "archive" or not key.startswith(archive.folder(job)):
        return False
    return job.state is JobState.CANCELLED or job.removed_since is not None or archive.word(job) == "completed"
