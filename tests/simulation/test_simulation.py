"""A fixed number of seeds with each change, and that a seed is a history. More: `make simulate SEEDS=10000`."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

import pytest

from tests.simulation import runs
from tests.simulation.chance import FAULTS, Happened
from tests.simulation.runs import CI_SEEDS, Case, Tally
from tests.simulation.world import Simulator

pytestmark = pytest.mark.filterwarnings("ignore")  # what a killed process leaves is awaited by nobody

ROOT = Path(__file__).parents[2]
SAME = 40
DIGESTS = """
import json, sys
from tests.simulation import runs, world
print(json.dumps(runs.digests(world.Simulator(), json.loads(sys.argv[1]))))
"""


@pytest.fixture(scope="module")
def budget() -> Tally:
    """What came of the seeds that run with each change."""
    tally = Tally()
    for some in runs.run_all(CI_SEEDS):
        tally = tally.plus(some)
    return tally


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    """One for all tests."""
    made = Simulator()
    yield made
    made.close()


def test_no_seed_fails(budget: Tally, simulator: Simulator) -> None:
    """The engine keeps its invariants, whatever happens. A failure says what, with the shortest history found."""
    told = [runs.explain(simulator, failure.seed, seconds=30) for failure in runs.told_first(budget.failures, most=2)]
    assert not told, "\n\n".join([f"{len(budget.failures)} of {budget.seeds} seeds fail.", *told])
    assert budget.seeds == len(CI_SEEDS)


def test_every_fault_happens(budget: Tally) -> None:
    """None is there by name only."""
    assert set(FAULTS) - set(budget.faults) == set()


def test_the_same_seed_gives_the_same_history_byte_for_byte(simulator: Simulator) -> None:
    """In one process twice, in the other order too, and in others whose hashes differ."""
    large = (seed for seed in count(SAME) if simulator.run(seed).tasks > 100)
    seeds = [*range(SAME), *islice(large, 2)]
    first = runs.digests(simulator, seeds)
    assert len(set(first)) == len(seeds), "another seed gives another history"
    assert runs.digests(simulator, reversed(seeds)) == first[::-1]
    for hashes in ("1", "2"):
        assert _elsewhere(seeds, hashes) == first


def _elsewhere(seeds: list[int], hashes: str) -> list[str]:
    environment = {**os.environ, "PYTHONHASHSEED": hashes}
    command = [sys.executable, "-W", "ignore", "-c", DIGESTS, json.dumps(seeds)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    found: list[str] = json.loads(done.stdout)
    return found


def test_to_be_traced_changes_nothing(simulator: Simulator) -> None:
    """A failure found by the thousand is the one that the transcript shows."""
    for seed in range(20):
        assert simulator.run(seed, traced=True)._replace(history=()) == simulator.run(seed)


def test_a_history_can_be_told_by_its_events(simulator: Simulator) -> None:
    """With just those that happened it is the same; with none of them none does."""
    for seed in range(20):
        whole = simulator.run(seed, traced=True)
        assert simulator.run(seed, only=whole.happened, traced=True) == whole
        assert simulator.run(seed, only=()).happened == ()


def test_a_batch_can_be_made_smaller(simulator: Simulator) -> None:
    """The rest of the plan stays."""
    are_smaller = 0
    for seed in range(20):
        whole, smaller = (simulator.run(seed, only=(), at_most=most) for most in (None, 3))
        batches = simulator.run(seed, only=(), at_most=1).tasks
        assert batches <= smaller.tasks <= min(whole.tasks, 3 * batches)
        assert smaller.wrong is None
        are_smaller += smaller.tasks < whole.tasks
    assert are_smaller > 5


def test_a_failure_is_told_with_its_shortest_history_and_its_command(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here "wrong" is that a process dies of plan.kill in a batch of more than two tasks."""
    whole = Simulator.run

    def wrong(self: Simulator, seed: int, **how: object) -> object:
        outcome = whole(self, seed, **how)  # type: ignore[arg-type]
        is_wrong = outcome.tasks > 2 and any(event.fault == "plan.kill" for event in outcome.happened)
        return outcome._replace(wrong="4: something" if is_wrong else None)

    monkeypatch.setattr(Simulator, "run", wrong)
    seed = next(
        seed
        for seed in count()
        if (fails := runs.run_case(simulator, Case(seed))).wrong
        and whole(simulator, seed, at_most=1).tasks == 1  # of several batches two could be left
        and len(fails.happened) > 2
    )
    told = runs.explain(simulator, seed)
    assert f"Seed {seed} fails. 4: something" in told
    assert 'Shortest history that breaks "4"' in told
    assert f": 1 of {len(whole(simulator, seed).happened)} faults and acts, 3 of " in told
    only = told.rsplit("--only ", 1)[1]
    assert Happened.parse(only).fault == "plan.kill"
    assert told.endswith(Case(seed, (Happened.parse(only),), 3).command)
    assert "✗ plan.kill" in told


def test_an_error_of_the_simulation_itself_fails_its_seed(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others go on, and the seed is known."""

    def broken(*_: object, **__: object) -> None:
        raise KeyError("of the simulation")

    monkeypatch.setattr(Simulator, "run", broken)
    outcome = runs.run_case(simulator, Case(9))
    assert (outcome.seed, outcome.wrong) == (9, "the simulation raised: KeyError('of the simulation')")
