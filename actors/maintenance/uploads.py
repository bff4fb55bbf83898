"""Uploads: those of archives that are over, or were never known, are given up. An attempt that dies may leave one that
no other attempt knows of; nobody sees it, and it costs what its parts do."""

import asyncio
from typing import Final, Protocol

from actors import telemetry
from actors.maintenance.base import Report
from worker.errors import WorkerError

PREFIX: Final = "exports/"
PLACE: Final = 2
"""Which part of a key is the id of its job, from 0: exports/{user}/{id}/{name}."""
PARTS: Final = 4


class UploadStore(Protocol):
    async def open_jobs(self, job_ids: list[str]) -> set[str]: ...


class Uploading(Protocol):
    """What this needs of the object store. Blocking: called on a thread."""

    def uploads(self, prefix: str) -> list[tuple[str, str]]: ...
    def abort_upload(self, key: str, upload: str) -> None: ...


async def run_once(store: UploadStore, objects: Uploading) -> Report:
    """Look at all uploads; those of archives that are being made stay."""
    try:
        begun = await asyncio.to_thread(objects.uploads, PREFIX)
    except WorkerError as failure:
        telemetry.warning("duty.uploads_not_listed", why=failure)
        return Report(duty="uploads", failed=1)
    of_archives = [(key, upload) for key, upload in begun if key.count("/") == PARTS - 1]
    if not of_archives:
        return Report(duty="uploads")
    wanted = await store.open_jobs(sorted({_job(key) for key, _ in of_archives}))
    done = failed = 0
    for key, upload in of_archives:
        if _job(key) in wanted:
            continue
        try:
            await asyncio.to_thread(objects.abort_upload, key, upload)
            done += 1
        except WorkerError as failure:
            failed += 1
            telemetry.warning("duty.upload_stays", archive=_job(key), why=failure)
    return Report(duty="uploads", done=done, failed=failed)


def _job(key: str) -> str:
    return key.split("/")[PLACE]
