"""Files that commands write: whole or not at all, where a person named them."""

import os
import signal
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import BinaryIO, Final

import click

STDOUT: Final = "-"


def shown(output: str) -> str:
    """The name of an output for people."""
    return "standard output" if output == STDOUT else output


def check(output: str) -> None:
    """Before anything is done for it. Raises UsageError where nothing can be written to."""
    if output == STDOUT:
        return
    target = _meant(output)
    if target.is_dir():
        raise click.UsageError(f"-o names a file; {output} is a folder.")
    if not target.parent.is_dir():
        raise click.UsageError(f"-o names a file in a folder that is not there: {target.parent}. Make it first.")


@contextmanager
def written(output: str) -> Iterator[BinaryIO]:
    """What the block writes is the file once the block has ended, and until then a draft beside it that does not stay.
    Links are followed; a pipe or a device is written to as it is. Raises UsageError, OSError."""
    check(output)
    if output == STDOUT:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    target = _meant(output)
    if _is_special(target):
        with target.open("wb") as opened:
            yield opened
        return
    draft = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with _terminated_as_interrupted():
            with _named(output), draft.open("xb") as opened:
                with suppress(FileNotFoundError):
                    os.fchmod(opened.fileno(), stat.S_IMODE(target.stat().st_mode))
                yield opened
                opened.flush()
                os.fsync(opened.fileno())
            draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def _meant(output: str) -> Path:
    """The file itself, where a link to it is named."""
    path = Path(output)
    with suppress(OSError, RuntimeError):  # a ring of links
        return path.resolve()
    return path


def _is_special(path: Path) -> bool:
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        return False


@contextmanager
def _named(output: str) -> Iterator[None]:
    """An error about the draft is one about the file."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            error.filename = output
        raise


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM leaves no draft: it ends the block as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
