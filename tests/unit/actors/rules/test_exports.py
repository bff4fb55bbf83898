"""Exports: kept for a while after their end and then removed; given up when they never get a machine."""

from actors.rules.effects import Refused, Remove
from actors.rules.events import Downloaded
from actors.rules.states import JobState, TaskStatus
from actors.rules.task import replace
from tests.unit.actors.rules.book import POLICY, Book

DAY_MS = 24 * 3_600_000
HOUR_MS = 3_600_000
EXPORTS = replace(POLICY, kept_ms=DAY_MS, unfinished_ms=HOUR_MS, delivers=False, task_max_ms=6 * HOUR_MS)


def export(tasks: int = 1) -> Book:
    """One that was just taken in, with its place."""
    book = Book(tasks, policy=EXPORTS, phases=("METADATA_EXPORT",))
    book.row = replace(book.row, kind="export", expires_at=book.now + HOUR_MS)
    book.activate()
    return book.running()


def done() -> Book:
    book = export()
    book.take("m-1")
    book.callback()
    assert book.job.state is JobState.DONE
    return book


def test_what_is_over_is_removed_after_its_time() -> None:
    """By its own alarm, and not a moment before; as long as it is there, it is asked for again."""
    book = done()
    assert book.job.expires_at == book.job.alarm_at == book.now + DAY_MS
    assert book.alarm(after=DAY_MS - 1).of(Remove) == []
    assert len(book.alarm(after=1).of(Remove)) == 1
    assert book.job.alarm_at is not None
    assert book.job.alarm_at > book.now  # in case that it does not work out
    book.pass_time(book.job.alarm_at - book.now)
    assert len(book.alarm().of(Remove)) == 1


def test_a_batch_of_files_is_never_removed_with_its_outputs() -> None:
    """They are not ours."""
    book = Book(1).running()
    book.take("m-1")
    book.callback()
    assert book.job.expires_at is None
    assert book.alarm(after=40 * DAY_MS).of(Remove) == []


def test_what_never_gets_a_machine_is_given_up() -> None:
    """Its error says what to do, and its time to be looked at begins."""
    book = export()
    book.alarm(after=HOUR_MS - 1)
    assert book.job.state is JobState.RUNNING
    book.alarm(after=1)
    assert (book.job.state, book.job.code) == (JobState.FAILED, "expired")
    assert book.job.error == "No machine has finished it within 3600 s. Start it again."
    assert book.job.expires_at == book.now + DAY_MS


def test_what_is_at_work_is_not_given_up() -> None:
    """As long as it shows signs of life; the bound of an attempt is another one."""
    book = export()
    book.take("m-1")
    for _ in range(240):
        book.pass_time(30_000)
        book.callback(status="running")
        book.alarm()
    assert book.task().status is TaskStatus.PROCESSING
    book.callback()
    assert book.job.state is JobState.DONE


def test_a_machine_that_dies_late_is_no_reason_to_give_up() -> None:
    """After two hours of work the export is tried again, and so is a batch of which something is done."""
    book = export()
    book.take("m-1")
    for _ in range(240):
        book.pass_time(30_000)
        book.callback(status="running")
        book.alarm()
    book.lost()
    book.alarm(after=5_000)
    assert (book.job.state, book.task().status) == (JobState.RUNNING, TaskStatus.PENDING)
    batch = export(tasks=2)
    batch.take("m-1")
    batch.callback()
    batch.alarm(after=2 * HOUR_MS)
    assert batch.job.state is JobState.RUNNING


def test_a_batch_that_stands_still_is_given_up_too() -> None:
    """What is done is no reason to wait for ever for the rest."""
    batch = export(tasks=2)
    batch.take("m-1")
    batch.callback()
    batch.alarm(after=HOUR_MS)
    assert batch.job.state is JobState.RUNNING
    batch.alarm(after=HOUR_MS)
    assert (batch.job.state, batch.job.code, batch.job.tasks_completed) == (JobState.FAILED, "expired", 1)


def test_what_is_being_removed_does_not_begin_again() -> None:
    """Its files may be gone."""
    book = export()
    book.take("m-1")
    book.callback(status="error", error="404 Not Found")
    book.alarm(after=DAY_MS)
    answer = book.retry().answer
    assert isinstance(answer, Refused)
    assert "expired" in answer.message


def test_the_key_that_a_worker_reports_is_not_believed() -> None:
    """What is there is handed out, and removed later: with it a worker could do that to any object."""
    book = export()
    book.take("m-1")
    own = book.task().output_r2_key
    book.callback(output_r2_key="staging/other.tif", output_file_name="../x", output_file_size=7)
    assert (book.task().output_r2_key, book.task().output_file_name, book.task().output_file_size) == (own, None, 7)
    batch = Book(1).running()
    batch.take("m-1")
    batch.callback(output_r2_key="staging/other.jpg")
    assert batch.report(0).task_id
    assert batch.last is not None
    assert batch.last.tasks[0].output_r2_key == "staging/other.jpg"


def test_a_download_may_be_its_end() -> None:
    """Two minutes later: whoever has lost the last bytes of it asks again. A second one does not make it later."""
    book = done()
    book.turn(Downloaded())
    until = book.job.expires_at
    assert until == book.job.alarm_at == book.now + 120_000
    book.now += 1_000
    book.turn(Downloaded())
    assert book.job.expires_at == until
    book.now = until
    assert len(book.alarm().of(Remove)) == 1


def test_an_export_that_runs_is_not_removed_by_a_download() -> None:
    """Of a former run, say."""
    book = export()
    before = book.job.expires_at
    book.turn(Downloaded())
    assert book.job.expires_at == before


def test_a_new_run_has_its_time_anew() -> None:
    """And is not removed when the time of the former one is over."""
    book = export()
    book.take("m-1")
    book.callback(status="error", error="404 Not Found")
    book.pass_time(HOUR_MS)
    book.retry()
    assert book.job.expires_at == book.now + HOUR_MS
    book.admit().running()
    assert book.alarm(after=DAY_MS // 48).of(Remove) == []


def test_a_sign_of_life_tells_how_far_it_is() -> None:
    """The last one counts; a new attempt begins with nothing."""
    book = export()
    book.take("m-1")
    book.callback(status="running", performance={"entities_exported": 3})
    book.callback(status="running")
    assert book.task().performance == {"entities_exported": 3}
    book.callback(status="released")
    assert book.task().performance is None


def test_a_clock_that_was_ahead_keeps_nothing_for_longer() -> None:
    """Its times are bounded by what can be, at the next activation."""
    book = done()
    book.row = replace(book.row, expires_at=book.now + 30 * DAY_MS, alarm_at=book.now + 30 * DAY_MS)
    book.activate()
    assert book.job.expires_at == book.now + DAY_MS
