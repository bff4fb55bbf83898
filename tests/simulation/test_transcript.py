"""What is shown of a history."""

from collections.abc import Iterator

import pytest

from tests.simulation import transcript
from tests.simulation.command import COMMAND
from tests.simulation.runs import Case
from tests.simulation.transcript import Frame, line, readable
from tests.simulation.world import Simulator

pytestmark = pytest.mark.filterwarnings("ignore")  # what a killed process leaves is awaited by nobody


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    made = Simulator()
    yield made
    made.close()


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


def test_of_what_is_left_out_faults_and_take_overs_stay() -> None:
    """Without them nobody understands the end."""
    told = {300: "✗ frame.lost:7", 301: "admit b0: epoch 2, batch:b0", 500: "activate b0: epoch 3"}
    lines = [line(n, "a/1", [told.get(n, n)]) for n in range(1000)]
    shown = readable(lines, most=100)
    middle = shown[transcript.HEAD : -80]
    assert [one.strip() for one in middle if "left out" in one] == [
        "… 280 lines are left out", "… 198 lines are left out", "… 419 lines are left out",
    ]  # fmt: skip
    assert [one for one in middle if "left out" not in one] == [lines[300], lines[301], lines[500]]


def test_commits_that_move_an_alarm_are_counted() -> None:
    """Whichever they are; others are not."""
    alarms = [line(n, "store/1", [f"commit b0 e3.{n}: {transcript.ALARM}, in {n}.0 s"]) for n in range(1, 6)]
    other = line(6, "store/1", ["commit b0 e3.6: alarm in 1.0 s; done 0 → 1, failed 0, in flight 1 → 0 of 2"])
    assert readable([*alarms, other]) == [
        alarms[0], "    5.000                  … the same again, 4 lines of store/1", other,
    ]  # fmt: skip


def test_each_write_says_what_it_has_led_to(simulator: Simulator) -> None:
    """The epochs follow on each other, also where several are raised in one transaction."""
    told = [one[transcript.WHO.stop + 1 :] for one in simulator.run(42, traced=True).history]
    raised = [one for one in told if one.startswith(("queue b0: e", "admit b0: e", "activate b0", "recreate b0: run"))]
    assert raised[:3] == ["queue b0: epoch 1", "admit b0: epoch 2, batch:b0", "activate b0: epoch 3"]
    epochs = [int(one.partition("epoch ")[2].partition(",")[0]) for one in raised]
    assert epochs == list(range(1, len(epochs) + 1))
    assert "create b0 is sent" in told
    assert any("; done 0 → 1, failed 0, in flight " in one for one in told)


def test_a_frame_that_is_none_of_ours_is_shown_by_its_size() -> None:
    """Nothing that a transcript shows may fail."""
    assert str(Frame(b"\x00\x00\x00\x01\xc1")) == "5 bytes"
    assert str(Frame(b"\x00\x00\x00\x02\x91\x07")) == "[?]"


def test_the_command_of_a_case() -> None:
    """Shows exactly that history again."""
    assert Case(7).command == f"{COMMAND} --seed 7"
    assert Case(7, (), 2).command == f"{COMMAND} --seed 7 --at-most 2 --only none"
