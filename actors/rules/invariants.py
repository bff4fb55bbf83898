"""What is true of a job and all its tasks after every commit. One function for tests, simulation and doctors."""

from collections import Counter
from collections.abc import Iterable, Iterator

from actors.rules.effects import State
from actors.rules.model import Job, Task
from actors.rules.states import TERMINAL_JOBS, TERMINAL_TASKS, Delivery, JobState, TaskStatus


def check(state: State, rows: Iterable[Task]) -> list[str]:
    """Invariants 4, 5 and 7 of one job: a sentence for each that is broken.

    `rows` are all task rows of the job, of every phase and run, as they are in the store; `state` is what the
    job's loop holds after the same commit. A doctor without a loop passes the job's row and what is in flight.
    """
    every = list(rows)
    queued = state.job.queued_at is not None  # before, tasks are being made: they are not the job's yet
    now = [row for row in every if queued and row.phase == state.job.phase and row.run == state.job.run]
    return [
        *_counted_once(state.job, every),
        *_nothing_waits_forever(state.job, now),
        *_counters_are_the_rows(state.job, now),
        *_memory_is_the_rows(state, now),
    ]


def _counted_once(job: Job, rows: list[Task]) -> Iterator[str]:
    """Invariant 4: terminal is final."""
    for task_id, count in Counter(row.task_id for row in rows).items():
        if count > 1:
            yield f"4: {count} tasks have the id {task_id}"
    for row in rows:
        if (row.completed_at is not None) != (row.status in TERMINAL_TASKS):
            yield f"4: {row.task_id} is {row.status} and completed_at is {row.completed_at}"
        if row.run > job.run:
            yield f"4: {row.task_id} is of run {row.run}, the job of run {job.run}"
        if row.phase == job.phase and row.run < job.run and row.status is not TaskStatus.COMPLETED:
            yield f"4: {row.task_id} was left {row.status} in run {row.run}"
        if row.phase < job.phase and row.status not in TERMINAL_TASKS:
            yield f"4: {row.task_id} was left {row.status} in phase {row.phase}"


def _nothing_waits_forever(job: Job, rows: list[Task]) -> Iterator[str]:
    """Invariant 5: what is not over has a time at which it is looked at."""
    untold = job.delivery is Delivery.PENDING
    if (job.state not in TERMINAL_JOBS or untold) and job.alarm_at is None:
        yield f"5: the job is {job.state}, its delivery {job.delivery}, and it has no alarm"
    if untold and job.delivery_at is None:
        yield "5: a delivery is pending and has no time"
    if untold and job.state is not JobState.DONE and not (job.kind == "archive" and job.state in TERMINAL_JOBS):
        yield f"5: a delivery is pending and the job is {job.state}"
    for row in rows:
        flies = row.status is TaskStatus.PROCESSING
        if flies and (row.deadline_at is None or row.machine is None or row.claim is None):
            yield f"5: {row.task_id} is in flight without deadline, machine or claim"
        if not flies and row.deadline_at is not None:
            yield f"5: {row.task_id} is {row.status} and has a deadline"
        if job.state in TERMINAL_JOBS and row.status not in TERMINAL_TASKS:
            yield f"5: the job is {job.state} and {row.task_id} is still {row.status}"


def _counters_are_the_rows(job: Job, rows: list[Task]) -> Iterator[str]:
    """Invariant 7. A job whose list of files is not complete has no total."""
    if job.queued_at is None:
        return
    count = Counter(row.status for row in rows)
    for name, counted, found in (
        ("tasks_total", job.tasks_total, len(rows)),
        ("tasks_completed", job.tasks_completed, count[TaskStatus.COMPLETED]),
        ("tasks_failed", job.tasks_failed, count[TaskStatus.FAILED]),
        ("tasks_in_flight", job.tasks_in_flight, count[TaskStatus.PROCESSING]),
    ):
        if counted != found:
            yield f"7: {name} is {counted}, the rows say {found}"


def _memory_is_the_rows(state: State, rows: list[Task]) -> Iterator[str]:
    """What is held beside the rows agrees with them: otherwise a counter goes wrong at the next event."""
    stored = {row.task_id: row for row in rows}
    flying = {row.task_id: row.attempt for row in rows if row.status is TaskStatus.PROCESSING}
    held = {task_id: task.attempt for task_id, task in state.in_flight.items()}
    if held != flying:
        yield f"7: in flight are {held}, the rows say {flying}"
    for waiting in state.ready:
        row = stored.get(waiting.task_id)
        if row is None or row.status is not TaskStatus.PENDING or row.attempt != waiting.attempt:
            yield f"7: {waiting.task_id} is held as ready, its row is {row.status if row else 'of another run'}"
