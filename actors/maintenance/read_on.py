"""Read on: a prefix whose reader has died is read on, from its durable cursor.

A reader is alive or not; nothing in the store says which. So every job that still reads is activated in each round,
which does nothing where its reader runs. Without this it would wait for INTAKE_TIMEOUT_S, which is made for callers
who send a list again.
"""

import logging
from typing import Final, Protocol

from actors.errors import ArkeError
from actors.maintenance.base import Activate, Report
from actors.rules.model import Job
from actors.rules.states import JobState

log = logging.getLogger(__name__)

LIMIT: Final = 100


class ReadStore(Protocol):
    async def list_jobs(
        self, *, state: str | None = None, limit: int = 50, cursor: str | None = None
    ) -> tuple[list[Job], str | None]: ...


async def run_once(store: ReadStore, activate: Activate, *, limit: int = LIMIT) -> Report:
    """Activate all jobs that read a prefix, by pages of `limit`. Lists are not touched: their callers send them again,
    or nobody does."""
    failed = 0
    for job in await _reading(store, limit):
        try:
            await activate(job.id)
        except (ArkeError, OSError) as failure:
            failed += 1
            log.warning("[Maintenance] the prefix of %s cannot be read on: %s", job.id, failure)
    return Report(duty="read_on", failed=failed)


async def _reading(store: ReadStore, limit: int) -> list[Job]:
    page, cursor = await store.list_jobs(state=JobState.RECEIVING, limit=limit)
    jobs = list(page)
    while cursor is not None:
        page, cursor = await store.list_jobs(state=JobState.RECEIVING, limit=limit, cursor=cursor)
        jobs += page
    return [job for job in jobs if job.source_cursor is not None]
