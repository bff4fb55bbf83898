"""Many files at once: each ends in a result, and what stops the work leaves nothing half done."""

import errno
import os
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from worker.crew import Order, Result, Work, plan_of
from worker.errors import BadInput, Cancelled
from worker.folder import Job, find
from worker.kinds.tiff import Converted, Options
from worker.ledger import LEDGER_NAME, Ledgers

Act = Callable[[Path, Path, Options], None]
WITHIN_S = 5.0


class Converter:
    """Writes a JPEG of four bytes, or does what it is told."""

    def __init__(self, act: Act | None = None) -> None:
        self._act = act
        self.closed = threading.Event()

    def convert(self, source: Path, target: Path, options: Options) -> Converted:
        target.write_bytes(b"jpeg")
        if self._act is not None:
            self._act(source, target, options)
        return Converted(size=4, width=1, height=1, pages=1, notes=())

    def close(self) -> None:
        self.closed.set()


@pytest.fixture
def jobs(tmp_path: Path) -> list[Job]:
    for number in range(6):
        (tmp_path / f"{number}.tif").write_bytes(str(number).encode())
    return find([tmp_path]).jobs


def ends(jobs: list[Job], act: Act | None = None, *, force: bool = False, hands: int = 2) -> dict[str, Result]:
    """The results by the names of the sources."""
    order = Order(options=Options(), force=force)
    work = Work(jobs, order, Ledgers(), hands=hands, make=lambda: Converter(act))
    with closing(work.results()) as results:
        return {result.job.source.name: result for result in results}


def left_in(folder: Path) -> list[str]:
    """What is there beside the sources and the ledger."""
    return sorted(path.name for path in folder.iterdir() if path.suffix not in (".tif", ".jsonl"))


def content(source: Path) -> str:
    return source.read_text()


def test_every_file_ends_in_a_result(jobs: list[Job], tmp_path: Path) -> None:
    """With its size before; the JPEGs are in their places."""
    results = ends(jobs)
    assert sorted(results) == [f"{number}.tif" for number in range(6)]
    assert all(result.made is not None and result.size == 1 for result in results.values())
    assert left_in(tmp_path) == [f"{number}.jpg" for number in range(6)]


def test_what_is_done_is_not_planned_again(jobs: list[Job]) -> None:
    """A second plan has nothing to do; one with force has everything; one with other options too."""
    assert plan_of(jobs, Order(options=Options()), Ledgers()).size == 6
    ends(jobs)
    again = plan_of(jobs, Order(options=Options()), Ledgers())
    assert (len(again.to_do), len(again.done)) == (0, 6)
    assert len(plan_of(jobs, Order(options=Options(), force=True), Ledgers()).to_do) == 6
    assert len(plan_of(jobs, Order(options=Options(strict_sharp=True)), Ledgers()).to_do) == 6


def test_one_failure_does_not_end_the_others(jobs: list[Job], tmp_path: Path) -> None:
    """Whatever is raised becomes the sentence of that file, and nothing of its JPEG stays."""

    def act(source: Path, target: Path, options: Options) -> None:
        if content(source) == "1":
            raise BadInput("half a fax")
        if content(source) == "2":
            raise ZeroDivisionError("oh")

    results = ends(jobs, act)
    assert results["1.tif"].error == "half a fax"
    assert results["2.tif"].error == "ZeroDivisionError: oh"
    assert left_in(tmp_path) == ["0.jpg", "3.jpg", "4.jpg", "5.jpg"]


@pytest.mark.parametrize("met_by_the_converter", [True, False])
def test_a_full_disk_ends_the_work(
    jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, met_by_the_converter: bool
) -> None:
    """No further file is tried, also where libvips hides the reason behind a "write error"."""

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def act(source: Path, target: Path, options: Options) -> None:
        if content(source) == "2":
            monkeypatch.setattr(os, "fsync", full)
            if met_by_the_converter:
                raise BadInput(f"{target}: write error")

    results = ends(jobs, act, hands=1)
    assert list(results) == ["0.tif", "1.tif", "2.tif"]
    assert results["2.tif"].disk_full
    assert results["2.tif"].error == "The JPEG cannot be written: No space left on device"
    assert left_in(tmp_path) == ["0.jpg", "1.jpg"]


def test_an_error_does_not_name_the_draft(jobs: list[Job]) -> None:
    """Nobody knows that path, and it is gone."""

    def act(source: Path, target: Path, options: Options) -> None:
        raise BadInput(f"{target}: write error")

    assert ends(jobs, act)["0.tif"].error == "the JPEG: write error"


def test_a_file_that_may_not_be_read_is_told(jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    """With the system's reason, and before the converter is asked."""
    opened = Path.open

    def refused(path: Path, *arguments: str) -> object:
        if path.name == "1.tif":
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, *arguments)

    monkeypatch.setattr(Path, "open", refused)
    (result,) = plan_of(jobs, Order(options=Options()), Ledgers()).refused
    assert (result.job.source.name, result.error) == ("1.tif", "The file cannot be read: Permission denied")


def test_stopping_leaves_no_half_result(jobs: list[Job], tmp_path: Path) -> None:
    """Closing the results cancels and closes what is under way, waits for it, and nothing of it stays."""
    second_runs = threading.Event()
    converter = Converter()
    was_told: list[bool] = []

    def act(source: Path, target: Path, options: Options) -> None:
        if content(source) != "0":
            second_runs.set()
            was_told.extend(event.wait(WITHIN_S) for event in (options.cancelled, converter.closed))
            raise Cancelled("stopped")

    converter._act = act
    results = Work(jobs, Order(options=Options()), Ledgers(), hands=1, make=lambda: converter).results()
    assert next(results).job.source.name == "0.tif"
    assert second_runs.wait(WITHIN_S)
    results.close()
    assert was_told == [True, True]
    assert left_in(tmp_path) == ["0.jpg"]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("convert-")]


def test_what_ended_while_it_was_stopped_is_told(
    jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A JPEG that was on its way into its place when the stop came, from a signal handler for instance, is there and
    among the results; what was not begun by then is neither."""
    replaced, publishing, stopped = Path.replace, threading.Event(), threading.Event()

    def slow(draft: Path, target: Path) -> Path:
        publishing.set()
        assert stopped.wait(WITHIN_S)
        return replaced(draft, target)

    monkeypatch.setattr(Path, "replace", slow)
    order = Order(options=Options())
    converter = Converter()
    monkeypatch.setattr(converter, "close", stopped.set)
    work = Work(jobs, order, Ledgers(), hands=1, make=lambda: converter)
    with closing(work.results()) as results:
        threading.Thread(target=lambda: publishing.wait(WITHIN_S) and work.stop()).start()
        assert [result.job.source.name for result in results] == ["0.tif"]
    assert work.was_stopped
    assert left_in(tmp_path) == ["0.jpg"]


def test_a_stop_loses_no_result_that_waits(jobs: list[Job], tmp_path: Path) -> None:
    """Results that had come before the stop, or behind it, are all told; a second stop changes nothing."""
    work = Work(jobs, Order(options=Options()), Ledgers(), hands=3, make=Converter)
    with closing(work.results()) as results:
        told = [next(results)]
        work.stop()
        work.stop()
        told += results
    assert sorted(result.job.target.name for result in told) == left_in(tmp_path)


def test_without_a_stop_there_was_none(jobs: list[Job]) -> None:
    """Nor is one that comes when everything has ended."""
    work = Work(jobs, Order(options=Options()), Ledgers(), hands=2, make=Converter)
    assert len(list(work.results())) == 6
    work.stop()
    assert not work.was_stopped


def test_a_result_after_the_stop_is_not_published(jobs: list[Job], tmp_path: Path) -> None:
    """A converter that ends in spite of being stopped changes nothing."""

    def act(source: Path, target: Path, options: Options) -> None:
        options.cancelled.set()

    assert ends(jobs, act, hands=1) == {}
    assert left_in(tmp_path) == []


def test_what_appears_meanwhile_is_not_overwritten(jobs: list[Job], tmp_path: Path) -> None:
    """A foreign file that came to stand in the place during the conversion is left alone, unless force is used."""

    def act(source: Path, target: Path, options: Options) -> None:
        if content(source) == "3":
            (tmp_path / "3.jpg").write_bytes(b"precious")

    result = ends(jobs, act)["3.tif"]
    assert result.error is not None
    assert "3.jpg is there already" in result.error
    assert (tmp_path / "3.jpg").read_bytes() == b"precious"
    assert ends(jobs, act, force=True)["3.tif"].error is None


def test_foreign_and_missing_files_are_refused_by_the_plan(jobs: list[Job], tmp_path: Path) -> None:
    """Each with its sentence; the others are to be done."""
    (tmp_path / "0.jpg").write_bytes(b"precious")
    (tmp_path / "1.tif").unlink()
    (tmp_path / "2.tif").unlink()
    (tmp_path / "2.tif").symlink_to(tmp_path / "2.tif")
    made = plan_of(jobs, Order(options=Options()), Ledgers())
    assert [job.source.name for job in made.to_do] == ["3.tif", "4.tif", "5.tif"]
    sentences = [result.error for result in made.refused]
    assert sentences == [
        "0.jpg is there already and was not made by arke convert, or was changed since",
        "The file cannot be read: No such file or directory",
        "The file cannot be read: Too many levels of symbolic links",
    ]


def test_a_ledger_that_is_a_link_is_refused_before_anything_is_converted(jobs: list[Job], tmp_path: Path) -> None:
    """By the plan, and with force, which plans nothing, by the work."""
    (tmp_path / LEDGER_NAME).symlink_to(tmp_path / "precious.jsonl")
    plan = plan_of(jobs, Order(options=Options()), Ledgers())
    forced = ends(jobs, lambda *_: pytest.fail("it was converted"), force=True)
    assert plan.to_do == []
    (error,) = {result.error for result in (*plan.refused, *forced.values())}
    assert error is not None
    assert error.startswith(LEDGER_NAME)
    assert error.endswith("cannot be used: it is a symbolic link, and is not followed")
    assert left_in(tmp_path) == []


def test_what_is_no_regular_file_fails(tmp_path: Path) -> None:
    """A pipe would be waited for without end."""
    os.mkfifo(tmp_path / "pipe.tif")
    jobs = find([tmp_path]).jobs
    assert ends(jobs)["pipe.tif"].error == "The file cannot be read: it is no regular file"
    assert plan_of(jobs, Order(options=Options()), Ledgers()).to_do == []


def test_a_source_that_changes_meanwhile_is_converted_again(jobs: list[Job]) -> None:
    """What counts is the source as it was when the conversion began."""

    def act(source: Path, target: Path, options: Options) -> None:
        if content(source) == "4":
            source.write_bytes(b"4 and more")

    ends(jobs, act)
    plan = plan_of(jobs, Order(options=Options()), Ledgers())
    assert [job.source.name for job in plan.to_do] == ["4.tif"]


def test_the_converter_is_given_plain_names(tmp_path: Path) -> None:
    """libvips takes UTF-8 only and reads brackets at the end of a name as options, so it never sees the real names."""
    folder = tmp_path / os.fsdecode(b"\xff[1]")
    folder.mkdir()
    (folder / os.fsdecode(b"a\xfe\n.tif[page=2]")).write_bytes(b"0")
    seen: list[str] = []

    def act(source: Path, target: Path, options: Options) -> None:
        seen.extend((str(source), str(target)))

    (result,) = ends(find([folder / os.fsdecode(b"a\xfe\n.tif[page=2]")]).jobs, act).values()
    assert result.made is not None
    assert all(name.isascii() and not name.endswith("]") for name in seen)
    assert result.job.target.read_bytes() == b"jpeg"
