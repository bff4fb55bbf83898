"""The rules of a batch, one claim per test, told as events and what follows from them."""

from typing import Literal

import pytest

from actors.rules.effects import (
    Announce,
    Deliver,
    DestroyMachine,
    Granted,
    PlanPhase,
    Policy,
    Received,
    Refused,
    ReleaseMachines,
)  # fmt: skip
from actors.rules.events import Cancelled, Leased, PhasePlanned, Retried, WorkTaken
from actors.rules.model import PhaseCount
from actors.rules.states import TERMINAL_JOBS, Delivery, JobState, TaskStatus
from actors.rules.task import MAX_ERROR_CHARS, replace, with_more_memory
from tests.unit.actors.rules.book import POLICY, START, Book

DELIVERS = replace(POLICY, delivers=True)
OVERDUE = POLICY.boot_timeout_ms + POLICY.task_timeout_ms
TWO_PHASES = ("TIFF_CONVERSION", "SECOND")


class Least:
    """A source of jitter that always draws the least or the most, and remembers what it was asked for."""

    def __init__(self, *, most: bool = False):
        self.most = most
        self.asked: list[tuple[int, int]] = []

    def randint(self, a: int, b: int, /) -> int:
        self.asked.append((a, b))
        return b if self.most else a


def working(tasks: int = 1, *, policy: Policy = POLICY, most: bool = False) -> Book:
    """A running job whose first task is on machine m-1; backoff is 0, or the most there can be."""
    book = Book(tasks, policy=policy, rng=Least(most=most)).running()
    book.take("m-1")
    return book


def done(*, policy: Policy = DELIVERS) -> Book:
    """A job of one task that has been completed; its end is to be told."""
    book = working(policy=policy)
    book.callback()
    assert book.job.state is JobState.DONE
    return book


# --- beginning, and work that is taken -----------------------------------------------------------


def test_first_alarm_starts_the_job_and_tells_the_fleet() -> None:
    """A queued job with a place runs from its first alarm on, and the fleet learns how much can be taken."""
    turn = Book(3).alarm()
    assert turn.effects == (Announce(want=3),)


def test_a_job_without_a_place_waits() -> None:
    """It does not start by itself, and its next alarm is far enough to let its loop end."""
    book = Book(3, placement=None)
    assert book.alarm().effects == ()
    assert book.job.state is JobState.QUEUED
    assert book.job.alarm_at is not None
    assert book.job.alarm_at - book.now > 60_000


def test_a_job_without_tasks_is_done_at_once() -> None:
    """No file that the phase wants: the end comes with the first alarm."""
    book = Book(0)
    book.alarm()
    assert (book.job.state, book.job.completed_at) == (JobState.DONE, book.now)


def test_an_early_alarm_does_not_end_the_intake() -> None:
    """An alarm may fire twice; only one that is due says that nobody continues the list."""
    book = Book(0, state=JobState.RECEIVING).pass_time(-1)
    book.alarm()
    assert book.job.state is JobState.RECEIVING


def test_an_intake_that_is_not_continued_fails() -> None:
    """RECEIVING does not last for ever: its alarm ends it with a sentence that says what to do."""
    book = Book(0, state=JobState.RECEIVING)
    book.alarm()
    assert (book.job.state, book.job.code) == (JobState.FAILED, "intake_stalled")


def test_taken_is_written_before_it_is_told() -> None:
    """The answer to a take is the committed assignment: machine, attempt, try, deadline."""
    book = Book(2).running()
    (task,) = book.take("m-1")
    assert book.task(0) == task
    assert (task.machine, task.attempt, task.tries, task.status) == ("m-1", 1, 1, TaskStatus.PROCESSING)


def test_tasks_are_taken_in_their_order_and_no_more_than_free() -> None:
    """A machine with two free cores gets the first two."""
    assert [task.n for task in Book(3).running().take(free=2)] == [0, 1]


def test_pages_follow_each_other() -> None:
    """Only a page of pending tasks is in memory: the next one is read when it is used up."""
    book = Book(5, page=2).running()
    assert [[task.n for task in book.take(f"m-{i}", free=2)] for i in range(3)] == [[0, 1], [2, 3], [4]]


def test_a_repeated_claim_gets_the_same() -> None:
    """The answer was lost: the same claim gets the same tasks, not two more."""
    book = Book(4).running()
    first = book.take("m-1", "c-1", free=2)
    assert book.take("m-1", "c-1", free=2) == first
    assert book.job.tasks_in_flight == 2


def test_a_claim_of_two_in_one_turn_is_granted_once() -> None:
    """The repetition may arrive in the same group as the original."""
    book = Book(4).running()
    wish = WorkTaken(machine="m-1", claim="c-1", free=1)
    first, second = book.turn(wish, wish).answers
    assert first == second
    assert book.job.tasks_in_flight == 1


def test_nothing_is_taken_from_a_job_that_does_not_run() -> None:
    """Before its start and after its end a job has no work."""
    assert Book(2).take() == ()
    book = working(2)
    book.cancel()
    assert book.take("m-2") == ()


# --- callbacks ------------------------------------------------------------------------------------


def test_success_completes_the_task_and_the_job() -> None:
    """The result is on the row, the counters follow, the last task ends the job."""
    book = working()
    assert book.callback(output_file_name="0.jpg", output_file_size=7, pages=2, notes=("bilevel",)) == Received()
    task = book.task()
    assert (task.status, task.output_file_size, task.pages, task.notes) == (TaskStatus.COMPLETED, 7, 2, ("bilevel",))
    assert book.counters == (1, 1, 0)
    assert book.job.state is JobState.DONE


def test_success_counts_once() -> None:
    """A duplicate is received and changes nothing (invariant 4)."""
    book = working(2)
    book.callback()
    before = book.row
    assert book.callback() == Received()
    assert book.row == before


def test_a_duplicate_in_the_same_turn_counts_once() -> None:
    """Both copies may arrive together."""
    book = working(2)
    assert book.turn(book.report(), book.report()).answers == (Received(), Received())
    assert book.counters == (2, 1, 0)


def test_a_late_success_of_an_older_attempt_counts_once() -> None:
    """Attempt 1 reports after attempt 2 was taken: done; machine 2 is ended, its own report changes nothing."""
    book = working()
    book.alarm(after=OVERDUE)
    book.take("m-2")
    turn = book.turn(book.report(attempt=1))
    assert turn.of(DestroyMachine) == [DestroyMachine(machine="m-2", task_id="b_tiff_0", attempt=2)]
    assert book.callback(attempt=2) == Received()
    assert book.counters == (1, 1, 0)


def test_a_late_success_while_the_task_waits_again_is_a_success() -> None:
    """The attempt had been given up and nobody has taken the next: no other machine is needed."""
    book = working(2, most=True)
    book.alarm(after=OVERDUE)
    assert book.task().status is TaskStatus.PENDING
    assert book.callback(attempt=1) == Received()
    assert book.task().status is TaskStatus.COMPLETED
    assert [task.n for task in book.take("m-2", free=9)] == [1]


def test_a_late_success_after_the_last_try_changes_nothing() -> None:
    """Counted as failed is counted: one task is never both."""
    book = working(2, policy=replace(POLICY, max_attempts=1))
    book.alarm(after=OVERDUE)
    assert book.callback(attempt=1) == Received()
    assert book.counters == (2, 0, 1)


def test_an_error_is_tried_again_within_full_jitter() -> None:
    """Each try waits between 0 and a ceiling that doubles, and is never above the cap."""
    policy = replace(POLICY, max_attempts=8, backoff_base_ms=1_000, backoff_cap_ms=5_000)
    jitter = Least(most=True)
    book = Book(1, policy=policy, rng=jitter).running()
    for attempt in range(1, 8):
        book.take("m-1", f"c-{attempt}")
        book.callback(status="error", attempt=attempt, error="Disk full")
        book.alarm(after=policy.backoff_cap_ms)
    assert jitter.asked == [(0, 1_000), (0, 2_000), (0, 4_000), (0, 5_000), (0, 5_000), (0, 5_000), (0, 5_000)]


def test_a_task_in_backoff_is_not_taken() -> None:
    """Before its time it is nobody's; the alarm is set for it; then it is taken as the next attempt."""
    book = working(most=True)
    book.callback(status="error", error="Disk full")
    due = book.task().not_before
    assert book.take("m-2") == ()
    assert book.job.alarm_at == due
    book.alarm(after=due - book.now)
    assert [(task.attempt, task.tries) for task in book.take("m-2")] == [(2, 2)]


def test_the_last_try_fails() -> None:
    """After max_attempts the task has failed, with the reason of its last error."""
    book = Book(1, rng=Least()).running()
    for attempt in range(1, POLICY.max_attempts + 1):
        book.take("m-1", f"c-{attempt}")
        book.callback(status="error", attempt=attempt, error=f"Error {attempt}")
    assert (book.task().status, book.task().error) == (TaskStatus.FAILED, f"Error {POLICY.max_attempts}")
    assert (book.job.state, book.counters) == (JobState.DONE, (1, 0, 1))


@pytest.mark.parametrize(
    ("error", "retryable"),
    [
        ("Download failed: 404 Not Found", True),
        ("Input buffer contains unsupported image format", True),
        ("Too many pixels", False),
    ],
)
def test_what_cannot_get_better_is_not_tried_again(error: str, retryable: bool) -> None:
    """The words of the originals' workers count, and so does `retryable: false` of ours."""
    book = working()
    book.callback(status="error", error=error, retryable=retryable)
    assert (book.task().status, book.task().tries, book.task().error) == (TaskStatus.FAILED, 1, error)


def test_an_error_of_an_attempt_given_up_changes_nothing() -> None:
    """Its time-out was counted already."""
    book = working()
    book.alarm(after=OVERDUE)
    before = book.task()
    assert book.callback(status="error", error="Too late") == Received()
    assert book.task() == before


@pytest.mark.parametrize("status", ["error", "released"])
def test_an_attempt_given_up_does_not_end_the_next_one(status: Literal["error", "released"]) -> None:
    """The task flies again: what the former machine says is not about that."""
    book = Book(1, rng=Least()).running()
    book.take("m-1")
    book.alarm(after=OVERDUE)
    book.take("m-2")
    before = book.task()
    assert book.callback(status=status, attempt=1, error="Too late") == Received()
    assert book.task() == before


def test_released_costs_no_try() -> None:
    """A worker that is asked to end gives its task back: it can be taken at once, with all its tries."""
    book = working()
    book.callback(status="released")
    assert (book.task().status, book.task().tries, book.task().not_before) == (TaskStatus.PENDING, 0, book.now)
    assert [(task.attempt, task.tries) for task in book.take("m-2")] == [(2, 1)]


def test_a_sign_of_life_moves_the_deadline() -> None:
    """By a full time-out each, but not beyond task_max_ms after the assignment."""
    policy = replace(POLICY, task_max_ms=100_000)
    book = working(policy=policy)
    assert book.pass_time(10_000).callback(status="running") == Received()
    assert book.task().deadline_at == START + 10_000 + policy.task_timeout_ms
    book.pass_time(60_000).callback(status="running")
    assert book.task().deadline_at == START + policy.task_max_ms


def test_a_sign_of_life_of_an_older_attempt_is_told_to_stop() -> None:
    """What has been given up need not go on; neither before nor after the end of the task."""
    book = working(2)
    book.alarm(after=OVERDUE)
    book.take("m-2")
    assert book.callback(status="running", attempt=1) == Received(stop=True)
    book.callback(attempt=2)
    assert book.callback(status="running", attempt=2) == Received(stop=True)


def test_an_unknown_task_is_not_found() -> None:
    """A signature that is right for a task that never was is an error with a name, not a crash."""
    book = working()
    answer = book.turn(replace(book.report(), task_id="b_tiff_99")).answer
    assert isinstance(answer, Refused)
    assert answer.code == "not_found"


# --- the next task --------------------------------------------------------------------------------


def test_the_next_task_comes_with_the_answer() -> None:
    """A worker that asks for more gets it in the turn that recorded its result, on the same machine."""
    book = working(2)
    answer = book.callback(0, accepts_next=True)
    assert answer.next == book.task(1)
    assert (book.task(1).machine, book.task(1).attempt) == ("m-1", 1)


@pytest.mark.parametrize("status", ["success", "error"])
def test_a_repeated_callback_gets_the_same_next(status: Literal["success", "error"]) -> None:
    """The answer was lost: the same report gets the same task while that assignment is open, whatever it reported."""
    book = working(3, most=True)
    first = book.turn(book.report(0, status, accepts_next=True)).answer
    again = book.turn(book.report(0, status, accepts_next=True)).answer
    assert first == again == Received(next=book.task(1))
    assert book.job.tasks_in_flight == 1


def test_a_repeated_callback_gets_no_next_that_is_over() -> None:
    """When that assignment has ended, the repetition gets nothing: never a second task for one result."""
    book = working(3)
    book.callback(0, accepts_next=True)
    book.callback(1)
    assert book.callback(0, accepts_next=True) == Received()


def test_a_stale_attempt_gets_no_next() -> None:
    """Its success counts, but its machine was ended when it was given up."""
    book = working(2)
    book.alarm(after=OVERDUE)
    assert book.callback(attempt=1, accepts_next=True).next is None


def test_no_next_beyond_the_lease() -> None:
    """Other batches wait: the worker has to claim, and the fleet decides whose task it gets."""
    book = Book(4).running()
    book.take("m-1")
    book.take("m-2")
    book.turn(Leased(lease=1))
    assert book.callback(0, accepts_next=True).next is None
    assert book.callback(1, accepts_next=True).next == book.task(2)


def test_one_who_does_not_ask_gets_no_next() -> None:
    """A spent machine says `accepts_next: false` and exits."""
    assert working(2).callback(0).next is None


# --- deadlines and lost machines ------------------------------------------------------------------


def test_overdue_ends_the_machine_and_tries_again() -> None:
    """A deadline leads to the end of that assignment and to another try (invariant 5)."""
    book = working()
    turn = book.alarm(after=OVERDUE)
    assert turn.of(DestroyMachine) == [DestroyMachine(machine="m-1", task_id="b_tiff_0", attempt=1)]
    assert (book.task().status, book.task().tries) == (TaskStatus.PENDING, 1)
    assert book.task().error == "Timed out after 120 s without a sign of life"


def test_overdue_fails_after_the_last_try() -> None:
    """A task that always hangs ends the batch as failed, not never."""
    book = Book(1, rng=Least()).running()
    for attempt in range(POLICY.max_attempts):
        book.take("m-1", f"spawn:{attempt}")
        book.alarm(after=OVERDUE)
    assert (book.job.state, book.counters) == (JobState.DONE, (1, 0, 1))


def test_a_machine_that_boots_has_time_for_it() -> None:
    """The time-out of a task begins when its machine can run: a spawned one gets the boot on top, a running one not."""
    book = Book(2).running()
    book.take("m-1", "spawn:m-1")
    book.take("m-2", "claim-7")
    assert book.task(0).deadline_at == book.now + POLICY.boot_timeout_ms + POLICY.task_timeout_ms
    assert book.task(1).deadline_at == book.now + POLICY.task_timeout_ms


def test_nothing_is_overdue_before_its_time() -> None:
    """An alarm that fires early destroys nothing."""
    assert working().alarm(after=OVERDUE - 1).of(DestroyMachine) == []


def test_after_a_crash_nothing_is_ended_at_once() -> None:
    """A new activation gives what looks overdue one time-out to report: its workers could not reach anybody."""
    book = working().pass_time(10 * OVERDUE)
    book.activate()
    assert book.alarm().of(DestroyMachine) == []
    assert len(book.alarm(after=POLICY.task_timeout_ms).of(DestroyMachine)) == 1


def test_a_lost_machine_costs_a_try() -> None:
    """Gone, out of memory or exited: the task is tried again with the reason kept."""
    book = working()
    book.lost(why="exited", message="Out of memory")
    assert (book.task().status, book.task().tries, book.task().error) == (TaskStatus.PENDING, 1, "Out of memory")


def test_a_lost_machine_loses_all_it_had() -> None:
    """A machine with two cores runs two tasks; the news comes once, and twice does not matter."""
    book = Book(3).running()
    book.take("m-1", free=2)
    book.take("m-2")
    book.lost()
    book.lost()
    assert [book.task(n).status for n in range(3)] == [TaskStatus.PENDING, TaskStatus.PENDING, TaskStatus.PROCESSING]


def test_retries_and_throttled_time_are_counted_with_the_batch() -> None:
    """A failed try is one, a task that is given back is none; what a worker tells of its host counts once."""
    book = Book(2, policy=POLICY, rng=Least()).running()
    book.take("m-1", free=2)
    book.callback(0, "error", error="broken", throttled_ms=30)
    book.callback(0, "error", error="broken", throttled_ms=30)
    book.callback(1, "released")
    assert (book.job.retries, book.job.throttled_ms) == (1, 30)
    book.take("m-2")
    book.take("m-3")
    book.callback(0, attempt=2, throttled_ms=12)
    book.lost("m-3")
    assert (book.job.retries, book.job.throttled_ms) == (2, 42)


ROOMY = replace(POLICY, max_attempts=9, memory_most_mb=3000)


def test_a_task_whose_machine_ran_out_of_memory_gets_twice_as_much() -> None:
    """Again and again up to the most there is; other losses change nothing, and it costs a try each time."""
    book, wanted = working(policy=ROOMY), []
    for had_mb in (1024, 2048, 3000):
        book.lost(why="exited", short_of_mb=had_mb)
        wanted.append(book.task().memory_mb)
        book.take("m-1")
    book.lost()
    assert wanted == [2048, 3000, 3000]
    assert (book.task().memory_mb, book.task().tries) == (3000, 4)


def test_less_memory_is_never_asked_for() -> None:
    """The news of a smaller machine comes late, or WORKER_MEMORY_MAX_MB is below what machines have."""
    for had_mb, most_mb in ((512, 8192), (4096, 1024)):
        task = replace(working().task(), memory_mb=2048)
        assert with_more_memory(task, had_mb, most_mb).memory_mb == 2048
    assert with_more_memory(replace(task, memory_mb=None), 4096, 1024).memory_mb is None


def test_what_needs_more_memory_is_for_machines_that_are_made_for_it() -> None:
    """Machines that run get other tasks, by claim and with their callbacks; one that is made gets it first."""
    book = Book(4, policy=ROOMY, rng=Least()).running()
    book.take("m-1")
    book.take("m-2", claim="c")
    book.lost("m-1", why="exited", short_of_mb=1024)
    book.take("m-2", claim="d")
    assert book.task(0).status is TaskStatus.PENDING
    answer = book.turn(WorkTaken(machine="m-2", claim="e", free=9)).answer
    assert isinstance(answer, Granted)
    assert ([task.n for task in answer.tasks], answer.want) == ([3], 1)
    assert book.turn(WorkTaken(machine="m-2", claim="f", free=9)).answer == Granted((), want=1, large=1)
    assert book.callback(1, accepts_next=True).next is None
    assert book.alarm(after=POLICY.alarm_delay_ms).effects == (Announce(want=1, large=1),)
    (made,) = book.take("m-3")
    assert (made.n, made.memory_mb) == (0, 2048)


def test_while_a_page_holds_only_large_tasks_nothing_else_is_asked_for() -> None:
    """What is behind it is not known: machines that ask would get nothing, again and again."""
    book = Book(3, policy=ROOMY, page=1, rng=Least()).running()
    book.take("m-1", free=3)
    book.take("m-2", free=3)
    book.take("m-3", free=3)
    book.lost("m-1", why="exited", short_of_mb=1024)
    book.lost("m-2")
    assert book.alarm(after=POLICY.alarm_delay_ms).effects == (Announce(want=2, large=2),)


def test_news_of_another_assignment_changes_nothing() -> None:
    """The machine has moved on since: what it runs now is not what was lost."""
    book = working()
    book.lost(task_id="b_tiff_0", attempt=7)
    assert book.task().status is TaskStatus.PROCESSING


def test_a_refused_machine_costs_no_try() -> None:
    """Nothing ran: the task waits a moment and keeps all its tries."""
    book = working()
    book.lost(why="refused", message="429 Too Many Requests")
    assert (book.task().status, book.task().tries) == (TaskStatus.PENDING, 0)
    assert book.job.refused_since == START
    assert book.task().not_before > book.now


def test_a_machine_that_was_never_asked_for_is_no_refusal() -> None:
    """The fleet started again, twice and long apart, before it had asked the provider: the batch goes on."""
    book = Book(1).running()
    for n in range(3):
        book.take(f"m-{n}")
        book.lost(f"m-{n}", why="unmade", message="The fleet started again before the machine was made.")
        assert (book.task().status, book.task().tries, book.task().not_before) == (TaskStatus.PENDING, 0, book.now)
        book.pass_time(POLICY.spawn_give_up_ms + 1)
    assert (book.job.state, book.job.refused_since) == (JobState.RUNNING, None)


def test_refused_for_too_long_ends_the_batch() -> None:
    """A wrong token ends the batch after spawn_give_up_ms with the provider's own words; nothing is left open."""
    book = Book(2).running()
    refusals = 0
    while book.job.state not in TERMINAL_JOBS:
        assert refusals <= POLICY.spawn_give_up_ms // POLICY.alarm_delay_ms + 1
        book.take("m-1", f"spawn:{refusals}")
        book.lost(why="refused", message="401 Unauthorized")
        book.alarm(after=POLICY.alarm_delay_ms)
        refusals += 1
    assert (book.job.code, book.job.error) == ("spawn_refused", "No machine could be had: 401 Unauthorized")
    assert book.counters == (2, 0, 2)


def test_a_sign_of_life_forgives_refusals() -> None:
    """While machines report, refusals are a limit of rate, not a wrong token."""
    book = working(2)
    book.take("m-2")
    book.lost("m-2", why="refused", message="429")
    book.callback(0, status="running")
    assert book.job.refused_since is None


def test_a_permanent_refusal_fails_the_task() -> None:
    """A provider that will never run this task is not asked again for it."""
    book = working()
    book.lost(why="refused", message="Image not found", permanent=True)
    assert (book.task().status, book.task().error) == (TaskStatus.FAILED, "Image not found")


def test_a_hopeless_refusal_ends_the_batch() -> None:
    """A wrong token: no other task fares better, so the batch says so at once instead of trying them all."""
    book = Book(5, page=2).running()
    book.take("m-1")
    book.take("m-2")
    book.lost("m-1", why="refused", message="Wrong token.", permanent=True, hopeless=True)
    assert (book.job.state, book.job.code) == (JobState.FAILED, "spawn_refused")
    assert book.job.error == "No machine could be had: Wrong token."
    assert book.counters == (5, 0, 5)


def test_a_hopeless_refusal_of_a_task_that_is_through_ends_nothing() -> None:
    """Another machine has done it meanwhile, so machines can be had."""
    book = working(2)
    book.callback(0)
    book.lost("m-1", why="refused", message="Wrong token.", permanent=True, hopeless=True)
    assert book.job.state is JobState.RUNNING


# --- cancel, reset, retry -------------------------------------------------------------------------


def test_cancel_ends_all_at_once() -> None:
    """What flies and what waits has failed, also beyond the page in memory; the machines end; nothing is delivered."""
    book = Book(5, page=2, policy=DELIVERS).running()
    book.take()
    turn = book.cancel()
    assert turn.effects == (ReleaseMachines(), Announce(want=0))
    assert (book.job.state, book.job.error) == (JobState.CANCELLED, "Cancelled: by request")
    assert (book.counters, book.job.delivery, book.job.alarm_at) == ((5, 0, 5), Delivery.NONE, None)


def test_cancel_twice_is_once() -> None:
    """The second changes nothing and is no error."""
    book = working()
    book.cancel()
    before = book.row
    assert book.cancel().answer is None
    assert book.row == before


def test_a_finished_batch_cannot_be_cancelled() -> None:
    """Terminal is final: the caller is told so."""
    answer = done().cancel().answer
    assert isinstance(answer, Refused)
    assert answer.code == "conflict"


def test_a_callback_after_cancel_changes_nothing() -> None:
    """It is received: its worker is told to stop if it still works."""
    book = working(2)
    book.cancel()
    before = book.row
    assert book.callback() == Received()
    assert book.callback(status="running") == Received(stop=True)
    assert book.row == before


@pytest.mark.parametrize("page", [1, 256])
def test_a_late_success_in_the_turn_of_the_cancel_changes_nothing(page: int) -> None:
    """What waited has failed from the cancel on, although its row in memory still says pending."""
    book = Book(3, page=page, rng=Least()).running()
    book.take()
    book.alarm(after=OVERDUE)
    answers = book.turn(Cancelled(reason="now"), book.report(0, attempt=1), book.report(1, "running")).answers
    assert answers == (None, Received(), Received(stop=True))
    assert book.counters == (3, 0, 3)


def test_reset_ends_the_machines() -> None:
    """The originals left them running. The batch is failed in the originals' words; again is no error."""
    book = working(2)
    assert ReleaseMachines() in book.reset().effects
    assert (book.job.state, book.job.error) == (JobState.FAILED, "Manually reset by admin")
    assert book.reset().answer is None
    assert isinstance(done().reset().answer, Refused)


def failed_and_retried() -> Book:
    """Three tasks: one completed, one failed, one cancelled; then retried."""
    book = working(3)
    book.callback(0)
    book.take("m-2")
    book.callback(1, status="error", error="404 Not Found")
    book.cancel()
    book.retry()
    return book


def test_retry_opens_a_run_with_its_own_counters() -> None:
    """Only what failed runs again; the first run's counts are history; tries begin anew."""
    book = failed_and_retried()
    assert (book.job.state, book.job.run, book.counters) == (JobState.QUEUED, 2, (2, 0, 0))
    assert book.job.history == (PhaseCount("TIFF_CONVERSION", 1, 3, 1, 2),)
    book.admit().running()
    assert [(task.n, task.run, task.attempt, task.tries) for task in book.take("m-3", free=9)] == [
        (1, 2, 1, 1),
        (2, 2, 1, 1),
    ]


def test_retry_gives_its_place_back_and_is_admitted_again() -> None:
    """The new run waits for a place like any other batch; with one it runs and can be finished."""
    book = failed_and_retried()
    book.alarm()
    assert (book.job.state, book.job.placement) == (JobState.QUEUED, None)
    book.admit().running().take("m-3", free=2)
    book.callback(1)
    book.callback(2)
    assert (book.job.state, book.counters) == (JobState.DONE, (2, 2, 0))


def test_a_callback_of_an_earlier_run_is_told_to_stop() -> None:
    """It counts for nothing in the new run, even a success."""
    book = failed_and_retried()
    before = book.row
    assert book.callback(1, run=1) == Received(stop=True)
    assert book.row == before


def test_retry_needs_an_end_and_a_failure() -> None:
    """A batch that runs, or in which nothing failed, is not run again."""
    assert isinstance(working().retry().answer, Refused)
    assert isinstance(done().retry().answer, Refused)


def test_a_retry_sent_again_begins_no_second_run() -> None:
    """Its answer was lost: the same answer, while the new run waits and when it has ended."""
    book = failed_and_retried()
    assert book.retry(after_run=1).answer is None
    book.cancel()
    assert book.retry(after_run=1).answer is None
    assert (book.job.state, book.job.run) == (JobState.CANCELLED, 2)
    assert book.retry(after_run=2).answer is None
    assert book.job.run == 3
    assert isinstance(book.retry(after_run=1).answer, Refused)


def test_a_retry_of_a_batch_that_was_created_again_is_refused() -> None:
    """The run after the one that the caller saw is not the one that it asks for: another list, by somebody else."""
    book = failed_and_retried()
    seen = book.job.created_at
    answer = book.turn(Retried(after_run=1, created_at=seen - 1)).answer
    assert isinstance(answer, Refused)
    assert "created again" in answer.message
    assert book.turn(Retried(after_run=1, created_at=seen)).answer is None


def test_a_reason_is_kept_up_to_a_length() -> None:
    """What a worker or a provider says at length is cut, whether the task has failed or is tried again."""
    book = working(2)
    book.callback(status="error", error="x" * 250_000)
    book.take("m-2", "c2")
    book.callback(1, status="error", error="y" * 250_000, retryable=False)
    for n, letter in enumerate("xy"):
        assert book.task(n).error == letter * (MAX_ERROR_CHARS - 1) + "…"


def test_retry_in_the_turn_of_the_cancel_runs_all_again() -> None:
    """What waited has failed with the run, by the job's row alone, and is pending in the next."""
    book = Book(2).running()
    _, answer = book.turn(Cancelled(reason="now"), Retried(after_run=1)).answers
    assert answer is None
    assert (book.job.state, book.job.run, book.counters) == (JobState.QUEUED, 2, (2, 0, 0))


def test_cancel_in_the_turn_of_the_retry_ends_the_new_run() -> None:
    """The rows become the new run's, then fail in it."""
    book = working(2)
    book.cancel()
    book.turn(Retried(after_run=1), Cancelled(reason="after all"))
    assert (book.job.state, book.job.run, book.counters) == (JobState.CANCELLED, 2, (2, 0, 2))


# --- the end is told ------------------------------------------------------------------------------


def test_the_end_is_told_once_it_is_committed() -> None:
    """The last result leads to the delivery of this run; without a receiver to none."""
    book = working(policy=DELIVERS)
    assert book.turn(book.report()).of(Deliver) == [Deliver(run=1)]
    assert book.job.delivery is Delivery.PENDING
    assert done(policy=POLICY).job.delivery is Delivery.NONE


def test_delivered() -> None:
    """The receiver has the list: nothing is left to wait for."""
    book = done()
    book.delivery("delivered")
    assert (book.job.delivery, book.job.delivered_run, book.job.alarm_at) == (Delivery.DELIVERED, 1, None)
    book.delivery("delivered")
    assert book.job.delivered_run == 1


def test_a_delivery_that_is_not_heard_of_is_begun_again() -> None:
    """A crash between commit and answer: the alarm asks for it again, as soon as for the tasks of a batch that runs."""
    book = done()
    book.activate()
    assert book.alarm().of(Deliver) == []
    assert book.alarm(after=DELIVERS.alarm_delay_ms).of(Deliver) == [Deliver(run=1)]


def test_a_delivery_that_failed_is_repeated_behind_a_backoff() -> None:
    """Between half and the whole of a ceiling that doubles up to the cap; the batch stays done."""
    jitter = Least(most=True)
    book = working(policy=DELIVERS)
    book.rng = jitter
    book.callback()
    for _ in range(7):
        book.delivery("retry")
        assert book.job.delivery_at is not None
        assert book.alarm(after=book.job.delivery_at - book.now).of(Deliver) == [Deliver(run=1)]
    assert [b for _, b in jitter.asked] == [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]
    assert all(a == b // 2 for a, b in jitter.asked)
    assert (book.job.state, book.job.delivery_tries) == (JobState.DONE, 7)


@pytest.mark.parametrize(("outcome", "end"), [("refused", Delivery.REFUSED), ("retry", Delivery.GIVEN_UP)])
def test_a_delivery_that_ends_badly_leaves_the_batch_done(outcome: Literal["refused", "retry"], end: Delivery) -> None:
    """Refused at once, given up after a day: its own field says so, with the receiver's words (invariant 6)."""
    book = done()
    book.pass_time(DELIVERS.delivery_give_up_ms)
    book.delivery(outcome)
    assert (book.job.state, book.job.delivery, book.job.alarm_at) == (JobState.DONE, end, None)
    assert book.job.delivery_error == f"It said {outcome}."


def test_redeliver_tells_the_same_run_again() -> None:
    """A delivery that was refused can be redriven, and one that is under way is not doubled."""
    book = done()
    book.delivery("refused")
    assert book.redeliver().of(Deliver) == [Deliver(run=1)]
    assert book.redeliver().of(Deliver) == []
    book.delivery("delivered")
    assert book.job.delivery is Delivery.DELIVERED


def test_only_a_finished_batch_with_a_receiver_is_delivered_again() -> None:
    """Everything else is a conflict that says what is missing."""
    assert isinstance(working(policy=DELIVERS).redeliver().answer, Refused)
    assert isinstance(done(policy=POLICY).redeliver().answer, Refused)


def test_the_delivery_of_an_earlier_run_does_not_end_this_one() -> None:
    """Each run is told by itself."""
    book = working(policy=DELIVERS)
    book.callback(status="error", retryable=False)
    book.retry()
    book.admit().running().take("m-2")
    book.callback(attempt=1)
    book.delivery("delivered", run=1)
    assert (book.job.delivery, book.job.delivered_run) == (Delivery.PENDING, 1)
    book.delivery("delivered", run=2)
    assert (book.job.delivery, book.job.delivered_run) == (Delivery.DELIVERED, 2)


# --- phases ---------------------------------------------------------------------------------------


def between_phases() -> Book:
    """Phase 0 is over, phase 1 is not planned yet."""
    book = Book(1, phases=TWO_PHASES).running()
    book.take()
    assert book.turn(book.report()).of(PlanPhase) == [PlanPhase(run=1, phase=1)]
    return book


def test_phases_follow_each_other() -> None:
    """The end of a phase asks for the next, which has counters of its own; the last one ends the job."""
    book = between_phases()
    assert book.plan(1, 2).of(Announce) == [Announce(want=2)]
    assert (book.job.phase, book.counters) == (1, (2, 0, 0))
    assert book.job.history == (PhaseCount("TIFF_CONVERSION", 1, 1, 1, 0),)
    book.take("m-2", free=2)
    book.callback(0)
    book.callback(1)
    assert book.job.state is JobState.DONE


def test_a_plan_that_a_crash_lost_is_asked_for_again() -> None:
    """Between two phases each activation asks for it: nothing waits for a plan that nobody makes."""
    book = between_phases()
    assert book.activate().of(PlanPhase) == [PlanPhase(run=1, phase=1)]


def test_a_phase_without_tasks_is_over_at_once() -> None:
    """No file that it wants: the job ends with the news."""
    book = between_phases()
    book.plan(1, 0)
    assert book.job.state is JobState.DONE


def test_planned_twice_is_once() -> None:
    """The second news of the same plan does not set the counters back."""
    book = between_phases()
    book.plan(1, 1)
    book.take("m-2")
    book.callback(0)
    assert book.plan(1, 1).effects == ()
    assert book.counters == (1, 1, 0)


def test_a_plan_made_for_an_earlier_run_is_not_followed() -> None:
    """The run was retried meanwhile: its phase has to end first."""
    book = Book(1, phases=TWO_PHASES).running()
    book.cancel()
    book.retry()
    book.admit().running()
    book.turn(PhasePlanned(run=1, phase=1, tasks_total=0))
    assert (book.job.phase, book.counters) == (0, (1, 0, 0))


# --- what the fleet is told, and the alarm --------------------------------------------------------


def test_demand_is_told_when_it_begins_grows_and_ends() -> None:
    """Not with every task that is taken: the fleet learns that from the takes."""
    book = Book(2).running()
    assert book.turn(WorkTaken(machine="m-1", claim="a", free=1)).effects == ()
    assert book.turn(WorkTaken(machine="m-2", claim="b", free=1)).effects == (Announce(want=0),)
    assert book.turn(book.report(0, "released")).effects == (Announce(want=1),)


def test_demand_is_told_again_by_every_alarm() -> None:
    """The fleet may have died and forgotten it."""
    book = Book(2).running()
    assert book.alarm(after=POLICY.alarm_delay_ms).effects == (Announce(want=2),)


def test_demand_is_at_most_a_batch_size() -> None:
    """The setting of the originals bounds what is asked for at once."""
    assert Book(9, policy=replace(POLICY, batch_size=4)).alarm().effects == (Announce(want=4),)


def test_an_alarm_that_lies_far_ahead_is_brought_back() -> None:
    """It was set before the clock went back an hour: the job is looked at as often as ever."""
    book = working().pass_time(-3_600_000)
    book.turn()
    assert book.job.alarm_at == book.now + POLICY.alarm_delay_ms


def test_a_turn_without_news_writes_nothing() -> None:
    """No commit for a duplicate: a storm of them costs no fsync."""
    book = working(2)
    book.callback(0)
    book.callback(0)
    assert book.last is not None
    assert not book.last.changed


def test_a_group_is_one_commit() -> None:
    """What arrived together is decided in its order and written at once."""
    book = Book(2, rng=Least()).running()
    book.take("m-1")
    seq = book.row.seq
    answers = book.turn(book.report(0, accepts_next=True), WorkTaken(machine="m-2", claim="c", free=1)).answers
    assert answers == (Received(next=book.task(1)), Granted(()))
    assert (book.row.seq, book.task(0).status) == (seq + 1, TaskStatus.COMPLETED)


def test_nothing_is_given_out_that_the_same_commit_takes_back() -> None:
    """Invariant 3: a machine would be spawned, or a worker sent, for a task that is not open."""
    book = Book(3, rng=Least()).running()
    book.take("m-1")
    answers = book.turn(
        book.report(0, accepts_next=True), WorkTaken(machine="m-2", claim="c", free=1), Cancelled(reason="no")
    ).answers
    assert answers == (Received(), Granted(()), None)
