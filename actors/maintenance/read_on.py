"""Read on: a prefix, or what goes into an archive, whose reader has died is read on, from its durable cursor.

A reader is alive or not; nothing in the store says which. So every job that still reads is activated in each round,
which does nothing where its reader runs or pauses after a failure. Without this it would wait for INTAKE_TIMEOUT_S,
which is made for callers who send a list again.
"""

from typing import Final, Protocol

from actors.maintenance.base import Activate, Report, for_each
from actors.rules.model import Job

LIMIT: Final = 100


class ReadStore(Protocol):
    async def reading(self, *, limit: int = 50, cursor: str | None = None) -> tuple[list[Job], str | None]: ...


async def run_once(store: ReadStore, activate: Activate, *, limit: int = LIMIT) -> Report:
    """Activate all jobs that read a prefix, by pages of `limit`. Lists are not touched: their callers send them again,
    or nobody does."""
    page, cursor = await store.reading(limit=limit)
    failed = await _activate(page, activate)
    while cursor is not None:
        page, cursor = await store.reading(limit=limit, cursor=cursor)
        failed += await _activate(page, activate)
    return Report(duty="read_on", failed=failed)


async def _activate(page: list[Job], activate: Activate) -> int:
    _, failed = await for_each(page, lambda job: activate(job.id), "not_read_on")
    return failed
