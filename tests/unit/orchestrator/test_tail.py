"""The copy of the log on standard error."""

import io
from pathlib import Path

from orchestrator.tail import Tail, followed


def test_what_is_appended_is_copied_once(tmp_path: Path) -> None:
    """What a former run wrote is not shown again; what comes is, each line once."""
    log, out = tmp_path / "engine.log", io.BytesIO()
    log.write_text("former\n")
    tail = Tail(log, out)
    for line in ("a\n", "b\n"):
        with log.open("a") as file:
            file.write(line)
        tail.copy()
    tail.close()
    assert out.getvalue() == b"a\nb\n"


def test_a_log_that_was_turned_over_is_followed(tmp_path: Path) -> None:
    """The rest of the part that was renamed is copied, then the file that has its name now."""
    log, out = tmp_path / "engine.log", io.BytesIO()
    tail = Tail(log, out)  # not there yet
    log.write_text("a\n")
    tail.copy()
    with log.open("a") as file:
        file.write("b\n")
    log.rename(tmp_path / "engine.log.1")
    tail.copy()  # no file has the name
    log.write_text("c\n")
    tail.copy()
    tail.close()
    assert out.getvalue() == b"a\nb\nc\n"


def test_the_last_lines_are_copied(tmp_path: Path) -> None:
    """What is written just before the end is shown, too."""
    log, out = tmp_path / "engine.log", io.BytesIO()
    with followed(log, out):
        log.write_text("the end\n")
    assert out.getvalue() == b"the end\n"
