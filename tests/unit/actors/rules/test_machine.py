"""Thousands of interleavings of all that can happen to a job; every invariant is checked after every turn.

The runs are the same each time. `RULES_PROFILE=long` draws new ones, and many more.
"""

import os
import random
from collections.abc import Callable
from typing import Final, Literal, cast

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from actors.rules.effects import Answer, Deliver, DestroyMachine, Effect, Granted, PlanPhase, Policy, Received
from actors.rules.events import (
    AlarmFired,
    CalledBack,
    Cancelled,
    DeliveryEnded,
    Event,
    Leased,
    MachineLost,
    PhasePlanned,
    Redelivered,
    Retried,
    WasReset,
    WorkTaken,
)  # fmt: skip
from actors.rules.model import Task
from actors.rules.states import TERMINAL_JOBS, TERMINAL_TASKS, Delivery, JobState, TaskStatus
from tests.unit.actors.rules.book import Book
from tests.unit.actors.rules.consequences import Before, unexplained

INDEX: Final = st.integers(0, 1000)
"""Drawn, then taken modulo what exists: runs stay meaningful and shrink well."""
MACHINES: Final = st.sampled_from(["m-1", "m-2", "m-3"])
HOLD: Final = st.sampled_from([False, True, True])
STATUSES: Final = st.sampled_from(["success", "success", "error", "running", "released"])
REASONS: Final = st.sampled_from(["Disk full", "404 Not Found", None])
TIMES: Final = st.sampled_from([1, 900, 5_000, 30_000, 70_000, 200_000, 700_000, 90_000_000, -1, -20_000, -3_600_000])

PROFILES: Final = {
    "fixed": settings(derandomize=True, max_examples=1_000, stateful_step_count=50),
    "long": settings(max_examples=5_000, stateful_step_count=120),
}


class Interleavings(RuleBasedStateMachine):
    """A job, its rows and its loop; the workers, the fleet, the receiver and the crashes around it.

    A rule may hold its event back: it then comes in one group with those of the next rules.
    """

    book: Book
    answer: Answer  # the last one

    @initialize(
        tasks=st.sampled_from([4, 1, 2, 3, 7, 0]),
        phases=st.integers(1, 2),
        page=st.sampled_from([1, 2, 256]),
        tries=st.integers(1, 3),
        delivers=st.booleans(),
        placed=st.booleans(),
        started=st.sampled_from([True, True, False]),
        seed=INDEX,
    )
    def begin(
        self, tasks: int, phases: int, page: int, tries: int, delivers: bool, placed: bool, started: bool, seed: int
    ) -> None:
        self.book = Book(
            tasks,
            policy=Policy(
                max_attempts=tries, delivers=delivers, batch_size=3, spawn_give_up_ms=60_000, task_max_ms=70_000
            ),
            phases=("TIFF_CONVERSION", "SECOND")[:phases],
            placement="batch:b" if placed else None,
            page=page,
            rng=random.Random(seed),
        )
        self.group: list[Event] = []
        self.told: list[Task] = []  # every assignment that anybody was ever told of
        self.undone: list[Effect] = []  # effects of committed turns, not performed yet
        self.claims = 0
        self.latest = self.book.now
        self.terminal: dict[tuple[int, str], TaskStatus] = {}
        self.ends: dict[int, JobState] = {}
        if started:  # most runs begin where most happens
            self.admitted()
            self.alarm(hold=False)
            self.take("m-1", 2, spawned=True, hold=False)

    # --- one group of events is one turn -------------------------------------------------------------

    def happens(self, event: Event, hold: bool) -> None:
        self.group.append(event)
        if not hold or len(self.group) >= 5:
            self.flush()

    def flush(self) -> None:
        group, self.group = self.group, []
        before = Before.of(self.book)
        turn = self.book.turn(*group)  # raises if a move is impossible or an invariant is broken
        if len(group) == 1:
            assert unexplained(group[0], before, turn.answer, turn.effects, self.book) == []
        for event, answer in zip(group, turn.answers, strict=True):
            self.heard(event, answer)
            self.answer = answer
        self.undone += turn.effects
        self.compare()

    def heard(self, event: Event, answer: Answer) -> None:
        """What a worker is told is on disk already (invariant 1)."""
        given: tuple[Task, ...] = ()
        if isinstance(answer, Granted):
            given = answer.tasks
            assert isinstance(event, WorkTaken)
            assert all((task.machine, task.claim) == (event.machine, event.claim) for task in given)
        if isinstance(answer, Received) and answer.next is not None:
            given = (answer.next,)
        for task in given:
            row = self.book.rows[task.phase, task.n]
            assert (row.run, row.attempt) >= (task.run, task.attempt), "told before it was written"
            if task not in self.told:
                self.told.append(task)

    def compare(self) -> None:
        """What is terminal never changes within its run, and nothing is tried too often."""
        for row in self.book.rows.values():
            assert row.tries <= self.book.policy.max_attempts, f"{row.task_id} was tried {row.tries} times"
            assert 0 <= row.tries <= row.attempt
            key = (row.run, row.task_id)
            assert self.terminal.get(key, row.status) is row.status, f"{row.task_id} was {self.terminal[key]}"
            if row.status in TERMINAL_TASKS:
                self.terminal[key] = row.status
        job = self.book.row
        assert self.ends.get(job.run, job.state) is job.state, f"run {job.run} had ended {self.ends[job.run]}"
        if job.state in TERMINAL_JOBS:
            self.ends[job.run] = job.state

    # --- what happens --------------------------------------------------------------------------------

    @rule(hold=HOLD)
    def alarm(self, hold: bool) -> None:
        """At its time, early, late or twice."""
        self.happens(AlarmFired(), hold)

    @rule()
    def alarm_in_time(self) -> None:
        """The usual way: time passes until the alarm is due."""
        alarm_at = self.book.row.alarm_at
        if alarm_at is not None:
            self.book.now = max(self.book.now, alarm_at)
            self.latest = max(self.latest, self.book.now)
            self.happens(AlarmFired(), hold=False)

    @rule(ms=TIMES)
    def time_jumps(self, ms: int) -> None:
        """Forward as after a suspend, or back."""
        self.book.pass_time(ms)
        self.latest = max(self.latest, self.book.now)

    @rule(machine=MACHINES, free=st.integers(0, 3), spawned=st.booleans(), hold=HOLD)
    def take(self, machine: str, free: int, spawned: bool, hold: bool) -> None:
        self.claims += 1
        claim = f"spawn:{self.claims}" if spawned else f"claim:{self.claims}"
        self.happens(WorkTaken(machine=machine, claim=claim, free=free), hold)

    @precondition(lambda self: self.told)
    @rule(index=INDEX, hold=HOLD)
    def take_again(self, index: int, hold: bool) -> None:
        """The same claim once more: while its tasks are open it gets no others."""
        one = self.told[index % len(self.told)]
        if one.machine is None or one.claim is None or one.claim.startswith("next:"):
            return
        self.flush()
        open_already = [t for t in self.book.state.in_flight.values() if t.claim == one.claim]
        wish = WorkTaken(machine=one.machine, claim=one.claim, free=3)
        if not open_already:
            self.happens(wish, hold)
            return
        answer = self.book.turn(wish).answer
        assert isinstance(answer, Granted)
        assert {t.task_id for t in answer.tasks} == {t.task_id for t in open_already}

    @precondition(lambda self: self.told)
    @rule(
        index=INDEX,
        of_open=st.booleans(),
        status=STATUSES,
        error=REASONS,
        retryable=st.booleans(),
        more=st.booleans(),
        around=st.sampled_from(["", "", "", "twice", "twice", "cancelled before", "reset after"]),
        hold=HOLD,
    )
    def callback(
        self,
        index: int,
        of_open: bool,
        status: str,
        error: str | None,
        retryable: bool,
        more: bool,
        around: str,
        hold: bool,
    ) -> None:
        """Of any assignment that ever was, in any order, any number of times: late, duplicate, of an earlier run."""
        among = list(self.book.state.in_flight.values()) if of_open else []
        among = among or self.told
        task = among[index % len(among)]
        report = CalledBack(
            run=task.run,
            attempt=task.attempt,
            task_id=task.task_id,
            status=cast(Literal["success", "error", "running", "released"], status),
            error=error,
            retryable=retryable,
            accepts_next=more,
        )
        if around == "twice":
            self.twice(report)
            return
        if around == "cancelled before":
            self.happens(Cancelled(reason="in the same turn"), hold=True)
        self.happens(report, hold)
        if around == "reset after":
            self.happens(WasReset(), hold)

    def twice(self, report: CalledBack) -> None:
        """The answer was lost and the report is sent again: nothing is counted again, the next task is the same."""
        self.flush()
        self.happens(report, hold=False)
        first, counters = self.answer, self.book.counters
        self.happens(report, hold=False)
        assert self.book.counters == counters
        if isinstance(first, Received) and first.next is not None:
            assert self.answer == first

    @precondition(lambda self: self.told)
    @rule(
        index=INDEX,
        why=st.sampled_from(["refused", "unmade", "gone", "exited"]),
        permanent=st.booleans(),
        all_of_it=st.booleans(),
        hold=HOLD,
    )
    def machine_lost(self, index: int, why: str, permanent: bool, all_of_it: bool, hold: bool) -> None:
        task = self.told[index % len(self.told)]
        self.happens(
            MachineLost(
                machine=task.machine or "m-1",
                why=cast(Literal["refused", "unmade", "gone", "exited"], why),
                message=f"It was {why}.",
                permanent=permanent,
                task_id=None if all_of_it else task.task_id,
                attempt=task.attempt,
            ),
            hold,
        )

    @precondition(lambda self: self.given_up())
    @rule(index=INDEX, status=st.sampled_from(["success", "error", "running", "released"]), lost=st.booleans())
    def news_of_an_attempt_given_up(self, index: int, status: str, lost: bool) -> None:
        """Its task flies again, perhaps on the same machine. A turn of its own, so that what follows is checked."""
        self.flush()
        if not (among := self.given_up()):
            return
        old = among[index % len(among)]
        said = cast(Literal["success", "error", "running", "released"], status)
        self.happens(
            MachineLost(
                machine=self.book.state.in_flight[old.task_id].machine or "m-1", why="gone", message="It is gone.",
                task_id=old.task_id, attempt=old.attempt,
            )
            if lost
            else CalledBack(run=old.run, attempt=old.attempt, task_id=old.task_id, status=said, error="Disk full"),
            hold=False,
        )  # fmt: skip

    def given_up(self) -> list[Task]:
        """Former attempts of what is in flight now."""
        flying = self.book.state.in_flight if hasattr(self, "book") else {}
        newer = {task.task_id: (task.run, task.attempt) for task in flying.values()}
        return [t for t in self.told if t.run == newer.get(t.task_id, (0, 0))[0] and t.attempt < newer[t.task_id][1]]

    @rule(
        kind=st.sampled_from(["retry", "retry", "retry", "redeliver", "cancel", "reset"]),
        repeated=st.sampled_from([0, 0, 0, 1]), hold=HOLD,
    )  # fmt: skip
    def operator(self, kind: str, repeated: int, hold: bool) -> None:
        """`repeated`: a retry of the run before is sent again, since its answer was lost."""
        events: dict[str, Callable[[], Event]] = {
            "cancel": lambda: Cancelled(reason="by request"),
            "reset": WasReset,
            "retry": lambda: Retried(after_run=max(1, self.book.row.run - repeated)),
            "redeliver": Redelivered,
        }
        self.happens(events[kind](), hold)

    @rule(lease=st.integers(1, 4), hold=HOLD)
    def leased(self, lease: int, hold: bool) -> None:
        """The fleet answers a demand with a share, which may be below what is in flight."""
        self.happens(Leased(lease=lease), hold)

    @rule()
    def admitted(self) -> None:
        """A place is given by the store, to the row only; a new activation sees it."""
        if self.book.row.placement is None and self.book.row.state is JobState.QUEUED:
            self.flush()
            self.book.admit()
            self.begin_anew()

    @precondition(lambda self: self.undone)
    @rule(
        index=INDEX,
        outcome=st.sampled_from(["delivered", "retry", "refused"]),
        again=st.booleans(),
        hold=HOLD,
    )
    def perform(self, index: int, outcome: str, again: bool, hold: bool) -> None:
        """An effect takes effect, in any order and sometimes twice; its result is an event."""
        at = index % len(self.undone)
        effect = self.undone[at] if again else self.undone.pop(at)
        if isinstance(effect, Deliver):
            told = cast(Literal["delivered", "retry", "refused"], outcome)
            self.happens(DeliveryEnded(run=effect.run, outcome=told, message=None), hold)
        elif isinstance(effect, PlanPhase):
            row = self.book.row
            if row.state not in TERMINAL_JOBS and effect.run == row.run:  # else the store refuses to plan
                total = 2 if row.phase == effect.phase else self.book.insert(effect.phase, 2)
                self.happens(PhasePlanned(run=effect.run, phase=effect.phase, tasks_total=total), hold)
        elif isinstance(effect, DestroyMachine):
            self.happens(MachineLost(machine=effect.machine, why="exited", message="It was destroyed."), hold)

    @rule()
    def crash(self) -> None:
        """Between commit and effect: what was held in memory, arriving or to be done is lost; rows are not."""
        self.book.activate()
        self.begin_anew()

    def begin_anew(self) -> None:
        """What the former activation had to do is lost; the new one has begun."""
        assert self.book.last is not None
        self.group, self.undone = [], list(self.book.last.effects)

    # --- what is true after every step ---------------------------------------------------------------

    @invariant()
    def epochs_and_commits_follow_each_other(self) -> None:
        """Memory and row agree on who may write (invariant 2)."""
        if hasattr(self, "book"):
            assert (self.book.state.job.epoch, self.book.state.job.seq) == (self.book.row.epoch, self.book.row.seq)

    def teardown(self) -> None:
        """Whatever happened: with a willing worker and receiver every run ends, and its end is told."""
        if not hasattr(self, "book"):
            return
        self.flush()
        self.admitted()
        self.book.now = max(self.book.now, self.latest)  # a clock that went back has caught up at last
        for round_ in range(60):
            if self.is_over():
                return
            self.admitted()
            self.work_honestly(round_)
        raise AssertionError(f"the job does not end: {self.book.row}")

    def is_over(self) -> bool:
        row = self.book.row
        return row.state in TERMINAL_JOBS and row.delivery is not Delivery.PENDING

    def work_honestly(self, round_: int) -> None:
        """The alarm, a take, a success for each, and what the turns asked for."""
        self.alarm_in_time()
        for task in self.book.take("m-9", f"claim:last:{round_}", free=9):
            done = CalledBack(run=task.run, attempt=task.attempt, task_id=task.task_id, status="success")
            self.undone += self.book.turn(done).effects
        self.undone = [e for e in self.undone if isinstance(e, PlanPhase | Deliver)]
        while self.undone:
            self.perform(0, "delivered", again=False, hold=False)
        self.compare()


PROFILE: Final = settings(
    PROFILES[os.environ.get("RULES_PROFILE", "fixed")],
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def test_no_order_of_events_breaks_an_invariant() -> None:
    """No move is impossible, every invariant holds after every turn, and every run can come to its end."""
    run_state_machine_as_test(Interleavings, settings=PROFILE)
