"""A playbook for the rules: say what happens, compare what follows. Rows live in memory as the store would keep them.

Every turn goes the way of `actors.durable`: rows are loaded, the page of ready tasks is refilled, `decide` is
asked, the commit is applied as `actors.store.batches.commit` does, and the invariants are checked.
"""

import random
from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple

from actors.rules.batch import decide
from actors.rules.effects import Answer, Decision, Effect, Granted, Policy, Received, Rng, State
from actors.rules.events import (
    Activated,
    AlarmFired,
    CalledBack,
    Cancelled,
    DeliveryEnded,
    Event,
    Loaded,
    MachineLost,
    PhasePlanned,
    Redelivered,
    Retried,
    WasReset,
    WorkTaken,
)  # fmt: skip
from actors.rules.invariants import check
from actors.rules.model import Job, Task
from actors.rules.states import JOB_MOVES, TASK_MOVES, TERMINAL_JOBS, JobState, TaskStatus
from actors.rules.task import SPAWN, large_first, replace

START: Final = 1_700_000_000_000
POLICY: Final = Policy(max_attempts=3, delivers=False)
AT_CREATION: Final = ("id", "kind", "message", "body_digest", "owner", "created_at", "placement")
"""Columns of a job that a commit does not write."""


class Turn(NamedTuple):
    """What one turn gave: an answer for each event, and the effects to perform."""

    answers: tuple[Answer, ...]
    effects: tuple[Effect, ...]

    @property
    def answer(self) -> Answer:
        return self.answers[-1]

    def of(self, kind: type[Effect]) -> list[Effect]:
        return [effect for effect in self.effects if isinstance(effect, kind)]


def planned(job_id: str, phase: int, count: int, run: int = 1) -> list[Task]:
    """The tasks of a phase as intake or planning inserts them."""
    return [
        Task(
            job_id=job_id,
            phase=phase,
            n=n,
            task_id=f"{job_id}_tiff_{n}" if phase == 0 else f"{job_id}_tiff{phase}_{n}",
            run=run,
            input_r2_key=f"{phase}/{n}.tif",
            output_r2_key=f"{phase}/{n}.jpg",
        )
        for n in range(count)
    ]


class Book:
    """One job, its rows, and the loop's memory. `now` is in milliseconds and moves only when told."""

    def __init__(
        self,
        tasks: int = 1,
        *,
        policy: Policy = POLICY,
        phases: tuple[str, ...] = ("TIFF_CONVERSION",),
        state: JobState = JobState.QUEUED,
        placement: str | None = "batch:b",
        page: int = 256,
        rng: Rng | None = None,
    ):
        self.policy, self.page = policy, page
        self.rng: Rng = rng or random.Random(7)
        self.now = START
        self.rows = {(task.phase, task.n): task for task in planned("b", 0, tasks)}
        self.row = Job(
            id="b",
            state=state,
            phases=phases,
            placement=placement,
            tasks_total=0 if state is JobState.RECEIVING else tasks,
            alarm_at=START,
            created_at=START,
            queued_at=None if state is JobState.RECEIVING else START,
        )
        self.state = State(job=self.row)
        self.last: Decision | None = None
        self.activate()

    # --- what the loop and the store do -------------------------------------------------------------

    def activate(self) -> Turn:
        """A new activation: memory is lost, rows and the next epoch are read (as `Durable.activate`)."""
        self.row = replace(self.row, epoch=self.row.epoch + 1, seq=0)
        self.state = State(
            job=self.row,
            in_flight={row.task_id: row for row in self._current() if row.status is TaskStatus.PROCESSING},
        )
        return self.turn(Activated())

    def turn(self, *events: Event) -> Turn:
        """One group of events: load, refill, decide, commit; then the invariants are checked."""
        loaded = self._load(events)
        decision = decide(self._refill(), [loaded, *events], self.policy, self.now, self.rng)
        if decision.changed:
            self._commit(decision)
        self.state, self.last = decision.state, decision
        broken = check(self.state, self.rows.values())
        assert not broken, broken
        assert self.state.job == self.row, "memory and row of the job differ"
        return Turn(decision.answers[1:], decision.effects)

    def _load(self, events: Sequence[Event]) -> Loaded:
        ready = {task.task_id for task in self.state.ready}
        missing = {
            event.task_id
            for event in events
            if isinstance(event, CalledBack)
            and event.task_id not in self.state.in_flight
            and event.task_id not in ready
        }
        phase = self.state.job.phase
        return Loaded(tasks=tuple(row for row in self.rows.values() if row.task_id in missing and row.phase == phase))

    def _refill(self) -> State:
        state, job = self.state, self.state.job
        backing_off = state.next_due is not None and state.next_due > self.now
        if state.ready or job.tasks_pending <= 0 or backing_off or job.state in TERMINAL_JOBS:
            return state
        pending = sorted(
            (row for row in self._current() if row.status is TaskStatus.PENDING),
            key=lambda row: (row.not_before, row.n),
        )
        due = large_first([row for row in pending if row.not_before <= self.now][: self.page])
        later = pending[0].not_before if pending and not due else None
        return replace(state, ready=due, next_due=later)

    def _commit(self, decision: Decision) -> None:
        job = decision.state.job
        assert (job.epoch, job.seq) == (self.row.epoch, self.row.seq + 1), "the commit would be fenced"
        assert job.state is self.row.state or job.state in _reachable(self.row.state, JOB_MOVES)
        self.row = replace(job, **{name: getattr(self.row, name) for name in AT_CREATION})
        for task in decision.tasks:
            old = self.rows[task.phase, task.n]
            assert task.status is old.status or task.status in _reachable(old.status, TASK_MOVES)
            self.rows[task.phase, task.n] = replace(
                task, task_id=old.task_id, input_r2_key=old.input_r2_key, output_r2_key=old.output_r2_key
            )
        if decision.rerun:
            self._rerun(job)
            self.row = replace(self.row, placement=None)
        if job.state in TERMINAL_JOBS:
            self._fail_pending(job.error or "")

    def _rerun(self, job: Job) -> None:
        for key, row in self.rows.items():
            waits = row.status in (TaskStatus.FAILED, TaskStatus.PENDING)  # see `actors.store.standing`
            if waits and row.phase == job.phase and row.run < job.run:
                self.rows[key] = Task(
                    job_id=row.job_id,
                    phase=row.phase,
                    n=row.n,
                    task_id=row.task_id,
                    run=job.run,
                    input_r2_key=row.input_r2_key,
                    output_r2_key=row.output_r2_key,
                )

    def _fail_pending(self, why: str) -> None:
        for row in self._current():
            if row.status is TaskStatus.PENDING:
                self.rows[row.phase, row.n] = replace(row, status=TaskStatus.FAILED, error=why, completed_at=self.now)

    def _current(self) -> list[Task]:
        return [row for row in self.rows.values() if row.phase == self.row.phase and row.run == self.row.run]

    # --- what happens -------------------------------------------------------------------------------

    def pass_time(self, ms: int) -> "Book":
        self.now += ms
        return self

    def alarm(self, after: int = 0) -> Turn:
        return self.pass_time(after).turn(AlarmFired())

    def take(self, machine: str = "m-1", claim: str | None = None, free: int = 1) -> tuple[Task, ...]:
        answer = self.turn(WorkTaken(machine=machine, claim=claim or f"{SPAWN}{machine}", free=free)).answer
        assert isinstance(answer, Granted)
        return answer.tasks

    def report(self, n: int = 0, status: Literal["success", "error", "running", "released"] = "success",
               *, attempt: int = 1, run: int | None = None, **fields: Any) -> CalledBack:  # fmt: skip
        task_id = self.rows[self.row.phase, n].task_id
        return CalledBack(run=run or self.row.run, attempt=attempt, task_id=task_id, status=status, **fields)

    def callback(self, n: int = 0, status: Literal["success", "error", "running", "released"] = "success",
                 *, attempt: int = 1, run: int | None = None, **fields: Any) -> Received:  # fmt: skip
        answer = self.turn(self.report(n, status, attempt=attempt, run=run, **fields)).answer
        assert isinstance(answer, Received)
        return answer

    def lost(self, machine: str = "m-1", why: Literal["refused", "unmade", "gone", "exited"] = "gone",
             message: str = "It is gone.", **fields: Any) -> Turn:  # fmt: skip
        return self.turn(MachineLost(machine=machine, why=why, message=message, **fields))

    def cancel(self) -> Turn:
        return self.turn(Cancelled(reason="by request"))

    def reset(self) -> Turn:
        return self.turn(WasReset())

    def retry(self, after_run: int | None = None) -> Turn:
        return self.turn(Retried(after_run=after_run or self.row.run))

    def redeliver(self) -> Turn:
        return self.turn(Redelivered())

    def delivery(self, outcome: Literal["delivered", "retry", "refused"], *, run: int | None = None) -> Turn:
        return self.turn(DeliveryEnded(run=run or self.row.run, outcome=outcome, message=f"It said {outcome}."))

    def plan(self, phase: int, count: int) -> Turn:
        """The next phase's tasks are inserted and the job is told."""
        return self.turn(PhasePlanned(run=self.row.run, phase=phase, tasks_total=self.insert(phase, count)))

    def insert(self, phase: int, count: int) -> int:
        """As planning: what an earlier run has completed stays, all else is to be done. How many that is."""
        fresh = {(task.phase, task.n): task for task in planned(self.row.id, phase, count, self.row.run)}
        for key, task in fresh.items():
            old = self.rows.get(key)
            if old is None or (old.run < task.run and old.status is not TaskStatus.COMPLETED):
                self.rows[key] = task
        return sum(self.rows[key].status is not TaskStatus.COMPLETED for key in fresh)

    def admit(self) -> "Book":
        """A place is given by the store, to the row only; the next activation sees it."""
        self.row = replace(self.row, placement="batch:b", alarm_at=self.now)
        self.activate()
        return self

    def running(self) -> "Book":
        """Past the first alarm: the job runs and the fleet was told."""
        self.alarm()
        assert self.job.state is JobState.RUNNING
        return self

    # --- what is seen -------------------------------------------------------------------------------

    @property
    def job(self) -> Job:
        return self.row

    def task(self, n: int = 0) -> Task:
        return self.rows[self.row.phase, n]

    @property
    def counters(self) -> tuple[int, int, int]:
        """(total, completed, failed)"""
        return self.row.tasks_total, self.row.tasks_completed, self.row.tasks_failed


def _reachable(start: Any, moves: Any) -> set[Any]:
    """What a group of events may lead to: any path through the table."""
    seen: set[Any] = set()
    edge = {start}
    while edge:
        edge = {to for one in edge for to in moves[one]} - seen
        seen |= edge
    return seen
