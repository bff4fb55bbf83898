"""What is shown of a history."""

from tests.simulation import transcript
from tests.simulation.command import COMMAND
from tests.simulation.runs import Case
from tests.simulation.transcript import Frame, line, readable


def test_a_line_has_its_columns() -> None:
    """Time and process are aligned, empty words leave no gap."""
    assert line(3.25, "store/1", ["create", "", 7]) == "    3.250  store/1         create 7"


def test_log_lines_that_repeat_are_counted() -> None:
    """Two that alternate too; each process has its own; another line in between ends the count."""
    alternating = [line(n, "a/1", [f"[X] {'odd' if n % 2 else 'even'}"]) for n in range(10)]
    other = line(10, "b/1", ["[X] even"])
    assert readable([*alternating, other, *alternating[:3]]) == [
        *alternating[:2],
        "    9.000                  … the same again, 8 lines of a/1",
        other,
        "    2.000                  … the same again, 3 lines of a/1",
    ]


def test_what_is_no_log_line_is_never_left_out() -> None:
    """Two equal writes are two writes."""
    writes = [line(n, "store/1", ["add_files b0"]) for n in range(5)]
    assert readable(writes) == writes


def test_of_a_long_history_begin_and_end_are_shown() -> None:
    """It goes wrong at the end."""
    shown = readable([line(n, "a/1", [n]) for n in range(1000)], most=100)
    assert len(shown) == 101
    assert shown[transcript.HEAD].strip() == "… 900 lines are left out"
    assert shown[-1] == line(999, "a/1", [999])


def test_a_frame_that_is_none_of_ours_is_shown_by_its_size() -> None:
    """Nothing that a transcript shows may fail."""
    assert str(Frame(b"\x00\x00\x00\x01\xc1")) == "5 bytes"
    assert str(Frame(b"\x00\x00\x00\x02\x91\x07")) == "[?]"


def test_the_command_of_a_case() -> None:
    """Shows exactly that history again."""
    assert Case(7).command == f"{COMMAND} --seed 7"
    assert Case(7, (), 2).command == f"{COMMAND} --seed 7 --at-most 2 --only none"
