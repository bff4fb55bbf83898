"""`arke convert` as a person runs it: a process of its own, no service."""

import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from PIL import Image

from orchestrator.cli.samples import write_samples
from tests.acceptance.service import ROOT, eventually

ARKE: Final = (sys.executable, "-m", "orchestrator.cli.main")
WITHIN_S: Final = 120.0
LARGE: Final = 8
SERVICE_ONLY: Final = ("ray", "fastapi", "starlette", "sqlalchemy", "alembic", "uvloop", "psutil")
SETTINGS: Final = ("ARKE_", "JPEG_", "STRICT_", "WORKER_")

Lines = list[dict[str, Any]]


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}
    return kept | {"PYTHONPATH": str(ROOT)} | more


def run(*arguments: str | Path, code: int = 0, **more: str) -> subprocess.CompletedProcess[str]:
    """A run to its end, which must have this exit code."""
    done = subprocess.run(
        [*ARKE, "convert", *map(str, arguments)],
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def lines(text: str) -> Lines:
    """Each line as JSON: nothing else may be there."""
    return [json.loads(line) for line in text.splitlines()]


def draw(path: Path, side: int = 40) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.linear_gradient("L").resize((side, side)).convert("RGB").save(path, "TIFF")
    return path


def results(folder: Path) -> list[str]:
    """What lies below a folder beside TIFFs and ledgers."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != ".arke-convert.jsonl")
    return sorted(str(path.relative_to(folder)) for path in found if not path.suffix.lower().startswith(".tif"))


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A folder with a folder in it: five TIFFs, one of which is none."""
    root = tmp_path / "scans"
    for name in ("a.tif", "b.TIFF", "1890/c.tif", "1890/d.tif"):
        draw(root / name)
    (root / "1890" / "broken.tif").write_bytes(b"no TIFF at all")
    return root


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Scans that keep one converter busy for some seconds altogether."""
    root = tmp_path / "large"
    root.mkdir()
    noise = Image.effect_noise((500, 500), 80).convert("RGB")
    for number in range(LARGE):
        noise.save(root / f"{number:02}.tif", "TIFF")
    return root


def test_a_folder_is_converted_beside_and_elsewhere(scans: Path, tmp_path: Path) -> None:
    """Both keep the folders. One file fails: exit code 1, its sentence in the summary, the others are converted."""
    done = run(scans, code=1)
    assert results(scans) == ["1890/c.jpg", "1890/d.jpg", "a.jpg", "b.jpg"]
    assert "4 converted, 1 failed" in done.stdout
    assert f"  {scans}/1890/broken.tif: " in done.stdout
    run(scans, "-o", tmp_path / "out", code=1)
    assert results(tmp_path / "out") == results(scans)
    with Image.open(tmp_path / "out" / "a.jpg") as picture:
        assert (picture.format, picture.size) == ("JPEG", (40, 40))


def test_every_sample_is_converted(tmp_path: Path) -> None:
    """All kinds of the demo's samples, with the pages and the notes in the JSON."""
    write_samples(tmp_path)
    *files, summary = lines(run(tmp_path, "--json").stdout)
    assert {file["status"] for file in files} == {"converted"}
    assert [file["pages"] for file in files if "three-pages" in file["source"]] == [3]
    assert [file["notes"] for file in files if "turned" in file["source"]] != [[]]
    assert summary["summary"]["bytes_before"] == sum(path.stat().st_size for path in tmp_path.glob("*.[tT]*"))
    assert summary["summary"]["bytes_after"] == sum(path.stat().st_size for path in tmp_path.glob("*.jpg"))


def test_what_is_done_is_skipped_until_it_changes(scans: Path) -> None:
    """A second run converts only what failed or changed; --force and other options convert all."""
    (scans / "1890" / "broken.tif").unlink()
    run(scans)
    made = {path: path.stat().st_mtime_ns for path in scans.rglob("*.jpg")}
    assert "0 converted, 4 done before, 0 failed" in run(scans).stdout
    assert {path: path.stat().st_mtime_ns for path in scans.rglob("*.jpg")} == made
    assert "0 converted, 2 done before, 0 failed" in run(scans / "1890").stdout
    draw(scans / "a.tif", 50)
    (scans / "b.jpg").unlink()
    assert "2 converted, 2 done before, 0 failed" in run(scans).stdout
    assert "4 converted, 0 failed" in run(scans, "--quality", "50").stdout
    assert "4 converted, 0 failed" in run(scans, "--quality", "50", "--force").stdout


def test_it_needs_no_more_than_the_worker(scans: Path, tmp_path: Path) -> None:
    """Neither the process nor its children import ray or anything else of the service, and it works where that is not
    installed; the other commands say what they need."""
    missing = tmp_path / "missing"
    missing.mkdir()
    refusal = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {SERVICE_ONLY!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
"""
    (missing / "sitecustomize.py").write_text(refusal)
    path = os.pathsep.join((str(missing), str(ROOT)))
    done = run(scans, code=1, PYTHONPATH=path, PYTHONPROFILEIMPORTTIME="1")
    assert "4 converted, 1 failed" in done.stdout
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert {"click", "rich", "worker"} <= imported
    assert not imported & set(SERVICE_ONLY)

    told = subprocess.run(
        [*ARKE, "serve"],
        env=environment(PYTHONPATH=path),
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert told.returncode == 2
    assert "pip install 'arke-orchestrator[service]'" in told.stderr
    assert "Traceback" not in told.stderr


def test_json_alone_is_on_standard_output(scans: Path) -> None:
    """A line for each file, converted, skipped or failed, and one for all; progress is on standard error."""
    done = run(scans, "--json", code=1)
    *files, last = lines(done.stdout)
    assert sorted(file["status"] for file in files) == ["converted"] * 4 + ["failed"]
    (failed,) = (file for file in files if file["status"] == "failed")
    assert failed["source"] == str(scans / "1890" / "broken.tif")
    assert failed["error"]
    assert last["summary"]["converted"] == 4
    assert last["summary"]["failed"] == 1
    assert done.stderr.startswith("Converting 5 files")
    again = lines(run(scans, "--json", code=1).stdout)
    assert [line.get("status") for line in again].count("skipped") == 4


@pytest.mark.parametrize(
    ("prepare", "arguments", "sentence"),
    [
        ([], ["nowhere"], "nowhere does not exist"),
        (["empty/readme.txt"], ["empty"], "There is no TIFF (.tif, .tiff) in empty"),
        (["d/a.tif", "d/a.tiff"], ["d"], "d/a.tif and d/a.tiff would both become d/a.jpg"),
        (["d/a.tif", "d/a.jpg"], ["d", "d/a.jpg"], "which is to be converted itself"),
        (["d/a.tif", "out"], ["d", "-o", "out"], "out is a file"),
        (["d/a.tif"], ["d", "-o", "a.jpg"], "looks like a file"),
        (["d/a.tif"], ["d", "--jobs", "0"], "--jobs"),
        (["d/a.tif"], ["d", "--quality", "101"], "--quality"),
        ([], [], "DIR|FILE"),
    ],
)
def test_bad_usage_is_told_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prepare: list[str], arguments: list[str], sentence: str
) -> None:
    """Exit code 2, a sentence on standard error, and nothing is written, not even for the files that are right."""
    for name in prepare:
        draw(tmp_path / name) if name.endswith((".tif", ".tiff", ".jpg")) else (tmp_path / name).parent.mkdir(
            exist_ok=True
        )
        (tmp_path / name).touch()
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    done = run(*arguments, code=2)
    assert sentence in done.stderr
    assert done.stdout == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_foreign_files_are_not_overwritten(scans: Path) -> None:
    """A JPEG that somebody else made stays, and its TIFF counts as failed; with --force it is replaced."""
    (scans / "1890" / "broken.tif").unlink()
    (scans / "a.jpg").write_bytes(b"precious")
    done = run(scans, code=1)
    assert f"{scans}/a.tif: a.jpg is there already and was not made by arke convert" in done.stdout
    assert (scans / "a.jpg").read_bytes() == b"precious"
    assert "3 converted, 1 failed" in done.stdout
    run(scans, "--force")
    assert (scans / "a.jpg").read_bytes()[:2] == b"\xff\xd8"


def test_any_name_is_converted(tmp_path: Path) -> None:
    """Letters of all kinds, bytes that are no UTF-8, line breaks, escape sequences, brackets: converted, shown on one
    line each, and given to programs whole."""
    names = ["Zürich 日本.tif".encode(), b"\xff\xfe.tif", b"two\nlines.tif", b"\x1b[31mred.tif", b"[bold]a[1].tif"]
    for name in names:
        plain = draw(tmp_path / "plain.tif")
        plain.rename(tmp_path / os.fsdecode(name))
    done = run(tmp_path, "-v")
    assert sorted(os.fsencode(path.name) for path in tmp_path.glob("*.jpg")) == sorted(
        name.replace(b".tif", b".jpg") for name in names
    )
    assert len([line for line in done.stdout.splitlines() if "→" in line]) == len(names)
    assert "\x1b" not in done.stdout
    assert r"\xff\xfe.tif" in done.stdout
    *files, _ = lines(run(tmp_path, "--json").stdout)
    assert sorted(os.fsencode(Path(file["source"]).name) for file in files) == sorted(names)


def test_an_output_without_unicode_gets_escapes(tmp_path: Path) -> None:
    """Where standard output knows ASCII only, nothing crashes."""
    draw(tmp_path / "é.tif")
    assert r"\xe9.tif" in run(tmp_path, "-v", PYTHONIOENCODING="ascii").stdout


def test_names_on_a_terminal_are_shown_beside_a_bar(scans: Path) -> None:
    """In a terminal there is a bar, lines stand above it, and the summary after it."""
    code, text = on_a_terminal(str(scans), "-v")
    assert code == 1
    assert "━" in text
    assert "5 of 5" in text
    assert f"{scans}/a.tif: " in text
    assert text.rstrip().splitlines()[-1].startswith(f"  {scans}/1890/broken.tif: ")
    assert "Converting 5 files" not in text


def on_a_terminal(*arguments: str) -> tuple[int, str]:
    """A run whose three streams are a terminal: its exit code, and what it showed."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*ARKE, "convert", *arguments],
        env=environment(TERM="xterm", COLUMNS="200"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b"".join(until_closed(ours))
    os.close(ours)
    return process.wait(WITHIN_S), shown.decode()


def until_closed(terminal: int) -> Iterator[bytes]:
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # Linux tells the end of a terminal so
            return
        if not part:
            return
        yield part


class Running:
    """A run of one job at a time, in a process group of its own, of which the lines are read as they come."""

    def __init__(self, *arguments: str | Path) -> None:
        self.process = subprocess.Popen(
            [*ARKE, "convert", "--jobs", "1", "--json", *map(str, arguments)],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.lines: Lines = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            for line in stream:
                self.lines.append(json.loads(line))

    def signal_after_the_first(self, number: int, *, group: bool) -> int:
        """Sends it when one file is done and the next under way; the exit code."""
        eventually(lambda: self.lines, "a first file is converted", WITHIN_S)
        (os.killpg if group else os.kill)(self.process.pid, number)
        code = self.process.wait(WITHIN_S)
        self._reader.join(WITHIN_S)
        return code

    def errors(self) -> str:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            return stream.read()


@pytest.mark.parametrize(("number", "group"), [(signal.SIGINT, True), (signal.SIGINT, False), (signal.SIGTERM, False)])
def test_a_stop_leaves_nothing_half_and_is_continued(large: Path, number: int, group: bool) -> None:
    """Ctrl-C in a terminal goes to all processes, other signals to one: exit code 130, it says how far it came, only
    whole JPEGs are there, no process is left, and the next run goes on from there."""
    running = Running(large)
    assert running.signal_after_the_first(number, group=group) == 130
    *files, last = running.lines
    told = running.errors()
    assert "Stopped. " in told
    assert "the same command goes on from there" in told
    assert "Traceback" not in told
    assert last["summary"]["interrupted"] is True
    assert {file["status"] for file in files} == {"converted"}
    assert last["summary"]["left"] == LARGE - len(files) > 0
    whole = results(large)
    assert all(name.endswith(".jpg") for name in whole)
    for name in whole:
        with Image.open(large / name) as picture:
            picture.load()
    with pytest.raises(ProcessLookupError):
        os.killpg(running.process.pid, 0)

    *_, again = lines(run(large, "--json").stdout)
    assert again["summary"]["skipped"] == len(whole)
    assert again["summary"]["converted"] == LARGE - len(whole)


def test_a_closed_terminal_does_not_stop_what_nohup_started(large: Path) -> None:
    """Who has SIGHUP ignored wants the work to go on."""
    kept = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        running = Running(large)
    finally:
        signal.signal(signal.SIGHUP, kept)
    assert running.signal_after_the_first(signal.SIGHUP, group=True) == 0
    assert "Stopped" not in running.errors()
    *files, last = running.lines
    assert len(files) == last["summary"]["converted"] == LARGE


def test_files_beside_the_pictures_are_not_executed(scans: Path) -> None:
    """In a folder that came from elsewhere a worker.py is a file like any other."""
    for name in ("worker", "orchestrator", "msgspec", "pyvips"):
        (scans / f"{name}.py").write_text("import pathlib\npathlib.Path('executed').touch()\n")
    arke = (sys.executable, "-P", "-m", "orchestrator.cli.main")
    subprocess.run([*arke, "convert", "."], cwd=scans, env=environment(), capture_output=True, check=False)
    assert "a.jpg" in results(scans)
    assert "executed" not in results(scans)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_tells_every_jpeg_that_is_there(tmp_path: Path, number: int) -> None:
    """However many files end at the same time as the signal, each JPEG in its place has its line, and the summary
    counts the lines. Large files come last, so that some are left."""
    for count in range(200):
        draw(tmp_path / f"{count:03}.tif", 8)
    Image.effect_noise((1500, 1500), 80).convert("RGB").save(tmp_path / "large-0.tif", "TIFF")
    for count in range(1, LARGE):
        (tmp_path / f"large-{count}.tif").hardlink_to(tmp_path / "large-0.tif")
    running = Running(tmp_path, "--jobs", "4")
    assert running.signal_after_the_first(number, group=False) == 130
    running.errors()
    *files, last = running.lines
    made = sorted(str(Path(file["output"]).relative_to(tmp_path)) for file in files if file["status"] == "converted")
    assert made == results(tmp_path)
    assert last["summary"]["converted"] == len(made)
    assert last["summary"]["left"] == 200 + LARGE - len(files) > 0


def test_a_kill_is_continued(large: Path) -> None:
    """kill -9 leaves no half JPEG under a JPEG's name; the next run skips what is whole, makes the rest, and clears
    away what the killed one was writing."""
    running = Running(large)
    assert running.signal_after_the_first(signal.SIGKILL, group=False) == -signal.SIGKILL
    running.errors()
    done = [name for name in results(large) if name.endswith(".jpg")]
    *_, last = lines(run(large, "--json").stdout)
    assert last["summary"]["skipped"] >= len(running.lines) > 0
    assert last["summary"]["skipped"] >= len(done)
    assert last["summary"]["failed"] == 0
    assert results(large) == [f"{number:02}.jpg" for number in range(LARGE)]
