"""Admit: queued jobs get a place, oldest first; jobs whose intake nobody continues are failed (invariant 5)."""

from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from actors import telemetry
from actors.errors import ArkeError
from actors.maintenance.base import CLOCKS_DIFFER_MS, Activate, Report, for_each
from actors.rules.model import Job

LIMIT: Final = 200

FailIntake = Callable[[Job], Awaitable[object]]
"""Ends a job that is RECEIVING and overdue. Raises ArkeError when it is not any more."""


class AdmitStore(Protocol):
    async def waiting(self, limit: int, most_tasks: int = ...) -> list[Job]: ...

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
    """Place those of the `limit` oldest jobs that wait for which there is a place, and `limit` small ones.

    The first job that finds no slot ends the search for slots; small jobs (at most `small_tasks` tasks) have places
    without one, also those that wait behind any number of large ones. Then at most `limit` intakes are failed. An
    intake whose alarm is further ahead than `intake_timeout_ms` was begun before the clock went back: it is looked
    at like one that is overdue, and its job bounds its waits. Raises what the store's questions raise.
    """

    async def place(job: Job) -> str | None:
        return await store.admit(
            job.id, max_active=max_active, small_tasks=small_tasks, shared_hosts=shared_hosts, now=now
        )

    placing = Placing(place, small_tasks)
    waiting = await store.waiting(limit)
    await placing.offer(waiting)
    if placing.slots_taken and len(waiting) == limit:
        await placing.offer(await store.waiting(limit, small_tasks))
    # Placed but not woken: its alarm is due, so `wake` does it.
    done, failed = await for_each(placing.placed, lambda job: activate(job.id), "not_woken")
    stalled = await store.stalled(now, limit, now + intake_timeout_ms + CLOCKS_DIFFER_MS)
    ended, not_ended = await for_each(stalled, fail_intake, "intake_not_ended")
    return Report(
        duty="admit",
        done=done + ended,
        failed=placing.failed + failed + not_ended,
        more=len(placing.placed) >= limit or (len(stalled) == limit and ended > 0),
    )


class Placing:
    """Asks for places, as long as there are some."""

    def __init__(self, place: Callable[[Job], Awaitable[str | None]], small_tasks: int):
        self._place, self._small_tasks = place, small_tasks
        self._offered: set[str] = set()
        self.placed: list[Job] = []
        self.failed = 0
        self.slots_taken = False

    async def offer(self, jobs: list[Job]) -> None:
        """Ask for a place for each, in their order; no job is asked for twice."""
        for job in jobs:
            if job.id in self._offered or (self.slots_taken and job.tasks_total > self._small_tasks):
                continue
            self._offered.add(job.id)
            await self._one(job)

    async def _one(self, job: Job) -> None:
        try:
            if await self._place(job) is None:
                self.slots_taken = True
            else:
                self.placed.append(job)
        except (ArkeError, OSError) as failure:
            self.failed += 1
            telemetry.warning("duty.not_admitted", batch=job.id, why=failure)
