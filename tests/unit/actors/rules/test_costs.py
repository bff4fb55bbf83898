"""What a machine costs, and whom: the charges that follow from each change of its row."""

from typing import Any

from actors.rules.costs import Charge, charged, time_of
from actors.rules.model import Machine
from actors.rules.states import MachineState
from actors.rules.task import replace

RUNNING = Machine(id="m-1", state=MachineState.RUNNING, job_id="a", started_at=1000, charged_at=1000, price=2_000)


def change(former: Machine | None, now: int, *known: str, **fields: Any) -> tuple[Machine, tuple[Charge, ...]]:
    return charged(former, replace(former or RUNNING, **fields), known, now=now)


def test_a_machine_is_counted_and_its_time_begins_when_it_runs() -> None:
    """The call that makes it counts before that."""
    planned = Machine(id="m-1", job_id="a")
    spawning, charges = change(planned, 500, state=MachineState.SPAWNING)
    assert charges == (Charge(job_id="a", spawns=1),)
    row, charges = change(spawning, 1000, state=MachineState.RUNNING, started_at=990)
    assert (row.charged_at, charges) == (1000, (Charge(job_id="a", machines=1),))


def test_its_time_goes_to_the_one_it_worked_for() -> None:
    """Up to the moment in which it takes work of another one, which counts it then; a former one does not again."""
    row, charges = change(RUNNING, 4000, "a", job_id="b")
    assert row.charged_at == 4000
    assert charges == (Charge(job_id="a", machine_ms=3000, nano_usd=6000), Charge(job_id="b", machines=1))
    row, charges = change(row, 5000, "a", "b", job_id="a")
    assert charges == (Charge(job_id="b", machine_ms=1000, nano_usd=2000),)


def test_its_end_costs_until_it_is_gone() -> None:
    """It still runs while it is being destroyed; what is not known to have run costs nothing."""
    ending, charges = change(RUNNING, 2000, "a", state=MachineState.DESTROYING)
    assert charges == ()
    gone, charges = change(ending, 6000, "a", state=MachineState.GONE, ended_at=6000)
    assert (gone.charged_at, charges) == (None, (Charge(job_id="a", machine_ms=5000, nano_usd=10_000),))
    never = replace(RUNNING, state=MachineState.SPAWNING, started_at=None, charged_at=None)
    assert change(never, 6000, state=MachineState.GONE)[1] == ()


def test_a_machine_of_the_pool_costs_nobody_while_it_waits() -> None:
    """Its next start begins a time of its own."""
    ready, charges = change(RUNNING, 2000, "a", state=MachineState.READY, job_id=None, started_at=None)
    assert (ready.charged_at, charges) == (None, (Charge(job_id="a", machine_ms=1000, nano_usd=2000),))
    starting, charges = change(ready, 9000, state=MachineState.STARTING, job_id="b")
    assert charges == (Charge(job_id="b", starts=1),)
    running, charges = change(starting, 9500, state=MachineState.RUNNING, started_at=9500)
    assert (running.charged_at, charges) == (9500, (Charge(job_id="b", machines=1),))


def test_a_clock_that_went_back_gives_nothing_back() -> None:
    """Nor does a machine without a price or a time cost anything."""
    assert time_of(RUNNING, now=10).machine_ms == 0
    assert time_of(replace(RUNNING, price=None), now=2000) == Charge(job_id="a", machine_ms=1000)
    assert time_of(replace(RUNNING, charged_at=None, started_at=None), now=2000).machine_ms == 0
