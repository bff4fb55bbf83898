"""What the duties share: what they report, and how they have jobs activated."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import msgspec

from actors import telemetry
from actors.errors import ArkeError, Unavailable
from actors.rules.model import Job

Activate = Callable[[str], Awaitable[object]]
"""Makes sure that the actor of this job runs and looks at its alarm. Raises ArkeError or OSError when it cannot."""

CLOCKS_DIFFER_MS: Final = 10_000
"""More than the clocks of two processes drift apart without a jump."""

AT_ONCE: Final = 64
"""Jobs that one round activates side by side."""
PATIENCE_S: Final = 2.0
"""How long a round waits for one job. What takes longer goes on beside the rounds that follow."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One round of one duty: how many were done, how many failed (their next turn is the next round), whether more
    were due than one round takes."""

    duty: str
    done: int = 0
    failed: int = 0
    more: bool = False


class Activator:
    """An `Activate` that waits for a job only so long: a host that hangs holds up no round, and none of its jobs is
    asked twice at once."""

    def __init__(self, activate: Activate, *, patience_s: float = PATIENCE_S) -> None:
        self._activate, self._patience_s = activate, patience_s
        self._running: dict[str, asyncio.Task[object]] = {}

    async def __call__(self, job_id: str) -> None:
        """Raises Unavailable while the activation goes on; else what it raised."""
        if job_id in self._running:
            raise Unavailable("It is still being activated.")
        running = asyncio.get_running_loop().create_task(_awaited(self._activate, job_id))
        self._running[job_id] = running
        running.add_done_callback(lambda done: self._ended(job_id, done))
        await asyncio.wait([running], timeout=self._patience_s)
        if not running.done():
            raise Unavailable("It is still being activated.")
        running.result()

    def _ended(self, job_id: str, running: "asyncio.Task[object]") -> None:
        del self._running[job_id]
        if not running.cancelled():
            running.exception()  # whoever still waits has it; the next round activates the job again


async def _awaited(activate: Activate, job_id: str) -> object:
    return await activate(job_id)


async def for_each(jobs: Iterable[Job], act: Callable[[Job], Awaitable[object]], failure: str) -> tuple[int, int]:
    """Do `act` for all jobs, `AT_ONCE` side by side: one that fails or takes long delays no other.

    Returns how many were done and how many failed: these are logged as the event `duty.{failure}`.
    """
    places = asyncio.Semaphore(AT_ONCE)

    async def one(job: Job) -> bool:
        async with places:
            try:
                await act(job)
            except (ArkeError, OSError) as error:
                telemetry.warning(f"duty.{failure}", batch=job.id, why=error)
                return False
            return True

    outcomes = await asyncio.gather(*(one(job) for job in jobs))
    return sum(outcomes), len(outcomes) - sum(outcomes)
