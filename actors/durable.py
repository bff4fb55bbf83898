"""The loop of one durable job: collect, decide, commit, answer, act. asyncio, no ray.

One group of inputs at a time. Memory changes only after COMMIT, answers leave only after COMMIT
(invariant 1), effects are begun only after COMMIT (invariant 3). Another activation of the same job
takes the next epoch; this one then learns it from its next commit, performs nothing and ends
(invariant 2).
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

from actors import telemetry
from actors.clock import TimeSource
from actors.errors import Fenced, Unavailable
from actors.rules.batch import decide
from actors.rules.effects import Announce, Answer, Decision, Effect, Policy, State
from actors.rules.events import (
    Activated,
    AlarmFired,
    CalledBack,
    DeliveryEnded,
    Event,
    Leased,
    Loaded,
    OutputsRemoved,
    PhasePlanned,
    PlanFailed,
)  # fmt: skip
from actors.rules.flight import Flight
from actors.rules.model import Job, Task
from actors.rules.states import TERMINAL_JOBS, JobState
from actors.rules.task import large_first, replace
from actors.store import Commit, Store

PAGE: Final = 256
"""Pending tasks kept in memory: more than the largest group of `take`s between two turns."""
GROUP: Final = 512
"""Inputs of one turn at most: bounds the time to the first answer."""
EPOCH_TRUST_S: Final = 10.0
"""How long after a commit its epoch is believed. An actor that was suspended for longer asks before it acts."""
STORE_RETRY_S: Final = 0.2
OWN: Final = (Activated, AlarmFired, Leased, DeliveryEnded, OutputsRemoved, PhasePlanned, PlanFailed, Loaded)
"""The events of the loop itself: time, what it has read, and results of its effects. To any other, one that is new
included, somebody outside waits for the answer."""
LINGER_S: Final = 1.0
"""How long an activation that has nothing to do waits for the request that it was made for."""

T = TypeVar("T")
Perform = Callable[[Job, Effect], Awaitable[Event | None]]


class Input:
    """One event and the caller that waits for its answer."""

    __slots__ = ("answer", "event")

    def __init__(self, event: Event, answer: "asyncio.Future[Answer]"):
        self.event = event
        self.answer = answer


class Durable:
    """One activation of one job."""

    def __init__(
        self,
        job_id: str,
        *,
        store: Store,
        perform: Perform,
        policy: Policy,
        clock: TimeSource,
        rng: random.Random,
        hibernate_after_ms: int = 60_000,
        ends_when_over: bool = False,
    ):
        """`ends_when_over`: the process is of this job alone. Nothing keeps it once the job is over: what is left to
        do at the job's next alarm, `wake` has done by a host that stands anyway."""
        self.job_id = job_id
        self._store, self._perform, self._policy, self._clock, self._rng = store, perform, policy, clock, rng
        self._hibernate_after_ms, self._ends_when_over = hibernate_after_ms, ends_when_over
        self._inputs: list[Input] = []
        self._arrived = asyncio.Event()
        self._acting: set[asyncio.Task[None]] = set()
        self._demand: Announce | None = None
        self._is_telling = False
        self._valid_at = 0.0
        self._busy_at = 0.0
        self.state: State | None = None
        self.closed = False

    async def activate(self) -> None:
        """Take the job over: the next epoch, its row, and the tasks in flight. The first event says so."""
        asked_at = _time_s()
        job, flying = await self._store.activate(self.job_id)
        self.state = State(job=job, in_flight=Flight({task.task_id: task for task in flying}))
        self.submit(Activated())
        self._busy_at = _time_s()
        self._valid_at = asked_at

    def submit(self, event: Event) -> "asyncio.Future[Answer]":
        """Hand in what happened. The future ends after the commit (invariant 1).

        Raises (by the future): Unavailable when this activation ended before; the caller asks again.
        """
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        if self.closed:
            answer.set_exception(Unavailable(retry_after_s=1))
        else:
            self._inputs.append(Input(event, answer))
            self._arrived.set()
        return answer

    async def run(self) -> None:
        """Turn after turn until there is nothing to do for a while (hibernation) or another activation took over."""
        try:
            while not self._may_hibernate():
                group = await self._collect()
                await self.turn(group)
        except Fenced:
            telemetry.warning("job.fenced", batch=self.job_id, epoch=self._state.job.epoch)
        finally:
            self.closed = True
            for task in self._acting:
                task.cancel()
            self._refuse(self._inputs)

    async def turn(self, group: Sequence[Input]) -> None:
        """Decide, commit, answer, act. Turns never overlap; what arrives meanwhile is the next group.

        Where the rules or the store cannot take a group, its events are tried one by one. Raises Fenced if another
        activation has taken over: nothing was written, nothing may be done. Raises what an event of the loop itself
        fails with: an alarm that cannot be taken would come again at once.
        """
        try:
            try:
                await self._turn(group)
            except (Fenced, Unavailable, ConnectionError):
                raise
            except Exception as error:  # noqa: BLE001 - one bad event must not end the loop of all the others
                await self._one_by_one(group, error)
        except BaseException:
            self._refuse(group)
            raise

    async def _one_by_one(self, group: Sequence[Input], error: Exception) -> None:
        """The bad event alone gets the error for its answer. Nothing of the group was written before."""
        telemetry.fault("job.turn_failed", raised=error, batch=self.job_id, events=len(group))
        await self._check_unwritten(error)
        if not group:
            raise error
        for one in group:
            try:
                await self._turn([one])
            except (Fenced, Unavailable, ConnectionError):
                raise
            except Exception as fault:
                await self._check_unwritten(fault)
                if isinstance(one.event, AlarmFired | Activated):
                    raise
                telemetry.fault("job.event_failed", batch=self.job_id, kind=type(one.event).__name__)
                if not one.answer.done():
                    one.answer.set_exception(fault)

    async def _check_unwritten(self, error: Exception) -> None:
        """Raises `error` where the store has more than this activation knows: it must not go on from there."""
        job = self._state.job
        row = await self._patiently(lambda: self._store.job(self.job_id))
        if row is None or (row.epoch, row.seq) != (job.epoch, job.seq):
            raise error

    async def _turn(self, group: Sequence[Input]) -> None:
        events = [one.event for one in group]
        loaded = await self._load(events)
        state = await self._refill(await self._refresh(self._state))
        decision = decide(state, [loaded, *events], self._policy, self._clock.now(), self._rng)
        if decision.changed:
            await self._commit(decision)
        elif not all(isinstance(event, OWN) for event in events):
            await self._check_epoch()
        telemetry.job_changed(self._state.job, decision.state.job, decision.tasks)
        self.state = decision.state
        for one, answer in zip(group, decision.answers[1:], strict=True):
            if not one.answer.done():
                one.answer.set_result(answer)
        for effect in decision.effects:
            self._act(effect)

    @property
    def _state(self) -> State:
        if self.state is None:
            raise RuntimeError(f"job {self.job_id} is not activated")
        return self.state

    async def _collect(self) -> list[Input]:
        """What has arrived since the last turn; an alarm when its time has come."""
        alarm_at = self._state.job.alarm_at
        if not self._inputs:
            await self._wait(alarm_at)
        group, self._inputs = self._inputs[:GROUP], self._inputs[GROUP:]
        if group:
            self._busy_at = _time_s()
        if not self._inputs:
            self._arrived.clear()
        if alarm_at is not None and alarm_at <= self._clock.now():
            group.append(Input(AlarmFired(), asyncio.get_running_loop().create_future()))
        return group

    async def _wait(self, alarm_at: int | None) -> None:
        """Until something arrives, the alarm is due, or there was nothing to do for long enough to hibernate."""
        limits = [] if alarm_at is None else [(alarm_at - self._clock.now()) / 1000]
        if self._is_idle():
            limits.append(self._linger_left_s())
        try:
            async with asyncio.timeout(max(0.0, min(limits)) if limits else None):
                await self._arrived.wait()
        except TimeoutError:
            return

    async def _load(self, events: Sequence[Event]) -> Loaded:
        """Rows of tasks that are called back but not in memory: late, duplicate, or of an attempt given up."""
        state = self._state
        missing = [
            event.task_id for event in events if isinstance(event, CalledBack) and event.task_id not in state.in_flight
        ]
        if missing:
            ready = {task.task_id for task in state.ready}
            missing = [task_id for task_id in missing if task_id not in ready]
        rows: list[Task] = await self._patiently(lambda: self._store.tasks(self.job_id, missing)) if missing else []
        return Loaded(tasks=tuple(rows))

    async def _refresh(self, state: State) -> State:
        """Intake moves the alarm of a job that is RECEIVING without asking its loop, page by page."""
        if state.job.state is not JobState.RECEIVING:
            return state
        row = await self._patiently(lambda: self._store.job(self.job_id))
        return state if row is None else replace(state, job=replace(state.job, alarm_at=row.alarm_at))

    async def _refill(self, state: State) -> State:
        """Read the next page of pending tasks, if there may be one."""
        job, now = state.job, self._clock.now()
        waiting_for_backoff = state.next_due is not None and state.next_due > now
        if state.ready or job.tasks_pending <= 0 or waiting_for_backoff or job.state in TERMINAL_JOBS:
            return state
        page, next_due = await self._pending(job, now)
        if next_due is not None and next_due > now + self._policy.backoff_cap_ms:  # set before the clock went back
            page, next_due = await self._pending(job, next_due)
        return replace(state, ready=large_first(page), next_due=next_due)

    async def _pending(self, job: Job, now: int) -> tuple[list[Task], int | None]:
        return await self._patiently(lambda: self._store.pending(job.id, job.phase, job.run, now, PAGE))

    async def _check_epoch(self) -> None:
        """Invariant 2 for what is answered from memory alone. Raises Fenced: another activation knows better."""
        asked_at = _time_s()
        row = await self._patiently(lambda: self._store.job(self.job_id))
        if row is None or row.epoch != self._state.job.epoch:
            raise Fenced
        self._valid_at = asked_at

    async def _commit(self, decision: Decision) -> None:
        commit = Commit(
            job=decision.state.job,
            tasks=list(decision.tasks),
            rerun=decision.rerun,
        )
        asked_at = _time_s()
        await self._patiently(lambda: self._store.commit(commit))
        self._valid_at = asked_at  # the answer may have been on its way for long

    async def _patiently(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Repeat while the store is away. A commit carries its sequence number: sent twice it counts once."""
        while True:
            try:
                return await operation()
            except (ConnectionError, Unavailable) as error:
                telemetry.warning("job.store_away", batch=self.job_id, why=type(error).__name__)
                await asyncio.sleep(STORE_RETRY_S)

    def _act(self, effect: Effect) -> None:
        if not isinstance(effect, Announce):
            self._begin(self._perform_one(self._state.job, effect))
            return
        self._demand = effect
        if not self._is_telling:
            self._is_telling = True
            self._begin(self._tell_demand())

    async def _tell_demand(self) -> None:
        """One at a time: a fleet that does not answer gathers none. Of those that came meanwhile the newest counts."""
        try:
            while (demand := self._demand) is not None:
                self._demand = None
                await self._perform_one(self._state.job, demand)
        finally:
            self._is_telling = False

    def _begin(self, acting: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(acting)
        self._acting.add(task)
        task.add_done_callback(self._acted)

    def _acted(self, task: "asyncio.Task[None]") -> None:
        self._acting.discard(task)
        self._arrived.set()  # hibernation may have waited for it

    async def _perform_one(self, job: Job, effect: Effect) -> None:
        """Perform one effect; its result is the next event. A failed effect is repeated by the next alarm."""
        try:
            while _time_s() - self._valid_at > EPOCH_TRUST_S:  # again where the answer took as long
                await self._check_epoch()
        except Fenced:
            return
        try:
            result = await self._perform(job, effect)
            if result is not None:
                with contextlib.suppress(Unavailable):  # this activation has ended: the next one asks again
                    await self.submit(result)
        except Exception:  # noqa: BLE001 - the loop must outlive a broken effect; the alarm asks for it again
            telemetry.fault("job.effect_failed", batch=self.job_id, effect=type(effect).__name__)

    def _may_hibernate(self) -> bool:
        return self._is_idle() and self._linger_left_s() <= 0

    def _linger_left_s(self) -> float:
        return self._busy_at + LINGER_S - _time_s()

    def _is_idle(self) -> bool:
        """Nothing in flight, nothing arriving, nothing being done, nothing due soon (if this process may stay)."""
        state = self._state
        if self._inputs or self._acting or state.in_flight:
            return False
        if self._ends_when_over and state.job.state in TERMINAL_JOBS:
            return True
        alarm_at = state.job.alarm_at
        return alarm_at is None or alarm_at - self._clock.now() > self._hibernate_after_ms

    def _refuse(self, group: Sequence[Input]) -> None:
        for one in group:
            if not one.answer.done():
                one.answer.set_exception(Unavailable(retry_after_s=1))
                one.answer.exception()  # an alarm's future has no reader: do not warn about it


def _time_s() -> float:
    return asyncio.get_running_loop().time()
