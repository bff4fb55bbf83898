"""The tables of states: complete, final where they must be, and no state in which something waits forever."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import pytest

from actors.rules.batch import HANDLERS
from actors.rules.events import Event
from actors.rules.model import Job, Task
from actors.rules.states import (
    JOB_MOVES,
    MACHINE_MOVES,
    TASK_MOVES,
    TERMINAL_JOBS,
    TERMINAL_TASKS,
    Delivery,
    JobState,
    MachineState,
    TaskStatus,
)  # fmt: skip
from actors.rules.task import ImpossibleMove, move, replace
from tests.unit.actors.rules.book import POLICY, Book

TABLES = [(JobState, JOB_MOVES), (TaskStatus, TASK_MOVES), (MachineState, MACHINE_MOVES)]


@pytest.mark.parametrize(("states", "moves"), TABLES)
def test_every_state_has_its_line(states: type[StrEnum], moves: Mapping[Any, frozenset[Any]]) -> None:
    """A state that is added without its moves is found here, not in production."""
    assert set(moves) == set(states)


@pytest.mark.parametrize(("states", "moves"), TABLES)
def test_every_state_is_reached(states: type[StrEnum], moves: Mapping[Any, frozenset[Any]]) -> None:
    """No state is left over: each follows on another, but the first ones."""
    first = {MachineState.PLANNED, MachineState.PREPARING} if states is MachineState else {next(iter(states))}
    assert {to for following in moves.values() for to in following} | first == set(states)


@pytest.mark.parametrize(("states", "moves"), TABLES)
def test_no_state_follows_itself(states: type[StrEnum], moves: Mapping[Any, frozenset[Any]]) -> None:
    """Staying is not a move: it is never counted."""
    assert [state for state in states if state in moves[state]] == []


def test_terminal_tasks_come_back_only_in_a_new_run() -> None:
    """Completed is final for good; failed becomes pending by a retry and nothing else (invariant 4)."""
    assert TASK_MOVES[TaskStatus.COMPLETED] == frozenset()
    assert TASK_MOVES[TaskStatus.FAILED] == {TaskStatus.PENDING}
    assert {TaskStatus.COMPLETED, TaskStatus.FAILED} == TERMINAL_TASKS


def test_terminal_jobs_only_begin_a_new_run() -> None:
    """A job that is over leads to the beginning of a run, never into the middle of one."""
    beginnings = {JobState.QUEUED, JobState.RECEIVING}
    assert all(JOB_MOVES[state] <= beginnings for state in TERMINAL_JOBS)


def test_every_job_in_work_can_be_cancelled_and_reset() -> None:
    """There is no state in which an operator is helpless."""
    for state in set(JobState) - TERMINAL_JOBS:
        assert {JobState.CANCELLED, JobState.FAILED} <= JOB_MOVES[state]


@pytest.mark.parametrize("state", sorted(set(JobState) - TERMINAL_JOBS))
def test_every_transient_job_has_an_alarm(state: JobState) -> None:
    """Whatever happens to a job that is not over, it keeps a time at which it is looked at (invariant 5)."""
    book = Book(2, state=state)
    book.turn()
    assert book.job.alarm_at is not None


def test_every_transient_task_has_a_deadline() -> None:
    """In flight is the only state of a task that waits for somebody else; it has a deadline from its first moment."""
    book = Book().running()
    (task,) = book.take()
    assert task.status is TaskStatus.PROCESSING
    assert task.deadline_at == book.now + POLICY.boot_timeout_ms + POLICY.task_timeout_ms


def test_every_pending_delivery_has_a_time() -> None:
    """The delivery is the only thing a finished job waits for: it has its own time and the alarm follows it."""
    book = Book(0, policy=replace(POLICY, delivers=True))
    book.alarm()
    assert book.job.delivery is Delivery.PENDING
    assert book.job.alarm_at == book.job.delivery_at is not None


def test_every_event_has_a_rule() -> None:
    """An event that is added without its rule is found here."""
    assert set(HANDLERS) == set(Event.__subclasses__())


def test_a_move_that_is_not_in_the_table_is_a_bug() -> None:
    """The tables are the law: a rule that breaks one is stopped before anything is written."""
    done = Task(
        job_id="b",
        phase=0,
        n=0,
        task_id="b_0",
        status=TaskStatus.COMPLETED,
        input_r2_key="a.tif",
        output_r2_key="a.jpg",
    )
    with pytest.raises(ImpossibleMove, match="completed -> failed"):
        move(done, TaskStatus.FAILED)


def test_pending_is_what_is_left() -> None:
    """Pending is not counted, it follows: total less what is over or in flight."""
    job = Job(id="b", tasks_total=10, tasks_completed=3, tasks_failed=2, tasks_in_flight=1)
    assert job.tasks_pending == 4
