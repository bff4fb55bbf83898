"""`arke convert`: what it shows, and how the command line finds its commands."""

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from orchestrator.cli import main as command_line
from orchestrator.cli.convert import convert
from orchestrator.cli.convert_report import Report, change_text, saved_text, size_text, time_text
from worker.crew import Plan, Result
from worker.folder import Job
from worker.kinds.tiff import Converted


def job(name: str) -> Job:
    return Job(Path(f"{name}.tif"), Path(f"{name}.jpg"))


def converted(name: str, before: int, after: int, *, pages: int = 1, notes: tuple[str, ...] = ()) -> Result:
    made = Converted(size=after, width=3, height=2, pages=pages, notes=notes)
    return Result(job=job(name), size=before, made=made)


def failed(name: str, error: str, *, disk_full: bool = False) -> Result:
    return Result(job=job(name), error=error, disk_full=disk_full)


def reported(
    *results: Result, plan: Plan | None = None, as_json: bool = False, verbose: bool = False, interrupted: bool = False
) -> Report:
    """A report of all this, with two files more to do than there are results."""
    report = Report(as_json=as_json, verbose=verbose)
    more = [job("more"), job("still-more")]
    report.begin(plan or Plan(to_do=[*(result.job for result in results), *more], size=5000), 2)
    with report.progress():
        for result in results:
            report.add(result)
    report.end(interrupted=interrupted)
    return report


def test_the_summary_counts_files_and_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    """Sizes of what was converted, pages that were left out, and each failure with its sentence."""
    plan = Plan(to_do=[job("a"), job("b"), job("c")], done=[job("d")], refused=[failed("e", "in the way")])
    reported(converted("a", 3000, 1000, pages=2), failed("b", "half a fax"), converted("c", 1000, 400), plan=plan)
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith("2 converted, 1 done before, 2 failed, in 0.")
    assert rest == [
        "4.00 KB became 1.40 KB: 2.60 KB saved (65% less).",
        "1 file with more than one page: the first page was converted.",
        "Failed:",
        "  e.tif: in the way",
        "  b.tif: half a fax",
    ]


def test_a_line_for_each_file_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    """Sizes before and after, pages and notes; what was done before; what failed."""
    plan = Plan(to_do=[job("a"), job("b")], done=[job("d")])
    reported(converted("a", 3000, 1000, pages=2, notes=("turned",)), failed("b", "half"), plan=plan, verbose=True)
    assert capsys.readouterr().out.splitlines()[:3] == [
        "d.tif: done before",
        "a.tif: 3.00 KB → 1.00 KB (67% less); the first of 2 pages; turned",
        "b.tif: failed: half",
    ]


def test_an_interruption_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    """How many are done, and that the same command continues."""
    report = reported(converted("a", 10, 5), interrupted=True)
    told = capsys.readouterr()
    assert report.totals.left == 2
    assert "1 converted, 0 failed, 2 left" in told.out
    assert told.err.endswith("Stopped. 1 of 3 files are done; the same command goes on from there.\n")


def test_a_full_disk_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """Apart from the failures, since it explains why files are left."""
    reported(failed("a", "write error", disk_full=True))
    assert "The disk is full. 0 of 3 files are done" in capsys.readouterr().err


def test_json_has_a_line_for_each_file(capsys: pytest.CaptureFixture[str]) -> None:
    """And one for all; every size in bytes."""
    plan = Plan(to_do=[job("a")], done=[job("d")], refused=[Result(job=Job(Path("x"), Path("x")), error="closed")])
    reported(converted("a", 3000, 1000, notes=("turned",)), plan=plan, as_json=True)
    skipped, refused, made, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert skipped == {"source": "d.tif", "output": "d.jpg", "status": "skipped"}
    assert refused == {"source": "x", "output": None, "status": "failed", "error": "closed"}
    assert made == {
        "source": "a.tif", "output": "a.jpg", "status": "converted", "bytes_before": 3000, "bytes_after": 1000,
        "seconds": 0.0, "width": 3, "height": 2, "pages": 1, "notes": ["turned"],
    }  # fmt: skip
    assert last["summary"].pop("seconds") >= 0
    assert last["summary"] == {
        "converted": 1, "skipped": 1, "failed": 1, "left": 0, "bytes_before": 3000, "bytes_after": 1000,
        "bytes_saved": 2000, "interrupted": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"), (999, "999 bytes"), (1000, "1.00 KB"), (9994, "9.99 KB"), (9996, "10.0 KB"), (99_960, "100 KB"),
        (999_400, "999 KB"), (999_600, "1.00 MB"), (45_100_000, "45.1 MB"), (2_310_000_000, "2.31 GB"),
        (5 * 10**15, "5000 TB"),
    ],
)  # fmt: skip
def test_sizes_have_three_figures(size: int, text: str) -> None:
    """And the unit in which that is possible."""
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (59.94, "59.9 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_times_are_for_people(seconds: float, text: str) -> None:
    """Seconds, minutes or hours."""
    assert time_text(seconds) == text


def test_growth_is_not_called_a_saving() -> None:
    """A fax page is larger as a JPEG."""
    assert saved_text(1000, 2500) == "1.50 KB more than before (150% more)"
    assert saved_text(2500, 1000) == "1.50 KB saved (60% less)"
    assert change_text(0, 7) == change_text(7, 7) == "as large as before"


def test_an_encoder_that_is_not_installed_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not once for each file."""
    (tmp_path / "a.tif").touch()
    monkeypatch.setattr("orchestrator.cli.convert.find_spec", lambda name: None)
    done = CliRunner().invoke(convert, [str(tmp_path), "--encoder", "jpegli"])
    assert done.exit_code == 2
    assert "pip install 'arke-orchestrator[jpegli]'" in done.output


@pytest.mark.parametrize("arguments", [[""], ["a.tif", ""], ["a.tif", "-o", ""], [".", "--output="]])
def test_an_empty_name_is_not_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    """It is what an unset variable of a script becomes: told, and nothing is done."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.tif").touch()
    done = CliRunner().invoke(convert, arguments)
    assert done.exit_code == 2
    assert "it is empty; the current folder is called `.`" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]


@pytest.mark.parametrize(
    ("name", "value"), [("JPEG_QUALITY", "best"), ("JPEG_ENCODER", "turbo"), ("STRICT_SHARP", "perhaps")]
)
def test_a_bad_variable_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """And not the option, which nobody gave."""
    (tmp_path / "a.tif").touch()
    monkeypatch.setenv(name, value)
    done = CliRunner().invoke(convert, [str(tmp_path)])
    assert done.exit_code == 2
    assert f"Invalid value for {name} in the environment: '{value}'" in done.stderr
    assert "'--" not in done.stderr


def test_a_bad_option_is_named_also_where_there_is_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was given is what is at fault."""
    monkeypatch.setenv("JPEG_QUALITY", "80")
    done = CliRunner().invoke(convert, [str(tmp_path), "--quality", "best"])
    assert "Invalid value for '--quality': 'best'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere", "--json"], "nowhere does not exist."),
        (["--json", ".", "--jobs", "0"], "'--jobs'"),
        (["--json"], "Missing argument"),
        ([".", "--json", "--what"], "--what"),
    ],
)
def test_programs_are_told_why_nothing_was_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: str
) -> None:
    """With --json, standard output has the summary of nothing with the error in it, whoever found it."""
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(convert, arguments)
    assert done.exit_code == 2
    (line,) = done.stdout.splitlines()
    told = json.loads(line)["summary"]
    assert sentence in told.pop("error")
    assert not any(told.values())
    assert sentence in done.stderr


@pytest.mark.parametrize("name", sorted(command_line.COMMANDS))
def test_every_command_is_found(name: str) -> None:
    """Under the name by which it calls itself."""
    command = command_line.cli.get_command(click.Context(command_line.cli), name)
    assert command is not None
    assert command.name == name


def test_a_command_whose_packages_are_missing_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others work, and the list of commands is complete."""

    def missing(name: str) -> object:
        raise ModuleNotFoundError(f"No module named {name!r}", name="psutil.x")

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(SystemExit) as ended:
        command_line.main(["serve", "--port", "1", "--host=x"])
    assert ended.value.code == 2
    assert "Needs psutil.x, which comes with the service" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        command_line.main(["--help"])
    assert ended.value.code == 0
    assert "convert" in capsys.readouterr().out


def test_a_mistake_of_ours_is_not_taken_for_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of this project that is not there is an error."""

    def missing(name: str) -> object:
        raise ModuleNotFoundError(name="orchestrator.nowhere")

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(ModuleNotFoundError):
        command_line.cli.get_command(click.Context(command_line.cli), "serve")
