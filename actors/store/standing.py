"""What the stored row of a task stands for, given the row of its job.

The end of a run concerns every task that still waits, and a new run every task that failed: up to a million. None
of their rows is written for it, since one UPDATE of a million rows holds up the commits of all other jobs for
seconds, and in pages it would have to be resumed after a crash. The job's row says it for all of them:

- A task *waits* while its row is pending, or failed in an earlier run of the phase that the job is in.
- A task that waits is pending in the job's run, as new if its row is of an earlier run; once the job is over it has
  failed, with the job's error, when the job ended.

A row is written when its task is taken. So whatever reads rows of tasks reads them through `standing`.
"""

from typing import Final, NamedTuple

import msgspec

from actors.rules.model import Job, Task
from actors.rules.states import TERMINAL_JOBS, TaskStatus

NEVER: Final = 2**62
"""After every time."""

_LOWEST = (-1, -1)
_HIGHEST = (NEVER, NEVER)


class Span(NamedTuple):
    """The rows of one stored status with `first` <= (phase, run) < `end`."""

    status: TaskStatus
    first: tuple[int, int] = _LOWEST
    end: tuple[int, int] = _HIGHEST


def standing(task: Task, job: Job) -> Task:
    """The task as it is to be seen, from its stored row."""
    if not _waits(task, job):
        return task
    current = as_new(task, job.run) if task.run < job.run else task
    if job.state not in TERMINAL_JOBS:
        return current
    return msgspec.structs.replace(
        current, status=TaskStatus.FAILED, error=job.error, completed_at=job.completed_at, deadline_at=None
    )


def as_new(task: Task, run: int) -> Task:
    """The task as the first attempt of `run` will find it."""
    return Task(
        job_id=task.job_id,
        phase=task.phase,
        n=task.n,
        task_id=task.task_id,
        run=run,
        input_r2_key=task.input_r2_key,
        output_r2_key=task.output_r2_key,
    )


def spans(status: TaskStatus, job: Job) -> tuple[Span, ...]:
    """Where the tasks of a status are stored: the inverse of `standing`."""
    over = job.state in TERMINAL_JOBS
    begin, now = (job.phase, -1), (job.phase, job.run)
    if status is TaskStatus.PENDING:
        return () if over else (Span(TaskStatus.PENDING), Span(TaskStatus.FAILED, begin, now))
    if status is not TaskStatus.FAILED:
        return (Span(status),)
    if over:
        return Span(TaskStatus.FAILED), Span(TaskStatus.PENDING)
    return Span(TaskStatus.FAILED, end=begin), Span(TaskStatus.FAILED, first=now)


def _waits(task: Task, job: Job) -> bool:
    again = task.status is TaskStatus.FAILED and task.phase == job.phase and task.run < job.run
    return again or task.status is TaskStatus.PENDING
