"""A full disk is told as such, retried elsewhere, and never with a path."""

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker import space
from worker.errors import BadInput, Cancelled, ObjectMissing, Unavailable
from worker.kinds import tiff
from worker.kinds.base import Context, Measured
from worker.kinds.tiff import Options
from worker.limits import MemoryGate
from worker.objects.local import LocalObjects


class FailingConverters:
    """A decoder that hides why it could not write; `full` puts a full disk under its target."""

    def __init__(self, *, full: bool) -> None:
        self._full = full

    def warm(self) -> None:
        """It is warm."""

    def measure(self, source: Path, target: Path, options: Options) -> Measured:
        if self._full:
            target.symlink_to("/dev/full")
        raise BadInput(f"{target}: write error")


def context(tmp_path: Path, converters: FailingConverters) -> Context:
    """A task whose object exists."""
    store = LocalObjects(tmp_path / "objects", "b")
    store.put("p.tif", b"II*\0", "image/tiff")
    folder = tmp_path / "task"
    folder.mkdir()
    return Context(
        env={"INPUT_R2_KEY": "p.tif"}, objects=store, folder=folder, memory=MemoryGate(1), converters=converters
    )


def test_a_disk_that_fills_during_a_conversion_is_no_fault_of_the_file(tmp_path: Path) -> None:
    """The task may be tried again, although the converter said that the file is bad."""
    with pytest.raises(Unavailable, match=r"^Failed to convert TIFF: the disk of this machine is full$"):
        tiff.run(context(tmp_path, FailingConverters(full=True)))


def test_a_conversion_that_fails_with_space_left_keeps_its_error(tmp_path: Path) -> None:
    """As it was said, but without the path of the JPEG."""
    with pytest.raises(BadInput, match=r"^Failed to convert TIFF: the JPEG: write error$"):
        tiff.run(context(tmp_path, FailingConverters(full=False)))


def test_a_conversion_that_is_not_wanted_is_not_looked_into(tmp_path: Path) -> None:
    """Cancelled stays Cancelled, and nothing is written."""
    with pytest.raises(Cancelled), space.suspected(tmp_path / "x"):
        raise Cancelled("no longer wanted")
    assert not (tmp_path / "x").exists()


def test_only_failures_to_write_are_the_disks(tmp_path: Path) -> None:
    """What the source of the bytes raises stays as it is."""

    def chunks() -> Iterator[bytes]:
        yield b"first"
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

    with pytest.raises(ConnectionResetError):
        space.save(chunks(), tmp_path / "x")
    with pytest.raises(Unavailable, match=r"^a file cannot be written here: No such file or directory$"):
        space.save([b"x"], tmp_path / "nowhere" / "x")
    assert space.save([b"one", b"", b"two"], tmp_path / "y") == 6
    assert (tmp_path / "y").read_bytes() == b"onetwo"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_spent_share_of_the_disk_is_a_full_disk(number: int) -> None:
    """Both ways in which a system says it."""
    with pytest.raises(Unavailable, match=r"^the disk of this machine is full$"), space.writing():
        raise OSError(number, "of no matter", "/secret/path")


def test_a_local_object_that_finds_no_space_is_told(tmp_path: Path) -> None:
    """The folder of the task is full, not the objects'."""
    store = LocalObjects(tmp_path / "objects", "b")
    store.put("p.tif", b"II*\0", "image/tiff")
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(Unavailable, match=r"^the disk of this machine is full$"):
        store.get_file("p.tif", tmp_path / "full")
    with pytest.raises(ObjectMissing):
        store.get_file("none", tmp_path / "x")
