"""The pure decisions of the fleet."""

from hypothesis import given
from hypothesis import strategies as st

from actors.rules import fleet as rules
from actors.rules.fleet import Demand, Found, Waiting
from actors.rules.model import Machine, Task
from actors.rules.states import MachineState, TaskStatus


def wishes(**want: int) -> dict[str, Demand]:
    return {job: Demand(job=job, kind="tiff", want=n) for job, n in want.items()}


def spawn(demands: dict[str, Demand], **changes: object) -> list[str]:
    given_: dict[str, object] = {
        "alive": 0,
        "most": 10,
        "waiting": {},
        "kinds": {"tiff", "pdf"},
        "after": None,
        "now": 0,
    }
    return [place.job for place in rules.to_spawn(demands, **(given_ | changes))]  # type: ignore[arg-type]


def test_the_turn_goes_round_behind_the_last_job() -> None:
    """Who was asked last is asked last; the last one need not exist any more."""
    demands = wishes(a=1, b=1, d=1)
    assert rules.in_turn(demands, kinds={"tiff"}, after=None, now=0) == ["a", "b", "d"]
    assert rules.in_turn(demands, kinds={"tiff"}, after="a", now=0) == ["b", "d", "a"]
    assert rules.in_turn(demands, kinds={"tiff"}, after="c", now=0) == ["d", "a", "b"]


def test_who_wants_nothing_or_another_kind_or_does_not_answer_has_no_turn() -> None:
    """Only unmet demand of the asked kinds counts, and a host that did not answer has a pause."""
    demands = {
        "met": Demand(job="met", kind="tiff", want=2, taking=2),
        "pdf": Demand(job="pdf", kind="pdf", want=2),
        "quiet": Demand(job="quiet", kind="tiff", want=2, not_before=1000),
        "open": Demand(job="open", kind="tiff", want=2, taking=1),
    }
    assert rules.in_turn(demands, kinds={"tiff"}, after=None, now=999) == ["open"]
    assert rules.in_turn(demands, kinds={"tiff"}, after=None, now=1000) == ["open", "quiet"]


def test_machines_are_dealt_round_robin() -> None:
    """A large batch does not get all machines when a small one asks too."""
    assert spawn(wishes(big=100_000, small=1), most=4) == ["big", "small", "big", "big"]


def test_no_more_machines_than_allowed_and_none_for_waiting_ones() -> None:
    """MAX_MACHINES holds, and a machine that waits for work is used before one is made."""
    assert len(spawn(wishes(a=100), alive=7, most=10)) == 3
    assert spawn(wishes(a=100), alive=12, most=10) == []
    assert spawn(wishes(a=3), waiting={"tiff": 2}) == ["a"]
    assert spawn(wishes(a=3), waiting={"pdf": 2}) == ["a", "a", "a"]


def test_a_kind_that_was_refused_is_left_alone() -> None:
    """After a refusal nothing of that kind is spawned until its pause is over; other kinds are."""
    demands = wishes(a=2) | {"p": Demand(job="p", kind="pdf", want=1)}
    assert spawn(demands, kinds={"pdf"}) == ["p"]


def claims(*rows: tuple[str, int]) -> dict[tuple[str, str], Waiting]:
    """Claims in the order in which they came: (machine, free)."""
    return {(machine, str(n)): Waiting(machine, ("tiff",), free) for n, (machine, free) in enumerate(rows)}


def test_tasks_are_dealt_to_the_machine_with_most_places() -> None:
    """Whether it asks once for two or twice for one; of equals to the one that has waited longest."""
    assert rules.deal(claims(("a", 2), ("b", 2)), 2) == {("a", "0"): 1, ("b", "1"): 1}
    assert rules.deal(claims(("a", 1), ("a", 1), ("b", 1), ("b", 1)), 2) == {("a", "0"): 1, ("b", "2"): 1}
    assert rules.deal(claims(("a", 1), ("b", 1), ("b", 1)), 1) == {("b", "1"): 1}
    assert rules.deal(claims(("a", 1), ("b", 1)), 1) == {("a", "0"): 1}


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 5)), max_size=8), st.integers(0, 30))
def test_dealing_wastes_nothing_and_is_even(rows: list[tuple[str, int]], tasks: int) -> None:
    """All tasks or all places are used; no claim gets more than it has; no machine keeps two places more than one
    that was given something."""
    waiting = claims(*rows)
    shares = rules.deal(waiting, tasks)
    assert sum(shares.values()) == min(tasks, sum(free for _, free in rows))
    assert all(0 < share <= waiting[key].free for key, share in shares.items())
    left = {m: sum(c.free - shares.get(k, 0) for k, c in waiting.items() if c.machine == m) for m, _ in rows}
    served = {machine for machine, _ in shares}
    assert all(left[other] <= left[machine] + 1 for machine in served for other in left)


@given(
    st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.integers(0, 30), max_size=6),
    st.integers(0, 12), st.integers(0, 12), st.integers(0, 9),
)  # fmt: skip
def test_spawning_never_exceeds_slots_or_wishes_and_wastes_none(
    want: dict[str, int], alive: int, most: int, waiting: int
) -> None:
    """For any demand: as many machines as slots and wishes allow, no job gets two more than another that wants more."""
    dealt = spawn(wishes(**want), alive=alive, most=most, waiting={"tiff": waiting})
    wanted = max(0, sum(want.values()) - waiting)
    assert len(dealt) == min(max(0, most - alive), wanted)
    assert all(dealt.count(job) <= want[job] for job in want)
    if not waiting:
        for job in want:
            assert all(dealt.count(other) <= dealt.count(job) + 1 for other in want if want[job] > dealt.count(job))


def test_leases_share_equally_and_pass_on_what_is_not_needed() -> None:
    """A job that needs little keeps little; the rest is shared; nobody gets nothing."""
    demands = wishes(a=1000, b=1000, c=1)
    assert rules.leases(demands, 9) == {"a": 4, "b": 4, "c": 1}
    assert min(rules.leases(wishes(a=5, b=5, c=5), 1).values()) == 1


def test_leases_share_what_really_runs() -> None:
    """People's own workers add to what is shared out, though the fleet made none of them."""
    demands = {"a": Demand(job="a", kind="tiff", want=50, active=20), "b": Demand(job="b", kind="tiff", want=50)}
    assert rules.leases(demands, 2) == {"a": 10, "b": 10}


@given(st.integers(1, 60), st.floats(0, 1))
def test_backoff_doubles_to_thirty_seconds(refusals: int, jitter: float) -> None:
    """Between half and all of 1 s, 2 s, 4 s … 30 s."""
    full = min(30_000, 1000 * 2 ** (refusals - 1))
    assert full // 2 <= rules.backoff_ms(refusals, jitter) <= full


def test_what_an_earlier_fleet_left_is_reconciled_by_state() -> None:
    """Invariant 3: a planned machine gives its task back, a spawning one is looked for, never spawned again."""
    rows = {state: Machine(id="m", state=state) for state in MachineState}
    assert rules.after_restart(rows[MachineState.PLANNED]) == "give_back"
    assert rules.after_restart(rows[MachineState.SPAWNING]) == "inspect"
    assert rules.after_restart(rows[MachineState.DESTROYING]) == "destroy"
    assert rules.after_restart(rows[MachineState.RUNNING]) == "keep"


def test_nobodys_machines_are_destroyed_after_patience() -> None:
    """A machine that no row names by id or by name is an orphan, at once seen, later destroyed."""
    rows = [
        Machine(id="m-1", name="one", provider_id="1", state=MachineState.RUNNING),
        Machine(id="m-2", name="two", state=MachineState.SPAWNING),
    ]
    listed = [Found("1", "one"), Found("2", "two"), Found("3", "three")]
    seen = rules.orphans(rows, listed, {}, now=100)
    assert seen == {"3": 100}
    assert rules.orphans(rows, listed, seen, now=150) == {"3": 100}
    assert rules.orphans(rows, listed[:2], seen, now=200) == {}


def test_machines_without_work_end_after_patience() -> None:
    """Only those that have a job and no task of it, and only once they were seen so for long enough without a break."""
    jobs_of = {"idle": ["a", "b"], "works": ["a"], "pool": list[str]()}
    seen, due = rules.overstaying(jobs_of, {"works"}, {}, now=100, patience_ms=50)
    assert (seen, due) == ({"idle": 100}, [])
    assert rules.overstaying(jobs_of, {"works"}, seen, now=149, patience_ms=50) == (seen, [])
    assert rules.overstaying(jobs_of, {"works"}, seen, now=150, patience_ms=50) == (seen, ["idle"])
    assert rules.overstaying(jobs_of, {"works", "idle"}, seen, now=150, patience_ms=50) == ({}, [])


def test_a_machine_has_moved_on_when_others_fill_its_places() -> None:
    """The attempt itself, still open in the store, fills none; another attempt of the same task does."""
    held = [
        Task(
            job_id="j", phase=0, n=n, task_id=f"t{n}", attempt=attempt, status=TaskStatus.PROCESSING,
            input_r2_key="i", output_r2_key="o",
        )
        for n, attempt in ((1, 1), (2, 1))
    ]  # fmt: skip
    assert not rules.has_moved_on([], "t1", 1, concurrency=1)
    assert not rules.has_moved_on(held[:1], "t1", 1, concurrency=1)
    assert rules.has_moved_on(held[:1], "t1", 2, concurrency=1)
    assert rules.has_moved_on(held, "t1", 1, concurrency=1)
    assert not rules.has_moved_on(held, "t1", 1, concurrency=2)


def test_terminal_states_are_left_never() -> None:
    """The table of moves is the law: GONE is final, a destroyed machine does not run again."""
    assert not any(rules.may_move(Machine(id="m", state=MachineState.GONE), to) for to in MachineState)
    assert not rules.may_move(Machine(id="m", state=MachineState.DESTROYING), MachineState.RUNNING)


def test_what_needs_a_machine_of_its_own_is_left_to_new_ones() -> None:
    """Machines that wait or are started from the pool take the rest only; of a job that has nothing else, nothing."""
    demands = {"a": Demand(job="a", kind="tiff", want=3, large=2), "b": Demand(job="b", kind="tiff", want=1, large=1)}
    assert rules.in_turn(demands, kinds={"tiff"}, after=None, now=0, by_any=True) == ["a"]
    assert sorted(spawn(demands, most=9, waiting={"tiff": 9})) == ["a", "a", "b"]
    assert spawn(demands, most=9, by_any=True) == ["a"]


def test_each_kind_has_a_bound_of_its_own() -> None:
    """Within that of all machines; those that run count, and another kind goes on."""
    demands = {"a": Demand(job="a", kind="tiff", want=9), "b": Demand(job="b", kind="pdf", want=2)}
    bounds = {"most": 10, "alive": 3, "alive_of": {"tiff": 3}, "most_of": {"tiff": 5}}
    assert spawn(demands, **bounds) == ["a", "b", "a", "b"]
    assert spawn(demands, **bounds | {"most": 6}) == ["a", "b", "a"]
    assert spawn(demands, **bounds | {"alive_of": {"tiff": 6}}) == ["b", "b"]


def test_weights_are_turns_in_a_row_and_shares() -> None:
    """Three times the weight: three machines to one, and three times as many tasks at once."""
    demands = {"a": Demand(job="a", kind="tiff", want=90, weight=3), "b": Demand(job="b", kind="tiff", want=90)}
    assert spawn(demands, most=6) == ["a", "a", "a", "b", "a", "a"]
    assert rules.leases(demands, 20) == {"a": 15, "b": 5}
    small = demands | {"a": Demand(job="a", kind="tiff", want=4, weight=3)}
    assert rules.leases(small, 20) == {"a": 4, "b": 16}
    assert rules.in_turn(demands, kinds={"tiff"}, after="a", now=0) == ["b", "a"]
    assert rules.in_turn(demands, kinds={"tiff"}, after="a", now=0, again=True) == ["a", "b"]
