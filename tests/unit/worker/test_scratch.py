"""Folders of tasks, and what killed workers leave of them."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from worker import scratch


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def dead_pid() -> int:
    """A number that no process has: its process has ended and was waited for."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


def test_folder_is_removed_with_what_it_holds(place: Path) -> None:
    """Also where the task fails."""

    def fail() -> None:
        with scratch.folder() as folder:
            (folder / "input.tif").write_bytes(b"x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(place.iterdir()) == []


def test_only_folders_of_dead_workers_are_swept(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of processes that live, of other machines, of other programs, and links, stay."""
    with scratch.folder() as mine:
        pid = str(dead_pid())
        dead = mine.with_name(mine.name.replace(str(os.getpid()), pid))
        dead.mkdir()
        (dead / "input.tif").write_bytes(b"x")
        kept = [place / f"arke-worker-elsewhere.example-{pid}-abc", place / "other", place / "arke-worker-x"]
        for folder in kept:
            folder.mkdir()
        link = dead.with_name(f"{dead.name}x")
        link.symlink_to(place / "other")
        scratch.sweep()
        assert sorted(place.iterdir()) == sorted([mine, link, *kept])
        monkeypatch.setattr(os, "getuid", lambda: -1)
        dead.mkdir()
        scratch.sweep()
        assert dead.is_dir(), "another user's"
