"""The log: which lines a commit amounts to, what a line looks like, and one file for many processes."""

import ast
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from actors import telemetry
from actors.rules.model import Job, PhaseCount, Task
from actors.rules.states import JobState, TaskStatus

ROOT = Path(__file__).parents[3]
RUNNING = Job(id="b", state=JobState.RUNNING, tasks_total=4, tasks_in_flight=4, started_at=1_000)
TASK = Task(job_id="b", phase=0, n=3, task_id="b_tiff_3", input_r2_key="a.tif", output_r2_key="a.jpg")


@pytest.fixture
def root_logger() -> Iterator[None]:
    """What `configure` changes is put back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in telemetry.LEVELS}
    root.handlers[:] = []  # pytest's own are not closed
    yield
    for handler in root.handlers:
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


def lines(caplog: pytest.LogCaptureFixture, before: Job, after: Job, *tasks: Task) -> list[tuple[str, str]]:
    """Level and text of what is logged about this commit."""
    caplog.set_level(logging.INFO)
    caplog.clear()
    telemetry.job_changed(before, after, tasks)
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def with_(job: Job, **fields: object) -> Job:
    """The row after some fields have changed."""
    return msgspec.structs.replace(job, **fields)


def test_the_start_of_a_batch_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """When a batch gets to run, one line says so for the batch, and one for its phase with the number of tasks."""
    queued = with_(RUNNING, state=JobState.QUEUED)
    assert lines(caplog, queued, RUNNING) == [
        ("INFO", "[DO] started batch=b run=1"),
        ("INFO", "[TiffConversion] started batch=b run=1 tasks=4"),
    ]


def test_the_end_of_a_batch_is_logged_with_its_success_rate(caplog: pytest.LogCaptureFixture) -> None:
    """A batch that is done tells its counters, its success rate and how long it took."""
    done = with_(RUNNING, state=JobState.DONE, tasks_in_flight=0, tasks_completed=3, tasks_failed=1, completed_at=3_500)
    assert lines(caplog, RUNNING, done) == [
        ("INFO", "[TiffConversion] ended batch=b run=1 completed=3 failed=1 total=4 success_rate=75.0%"),
        ("INFO", "[DO] done batch=b run=1 completed=3 failed=1 total=4 seconds=2.5"),
    ]


def test_a_batch_that_fails_is_a_warning_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    """The reason stands once, in the batch's line: the tasks that end with the batch have no lines of their own."""
    failed = with_(RUNNING, state=JobState.FAILED, tasks_failed=4, code="reset", error="Manually reset by admin")
    ended = msgspec.structs.replace(TASK, status=TaskStatus.FAILED, error="Manually reset by admin")
    assert lines(caplog, RUNNING, failed, ended) == [
        ("WARNING", '[DO] failed batch=b run=1 completed=0 failed=4 total=4 code=reset error="Manually reset by admin"')
    ]


def test_each_failed_task_has_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """A task that has failed is told with batch, task, attempt and sentence; one that is tried again or done is not."""
    failed = msgspec.structs.replace(TASK, status=TaskStatus.FAILED, attempt=2, error="Not a TIFF: \nforged")
    again = msgspec.structs.replace(TASK, status=TaskStatus.PENDING, error="Timed out")
    done = msgspec.structs.replace(TASK, status=TaskStatus.COMPLETED)
    assert lines(caplog, RUNNING, with_(RUNNING, tasks_failed=1), done, failed, again) == [
        ("WARNING", r'[TiffConversion] task_failed batch=b task=b_tiff_3 attempt=2 error="Not a TIFF: \nforged"')
    ]


def test_callbacks_alone_log_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A turn that only counted has no line: 100,000 callbacks must not be 100,000 lines."""
    done = msgspec.structs.replace(TASK, status=TaskStatus.COMPLETED)
    assert lines(caplog, RUNNING, with_(RUNNING, tasks_completed=1, seq=9), done) == []


def test_the_next_phase_is_logged_with_the_counters_of_the_one_before(caplog: pytest.LogCaptureFixture) -> None:
    """Between two phases the end of the one is told from the history, and the start of the other."""
    before = with_(RUNNING, phases=("TIFF_CONVERSION", "OCR"))
    count = PhaseCount(name="TIFF_CONVERSION", run=1, tasks_total=4, tasks_completed=4, tasks_failed=0)
    assert lines(caplog, before, with_(before, phase=1, tasks_total=7, history=(count,))) == [
        ("INFO", "[TiffConversion] ended batch=b run=1 completed=4 failed=0 total=4 success_rate=100.0%"),
        ("INFO", "[Ocr] started batch=b run=1 tasks=7"),
    ]


def test_a_new_run_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A retry is a move of the job, though no phase of the former run ends by it."""
    done = with_(RUNNING, state=JobState.DONE)
    assert lines(caplog, done, with_(done, state=JobState.QUEUED, run=2)) == [("INFO", "[DO] queued batch=b run=2")]


WRITER = """
import sys, pathlib
from actors import telemetry
telemetry.configure("INFO", pathlib.Path(sys.argv[1]), "writer%")
telemetry.logging.getLogger().handlers[0]._limit_bytes = int(sys.argv[3])
telemetry.logging.getLogger().handlers[0]._kept = 1000
for n in range(300):
    telemetry.event("job.line", n=n, who=sys.argv[2], end="x" * (n % 90))
"""


@pytest.mark.parametrize("limit_bytes", [10_000_000, 4_000])
def test_many_processes_write_one_log(tmp_path: Path, limit_bytes: int) -> None:
    """Lines of processes that write at once are whole and all there, also while the file is turned over."""
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), str(who), str(limit_bytes)], cwd=ROOT)
        for who in range(4)
    ]
    assert [writer.wait() for writer in writers] == [0] * 4
    parts = sorted(tmp_path.iterdir())
    written = [line for part in parts for line in part.read_text().splitlines()]
    assert all(" INFO writer%[" in line and line.partition(" end=")[2].strip("x") == "" for line in written)
    assert {tuple(line.split()[6:8]) for line in written} == {
        (f"n={n}", f"who={w}") for n in range(300) for w in range(4)
    }
    assert len(written) == 1200
    assert (len(parts) > 5) == (limit_bytes < 10_000_000)


def test_the_log_is_bounded(tmp_path: Path) -> None:
    """Only so many former parts are kept, the newest of them, and none is much larger than the limit."""
    handler = telemetry.SharedFile(tmp_path / "logs" / "engine.log", limit_bytes=100, kept=2)
    for n in range(50):
        handler.emit(logging.LogRecord("x", logging.INFO, "", 0, f"line {n:02}" + "." * 40, (), None))
    handler.close()
    kept = sorted((tmp_path / "logs").iterdir())
    assert [part.name for part in kept] == ["engine.log", "engine.log.1", "engine.log.2"]
    assert all(part.stat().st_size < 200 for part in kept)
    assert "line 49" in kept[0].read_text()
    assert "line 46" in kept[1].read_text()


def test_a_fault_is_logged_with_its_trace(tmp_path: Path, root_logger: None) -> None:
    """`fault` writes the traceback, of the exception that is handled or of the one that it is given."""
    telemetry.configure("INFO", tmp_path, "store")
    telemetry.fault("wire.request_failed", raised=KeyError("given"))
    try:
        raise ValueError("handled")
    except ValueError:
        telemetry.fault("store.writer_failed")
    text = (tmp_path / telemetry.FILE).read_text()
    assert "KeyError: 'given'" in text
    assert "[Store] writer_failed\nTraceback (most recent call last):" in text
    assert "ValueError: handled" in text


def test_the_level_bounds_what_is_written(tmp_path: Path, root_logger: None) -> None:
    """Below LOG_LEVEL nothing is written, and libraries do not log each request."""
    telemetry.configure("INFO", tmp_path)
    telemetry.detail("wire.connection_ended")
    logging.getLogger("uvicorn.access").info("GET /")
    logging.getLogger("httpx").info("GET /")
    telemetry.event("job.seen")
    assert (tmp_path / telemetry.FILE).read_text().count("\n") == 1


def test_nothing_else_logs() -> None:
    """Engine and front log through `telemetry` alone, so that prefixes and fields are made in one place."""
    others = [path for part in ("actors", "orchestrator") for path in sorted((ROOT / part).rglob("*.py"))]
    assert len(others) > 50
    assert [
        str(path.relative_to(ROOT)) for path in others if path.name != "telemetry.py" and _makes_a_logger(path)
    ] == []


def _makes_a_logger(path: Path) -> bool:
    names = (node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute))
    return "getLogger" in names
