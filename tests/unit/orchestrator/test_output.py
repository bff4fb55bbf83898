"""Files that commands write."""

import os
import signal
import threading
from pathlib import Path

import click
import pytest

from orchestrator.cli.output import written


def test_the_file_is_there_when_it_is_whole(tmp_path: Path) -> None:
    """Until then there is what was there before, and afterwards no draft."""
    target = tmp_path / "a.xml"
    target.write_bytes(b"before")
    with written(str(target)) as opened:
        opened.write(b"after")
        opened.flush()
        assert target.read_bytes() == b"before"
    assert target.read_bytes() == b"after"
    assert os.listdir(tmp_path) == ["a.xml"]


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    """Neither a file nor a draft."""
    with pytest.raises(RuntimeError), written(str(tmp_path / "a.xml")):
        raise RuntimeError
    assert os.listdir(tmp_path) == []


def test_sigterm_leaves_nothing(tmp_path: Path) -> None:
    """It ends the block as Ctrl-C does, and means again what it did."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with pytest.raises(KeyboardInterrupt), written(str(tmp_path / "a.xml")):
            signal.raise_signal(signal.SIGTERM)
        assert os.listdir(tmp_path) == []
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_link_is_followed(tmp_path: Path) -> None:
    """The link stays one, also where its file is not there yet."""
    link = tmp_path / "link.xml"
    link.symlink_to("a.xml")
    for text in (b"one", b"two"):
        with written(str(link)) as opened:
            opened.write(text)
        assert link.is_symlink()
        assert (tmp_path / "a.xml").read_bytes() == text


def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    """And so is a device: neither is replaced by a file."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    with written(str(pipe)) as opened:
        opened.write(b"text")
    reader.join(10)
    assert read == [b"text"]
    assert pipe.is_fifo()


def test_where_nothing_can_be_written_it_is_told_first(tmp_path: Path) -> None:
    """By the names that were given."""
    with pytest.raises(click.UsageError, match="is a folder"), written(str(tmp_path)):
        raise AssertionError
    with pytest.raises(click.UsageError, match=f"not there: {tmp_path}/no. Make it first"), written(f"{tmp_path}/no/a"):
        raise AssertionError
