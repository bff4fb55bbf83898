"""The readers of lists in one process: one for each job, again after a pause, and not for ever. A list is what is
below a prefix, or what goes into an archive.

What went wrong is known here alone, in memory: a process that starts anew tries once before it gives a batch up.
"""

import asyncio
import math
from collections.abc import Callable
from typing import Final, NamedTuple

from actors import telemetry
from actors.clock import TimeSource
from actors.errors import ArkeError, Conflict, InvalidInput, NotFound, TooManyFiles
from actors.rules.effects import Policy
from actors.rules.model import Job
from actors.rules.receiving import failed
from actors.rules.states import JobState
from actors.store import Store
from worker import errors as worker_errors

FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 60.0

Read = Callable[[Job], "asyncio.Future[None]"]
"""Begins to read the list of a job, from its durable cursor on."""


class Trouble(NamedTuple):
    """Why the reading of a list stands still."""

    error: BaseException
    cursor: str | None
    tries: int
    since_s: float
    """When it came to a standstill, and below when it is tried again: on the clock of the event loop."""
    again_s: float


class Readers:
    """Goes on with the lists that it is asked for. One that cannot be read ends its job."""

    def __init__(self, *, read: Read, store: Store, clock: TimeSource, policy: Policy):
        self._read, self._store, self._clock, self._policy = read, store, clock, policy
        self._reading: dict[str, asyncio.Future[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._troubles: dict[str, Trouble] = {}

    @property
    def idle(self) -> bool:
        """Whether no list is being read."""
        return not self._reading and not self._ending

    async def go_on(self, job: Job) -> None:
        """Have a reader run for this job, which is RECEIVING, unless one does or it has to pause.

        One that has failed until the time for the intake was over ends its batch. Raises what the store raises.
        """
        if job.id in self._reading:
            return
        trouble = self._troubles.get(job.id)
        if trouble is not None and self._is_over(job, trouble):
            await self._end(job, "intake_stalled", trouble.error)
        elif trouble is None or trouble.again_s <= _time_s():
            reading = self._reading[job.id] = self._read(job)
            reading.add_done_callback(lambda done: self._ended(job, done))

    def forget(self, job_id: str) -> None:
        """The job is not RECEIVING any more."""
        self._troubles.pop(job_id, None)

    def _is_over(self, job: Job, trouble: Trouble) -> bool:
        """By the alarm, which each page moves; or by the time here, should the clock have gone back."""
        is_due = job.alarm_at is not None and job.alarm_at <= self._clock.now()
        return is_due or (_time_s() - trouble.since_s) * 1000 >= self._policy.intake_timeout_ms

    def _ended(self, job: Job, reading: "asyncio.Future[None]") -> None:
        del self._reading[job.id]
        error = None if reading.cancelled() else reading.exception()
        if error is None or isinstance(error, Conflict | NotFound):  # read, or not to be read any more
            self.forget(job.id)
            return
        telemetry.warning("intake.failed", batch=job.id, why=sentence(error))
        self._note(job, error)
        if is_permanent(error):
            ending = asyncio.get_running_loop().create_task(self._end_quietly(job, error))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    def _note(self, job: Job, error: BaseException) -> None:
        """The time runs from the first of the failures at one place: `job` is as it was when the reader began."""
        former = self._troubles.get(job.id)
        if former is None or former.cursor != job.source_cursor:
            former = Trouble(error, job.source_cursor, 0, _time_s(), 0)
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * math.ldexp(1, min(former.tries, 10)))
        self._troubles[job.id] = former._replace(error=error, tries=former.tries + 1, again_s=_time_s() + pause_s)

    async def _end_quietly(self, job: Job, error: BaseException) -> None:
        try:
            await self._end(job, _code(job, error), error)
        except (ArkeError, OSError) as failure:  # the reader tries again after its pause, and comes here again
            telemetry.warning("intake.not_ended", batch=job.id, why=type(failure).__name__)

    async def _end(self, job: Job, code: str, error: BaseException) -> None:
        """FAILED, with the last error. Raises Conflict when it is no longer RECEIVING."""
        now = self._clock.now()
        row = await self._store.job(job.id)
        if row is not None and row.state is JobState.RECEIVING and row.run == job.run:
            what = "list of files" if job.kind == "archive" else "prefix"
            is_read = isinstance(error, TooManyFiles)
            told = sentence(error) if is_read else f"The {what} could not be read: {sentence(error)}"
            await self._store.queue(failed(row, code, told, self._policy, now))
            telemetry.warning("intake.ended", batch=job.id, code=code, why=told)
        self.forget(job.id)


def _code(job: Job, error: BaseException) -> str:
    if isinstance(error, TooManyFiles):
        return error.code
    return "list_unreadable" if job.kind == "archive" else "prefix_unreadable"


def is_permanent(error: BaseException) -> bool:
    """Whether another try cannot help."""
    return isinstance(error, InvalidInput | worker_errors.BadInput)


def sentence(error: BaseException) -> str:
    """What callers may read of an error: our own errors are made to be shown; of any other only its kind is told."""
    if isinstance(error, ArkeError | worker_errors.WorkerError) and str(error):
        return str(error)[: worker_errors.MAX_MESSAGE_CHARS]
    return f"{type(error).__name__}."


def _time_s() -> float:
    return asyncio.get_running_loop().time()
