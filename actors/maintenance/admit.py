"""Admit: queued jobs get a place, oldest first; jobs whose intake nobody continues are failed (invariant 5)."""

import logging
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from actors.errors import ArkeError
from actors.maintenance.base import CLOCKS_DIFFER_MS, Activate, Report
from actors.rules.model import Job

log = logging.getLogger(__name__)

LIMIT: Final = 200

FailIntake = Callable[[Job], Awaitable[object]]
"""Ends a job that is RECEIVING and overdue. Raises ArkeError when it is not any more."""


class AdmitStore(Protocol):
    async def waiting(self, limit: int) -> list[Job]: ...

    async def stalled(self, now: int, limit: int, far: int) -> list[Job]: ...

    async def admit(
        self, job_id: str, *, max_active: int, small_tasks: int, shared_hosts: int, now: int
    ) -> str | None: ...


async def run_once(
    store: AdmitStore,
    activate: Activate,
    fail_intake: FailIntake,
    *,
    now: int,
    max_active: int,
    small_tasks: int,
    shared_hosts: int,
    intake_timeout_ms: int,
    limit: int = LIMIT,
) -> Report:
    """Place at most `limit` jobs. A large one that finds no slot is passed over: small ones behind it have places.

    An intake whose alarm is further ahead than `intake_timeout_ms` was begun before the clock went back: it is looked
    at like one that is overdue, and its job bounds its waits.
    """
    done = failed = 0
    waiting = await store.waiting(limit)
    for job in waiting:
        try:
            placement = await store.admit(
                job.id, max_active=max_active, small_tasks=small_tasks, shared_hosts=shared_hosts, now=now
            )
            if placement is not None:
                await activate(job.id)
                done += 1
        except (ArkeError, OSError) as failure:
            failed += 1  # placed but not woken: its alarm is due, so `wake` does it
            log.warning("[Maintenance] %s cannot be admitted: %s", job.id, failure)
    stalled = await store.stalled(now, limit, now + intake_timeout_ms + CLOCKS_DIFFER_MS)
    for job in stalled:
        try:
            await fail_intake(job)
            done += 1
        except (ArkeError, OSError) as failure:
            failed += 1
            log.info("[Maintenance] the intake of %s is not ended: %s", job.id, failure)
    return Report(duty="admit", done=done, failed=failed, more=limit in (len(waiting), len(stalled)))
