"""Which machines of a pool are started, made and given up."""

from hypothesis import given
from hypothesis import strategies as st

from actors.rules import pool as rules
from actors.rules.model import Machine
from actors.rules.pool import Wanted
from actors.rules.states import MachineState

WANTED = {"tiff": Wanted(2, "now")}
rows = st.lists(
    st.builds(
        Machine,
        id=st.uuids().map(str),
        kind=st.sampled_from(("tiff", "pdf")),
        pool=st.sampled_from((None, "now", "before")),
        state=st.sampled_from([state for state in MachineState if state is not MachineState.GONE]),
        seen_at=st.none() | st.integers(0, 9),
    ),
    unique_by=lambda row: row.id,
)


def machine(number: int, **changes: object) -> Machine:
    given_: dict[str, object] = {"id": f"m-{number}", "state": MachineState.READY, "pool": "now"}
    return Machine(**(given_ | changes))  # type: ignore[arg-type]


def test_the_one_that_has_rested_longest_is_started_first() -> None:
    """Of the present edition, and not those that are taken."""
    of = [machine(1, seen_at=7), machine(2, seen_at=3), machine(3, pool="before"), machine(4, pool=None), machine(5)]
    found = rules.ready(of, WANTED, {"m-5"})
    assert [row.id for row in found["tiff"]] == ["m-2", "m-1"]


def test_one_that_works_is_not_missing_and_one_that_ends_is() -> None:
    """It comes back; what is made for one task does not count."""
    of = [machine(1, state=MachineState.RUNNING), machine(2, pool=None), machine(3)]
    assert rules.missing(of, WANTED, ()) == {}
    assert rules.missing(of, WANTED, {"m-3"}) == {"tiff": 1}


def test_what_rests_in_vain_is_superfluous() -> None:
    """Another edition, a kind that has no pool, or more than there shall be; never one that works."""
    of = [machine(n, pool="before") for n in (1, 2)] + [machine(3, kind="pdf")] + [machine(n) for n in (4, 5, 6)]
    of.append(machine(7, pool="before", state=MachineState.RUNNING))
    assert [row.id for row in rules.superfluous(of, WANTED, {"m-2"})] == ["m-1", "m-3", "m-4"]


@given(rows, st.integers(0, 5))
def test_a_pool_comes_to_its_size_and_stays(of: list[Machine], size: int) -> None:
    """Whatever there is: without what is superfluous and with what is missing there is neither any more."""
    wanted = {"tiff": Wanted(size, "now")}
    over = {row.id for row in rules.superfluous(of, wanted, ())}
    made = [machine(n, id=f"new-{n}") for n in range(rules.missing(of, wanted, ())["tiff"])]
    after = [row for row in of if row.id not in over] + made
    assert rules.missing(after, wanted, ()) == {}
    assert rules.superfluous(after, wanted, ()) == []
