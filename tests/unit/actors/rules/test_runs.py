"""Runs, phases and deliveries that follow each other, and activations after the clock went back."""

import pytest

from actors.rules.batch import DELIVERY_MOST_MS, DELIVERY_PATIENCE_MS, longest_wait_ms
from actors.rules.effects import Deliver, Granted, PlanPhase, Refused
from actors.rules.events import CalledBack, PhasePlanned, PlanFailed, Redelivered, Retried, WorkTaken
from actors.rules.model import PhaseCount
from actors.rules.states import Delivery, JobState, TaskStatus
from actors.rules.task import replace
from tests.unit.actors.rules.book import POLICY, START, Book

DELIVERS = replace(POLICY, delivers=True)
TWO_PHASES = ("TIFF_CONVERSION", "SECOND")
HOUR_MS = 3_600_000


def first_phase_over(tasks: int = 1, *, failed: int = 0) -> Book:
    """The first of two phases has ended, its last `failed` tasks without success; the plan of the second is asked."""
    book = Book(tasks, phases=TWO_PHASES, policy=DELIVERS).running()
    book.take(free=tasks)
    for n in range(tasks):
        book.callback(n, "success" if n < tasks - failed else "error", retryable=False, error="No TIFF")
    return book


def second_phase(tasks: int = 2, *, failed_before: int = 0) -> Book:
    """The second phase runs."""
    book = first_phase_over(failed_before + 1, failed=failed_before)
    book.plan(1, tasks)
    return book


def ended(*, failed: int = 1) -> Book:
    """A job of two tasks that is done, `failed` of them without success; its end is to be told."""
    book = Book(2, policy=DELIVERS).running()
    book.take(free=2)
    for n in range(2):
        book.callback(n, "success" if n < 2 - failed else "error", retryable=False, error="No TIFF")
    return book


# --- planning -------------------------------------------------------------------------------------


def test_a_plan_is_asked_for_once() -> None:
    """While it is made, alarms and callbacks do not ask for it again: a plan of a million files takes a while."""
    book = first_phase_over()
    assert book.alarm(after=POLICY.alarm_delay_ms).of(PlanPhase) == []
    assert book.turn(book.report(0)).of(PlanPhase) == []


def test_a_plan_that_failed_is_asked_for_by_the_next_alarm() -> None:
    """Neither at once, which would be a storm, nor never (invariant 5)."""
    book = first_phase_over()
    assert book.turn(PlanFailed(run=1, phase=1, message="The store is away.")).of(PlanPhase) == []
    assert book.turn(book.report(0)).of(PlanPhase) == []
    assert book.alarm(after=POLICY.alarm_delay_ms).of(PlanPhase) == [PlanPhase(run=1, phase=1)]


def test_a_phase_that_cannot_be_planned_ends_the_batch() -> None:
    """With a reason; what was done is kept, and `retry` goes on with the plan."""
    book = first_phase_over()
    book.turn(PlanFailed(run=1, phase=1, message="its code raised KeyError.", permanent=True))
    assert (book.job.state, book.job.code) == (JobState.FAILED, "planning_failed")
    assert book.job.error == "The phase SECOND cannot be planned: its code raised KeyError."
    book.retry()
    assert book.admit().alarm().of(PlanPhase) == [PlanPhase(run=2, phase=1)]


def test_the_outcome_of_a_plan_of_an_earlier_run_changes_nothing() -> None:
    """It comes when the run was cancelled and retried meanwhile, between the same two phases."""
    book = first_phase_over()
    book.cancel()
    book.retry()
    book.admit().running()
    before = book.row
    book.turn(PhasePlanned(run=1, phase=1, tasks_total=5))
    book.turn(PlanFailed(run=1, phase=1, message="Broken.", permanent=True))
    assert book.row == before


def test_a_machine_takes_work_of_its_own_kind() -> None:
    """One that was sent for the first phase and comes in the second gets none, and is not counted on for more."""
    book = second_phase()
    book.policy = replace(DELIVERS, kinds={"SECOND": "mods"})
    assert book.turn(WorkTaken(machine="m-1", claim="c", free=1, kind="tiff")).answer == Granted(())
    answer = book.turn(WorkTaken(machine="m-2", claim="c", free=1, kind="mods")).answer
    assert isinstance(answer, Granted)
    assert [task.n for task in answer.tasks] == [0]


# --- retry ----------------------------------------------------------------------------------------


def test_a_batch_cancelled_between_phases_goes_on_by_retry() -> None:
    """Nothing has failed, and yet it has not come to its end: the new run has only the rest to do."""
    book = first_phase_over(2)
    book.cancel()
    assert book.retry().answer is None
    assert (book.job.state, book.job.run, book.job.phase, book.counters) == (JobState.QUEUED, 2, 0, (0, 0, 0))
    book.admit().alarm()
    book.plan(1, 1)
    book.take()
    book.callback()
    assert book.job.state is JobState.DONE


def test_tasks_planned_before_a_cancel_are_taken_in_the_next_run() -> None:
    """They were in the store when the phase had not begun: the new run has them all, as its own."""
    book = first_phase_over()
    book.insert(1, 3)
    book.cancel()
    book.retry()
    book.admit().running()
    book.plan(1, 3)
    assert [(task.n, task.run) for task in book.take(free=9)] == [(0, 2), (1, 2), (2, 2)]


def test_a_new_run_begins_where_the_first_task_failed() -> None:
    """A task that failed two phases ago is a failed task of the batch: it is tried again, and what follows from it."""
    book = second_phase(failed_before=1)
    book.take(free=2)
    book.callback(0)
    book.callback(1)
    assert (book.job.state, book.counters) == (JobState.DONE, (2, 2, 0))
    book.retry()
    assert (book.job.phase, book.counters) == (0, (1, 0, 0))
    book.admit().running()
    (again,) = book.take()
    assert (again.phase, again.n) == (0, 1)
    book.callback(1)
    book.plan(1, 3)
    assert [task.n for task in book.take(free=9)] == [2], "what is completed is not done again"


def test_a_new_run_of_the_last_phase_leaves_the_earlier_ones() -> None:
    """Nothing failed before: only the failed tasks of the last phase run again."""
    book = second_phase()
    book.take(free=2)
    book.callback(0)
    book.callback(1, "error", retryable=False)
    book.retry()
    assert (book.job.phase, book.counters) == (1, (1, 0, 0))
    assert [(c.name, c.run, c.tasks_failed) for c in book.job.history] == [
        ("TIFF_CONVERSION", 1, 0),
        ("SECOND", 1, 1),
    ]


def test_an_incomplete_list_cannot_be_retried() -> None:
    """An intake that failed has no tasks that could run: the caller is told to send the body again."""
    book = Book(0, state=JobState.RECEIVING)
    book.alarm()
    answer = book.retry().answer
    assert isinstance(answer, Refused)
    assert "Send its body again" in answer.message


def test_cancelled_while_its_tasks_are_made() -> None:
    """What intake had planned was never the job's: it counts nothing of it, and nothing of it is history."""
    book = Book(0, state=JobState.RECEIVING)
    book.insert(0, 2)
    book.cancel()
    assert (book.job.state, book.counters, book.job.past) == (JobState.CANCELLED, (0, 0, 0), ())


# --- deliveries -----------------------------------------------------------------------------------


def test_a_delivery_that_is_on_its_way_is_not_begun_again() -> None:
    """A list of a million files takes longer than a minute to send: never two of them at once."""
    book = ended()
    for _ in range(DELIVERY_MOST_MS // DELIVERY_PATIENCE_MS - 1):
        assert book.alarm(after=DELIVERY_PATIENCE_MS).of(Deliver) == []
    assert book.alarm(after=DELIVERY_PATIENCE_MS).of(Deliver) == [Deliver(run=1)]


def test_redeliver_has_a_whole_window() -> None:
    """Long after the end, too, an attempt that fails is followed by others."""
    book = ended()
    book.delivery("refused")
    book.pass_time(2 * DELIVERS.delivery_give_up_ms)
    book.redeliver()
    book.delivery("retry")
    assert (book.job.delivery, book.job.delivery_since) == (Delivery.PENDING, book.now)
    book.pass_time(DELIVERS.delivery_give_up_ms)
    book.delivery("retry")
    assert book.job.delivery is Delivery.GIVEN_UP


def test_retry_supersedes_a_pending_delivery() -> None:
    """The new run will tell the whole list: the older one is not sent any more, and the history says so."""
    book = ended()
    book.retry()
    assert book.job.history == (PhaseCount("TIFF_CONVERSION", 1, 2, 1, 1, Delivery.SUPERSEDED),)
    assert (book.job.delivery, book.job.delivery_at, book.job.delivery_since) == (Delivery.NONE, None, None)
    assert book.admit().alarm(after=DELIVERY_MOST_MS).of(Deliver) == []


def test_what_a_turn_began_for_the_run_before_is_not_done() -> None:
    """`redeliver` and `retry` come together: run 1 is not told under its key with the rows of run 2."""
    book = ended()
    book.delivery("refused")
    turn = book.turn(Redelivered(), Retried(after_run=1))
    assert book.job.run == 2
    assert turn.of(Deliver) == []


@pytest.mark.parametrize("outcome", ["delivered", "refused", "retry"])
def test_the_late_answer_to_a_superseded_delivery_is_remembered(outcome: str) -> None:
    """The receiver may have taken it: then it will not take the next one, and the operator must learn that."""
    book = ended()
    book.retry()
    book.delivery(outcome, run=1)  # type: ignore[arg-type]
    delivered = outcome == "delivered"
    assert book.job.history[0].delivery is (Delivery.DELIVERED if delivered else Delivery.SUPERSEDED)
    assert (book.job.delivered_run, book.job.delivery) == (int(delivered), Delivery.NONE)


def test_a_run_is_delivered_once_however_often_it_is_redelivered() -> None:
    """Its own list is no older one: `enqueued` means that it was delivered."""
    book = ended()
    for _ in range(2):
        book.delivery("delivered")
        assert (book.job.delivered_run, book.job.receiver_may_have_older_list) == (1, False)
        book.redeliver()


# --- the clock went back --------------------------------------------------------------------------


def test_no_task_waits_longer_for_a_clock_that_went_back() -> None:
    """Its deadline is at most the boot and a time-out away for the new activation, and its age is not negative."""
    book = Book(1).running()
    book.take()
    book.pass_time(-HOUR_MS).activate()
    task = book.state.in_flight["b_tiff_0"]
    assert task.deadline_at == book.now + POLICY.boot_timeout_ms + POLICY.task_timeout_ms
    assert task.assigned_at == book.now
    book.alarm(after=POLICY.boot_timeout_ms + POLICY.task_timeout_ms)
    assert book.task().status is TaskStatus.PENDING


def test_a_sign_of_life_after_the_clock_went_back_is_not_for_ever() -> None:
    """TASK_MAX counts from the activation at the latest, not from an hour ahead."""
    book = Book(1).running()
    book.take()
    book.pass_time(-HOUR_MS).activate()
    for _ in range(POLICY.task_max_ms // 30_000):
        book.pass_time(30_000).callback(status="running")
    assert book.alarm(after=POLICY.alarm_delay_ms) is not None
    assert book.task().status is TaskStatus.PENDING


@pytest.mark.parametrize("state", [JobState.RECEIVING, JobState.QUEUED, JobState.RUNNING, JobState.DONE])
def test_no_job_waits_longer_for_a_clock_that_went_back(state: JobState) -> None:
    """In each state the alarm is as far ahead as the setting allows, and no farther."""
    book = ended() if state is JobState.DONE else Book(1, state=state)
    book.row = replace(book.row, alarm_at=book.row.alarm_at or START)
    book.pass_time(-HOUR_MS).activate()
    assert book.job.alarm_at is not None
    assert book.job.alarm_at <= book.now + longest_wait_ms(book.policy, state)


def test_a_job_that_has_its_place_begins_whatever_the_clock_was_that_gave_it() -> None:
    """Else it waits two minutes, and is activated again and again meanwhile by a process whose clock is ahead."""
    book = Book(1, state=JobState.QUEUED, placement="batch:b")
    book.row = replace(book.row, alarm_at=START)
    book.pass_time(-HOUR_MS).activate()
    assert book.job.alarm_at == book.now
    assert book.alarm(after=0) is not None
    assert book.job.state is JobState.RUNNING


def test_refusals_and_deliveries_do_not_begin_in_the_future() -> None:
    """Else the machine is asked for, and the receiver told, an hour longer than the settings say."""
    book = Book(1).running()
    book.take()
    book.lost(why="refused", message="429")
    book.pass_time(-HOUR_MS).activate()
    assert book.job.refused_since == book.now
    told = ended()
    told.pass_time(-HOUR_MS).activate()
    assert told.job.delivery_since == told.now
    assert told.job.delivery_at is not None
    assert told.job.delivery_at <= told.now + longest_wait_ms(DELIVERS, JobState.DONE)


def test_an_activation_in_good_time_writes_nothing() -> None:
    """A thousand jobs that are activated cost no commit each."""
    book = Book(2).running()
    book.take()
    book.activate()
    assert book.last is not None
    assert not book.last.changed


def test_a_callback_to_a_batch_between_runs_is_received() -> None:
    """Nothing is in memory of a job that waits for its place; a late worker still gets its answer."""
    book = first_phase_over()
    book.cancel()
    book.retry()
    late = CalledBack(run=1, attempt=1, task_id="b_tiff_0", status="success")
    assert book.turn(late).effects == ()
