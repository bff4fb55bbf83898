"""What counts as done, what as foreign, and what a killed run leaves."""

import contextlib
import fcntl
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from worker.ledger import DRAFT_PREFIX, LEDGER_NAME, Ledger, Occupied, Stamp, UnusableLedger

OPTIONS: dict[str, Any] = {"quality": 95}
HOUR_NS = 3600 * 10**9
WITHIN_S = 5.0


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "a.tif"
    path.parent.mkdir()
    path.write_bytes(b"tiff")
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "out" / "a.jpg"


def make(source: Path, target: Path, content: bytes = b"jpeg", *, force: bool = False) -> None:
    """What a run does with one file."""
    ledger = Ledger(target.parent)
    with ledger.draft() as draft:
        draft.write_bytes(content)
        ledger.publish(draft, source, target, read=Stamp.of(source), options=OPTIONS, force=force)


def is_done(source: Path, target: Path, options: dict[str, Any] = OPTIONS) -> bool:
    """As the next run sees it."""
    return Ledger(target.parent).is_done(source, target, options)


def shift(path: Path, by_ns: int = HOUR_NS) -> None:
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + by_ns))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_made_is_done(source: Path, target: Path) -> None:
    """The next run finds the result in its place, and no draft."""
    assert not is_done(source, target)
    make(source, target)
    assert is_done(source, target)
    assert target.read_bytes() == b"jpeg"
    assert names(target.parent) == [LEDGER_NAME, "a.jpg"]


def test_a_source_that_changed_is_not_done(source: Path, target: Path) -> None:
    """By its time or by its size; its result may be replaced."""
    make(source, target)
    shift(source)
    assert not is_done(source, target)
    make(source, target, b"second")
    assert is_done(source, target)
    stamp = source.stat().st_mtime_ns
    source.write_bytes(b"longer than before")
    os.utime(source, ns=(stamp, stamp))
    assert not is_done(source, target)


def test_other_options_are_not_done(source: Path, target: Path) -> None:
    """Another quality is another picture."""
    make(source, target)
    assert not is_done(source, target, {"quality": 80})


def test_a_result_that_is_gone_is_not_done(source: Path, target: Path) -> None:
    """The ledger alone proves nothing."""
    make(source, target)
    target.unlink()
    assert not is_done(source, target)


def test_a_copied_result_is_known_by_its_content(source: Path, target: Path) -> None:
    """A copy or a coarse file system changes the time, not the bytes; other bytes of the same size are foreign."""
    make(source, target)
    shift(target)
    assert is_done(source, target)
    target.write_bytes(b"JPEG")
    with pytest.raises(Occupied):
        is_done(source, target)


def test_a_foreign_file_is_not_touched(source: Path, target: Path) -> None:
    """Neither by planning nor by publishing, unless that is asked for."""
    target.parent.mkdir()
    target.write_bytes(b"precious")
    with pytest.raises(Occupied, match=r"a\.jpg is there already and was not made by arke convert"):
        is_done(source, target)
    with pytest.raises(Occupied):
        make(source, target)
    assert target.read_bytes() == b"precious"
    make(source, target, force=True)
    assert target.read_bytes() == b"jpeg"


def test_the_result_of_another_source_is_not_replaced(source: Path, target: Path) -> None:
    """Two folders that are converted into one, one after the other, must not overwrite each other."""
    make(source, target)
    other = source.parent.parent / "other" / "a.tif"
    other.parent.mkdir()
    source.replace(other)
    with pytest.raises(Occupied, match=r"was made from \.\./in/a\.tif"):
        is_done(other, target)


def test_folders_that_move_together_keep_their_history(source: Path, target: Path, tmp_path: Path) -> None:
    """Sources are known by their place relative to the results."""
    make(source, target)
    moved = tmp_path / "disk" / "archive"
    moved.mkdir(parents=True)
    source.parent.rename(moved / "in")
    target.parent.rename(moved / "out")
    assert is_done(moved / "in" / "a.tif", moved / "out" / "a.jpg")


def test_a_failure_leaves_nothing(source: Path, target: Path) -> None:
    """The draft is removed, and what was there before stands."""
    make(source, target)
    with contextlib.suppress(RuntimeError), Ledger(target.parent).draft() as draft:
        draft.write_bytes(b"half")
        raise RuntimeError
    assert names(target.parent) == [LEDGER_NAME, "a.jpg"]
    assert is_done(source, target)


def test_killed_between_entry_and_rename(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry of a file that never got to its place changes nothing: the older result is still known as ours."""
    make(source, target)
    shift(source)

    def killed(draft: Path, target: Path) -> None:
        raise SystemExit

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(SystemExit):
        make(source, target, b"newer")
    monkeypatch.undo()
    assert not is_done(source, target)
    make(source, target, b"newer")
    assert is_done(source, target)


def test_a_torn_line_costs_only_itself(source: Path, target: Path) -> None:
    """Garbage and half a line at the end are passed over, and the next entry stands on a line of its own."""
    make(source, target)
    with (target.parent / LEDGER_NAME).open("ab") as file:
        file.write(b'\xff\xfe\n[1]\n{"output": 3}\n{"output": "a.jpg", "ma')
    assert is_done(source, target)
    make(source, target, b"again", force=True)
    assert is_done(source, target)


def test_what_another_run_appends_is_seen(source: Path, target: Path) -> None:
    """A ledger that was read before looks again, so that two runs do not take each other's results for foreign."""
    make(source, target)
    early = Ledger(target.parent)
    assert early.is_done(source, target, OPTIONS)
    make(source, target, b"again", force=True)
    assert early.is_done(source, target, OPTIONS)


@pytest.mark.parametrize("named", ["victim", "nothing"])
def test_a_ledger_that_is_a_link_is_not_followed(source: Path, target: Path, named: str) -> None:
    """Neither read nor written through, also where it comes between the look and the write: what it names stays as it
    is, and no JPEG is made that nobody would know."""
    target.parent.mkdir()
    victim = target.parent / "victim"
    victim.write_bytes(b"precious")
    ledger = Ledger(target.parent)
    with ledger.draft() as draft:
        (target.parent / LEDGER_NAME).symlink_to(target.parent / named)
        with pytest.raises(UnusableLedger, match="is a symbolic link"):
            ledger.publish(draft, source, target, read=Stamp.of(source), options=OPTIONS, force=True)
    with pytest.raises(UnusableLedger, match="is a symbolic link"):
        make(source, target)
    with pytest.raises(UnusableLedger, match="is a symbolic link"):
        is_done(source, target)
    assert names(target.parent) == [LEDGER_NAME, "victim"]
    assert victim.read_bytes() == b"precious"


@pytest.mark.parametrize(("obstruct", "reason"), [(Path.mkdir, "it is a folder"), (os.mkfifo, "it is no regular file")])
def test_what_is_no_ledger_is_named(source: Path, target: Path, obstruct: Callable[[Path], None], reason: str) -> None:
    """A folder or a pipe in the ledger's place: told before the conversion, and not waited for."""
    target.parent.mkdir()
    obstruct(target.parent / LEDGER_NAME)
    with pytest.raises(UnusableLedger, match=rf"^\.arke-convert\.jsonl, .* cannot be used: {reason}$"):
        is_done(source, target)
    with pytest.raises(UnusableLedger, match=reason), Ledger(target.parent).draft():
        pytest.fail("a draft was begun")


def test_drafts_of_killed_runs_are_swept(source: Path, target: Path) -> None:
    """Those that nobody holds; one that another run is writing stays."""
    target.parent.mkdir()
    abandoned, held = (target.parent / f"{DRAFT_PREFIX}{name}" for name in ("abandoned", "held"))
    abandoned.write_bytes(b"half")
    with held.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        make(source, target)
    assert names(target.parent) == [LEDGER_NAME, held.name, "a.jpg"]


def test_what_is_no_draft_does_not_hold_up_the_sweep(source: Path, target: Path) -> None:
    """A pipe that is named like one is not waited for, and what a link names stays."""
    target.parent.mkdir()
    os.mkfifo(target.parent / f"{DRAFT_PREFIX}pipe")
    (target.parent / f"{DRAFT_PREFIX}link").symlink_to(source)
    sweeping = threading.Thread(target=make, args=(source, target), daemon=True)
    sweeping.start()
    sweeping.join(WITHIN_S)
    assert not sweeping.is_alive()
    assert is_done(source, target)


def test_a_draft_is_held(target: Path) -> None:
    """So that the sweep of another run spares it."""
    with Ledger(target.parent).draft() as draft, draft.open("rb") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("name", [b"\xff\xfe.tif", "日本\n.tif".encode(), b"a\"b'[1].tif"])
def test_any_name_is_remembered(tmp_path: Path, name: bytes) -> None:
    """Names that are no UTF-8, or hold line breaks and quotes."""
    source = tmp_path / os.fsdecode(name)
    source.write_bytes(b"tiff")
    target = source.with_suffix(".jpg")
    make(source, target)
    assert is_done(source, target)
