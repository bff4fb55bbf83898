"""Finds the table `mutants.SEEDS` anew, where seeds lead to something else: `python -m tests.simulation.seeds`.

The seeds that are known are tried first, then all from 0 on.
"""

import itertools
import sys

from tests.simulation.mutants import MUTANTS, SEEDS, Mutant
from tests.simulation.world import Simulator


def find(simulator: Simulator, mutant: Mutant) -> tuple[int, str]:
    """The first seed on which something is wrong with the bug and nothing without it; and what is."""
    for seed in itertools.chain(SEEDS.get(mutant.name, ()), itertools.count()):
        with mutant.planted():
            wrong = simulator.run(seed).wrong
        if wrong is not None and simulator.run(seed).wrong is None:
            return seed, wrong
    raise AssertionError("there is always another seed")


def main() -> None:
    """Print a line of the table for each mutant, or for those that are named."""
    simulator = Simulator()
    for mutant in MUTANTS:
        if len(sys.argv) == 1 or mutant.name in sys.argv[1:]:
            seed, wrong = find(simulator, mutant)
            print(f'    "{mutant.name}": ({seed},),  # {wrong[:60]}', flush=True)  # noqa: T201 - its purpose
    simulator.close()


if __name__ == "__main__":
    main()
