"""When a machine takes no more tasks, as its host would slow it down."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.allowance import Allowance

TEN = Allowance(burst_s=10.0, rate=0.125)


def test_without_a_bound_there_is_always_room() -> None:
    """As on processors that are one's own."""
    assert Allowance().has_room(used_s=1e9, age_s=1.0, taken=100, done=3)


@pytest.mark.parametrize(
    ("used_s", "age_s", "taken", "done", "expected"),
    [
        (0.3, 1.0, 0, 0, True),  # nothing is known of tasks yet
        (10.2, 1.0, 0, 0, False),  # its start alone has used all
        (8.0, 8.0, 8, 8, True),
        (9.0, 8.0, 9, 9, True),  # 9 + 1 of 11
        (9.0, 8.0, 10, 9, True),  # 9 + 2 of 11
        (9.0, 7.9, 10, 9, False),
        (9.0, 31.0, 13, 9, False),  # four in hand and the next one, 1 s each: 14 of 13.9
        (9.0, 60.0, 13, 9, True),
    ],
)
def test_what_it_will_take_counts(used_s: float, age_s: float, taken: int, done: int, expected: bool) -> None:
    """Tasks in hand, and the next one, as much as a done one on average."""
    assert TEN.has_room(used_s=used_s, age_s=age_s, taken=taken, done=done) is expected


@given(cpu_s=st.floats(0.01, 20), slots=st.integers(1, 8), cpus=st.integers(1, 8))
def test_equal_tasks_are_done_at_full_speed(cpu_s: float, slots: int, cpus: int) -> None:
    """A machine that takes tasks while there is room never uses more than it may, but for those that it began before
    it knew what one takes."""
    allowance = Allowance(burst_s=5.0 * cpus, rate=0.0625 * cpus)
    used_s, age_s, taken, done = 0.0, 0.0, slots, 0
    while taken > done and taken < 1000:
        used_s, age_s, done = used_s + cpu_s, age_s + cpu_s / min(slots, cpus), done + 1
        if allowance.has_room(used_s=used_s, age_s=age_s, taken=taken, done=done):
            taken += 1
    least = slots * cpu_s
    assert used_s <= max(5.0 * cpus + 0.0625 * cpus * age_s, least) + 1e-6
