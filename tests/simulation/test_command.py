"""The command, as somebody runs it: what it refuses, how it ends, and that nothing of it is left."""

import contextlib
import inspect
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.simulation import command, world
from tests.simulation.chance import Happened
from tests.simulation.outside import Operators
from tests.simulation.runs import Tally
from tests.simulation.world import Outcome, make_folder

ROOT = Path(__file__).parents[2]
MODULE = [sys.executable, "-m", "tests.simulation"]
SOON_S = 30.0

FAILS = """
import time
from tests.simulation import command, world
whole = world.Simulator.run
def wrong(self, seed, **how):
    outcome = whole(self, seed, **how)
    time.sleep(0.1)
    return outcome._replace(wrong="4: something" if len(outcome.happened) > 2 else None)
world.Simulator.run = wrong
command.main()
"""
"""The command, where each history of three events is wrong, and a run takes its time."""


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a command whose own folders, and nobody else's, are in a place of their own."""
    found = {**os.environ, "TMPDIR": str(tmp_path), "ARKE_TEST": str(tmp_path)}
    yield found
    for pid in _processes(str(tmp_path)):
        os.kill(pid, signal.SIGKILL)


def _processes(mark: str) -> list[int]:
    """Those with this in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"ARKE_TEST={mark}\0".encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def _is_gone(mark: str) -> bool:
    until = time.monotonic() + SOON_S
    while time.monotonic() < until:
        if not _processes(mark):
            return True
        time.sleep(0.1)
    return False


def _folders() -> set[Path]:
    return set(world.SHARED_MEMORY.glob(world.FOLDERS + "*"))


def _folders_of(pids: list[int]) -> set[Path]:
    """That these processes have files open in."""
    found = set()
    for pid in pids:
        for fd in Path(f"/proc/{pid}/fd").glob("*"):
            with contextlib.suppress(OSError):  # it was closed just now
                found |= {one for one in Path(os.readlink(fd)).parents if one.name.startswith(world.FOLDERS)}
    return found


def _works(mark: str) -> set[Path]:
    """Waits until the processes have their files, and says where."""
    until = time.monotonic() + SOON_S
    while time.monotonic() < until:
        if len(found := _folders_of(_processes(mark))) >= 3:  # the common one, and one of each process
            return found
        time.sleep(0.1)
    raise AssertionError("the processes do not begin")


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="looks for processes in /proc")


@needs_proc
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_nothing_outlives_the_command(memory: dict[str, str], number: signal.Signals, code: int) -> None:
    """No process and no folder, whoever ends it; and what is known so far is told, where that is possible."""
    words = [*MODULE, "--seeds", "100000", "--jobs", "2"]
    with subprocess.Popen(
        words, cwd=ROOT, env=memory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        folders = _works(memory["ARKE_TEST"])
        process.send_signal(number)
        said, errors = process.communicate(timeout=SOON_S)
    assert process.returncode == code
    assert errors == "" or number is signal.SIGKILL  # of semaphores that were not given back, by who has done it
    assert ("seeds fail." in said) is (number is not signal.SIGKILL)
    assert _is_gone(memory["ARKE_TEST"])
    assert not [folder for folder in folders if folder.exists()]


@needs_proc
@pytest.mark.parametrize("after_s", [0.3, 0.7, 1.2])
def test_ctrl_c_at_the_beginning_is_as_quiet(memory: dict[str, str], after_s: float) -> None:
    """Sent to all of its processes, as a terminal does, while they are loading."""
    words = [*MODULE, "--seeds", "100000", "--jobs", "2"]
    with subprocess.Popen(
        words, cwd=ROOT, env=memory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        time.sleep(after_s)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=SOON_S)
    assert (process.returncode, errors) == (130, "")
    assert _is_gone(memory["ARKE_TEST"])


@needs_proc
def test_when_a_process_is_killed_the_rest_is_told(memory: dict[str, str]) -> None:
    """Exit code 2, a sentence, no traceback."""
    words = [*MODULE, "--seeds", "100000", "--jobs", "2"]
    with subprocess.Popen(
        words, cwd=ROOT, env=memory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        _works(memory["ARKE_TEST"])
        workers = [pid for pid in _processes(memory["ARKE_TEST"]) if pid != process.pid and _folders_of([pid])]
        os.kill(workers[0], signal.SIGKILL)
        said, errors = process.communicate(timeout=SOON_S)
    assert (process.returncode, errors) == (2, "")
    assert "A process died while these seeds were run: " in said
    assert "seeds fail." in said


@pytest.mark.parametrize("seed", ["42", "0"])
def test_after_a_seed_nobody_complains(seed: str) -> None:
    """What killed processes leave is finalised where nobody hears it."""
    done = subprocess.run([*MODULE, "--seed", seed], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.rstrip().endswith("all is well.")


def test_ctrl_c_ends_the_search_with_what_it_has_found() -> None:
    """And the exit code says that it was stopped."""
    words = [sys.executable, "-c", FAILS, "--seed", "7"]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("Looking for"):
            pass
        time.sleep(1.5)
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=SOON_S)
    assert (process.returncode, errors) == (130, "")
    assert "Seed 7 fails. 4: something" in said
    assert 'Shortest history that breaks "4", found in ' in said
    assert "Show it again, whole:" in said


def test_whoever_reads_no_more_hears_no_more() -> None:
    """As with `| head -1`: quiet, and by the way that removes the folder."""
    with subprocess.Popen(
        [*MODULE, "--seed", "42"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_a_folder_where_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In memory; where that is full, not ours or not there, where temporary files are."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for place in (Path("/proc"), tmp_path / "none"):
        monkeypatch.setattr(world, "SHARED_MEMORY", place)
        with make_folder() as folder:
            assert Path(folder).parent == tmp_path
            assert Path(folder).name.startswith("arke-simulation-")
    memory = tmp_path / "memory"
    memory.mkdir()
    monkeypatch.setattr(world, "SHARED_MEMORY", memory)
    with make_folder() as folder:
        assert Path(folder).parent == memory
    monkeypatch.setattr(world, "ROOM", 2**63)
    with make_folder() as folder:
        assert Path(folder).parent == tmp_path


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--only none", "--only is about one seed: say which one with --seed"),
        ("--at-most 3", "--at-most is about one seed"),
        ("--seed 1 --jobs 2 --first 0", "--first --jobs is about many seeds, --seed about one"),
        ("--seed 1 --minutes 1", "--minutes is about many seeds"),
        ("--seed 1 --only frame.eaten:3", "nothing is called 'frame.eaten'; there are frame.lost, "),
        ("--seed 1 --only plan.dance:0", "nothing is called 'plan.dance'"),
        ("--seed 1 --only frame.lost", "'frame.lost' is not of the form frame.lost:17"),
        ("--seed 1 --only frame.lost:-1", "is not of the form"),
        ("--minutes 0", "must be a number of minutes above 0, not '0'"),
        ("--minutes inf", "must be a number of minutes above 0"),
        ("--minutes nan", "must be a number of minutes above 0"),
        ("--minutes long", "must be a number of minutes above 0"),
        ("--seeds abc", "must be a whole number, 1 or more, not 'abc'"),
        ("--jobs 0", "must be a whole number, 1 or more, not '0'"),
        ("--seed abc", "must be a whole number, not 'abc'"),
    ],
)
def test_what_cannot_be_meant_is_refused(words: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With what is allowed."""
    with pytest.raises(SystemExit) as refused:
        command.parse(words.split())
    assert refused.value.code == 2
    assert sentence in capsys.readouterr().err


def test_all_acts_of_people_are_known() -> None:
    """Those that are planned, and no others."""
    source = inspect.getsource(Operators.work)
    planned = source.partition("kind = plan.choice(")[2].partition("acts.append")[0] + '"long_outage"'
    assert set(re.findall(r'"(\w+)"', planned)) == set(command.ACTS)
    assert command.parse(["--seed", "1", "--only", "plan.kill_all:0,frame.lost:3"]).only == (
        Happened("plan.kill_all", 0), Happened("frame.lost", 3),
    )  # fmt: skip


def test_what_was_wanted_and_did_not_happen_is_told() -> None:
    """A history that is another one than was meant should not look as if it was it."""
    outcome = Outcome(5, None, (Happened("frame.lost", 3),), (), 1, 2, 3.0)
    told = command.end_of(outcome, (Happened("frame.lost", 74), Happened("frame.lost", 3)))
    assert "\nDid not happen: frame.lost:74\n" in told
    assert "Did not happen" not in command.end_of(outcome, (Happened("frame.lost", 3),))


def test_what_happened_equally_often_is_in_the_order_of_names() -> None:
    """Two summaries can be compared."""
    told = command.summary(Tally(1, faults=Counter({"b": 2, "c": 3, "a": 2})), 1.0, 1)
    assert re.findall(r"^  (\w)", told, re.MULTILINE) == ["c", "a", "b"]
