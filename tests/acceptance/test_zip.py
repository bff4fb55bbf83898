"""`arke zip` as people run it: killed, interrupted, and with what is too large for memory."""

import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]

COMMAND = [sys.executable, "-m", "orchestrator.cli.main", "zip"]
ENV = os.environ | {"PYTHONPATH": str(PROJECT), "LC_ALL": "C.UTF-8"}
MB = 1_000_000


def zeros(path: Path, size: int) -> Path:
    """A file that takes no room on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as opened:
        opened.truncate(size)
    return path


MEASURE = """
import os, sys
pid = os.spawnv(os.P_NOWAIT, sys.argv[1], sys.argv[1:])
_, status, used = os.wait4(pid, 0)
print(status, used.ru_maxrss)
"""  # a small process of its own: one is counted what the one had that started it


def peak_mb(words: list[str], folder: Path) -> float:
    """Run a command; the highest memory of its process."""
    ended = subprocess.run(
        [sys.executable, "-c", MEASURE, *words], cwd=folder, env=ENV, capture_output=True, text=True, check=True
    )
    status, peak_kb = map(int, ended.stdout.split())
    assert status == 0, ended.stderr
    return peak_kb / 1024


@pytest.mark.parametrize(
    ("count", "size"),
    [
        (1, 300 * MB),
        (400, MB),
        pytest.param(1, 5_000 * MB, marks=pytest.mark.soak),
        pytest.param(12, 500 * MB, marks=pytest.mark.soak),
    ],
)
def test_memory_does_not_grow_with_the_files(tmp_path: Path, count: int, size: int) -> None:
    """Below 150 MB at any size; every tool that is here opens the archive."""
    for n in range(count):
        zeros(tmp_path / "in" / f"{n}.bin", size)
    assert peak_mb([*COMMAND, "in", "-o", "a.zip"], tmp_path) < 150
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert sum(info.file_size for info in archive.infolist()[1:-1]) == count * size
        assert archive.testzip() is None
    for words in (["unzip", "-tq", "a.zip"], ["7z", "t", "a.zip"], ["bsdtar", "-tf", "a.zip"]):
        if shutil.which(words[0]):
            subprocess.run(words, cwd=tmp_path, env=ENV, check=True, capture_output=True)
    if shutil.which("bsdtar"):
        with (tmp_path / "a.zip").open("rb") as source:
            subprocess.run(["bsdtar", "-xOf", "-"], stdin=source, env=ENV, check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_is_interrupted_leaves_nothing(tmp_path: Path, number: int) -> None:
    """Neither an archive nor its draft, and it ends at once."""
    zeros(tmp_path / "in" / "a.bin", 50_000 * MB)
    with subprocess.Popen([*COMMAND, "in", "-o", "a.zip"], cwd=tmp_path, env=ENV, stderr=subprocess.PIPE) as running:
        while not list(tmp_path.glob(".a.zip.*.part")):
            assert running.poll() is None
        running.send_signal(number)
        assert running.wait(30) == 130
    assert os.listdir(tmp_path) == ["in"]
