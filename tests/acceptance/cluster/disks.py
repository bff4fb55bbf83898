"""A disk of its own for a folder, small enough to be filled: a tmpfs."""

import os
import subprocess
from pathlib import Path
from typing import Final

import pytest

FILL: Final = "full"
CHUNK: Final = bytes(1 << 20)


def require() -> None:
    """Skip the test where nothing can be mounted, and say why."""
    if os.geteuid() != 0:
        pytest.skip("a small disk needs root: it is a tmpfs")


def mount(folder: Path, megabytes: int) -> None:
    """A new disk there. Skips the test where the machine does not allow it."""
    require()
    folder.mkdir(parents=True, exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"this machine mounts no tmpfs: {done.stderr.strip()}")


def unmount(folder: Path) -> None:
    """Whatever still uses it."""
    subprocess.run(["umount", "--lazy", str(folder)], check=False, capture_output=True)


def fill(folder: Path) -> None:
    """Take all that is left of its disk, to the last block."""
    with (folder / FILL).open("ab", buffering=0) as filling:
        for size in (len(CHUNK), 4096):
            try:
                while True:
                    filling.write(CHUNK[:size])
            except OSError:
                continue


def free(folder: Path) -> None:
    """Give it back."""
    (folder / FILL).unlink(missing_ok=True)
