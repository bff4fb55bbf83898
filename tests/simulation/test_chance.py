"""One seed, a stream for each purpose: what is left out of one changes nothing in another."""

import pytest

from tests.simulation.chance import FAULTS, Chance, Happened

DRAWS = 400


def drawn(chance: Chance) -> list[Happened]:
    """What happens when every fault may, many times."""
    for _ in range(DRAWS):
        for fault in FAULTS:
            chance.hits(fault)
    return chance.happened


def numbers(chance: Chance) -> list[float]:
    """Of streams that serve details."""
    return [chance.stream(purpose).random() for purpose in ("plan", "latency", "work", "late") for _ in range(5)]


def test_the_same_seed_gives_the_same_events_and_numbers() -> None:
    """And another seed others."""
    first, second, other = Chance(1), Chance(1), Chance(2)
    assert (drawn(first), numbers(first)) == (drawn(second), numbers(second))
    assert drawn(other) != first.happened


@pytest.mark.parametrize("seed", range(5))
def test_an_event_that_is_left_out_is_the_only_one_that_is_missing(seed: int) -> None:
    """Every other fault hits at the same draw, its own later ones too, and every stream gives the same numbers."""
    whole = Chance(seed)
    happened, given = list(drawn(whole)), numbers(whole)
    assert len(happened) > 20
    for event in happened[::7]:
        without = Chance(seed, without=[event])
        assert drawn(without) == [one for one in happened if one != event]
        assert numbers(without) == given


def test_with_only_nothing_else_happens() -> None:
    """What is named and never drawn does not happen either."""
    happened = list(drawn(Chance(3)))
    kept = happened[::5]
    assert drawn(Chance(3, only=[*kept, Happened("frame.lost", 10**9)])) == kept
    assert drawn(Chance(3, only=[])) == []


def test_when_it_is_calm_nothing_happens() -> None:
    """The second half of each run."""
    assert drawn(Chance(3, faults=False)) == []


def test_what_happened_is_told_at_that_moment() -> None:
    """The history has it where it hit."""
    told: list[Happened] = []
    chance = Chance(3)
    chance.on_hit = told.append
    assert drawn(chance) == told


def test_an_event_is_written_as_the_command_takes_it() -> None:
    """There and back."""
    for event in (Happened("frame.lost", 17), Happened("plan.kill_all", 0)):
        assert Happened.parse(str(event)) == event
    with pytest.raises(ValueError, match="invalid literal"):
        Happened.parse("frame.lost")
