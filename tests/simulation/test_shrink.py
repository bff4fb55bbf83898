"""The search for the shortest history, without a simulation."""

from collections.abc import Callable, Collection

import pytest

from tests.simulation.chance import Happened
from tests.simulation.shrink import kind_of, shortest

EVENTS = tuple(Happened("frame.lost", n) for n in range(100))


def needs(*numbers: int, tasks: int = 1) -> Callable[[Collection[Happened], int], bool]:
    """Fails where all of these events may happen, in a batch of so many tasks."""
    needed = {EVENTS[n] for n in numbers}
    return lambda only, at_most: needed <= set(only) and at_most >= tasks


@pytest.mark.parametrize("numbers", [(), (0,), (99,), (3, 50), (17, 18, 19), tuple(range(0, 100, 9))])
def test_what_is_needed_is_left_and_nothing_else(numbers: tuple[int, ...]) -> None:
    """Whichever events it takes, they are found, in their order."""
    found = shortest(EVENTS, 200, needs(*numbers))
    assert found.only == tuple(EVENTS[n] for n in numbers)
    assert found.at_most == 1


def test_the_batch_becomes_as_small_as_it_may() -> None:
    """Of the sizes that are tried, the first that fails: 13 for 10."""
    assert shortest(EVENTS, 200, needs(4, tasks=10)).at_most == 13
    assert shortest(EVENTS, 200, needs(4, tasks=200)).at_most == 200


def test_a_smaller_batch_is_tried_again_when_events_are_gone() -> None:
    """Event 7 makes every small batch pass: without it one task is enough."""
    found = shortest(EVENTS, 50, lambda only, at_most: EVENTS[1] in only and (EVENTS[7] not in only or at_most == 50))
    assert (found.only, found.at_most) == ((EVENTS[1],), 1)


def test_single_ones_are_tried_again_until_each_is_needed() -> None:
    """Event 10 can only go after event 90 has gone."""
    found = shortest(EVENTS, 1, lambda only, _: EVENTS[5] in only and (EVENTS[10] in only or EVENTS[90] not in only))
    assert found.only == (EVENTS[5],)


def test_a_hundred_events_and_three_that_matter_take_less_than_a_hundred_runs() -> None:
    """Halves first: the search is not one run per event."""
    assert shortest(EVENTS, 20, needs(2, 40, 90)).runs < 100


def test_no_more_runs_than_allowed_and_the_result_fails() -> None:
    """Cut short, it gives the best until then."""
    fails, asked = needs(*range(0, 100, 2), tasks=9), []

    def counted(only: Collection[Happened], at_most: int) -> bool:
        asked.append(only)
        return fails(only, at_most)

    found = shortest(EVENTS, 200, counted, runs=30)
    assert len(asked) == found.runs == 30
    assert fails(found.only, found.at_most)


def test_no_run_begins_when_the_time_is_up() -> None:
    """Each look at the clock costs a second here."""
    seconds = iter(range(1000))
    found = shortest(EVENTS, 200, needs(*range(0, 100, 2)), seconds=5, clock=lambda: next(seconds))
    assert found.runs == 5


def test_no_history_is_tried_twice() -> None:
    """A run costs more than to remember it."""
    asked: list[tuple[tuple[Happened, ...], int]] = []

    def fails(only: Collection[Happened], at_most: int) -> bool:
        asked.append((tuple(only), at_most))
        return needs(3, 4, 60, tasks=4)(only, at_most)

    shortest(EVENTS, 30, fails)
    assert len(asked) == len(set(asked))


def test_the_kind_of_a_violation_is_the_number_of_the_invariant() -> None:
    """Two sentences about one invariant are of one kind."""
    assert kind_of("4: b0_tiff_0 was completed and was written again") == kind_of("4: b1_tiff_7: attempt 1 after 2")
    assert kind_of("a fault is logged: [Fleet] x ValueError()") == "a fault is logged"
