"""Expire: rows of batches, of archives and of machines are removed RETENTION_DAYS after their end. Objects are never
touched: an export is removed with its file by an alarm of its own, and an archive's row when its objects are gone."""

from typing import Final, Protocol

from actors import telemetry
from actors.errors import ArkeError
from actors.maintenance.base import Report

LIMIT: Final = 50
MACHINES: Final = 1_000
DAY_MS: Final = 24 * 60 * 60 * 1000


class ExpireStore(Protocol):
    async def expired(self, before: int, limit: int) -> list[str]: ...

    async def remove(self, job_id: str) -> None: ...

    async def forget_machines(self, before: int, limit: int = ...) -> int: ...


async def run_once(store: ExpireStore, *, now: int, retention_days: int, limit: int = LIMIT) -> Report:
    """Remove at most `limit` jobs, and machines in proportion, that ended `retention_days` before `now` (ms)."""
    failed = 0
    before = now - retention_days * DAY_MS
    jobs = await store.expired(before, limit)
    for job_id in jobs:
        try:
            await store.remove(job_id)
        except (ArkeError, OSError) as failure:
            failed += 1
            telemetry.warning("duty.not_removed", batch=job_id, why=failure)
    machines = await store.forget_machines(before, MACHINES)
    more = len(jobs) == limit or machines == MACHINES
    return Report(duty="expire", done=len(jobs) - failed + machines, failed=failed, more=more)
