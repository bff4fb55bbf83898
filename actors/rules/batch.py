"""The rules of a batch: what happened in, what follows out.

`decide` is the only thing that changes the state of a job. It is pure: time and randomness are
handed in, effects are data. The loop (`actors.durable`) commits what it returns, then answers, then
acts; so each rule here may assume that whatever it decided before is on disk.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from actors.rules import task as tasks
from actors.rules.effects import (
    Announce,
    Answer,
    Decision,
    Deliver,
    DestroyMachine,
    Effect,
    Granted,
    PlanPhase,
    Policy,
    Received,
    Refused,
    ReleaseMachines,
    Remove,
    Rng,
    State,
)  # fmt: skip
from actors.rules.events import (
    Activated,
    AlarmFired,
    CalledBack,
    Cancelled,
    DeliveryEnded,
    Downloaded,
    Event,
    Leased,
    Loaded,
    MachineLost,
    OutputsRemoved,
    PhasePlanned,
    PlanFailed,
    Redelivered,
    Retried,
    WasReset,
    WorkTaken,
)  # fmt: skip
from actors.rules.flight import Flight
from actors.rules.model import Job, PhaseCount, Task
from actors.rules.states import JOB_MOVES, TERMINAL_JOBS, TERMINAL_TASKS, Delivery, JobState, TaskStatus
from actors.rules.task import ImpossibleMove, replace

DELIVERY_PATIENCE_MS: Final = 5_000
"""How often a delivery that was begun is looked at. After a crash that is how long the receiver waits for it to be
begun again: nobody else asks anything of a batch that is over."""

DELIVERY_MOST_MS: Final = 600_000
"""Within an activation it is not begun again before: longer than the request with the longest list may take."""

REMOVAL_PATIENCE_MS: Final = 120_000
"""How often a removal that was begun is looked at."""

WAITS_FOR_PLACE_MS: Final = 120_000
"""A job without a place is admitted from outside: its loop, if it has one, ends meanwhile and is not asked often."""

# What the workers of the originals say when another try cannot help; ours say `retryable: false`.
HOPELESS: Final = ("404 Not Found", "unsupported image format")


class Draft:
    """A decision in the making: the state as it is after the events handled so far."""

    def __init__(self, state: State, policy: Policy, now: int, rng: Rng):
        self.job = state.job
        self.in_flight = Flight(state.in_flight)
        self.ready = list(state.ready)
        self.next_due = state.next_due
        self.announced = state.announced
        self.lease = state.lease
        self.plan = state.plan
        self.delivering_until = state.delivering_until
        self.done_before = state.done_before
        self.policy, self.now, self.rng = policy, now, rng
        self.changed: dict[str, Task] = {}
        self.loaded: dict[str, Task] = {}
        self.effects: list[Effect] = []
        self.rerun = False
        self.tell_again = False

    def set(self, **fields: Any) -> None:
        """Change fields of the job's row; a move of its state is checked against the table."""
        state = fields.get("state")
        if state is not None and state not in JOB_MOVES[self.job.state]:
            raise ImpossibleMove(f"job {self.job.id}: {self.job.state} -> {state}")
        self.job = replace(self.job, **fields)

    def find(self, task_id: str) -> Task | None:
        """The task's row as it is now, if it is in memory or was loaded for these events."""
        task = self.in_flight.get(task_id) or self.changed.get(task_id) or self.loaded.get(task_id)
        if task is None:
            task = next((waiting for waiting in self.ready if waiting.task_id == task_id), None)
        return task

    def is_open(self, task: Task) -> bool:
        """Whether this assignment is in flight."""
        flying = self.in_flight.get(task.task_id)
        return flying is not None and flying.attempt == task.attempt

    def put(self, task: Task) -> None:
        """Keep a changed row, and the counters with it (invariant 7: counters are the rows)."""
        was = self.find(task.task_id)
        self.changed[task.task_id] = task
        self.loaded.pop(task.task_id, None)
        job = self.job
        if was is None or was.status != task.status:
            flying = (task.status is TaskStatus.PROCESSING) - (was is not None and was.status is TaskStatus.PROCESSING)
            self.job = replace(
                job,
                tasks_in_flight=job.tasks_in_flight + flying,
                tasks_completed=job.tasks_completed + (task.status is TaskStatus.COMPLETED),
                tasks_failed=job.tasks_failed + (task.status is TaskStatus.FAILED),
                retries=job.retries + _is_tried_again(was, task),
            )
        if task.status is TaskStatus.PROCESSING:
            self.in_flight[task.task_id] = task
        else:
            self.in_flight.pop(task.task_id, None)
        if was is not None and was.status is TaskStatus.PENDING and task.status in TERMINAL_TASKS:
            self.ready = [waiting for waiting in self.ready if waiting.task_id != task.task_id]
        if task.status is TaskStatus.PENDING and self.next_due is not None:
            self.next_due = min(self.next_due, task.not_before)

    def take(self, machine: str, claim: str, free: int) -> tuple[Task, ...]:
        """Assign up to `free` of the tasks that are ready. Those that need a machine of their own are for one that is
        being made, and first: nothing else is.
        """
        granted: list[Task] = []
        while len(granted) < free and (place := self._next_for(claim)) is not None:
            task = tasks.assign(self.ready.pop(place), machine, claim, self.policy, self.now)
            self.put(task)
            granted.append(task)
        return tuple(granted)

    def _next_for(self, claim: str) -> int | None:
        """Where in `ready` the next task for this claim is."""
        place = 0 if claim.startswith(tasks.SPAWN) else self.large
        return place if place < len(self.ready) else None

    @property
    def large(self) -> int:
        """How many of the ready tasks need a machine that is made for them: the first ones (`tasks.large_first`)."""
        return next((n for n, task in enumerate(self.ready) if task.memory_mb is None), len(self.ready))


def _is_tried_again(was: Task | None, task: Task) -> bool:
    """Not when it was given back: that is no try."""
    return was is not None and task.status is TaskStatus.PENDING and was.tries == task.tries


def decide(state: State, events: Sequence[Event], policy: Policy, now: int, rng: Rng) -> Decision:
    """What follows from `events`, in their order. `now` is in milliseconds; `rng` gives the jitter."""
    draft = Draft(state, policy, now, rng)
    before = draft.job
    answers = tuple(HANDLERS[type(event)](draft, event) for event in events)
    answers = tuple(_as_committed(draft, answer) for answer in answers)
    _settle(draft)
    changed = draft.job is not before or bool(draft.changed) or draft.rerun
    alarm_at = _alarm(draft)
    changed = changed or alarm_at != draft.job.alarm_at
    job = draft.job
    if changed:
        job = replace(job, alarm_at=alarm_at, updated_at=max(now, job.updated_at), seq=job.seq + 1)
    return Decision(
        state=State(
            job=job,
            in_flight=draft.in_flight,
            ready=tuple(draft.ready),
            next_due=draft.next_due,
            announced=draft.announced,
            lease=draft.lease,
            plan=draft.plan,
            delivering_until=draft.delivering_until,
            done_before=draft.done_before,
        ),
        tasks=tuple(draft.changed.values()),
        rerun=draft.rerun,
        answers=answers,
        effects=tuple(draft.effects),
        changed=changed,
    )


def _as_committed(d: Draft, answer: Answer) -> Answer:
    """Nothing is given out that a later event of the same turn has taken back: the commit says that it is not open."""
    if isinstance(answer, Granted) and not all(map(d.is_open, answer.tasks)):
        return replace(answer, tasks=tuple(filter(d.is_open, answer.tasks)))
    if isinstance(answer, Received) and answer.next is not None and not d.is_open(answer.next):
        return replace(answer, next=None)
    return answer


# --- one function per event ---------------------------------------------------------------------


def _activated(d: Draft, _: Activated) -> Answer:
    """No wait is longer than its setting allows: one that seems to be was begun before the clock went back. What has
    its place does not wait at all; it was given by another process, whose clock may be ahead."""
    is_placed = d.job.state is JobState.QUEUED and d.job.placement is not None
    latest = d.now + (0 if is_placed else longest_wait_ms(d.policy, d.job.state))
    kept_ms = d.policy.kept_ms if d.job.state in TERMINAL_JOBS else d.policy.unfinished_ms
    bounds = {
        "alarm_at": latest, "delivery_at": latest, "delivery_since": d.now, "refused_since": d.now,
        "expires_at": d.now + (kept_ms or 0),
    }  # fmt: skip
    beyond = {name: bound for name, bound in bounds.items() if (getattr(d.job, name) or 0) > bound}
    if beyond:
        d.set(**beyond)
    for task in list(d.in_flight.values()):  # in memory only: the next activation does the same with the same rows
        d.in_flight[task.task_id] = tasks.resume(task, d.policy, d.now)
    return None


def longest_wait_ms(policy: Policy, state: JobState) -> int:
    """How far ahead the alarm of a job in this state can be."""
    if state is JobState.RECEIVING:
        return policy.intake_timeout_ms
    if state is JobState.QUEUED:
        return WAITS_FOR_PLACE_MS
    if state is JobState.RUNNING:
        return policy.alarm_delay_ms
    return max(DELIVERY_PATIENCE_MS, policy.backoff_cap_ms, policy.kept_ms or 0)


def _alarm_fired(d: Draft, _: AlarmFired) -> Answer:
    if d.job.state is JobState.QUEUED and d.job.placement is not None:
        d.set(state=JobState.RUNNING, started_at=d.now)
    elif d.job.state is JobState.RECEIVING and (d.job.alarm_at or 0) <= d.now:
        again = "Start it again." if d.job.kind == "archive" else "Send the same body again."
        _stop(d, JobState.FAILED, "intake_stalled", f"The list of files was never completed. {again}")
    for task in [t for t in d.in_flight.values() if t.deadline_at is not None and t.deadline_at <= d.now]:
        _overdue(d, task)
    d.tell_again = True  # the fleet forgets demands when it dies
    if d.plan == "failed":
        d.plan = "no"
    if d.job.delivery is Delivery.PENDING and (d.job.delivery_at or 0) <= d.now:
        _begin_delivery(d)
    if d.job.expires_at is not None and d.job.expires_at <= d.now:
        _expire(d)
    return None


def _expire(d: Draft) -> None:
    """What is over is removed. What has no machine, and nothing to show for its time, has waited for too long; all else
    is looked at again after as long: a machine that has just died is no reason."""
    done = d.job.tasks_completed + d.job.tasks_failed
    if d.job.state is JobState.DONE and d.delivering_until > d.now:
        d.set(expires_at=d.now + DELIVERY_PATIENCE_MS)  # who tells of it may be about to write the index of its parts
    elif d.job.state in TERMINAL_JOBS:
        d.set(expires_at=d.now + REMOVAL_PATIENCE_MS, removed_since=d.job.removed_since or d.now)
        d.effects.append(Remove())
    elif d.in_flight or done > d.done_before:
        d.done_before = done
        d.set(expires_at=d.now + d.policy.unfinished_ms)
    else:
        waited_s = d.policy.unfinished_ms / 1000
        _stop(d, JobState.FAILED, "expired", f"No machine has finished it within {waited_s:.0f} s. Start it again.")


def _overdue(d: Draft, task: Task) -> None:
    """Invariant 5: a deadline leads to the end of that assignment, and to another try or a failure with a reason."""
    waited = (d.now - (task.assigned_at or d.now)) / 1000
    heard = "" if task.heard_at else " without a sign of life"
    if task.machine is not None:
        d.effects.append(DestroyMachine(machine=task.machine, task_id=task.task_id, attempt=task.attempt))
    d.put(tasks.try_again(task, f"Timed out after {waited:.0f} s{heard}", d.policy, d.now, d.rng))


def _called_back(d: Draft, report: CalledBack) -> Answer:
    if report.run != d.job.run:
        return Received(stop=True)
    task = d.find(report.task_id)
    if task is None:
        return Refused("not_found", f"Batch {d.job.id} has no task {report.task_id}.")
    if d.job.state in TERMINAL_JOBS:  # Invariant 4: what waited has failed, whatever its row in memory says
        return Received(stop=report.status == "running")
    if d.job.refused_since is not None:
        d.set(refused_since=None)
    is_open = task.status is TaskStatus.PROCESSING and task.attempt == report.attempt
    if task.status in TERMINAL_TASKS:  # Invariant 4: counted once
        return Received(stop=report.status == "running", next=_given_before(d, report))
    if report.status == "running":
        if is_open:
            d.put(tasks.alive(task, d.policy, d.now, report.performance))
        return Received(stop=not is_open)
    if is_open and report.throttled_ms:
        d.set(throttled_ms=d.job.throttled_ms + report.throttled_ms)
    if report.status == "success":
        if task.status is TaskStatus.PROCESSING and not is_open and task.machine is not None:
            d.effects.append(DestroyMachine(machine=task.machine, task_id=task.task_id, attempt=task.attempt))
        if d.policy.kept_ms is not None:  # what is handed out and removed later is not for a worker to choose
            report = replace(report, output_r2_key=None, output_file_name=None)
        d.put(tasks.succeed(task, report, d.now))
    elif not is_open:  # an error or a give-back of an attempt that was given up already
        return Received(next=_given_before(d, report))
    elif report.status == "released":
        d.put(tasks.give_back(task, None, d.now))
        return Received()
    else:
        d.put(_after_error(d, task, report))
    return Received(next=_next(d, task, report) if is_open and report.accepts_next else None)


def _after_error(d: Draft, task: Task, report: CalledBack) -> Task:
    reason = report.error or "The worker gave no reason."
    if not report.retryable or any(words in reason for words in HOPELESS):
        return tasks.fail(task, reason, d.now)
    return tasks.try_again(task, reason, d.policy, d.now, d.rng)


def _next(d: Draft, done: Task, report: CalledBack) -> Task | None:
    """The worker's next task, assigned in the same transaction that recorded its result."""
    if d.job.state is not JobState.RUNNING or done.machine is None:
        return None
    if d.lease is not None and len(d.in_flight) >= d.lease:
        return None  # others wait: the worker claims, and the fleet decides
    given = d.take(done.machine, _next_claim(report), 1)
    return given[0] if given else None


def _given_before(d: Draft, report: CalledBack) -> Task | None:
    """What the same callback was answered before, as long as that assignment is open."""
    if not report.accepts_next:
        return None
    claim = _next_claim(report)
    return next((task for task in d.in_flight.values() if task.claim == claim), None)


def _next_claim(report: CalledBack) -> str:
    return f"next:{report.task_id}:{report.attempt}"


def _work_taken(d: Draft, wish: WorkTaken) -> Answer:
    if d.policy.kinds.get(d.job.phases[d.job.phase], wish.kind) != wish.kind:
        return Granted(())  # the machine was sent for the phase before
    open_already = tuple(t for t in d.in_flight.values() if t.machine == wish.machine and t.claim == wish.claim)
    if open_already or d.job.state is not JobState.RUNNING:
        return Granted(open_already, *_demand(d))
    granted = d.take(wish.machine, wish.claim, wish.free)
    return Granted(granted, *_demand(d))


def _machine_lost(d: Draft, loss: MachineLost) -> Answer:
    lost = [
        task
        for task in d.in_flight.values()
        if task.machine == loss.machine
        and (loss.task_id is None or (task.task_id == loss.task_id and task.attempt == loss.attempt))
    ]
    for task in lost:
        if loss.why == "unmade":
            d.put(tasks.give_back(task, loss.message, d.now))
        elif loss.why != "refused":
            if loss.short_of_mb is not None:
                task = tasks.with_more_memory(task, loss.short_of_mb, d.policy.memory_most_mb)
            d.put(tasks.try_again(task, loss.message, d.policy, d.now, d.rng))
        elif loss.permanent:
            d.put(tasks.fail(task, loss.message, d.now))
        else:
            d.put(tasks.give_back(task, loss.message, d.now, wait_ms=d.policy.backoff_base_ms))
    if loss.hopeless and lost and d.job.state is JobState.RUNNING:
        _stop(d, JobState.FAILED, "spawn_refused", f"No machine could be had: {loss.message}")
    elif loss.why == "refused" and lost:
        since = d.job.refused_since if d.job.refused_since is not None else d.now
        d.set(refused_since=since)
        if d.now - since >= d.policy.spawn_give_up_ms and not d.in_flight:
            _stop(d, JobState.FAILED, "spawn_refused", f"No machine could be had: {loss.message}")
    return None


def _leased(d: Draft, answer: Leased) -> Answer:
    d.lease = answer.lease
    return None


def _cancelled(d: Draft, wish: Cancelled) -> Answer:
    if d.job.state is JobState.CANCELLED:
        return None
    if d.job.state in TERMINAL_JOBS:
        return Refused("conflict", f"Batch {d.job.id} has ended already; there is nothing to cancel.")
    _stop(d, JobState.CANCELLED, "cancelled", f"Cancelled: {wish.reason}")
    return None


def _was_reset(d: Draft, _: WasReset) -> Answer:
    if d.job.state is JobState.DONE:
        return Refused("conflict", f"Batch {d.job.id} is done. Use retry to run its failed tasks again.")
    if d.job.state not in TERMINAL_JOBS:
        _stop(d, JobState.FAILED, "reset", "Manually reset by admin")
    return None


def _retried(d: Draft, wish: Retried) -> Answer:
    job = d.job
    if wish.created_at not in (None, job.created_at):
        return Refused("conflict", f"Batch {job.id} was created again meanwhile. Look at its status again.")
    if job.run == wish.after_run + 1:
        return None  # as before: its answer was lost
    if job.run != wish.after_run:
        return Refused("conflict", f"Batch {job.id} is in run {job.run} by now. Look at its status again.")
    if job.state not in TERMINAL_JOBS:
        return Refused("conflict", f"Batch {job.id} has not ended yet. Cancel it first, or wait.")
    if job.removed_since is not None:
        was = "was cancelled" if job.state is JobState.CANCELLED else "has expired"
        return Refused("conflict", f"{job.id} {was}, and what it has made is being removed. Start it again.")
    if job.queued_at is None:
        return Refused("conflict", f"The list of files of batch {job.id} is not complete. Send its body again.")
    begin = _begin_again(job)
    if begin is None:
        return Refused("conflict", f"No task of batch {job.id} has failed; there is nothing to run again.")
    d.rerun = True
    d.set(
        state=JobState.QUEUED,
        run=job.run + 1,
        phase=job.phases.index(begin.name),
        history=job.past,
        tasks_total=begin.tasks_failed,
        tasks_completed=0,
        tasks_failed=0,
        tasks_in_flight=0,
        placement=None,  # given back by the commit (`rerun`): the new run is admitted like any other
        error=None,
        code=None,
        refused_since=None,
        delivery=Delivery.NONE,
        delivery_tries=0,
        delivery_at=None,
        delivery_since=None,
        delivery_error=None,
        queued_at=d.now,
        started_at=None,
        completed_at=None,
        expires_at=None if d.policy.kept_ms is None else d.now + d.policy.unfinished_ms,
    )
    d.ready, d.next_due, d.in_flight = [], None, Flight()
    d.plan, d.delivering_until, d.done_before = "no", 0, 0
    d.effects = [effect for effect in d.effects if not isinstance(effect, Deliver | PlanPhase)]  # of the run before
    return None


def _begin_again(job: Job) -> PhaseCount | None:
    """The first phase of the run in which a task has failed. Where none has: the phase in which a run that came to no
    end stopped, with nothing left of it but to plan the next one. None: there is nothing to run again.
    """
    counts = [count for count in (*job.history, job.count) if count.run == job.run]
    unfinished = None if job.state is JobState.DONE else job.count
    return next((count for count in counts if count.tasks_failed), unfinished)


def _downloaded(d: Draft, _: Downloaded) -> Answer:
    if d.job.state is JobState.DONE and d.job.expires_at is not None:
        # its last bytes may be on their way, and who has lost them asks again
        d.set(expires_at=min(d.job.expires_at, d.now + d.policy.removal_delay_ms))
    return None


def _outputs_removed(d: Draft, _: OutputsRemoved) -> Answer:
    """Once more when every worker has learned that its task is over, and once when those have ended that heard nothing:
    until then one may store something."""
    if d.job.state not in TERMINAL_JOBS or d.job.removed_since is None:
        return None
    told_at = (d.job.completed_at or d.now) + d.policy.boot_timeout_ms + d.policy.task_timeout_ms
    looks = (told_at, told_at + d.policy.task_max_ms)
    d.set(expires_at=next((at for at in looks if d.now < at), None))
    return None


def _redelivered(d: Draft, _: Redelivered) -> Answer:
    is_told = d.job.state in TERMINAL_JOBS if d.policy.tells_each_end else d.job.state is JobState.DONE
    if not is_told or not d.policy.delivers:
        return Refused(
            "conflict", "Only what has ended, and has somebody to be told (WORKER_URL), can be delivered again."
        )
    if d.job.delivery is not Delivery.PENDING:
        _await_delivery(d)
    return None


def _delivery_ended(d: Draft, told: DeliveryEnded) -> Answer:
    """Invariant 6: whatever the receiver says, the batch stays what it is; only its delivery changes."""
    if told.outcome == "delivered":
        _remember_delivered(d, told.run)
    job = d.job
    if told.run != job.run or job.delivery is not Delivery.PENDING:
        return None
    d.delivering_until = 0
    if told.outcome == "delivered":
        _end_delivery(d, Delivery.DELIVERED, None)
    elif told.outcome == "refused":
        _end_delivery(d, Delivery.REFUSED, told.message)
    elif d.now - (job.delivery_since or d.now) >= d.policy.delivery_give_up_ms:
        _end_delivery(d, Delivery.GIVEN_UP, told.message)
    else:
        ceiling = min(d.policy.backoff_cap_ms, d.policy.backoff_base_ms * 2 ** min(job.delivery_tries, 20))
        d.set(
            delivery_tries=job.delivery_tries + 1,
            delivery_at=d.now + d.rng.randint(ceiling // 2, ceiling),
            delivery_error=told.message,
        )
    return None


def _remember_delivered(d: Draft, run: int) -> None:
    """Also of an earlier run, whose answer comes when the next one has begun."""
    if run > d.job.delivered_run:
        d.set(delivered_run=run)
    late = [count for count in d.job.history if count.run == run and count.delivery is Delivery.SUPERSEDED]
    if late:
        d.set(
            history=tuple(
                replace(count, delivery=Delivery.DELIVERED) if count in late else count for count in d.job.history
            )
        )


def _phase_planned(d: Draft, planned: PhasePlanned) -> Answer:
    job = d.job
    if not _is_awaited(d, planned):
        return None
    d.set(
        phase=planned.phase,
        history=(*job.history, job.count),
        tasks_total=planned.tasks_total,
        tasks_completed=0,
        tasks_failed=0,
        tasks_in_flight=0,
    )
    d.ready, d.next_due, d.plan = [], None, "no"
    return None


def _plan_failed(d: Draft, failure: PlanFailed) -> Answer:
    """The next alarm asks for it again, unless that is known to be in vain."""
    if not _is_awaited(d, failure):
        return None
    d.plan = "failed"
    if failure.permanent:
        name = d.job.phases[failure.phase]
        _stop(d, JobState.FAILED, "planning_failed", f"The phase {name} cannot be planned: {failure.message}")
    return None


def _is_awaited(d: Draft, told: PhasePlanned | PlanFailed) -> bool:
    """False: of an earlier run, or told twice."""
    return d.job.state is JobState.RUNNING and told.run == d.job.run and told.phase == d.job.phase + 1


def _loaded(d: Draft, rows: Loaded) -> Answer:
    d.loaded.update({task.task_id: task for task in rows.tasks})
    return None


HANDLERS: Final[dict[type[Event], Callable[[Draft, Any], Answer]]] = {
    Activated: _activated,
    AlarmFired: _alarm_fired,
    CalledBack: _called_back,
    WorkTaken: _work_taken,
    MachineLost: _machine_lost,
    Leased: _leased,
    Cancelled: _cancelled,
    WasReset: _was_reset,
    Retried: _retried,
    Downloaded: _downloaded,
    OutputsRemoved: _outputs_removed,
    Redelivered: _redelivered,
    DeliveryEnded: _delivery_ended,
    PhasePlanned: _phase_planned,
    PlanFailed: _plan_failed,
    Loaded: _loaded,
}


# --- what follows from the state, whatever happened ----------------------------------------------


def _settle(d: Draft) -> None:
    """Ends the phase or the batch when its last task is terminal; tells the fleet of changed demand."""
    job = d.job
    if job.state is JobState.RUNNING and job.tasks_completed + job.tasks_failed >= job.tasks_total:
        if job.phase + 1 == len(job.phases):
            _complete(d)
        elif d.plan == "no":
            d.plan = "asked"
            d.effects.append(PlanPhase(run=job.run, phase=job.phase + 1))
    want, large = _demand(d)
    begins_or_ends = (want == 0) != (d.announced == 0)
    if begins_or_ends or want > d.announced or (d.tell_again and want):
        d.effects.append(Announce(want=want, large=large))
        d.announced = want


def _demand(d: Draft) -> tuple[int, int]:
    """How many tasks could be taken now, and how many of them only by machines that are made for them. Of those behind
    the page that is in memory nothing is known: while that holds no others, none is asked for either.
    """
    if d.job.state is not JobState.RUNNING:
        return 0, 0
    if not d.ready and d.next_due is not None and d.next_due > d.now:
        return 0, 0
    want = min(d.policy.batch_size, d.job.tasks_pending)
    large = d.large
    return want, want if large and large == len(d.ready) else min(want, large)


def _complete(d: Draft) -> None:
    d.set(state=JobState.DONE, completed_at=d.now, expires_at=_until(d, d.policy.kept_ms))
    if d.policy.delivers:
        _await_delivery(d)


def _until(d: Draft, wait_ms: int | None) -> int | None:
    return None if wait_ms is None else d.now + wait_ms


def _await_delivery(d: Draft) -> None:
    """The first attempt, and a whole DELIVERY_GIVE_UP_S from now for all of them."""
    d.set(delivery=Delivery.PENDING, delivery_tries=0, delivery_since=d.now, delivery_error=None)
    _begin_delivery(d)


def _begin_delivery(d: Draft) -> None:
    d.set(delivery_at=d.now + DELIVERY_PATIENCE_MS)
    if d.delivering_until <= d.now:  # else one is on its way: a long list takes its time
        d.delivering_until = d.now + DELIVERY_MOST_MS
        d.effects.append(Deliver(run=d.job.run))


def _end_delivery(d: Draft, delivery: Delivery, message: str | None) -> None:
    d.set(
        delivery=delivery,
        delivery_at=None,
        delivery_error=message,
        delivery_tries=d.job.delivery_tries + 1,
    )


def _stop(d: Draft, state: JobState, code: str, error: str) -> None:
    """The run ends here: what flies and what waits fails with `error`, and its machines end."""
    error = tasks.bounded(error)
    for task in list(d.in_flight.values()):
        d.put(tasks.fail(task, error, d.now))
    d.effects.append(ReleaseMachines())
    cancelled_kept_ms = d.policy.cancelled_kept_ms if state is JobState.CANCELLED else None
    d.set(
        state=state,
        code=code,
        error=error,
        completed_at=d.now,
        expires_at=_until(d, d.policy.kept_ms if cancelled_kept_ms is None else cancelled_kept_ms),
        tasks_failed=d.job.tasks_failed + d.job.tasks_pending,
    )
    if d.policy.tells_each_end:
        _await_delivery(d)
    d.loaded.update({task.task_id: task for task in d.ready})  # still known to callbacks of the same turn
    d.ready, d.next_due, d.plan = [], None, "no"


def _alarm(d: Draft) -> int | None:
    """When the job must be looked at again (invariant 5): never None while it is not terminal or not told."""
    job = d.job
    if job.state in TERMINAL_JOBS:
        told_at = job.delivery_at if job.delivery is Delivery.PENDING else None
        return min((at for at in (told_at, job.expires_at) if at is not None), default=None)
    if job.state is JobState.QUEUED and job.placement is None and (job.alarm_at or 0) <= d.now:
        return d.now + WAITS_FOR_PLACE_MS
    if job.state is not JobState.RUNNING:
        return job.alarm_at if job.alarm_at is not None else d.now
    latest = d.now + d.policy.alarm_delay_ms  # a later one was set before the clock went back
    regular = job.alarm_at if job.alarm_at is not None and d.now < job.alarm_at <= latest else latest
    if d.next_due is not None and not d.ready:
        regular = min(regular, max(d.next_due, d.now + 1))
    return regular
