"""What one event may change, said a second time and apart from the rules: row by row, for a turn of a single event.

The invariants see a state; most broken rules lead to states that are possible, only not from there. Here the state
before and after a turn are compared: what had to change has, as it had to, and nothing else did.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from actors.rules.effects import Answer, DestroyMachine, Effect, Granted, Policy, Received, ReleaseMachines
from actors.rules.events import (
    AlarmFired,
    CalledBack,
    DeliveryEnded,
    Event,
    Leased,
    MachineLost,
    Redelivered,
    WorkTaken,
)
from actors.rules.model import Job, Task
from actors.rules.states import TERMINAL_JOBS, TERMINAL_TASKS, Delivery, JobState, TaskStatus
from actors.rules.task import SPAWN
from tests.unit.actors.rules.book import Book

Rows = Mapping[tuple[int, int], Task]


class Before(NamedTuple):
    """What was, when the event came."""

    job: Job
    rows: Rows
    in_flight: Mapping[str, Task]
    ready: frozenset[str]
    lease: int | None

    @classmethod
    def of(cls, book: Book) -> "Before":
        """Now."""
        state = book.state
        ready = frozenset(task.task_id for task in state.ready)
        return cls(book.row, dict(book.rows), dict(state.in_flight), ready, state.lease)


class Turn(NamedTuple):
    """One event and what followed."""

    before: Before
    rows: Rows
    answer: Answer
    effects: tuple[Effect, ...]
    policy: Policy
    now: int

    @property
    def changed(self) -> dict[str, tuple[Task, Task]]:
        """By task id: the row before and after."""
        pairs = ((row, self.rows[key]) for key, row in self.before.rows.items())
        return {old.task_id: (old, new) for old, new in pairs if old != new}

    def row(self, task_id: str) -> Task | None:
        """The row as it was, if it is one of the present phase."""
        phase = self.before.job.phase
        return next((row for row in self.before.rows.values() if row.task_id == task_id and row.phase == phase), None)

    def in_flight(self) -> list[Task]:
        """The rows of the present run and phase that were in flight."""
        job = self.before.job
        flying = (row for row in self.before.rows.values() if row.status is TaskStatus.PROCESSING)
        return [row for row in flying if (row.run, row.phase) == (job.run, job.phase)]


def unexplained(event: Event, before: Before, answer: Answer, effects: tuple[Effect, ...], book: Book) -> list[str]:
    """A sentence for each difference between what the event led to and what it had to lead to."""
    found = list(_about_the_end(book.row))
    stopped = before.job.state not in TERMINAL_JOBS and book.row.state in (JobState.FAILED, JobState.CANCELLED)
    if stopped and ReleaseMachines() not in effects:
        found.append("the job was stopped and its machines were not")
    expect = _EXPECTED.get(type(event))
    if expect is not None and not stopped and book.row.phase == before.job.phase:
        found += expect(event, Turn(before, book.rows, answer, effects, book.policy, book.now))
    return [f"{sentence} [{event}]" for sentence in found]


def _about_the_end(job: Job) -> Iterator[str]:
    """What is over, and told if it is to be told, is never looked at again."""
    if job.state in TERMINAL_JOBS and job.delivery is not Delivery.PENDING and job.alarm_at is not None:
        yield f"the job is {job.state}, nothing is to be told, and it has an alarm"


def _called_back(event: CalledBack, turn: Turn) -> Iterator[str]:
    job, task = turn.before.job, turn.row(event.task_id)
    given = turn.answer.next if isinstance(turn.answer, Received) else None
    yield from _only({event.task_id, *([given.task_id] if given else [])}, turn)
    if event.run != job.run:
        if turn.changed or turn.answer != Received(stop=True):
            yield "a callback of another run was not just told to stop"
        return
    if task is None or job.state in TERMINAL_JOBS or task.status in TERMINAL_TASKS:
        if turn.changed:
            yield "a callback changed what was over, or never was"
        return
    if given is not None and given.task_id in turn.changed:
        yield from _is_assigned(*turn.changed[given.task_id], turn, event.accepts_next)
        others = turn.before.in_flight.keys() - {event.task_id}
        if turn.before.lease is not None and len(others) >= turn.before.lease:
            yield f"{given.task_id} was given beyond the lease of {turn.before.lease}"
        if given.task_id == task.task_id:  # its own task, once more: what became of it between is not in the rows
            return
    yield from _reported(event, task, turn)


def _reported(event: CalledBack, task: Task, turn: Turn) -> Iterator[str]:
    """A callback of this run for a task that is not terminal."""
    is_open = task.status is TaskStatus.PROCESSING and task.attempt == event.attempt
    new = turn.changed.get(task.task_id, (task, task))[1]
    if event.status == "success":
        if (new.status, new.tries, new.attempt) != (TaskStatus.COMPLETED, task.tries, task.attempt):
            yield f"a success led to {new.status}"
        superseded = task.status is TaskStatus.PROCESSING and not is_open
        if superseded and not _is_ended(task, turn):
            yield "an older attempt succeeded, and the machine of the present one was not ended"
    elif not is_open:
        if new != task:
            yield "a callback of an attempt that was given up changed its task"
    elif event.status == "running":
        yield from _is_alive(turn.before.in_flight[task.task_id], new, turn)
    elif event.status == "released":
        yield from _is_given_back(task, new, turn, waits=False)
    else:
        yield from _is_tried_again(task, new, turn, hopeless=not event.retryable or "404" in (event.error or ""))


def _machine_lost(event: MachineLost, turn: Turn) -> Iterator[str]:
    lost = [
        row
        for row in turn.in_flight()
        if row.machine == event.machine
        and (event.task_id is None or (row.task_id, row.attempt) == (event.task_id, event.attempt))
    ]
    yield from _only({row.task_id for row in lost}, turn)
    for row in lost:
        new = turn.changed.get(row.task_id, (row, row))[1]
        if event.why == "unmade":
            yield from _is_given_back(row, new, turn, waits=False)
        elif event.why != "refused":
            yield from _is_tried_again(row, new, turn)
        elif event.permanent:
            yield from _is_tried_again(row, new, turn, hopeless=True)
        else:
            yield from _is_given_back(row, new, turn, waits=True)


def _alarm_fired(_: AlarmFired, turn: Turn) -> Iterator[str]:
    due = {task_id for task_id, task in turn.before.in_flight.items() if (task.deadline_at or 0) <= turn.now}
    yield from _only(due, turn)
    for row in turn.in_flight():
        if row.task_id in due:
            yield from _is_tried_again(row, turn.changed.get(row.task_id, (row, row))[1], turn)
            if not _is_ended(row, turn):
                yield f"{row.task_id} is overdue and its machine was not ended"


def _work_taken(event: WorkTaken, turn: Turn) -> Iterator[str]:
    given = turn.answer.tasks if isinstance(turn.answer, Granted) else ()
    repeated = any((row.machine, row.claim) == (event.machine, event.claim) for row in turn.in_flight())
    yield from _only(set() if repeated else {task.task_id for task in given}, turn)
    if not repeated and len(given) > event.free:
        yield f"{len(given)} tasks were given to a machine with {event.free} places"
    for old, new in turn.changed.values():
        yield from _is_assigned(old, new, turn, True)
        boot_ms = turn.policy.boot_timeout_ms if event.claim.startswith(SPAWN) else 0
        if new.deadline_at != turn.now + boot_ms + turn.policy.task_timeout_ms:
            yield f"{new.task_id} was assigned with the deadline {new.deadline_at}"


def _nothing(_: Event, turn: Turn) -> Iterator[str]:
    yield from _only(set(), turn)


# --- what became of one task ---------------------------------------------------------------------


def _only(task_ids: set[str], turn: Turn) -> Iterator[str]:
    if others := turn.changed.keys() - task_ids:
        yield f"rows of others changed: {sorted(others)}"


def _is_ended(task: Task, turn: Turn) -> bool:
    wanted = (task.machine, task.task_id, task.attempt)
    ended = (effect for effect in turn.effects if isinstance(effect, DestroyMachine))
    return wanted in [(effect.machine, effect.task_id, effect.attempt) for effect in ended]


def _is_assigned(old: Task, new: Task, turn: Turn, wanted: bool) -> Iterator[str]:
    if not wanted:
        yield f"{new.task_id} was given to a machine that did not ask"
    was_due = old.task_id in turn.before.ready  # when it was read; the clock may have gone back since
    if old.status is TaskStatus.PENDING and old.not_before > turn.now and not was_due:
        yield f"{new.task_id} was given out during its backoff"
    if old.status is TaskStatus.PENDING and (new.attempt, new.tries) != (old.attempt + 1, old.tries + 1):
        yield f"{new.task_id} was given out as attempt {new.attempt}, try {new.tries}"


def _is_alive(old: Task, new: Task, turn: Turn) -> Iterator[str]:
    latest = (old.assigned_at or turn.now) + turn.policy.task_max_ms
    deadline = min(turn.now + turn.policy.task_timeout_ms, latest)
    if (new.status, new.attempt, new.tries, new.deadline_at) != (old.status, old.attempt, old.tries, deadline):
        yield f"a sign of life made {new.task_id} {new.status}, with the deadline {new.deadline_at}"


def _is_given_back(old: Task, new: Task, turn: Turn, *, waits: bool) -> Iterator[str]:
    """It costs no try: what the assignment has counted is taken back."""
    if (new.status, new.attempt, new.tries) != (TaskStatus.PENDING, old.attempt, old.tries - 1):
        yield f"{new.task_id} was given back in try {old.tries} and is {new.status} with {new.tries} tries"
    if waits is not (new.not_before > turn.now):
        yield f"{new.task_id} was given back and waits for {new.not_before - turn.now} ms"


def _is_tried_again(old: Task, new: Task, turn: Turn, *, hopeless: bool = False) -> Iterator[str]:
    """It has cost a try: behind a backoff, or failed where it was the last one."""
    over = hopeless or old.tries >= turn.policy.max_attempts
    wanted = TaskStatus.FAILED if over else TaskStatus.PENDING
    if (new.status, new.attempt, new.tries) != (wanted, old.attempt, old.tries):
        yield f"try {old.tries} of {new.task_id} failed, and it is {new.status} with {new.tries} tries"
    ceiling = min(turn.policy.backoff_cap_ms, turn.policy.backoff_base_ms * 2 ** (old.tries - 1))
    if not over and not turn.now <= new.not_before <= turn.now + ceiling:
        yield f"after try {old.tries} {new.task_id} waits for {new.not_before - turn.now} ms"


_EXPECTED: Final[dict[type[Event], Callable[[Any, Turn], Iterator[str]]]] = {
    CalledBack: _called_back,
    MachineLost: _machine_lost,
    AlarmFired: _alarm_fired,
    WorkTaken: _work_taken,
    Leased: _nothing,
    DeliveryEnded: _nothing,
    Redelivered: _nothing,
}
