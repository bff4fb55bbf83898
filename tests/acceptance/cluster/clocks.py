"""The clock of one node's processes of the service, moved while they run (libfaketime). Its monotonic clock is not."""

import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final

import psutil
import pytest

from orchestrator import serve

SITE: Final = Path(__file__).parent / "site"
PLACES: Final = ("/usr/lib/*/faketime/libfaketime.so.1", "/usr/lib/faketime/libfaketime.so.1",
                 "/usr/local/lib/faketime/libfaketime.so.1")  # fmt: skip
LOOK_S: Final = 1
"""How often a process looks what the time is now."""


def library() -> Path | None:
    """Where libfaketime is: LIBFAKETIME says so, else where its package puts it."""
    told = os.environ.get("LIBFAKETIME")
    found = [Path(told)] if told else [path for place in PLACES for path in Path("/").glob(place.lstrip("/"))]
    return next((path for path in found if path.exists()), None)


def require() -> None:
    """Skip the test where no clock can be moved, and say why."""
    if library() is None:
        pytest.skip("no clock can be moved here: libfaketime is missing (package libfaketime)")


def environment(folder: Path) -> dict[str, str]:
    """For the processes of a node, whose clock is in this folder; nothing where there is no libfaketime."""
    found = library()
    if found is None:
        return {}
    move(folder, 0)
    return {
        "ARKE_TEST_LIBFAKETIME": str(found),
        "FAKETIME_TIMESTAMP_FILE": str(folder / "clock"),
        "FAKETIME_CACHE_DURATION": str(LOOK_S),
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }


def of_yesterday() -> dict[str, str]:
    """For a process that shall think so."""
    found = library()
    return {} if found is None else {"LD_PRELOAD": str(found), "FAKETIME": "-1d"}


def can_be_moved(processes: Iterable[psutil.Process], roles: Collection[str]) -> bool:
    """Whether all of these that are in such a role get their time from the library."""
    return all(_is_preloaded(process.pid) for process in processes if serve.role_of(process) in roles)


def _is_preloaded(pid: int) -> bool:
    try:
        return "libfaketime" in Path(f"/proc/{pid}/maps").read_text()
    except OSError:  # it has ended
        return True


def move(folder: Path, seconds: int) -> None:
    """From now on it is so many seconds later there than it is here."""
    draft = folder / "clock.new"
    draft.write_text(f"{seconds:+d}\n")
    draft.replace(folder / "clock")
