"""The simulation finds bugs: each of those in `mutants` is reported within the budget, and without it all is well."""

from collections.abc import Iterator
from typing import Final

import pytest

from tests.simulation.mutants import MUTANTS, RARE, SEEDS, Edit, Mutant
from tests.simulation.world import Simulator

BUDGET: Final = 1_000
"""Seeds: about what CI runs in a minute."""
LONG: Final = 20_000


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    made = Simulator()
    yield made
    made.close()


@pytest.mark.parametrize(
    "mutant",
    [
        pytest.param(mutant, id=mutant.name, marks=[pytest.mark.soak] if mutant.name in RARE else [])
        for mutant in MUTANTS
    ],
)
def test_a_planted_bug_is_found(simulator: Simulator, mutant: Mutant) -> None:
    """Within so many seeds the simulation says that something is wrong, and on that seed nothing is without the bug."""
    budget = LONG if mutant.name in RARE else BUDGET
    for seed in (*SEEDS.get(mutant.name, ()), *range(budget)):
        with mutant.planted():
            wrong = simulator.run(seed).wrong
        if wrong is not None and simulator.run(seed).wrong is None:
            print(f"{mutant.name}: seed {seed}: {wrong}")  # noqa: T201 - which seed found it is what one wants to know
            return
    pytest.fail(f"{budget} seeds do not find this: {mutant.breaks}")


def test_a_mutant_whose_text_is_gone_is_no_mutant() -> None:
    """When the code that a mutant breaks has changed, its test fails instead of planting nothing."""
    outdated = Mutant("outdated", "Nothing.", (Edit("actors.rules.task:move", "no such text", ""),))
    with pytest.raises(LookupError, match="0 times"), outdated.planted():
        pass


def test_the_code_is_whole_again_after_a_mutant() -> None:
    """Functions and statements are as before when a mutant has been looked at."""
    import actors.durable
    import actors.store.batches

    turn, statement = actors.durable.Durable._turn.__code__, actors.store.batches._TURN
    for mutant in MUTANTS:
        with mutant.planted():
            pass
    assert actors.durable.Durable._turn.__code__ is turn
    assert actors.store.batches._TURN is statement
