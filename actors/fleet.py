"""The fleet: it alone owns machines. The loop that makes, watches and ends them; claims; no ray, no SQL, no HTTP.

A machine's row is written before anything is asked of a batch or of the provider (invariant 3), in this order:
PLANNED, `take` of the batch, SPAWNING with the name, `provider.spawn`, RUNNING. What a dead activation has left is
reconciled at the next start. A machine that ends is destroyed first, then the batches that took work on it are
told, then its row is GONE: so a task is never given out again while its machine may still run, and none is forgotten.

Requests that come over the wire are answered without waiting for a batch (batches wait for the fleet, so the
reverse would lock both), except claims: they wait (MAX_CLAIM_WAIT_MS), and the wire answers a list as
a whole. So whoever passes claims on uses a `wire.Client` of its own for each claim.

That a claim sent again gets the same answer ends with this process, as far as it depends on it: which batch a claim
was passed to is only in memory. After a restart the claim may be passed to another batch; what the first has given
to it is then given up by its deadline.

All times are milliseconds; `now` is the wall clock.
"""

import asyncio
import random
import signal
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Collection, Coroutine
from contextlib import suppress
from typing import Any, Final, Protocol

import msgspec

from actors import telemetry
from actors.errors import ArkeError, Fenced, InvalidInput, Retired, Unavailable
from actors.machines.base import MachineSpec, MachineStatus, Pooling, Provider, ProviderUnavailable, SpawnRefused
from actors.rules import fleet as rules
from actors.rules.fleet import Demand
from actors.rules.model import Job, Machine, Task
from actors.rules.states import TERMINAL_JOBS, MachineState
from worker.contract import MAX_CLAIM_FREE, MAX_CLAIM_WAIT_MS, Claim, Environment

SINGLETON: Final = "fleet"
TICK_MS: Final = 1_000
SWEEP_MS: Final = 10_000
OVERSTAY_MS: Final = 30_000
"""How long a machine may have no work and ask for none: its jobs are over, or it hangs since its task was given up."""
EPOCH_TRUST_MS: Final = 10_000
"""How long after a commit its epoch is believed. A fleet that was suspended for longer asks before it acts."""
HOST_PAUSE_MS: Final = 1_000
PACE_S: Final = 2.0
"""How long a machine may wait for its turn with the provider. Its task is taken before: what would wait for longer is
left to the machines that run."""
COMMIT_PAUSE_MS: Final = 200
CLAIMS_REMEMBERED: Final = 10_000
JOBS_REMEMBERED: Final = 32

CallHost = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
Wait = Callable[[asyncio.Event, int], Awaitable[bool]]


class FleetStore(Protocol):
    """What the fleet uses of `actors.store.Store`."""

    async def activate_singleton(self, name: str) -> int: ...

    async def singleton_epoch(self, name: str, /) -> int: ...

    async def commit_machines(self, name: str, epoch: int, seq: int, machines: list[Machine]) -> None: ...

    async def machines(self, *, alive: bool = True) -> list[Machine]: ...

    async def job(self, id: str, /) -> Job | None: ...

    async def open_jobs(self, ids: list[str], /) -> set[str]: ...

    async def held(self, job: str, machine: str, /) -> list[Task]: ...

    async def busy_machines(self, ids: list[str], /) -> set[str]: ...


class Ending(msgspec.Struct, kw_only=True):
    """A machine that is to be ended: what the jobs in `tell` still have to be told about it."""

    why: str  # refused | unmade | gone | exited
    message: str
    permanent: bool = False
    hopeless: bool = False
    tell: list[str]


async def wait_real(event: asyncio.Event, milliseconds: int) -> bool:
    """Wait for the event at most that long; whether it happened. A simulation hands in its own."""
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), max(0, milliseconds) / 1000)
    return event.is_set()


class Deal(msgspec.Struct, kw_only=True):
    """What each of the claims that waited at a moment may take: dealt once for all, as they may be thousands."""

    of: tuple[Any, ...] = ()  # the moment: what would change the deal
    claims: frozenset[rules.ClaimKey] = frozenset()
    shares: dict[rules.ClaimKey, int] = {}


class Fleet:
    """One activation of the fleet. `start`, then `handle`; when `stopped` is set its process must end."""

    def __init__(
        self,
        store: FleetStore,
        provider: Provider,
        *,
        call_host: CallHost,
        base_env: Callable[[str], Environment],
        now: Callable[[], int],
        max_machines: int,
        concurrency: int = 1,
        wait: Wait = wait_real,
        rng: random.Random | None = None,
        sweep_ms: int = SWEEP_MS,
        tick_ms: int = TICK_MS,
    ):
        """`base_env(machine id)` is the environment of every task on it; `concurrency` tasks run at once on one."""
        self._store = store
        self._provider = provider
        self._call_host = call_host
        self._base_env = base_env
        self._now = now
        self._wait = wait
        self._random = rng or random.Random()
        self._most = max_machines if provider.capacity is None else min(max_machines, provider.capacity)
        self._concurrency = concurrency
        self._sweep_ms, self._tick_ms = sweep_ms, tick_ms
        self._epoch = 0
        self._seq = 0
        self._valid_at = 0.0
        self._numbers = 0
        self._committing = asyncio.Lock()
        self._rows: dict[str, Machine] = {}
        self._jobs_of: dict[str, list[str]] = {}
        self._demands: dict[str, Demand] = {}
        self._creating: dict[str, str] = {}  # machine -> job
        self._unasked: set[str] = set()  # of these: the provider has not been asked yet
        self._unwanted: set[str] = set()
        self._endings: dict[str, Ending] = {}
        self._burying: set[str] = set()
        self._refusals: dict[str, tuple[int, int]] = {}  # kind -> (in a row, not before)
        self._last_job: str | None = None
        self._claims: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._polls: dict[tuple[str, str], asyncio.Task[list[Environment]]] = {}
        self._waiting: dict[rules.ClaimKey, rules.Waiting] = {}  # the claims that wait, longest first
        self._dealt = Deal()
        self._orphans: dict[str, int] = {}
        self._overstays: dict[str, int] = {}
        self._swept_at = 0
        self._ticking = False
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.stopped = asyncio.Event()

    # ---- life

    async def start(self) -> None:
        """Become the one fleet (invariant 2), take over what the former one left, begin to work."""
        asked_at = _time_s()
        self._epoch = await self._store.activate_singleton(SINGLETON)
        self._valid_at = asked_at
        for row in await self._store.machines(alive=True):
            self._rows[row.id] = row
            self._jobs_of[row.id] = [row.job_id] if row.job_id else []
        for row in list(self._rows.values()):
            self._background(self._take_over(row))
        self._background(self._loop())

    async def close(self) -> None:
        """Stop without touching a machine: the next activation goes on."""
        self.stopped.set()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _take_over(self, row: Machine) -> None:
        what = rules.after_restart(row)
        if what == "give_back":
            await self._end(row.id, "unmade", "The fleet started again before the machine was made.")
        elif what == "destroy":
            await self._end(row.id, "gone", row.reason or "The machine was destroyed.")
        elif what == "inspect":
            self._creating[row.id] = row.job_id or ""
            try:
                await self._found_or_lost(row, "unmade", "The fleet started again while the machine was being made.")
            finally:
                self._creating.pop(row.id, None)

    async def _loop(self) -> None:
        next_tick = 0
        while not self.stopped.is_set():
            changed = self._changed
            if self._now() >= next_tick:
                self._background(self._tick())
                next_tick = self._now() + self._tick_ms
            self._fill()
            await self._wait(changed, next_tick - self._now())

    def _notify(self) -> None:
        """Something changed: the loop and waiting claims look again."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Fenced:
            telemetry.warning("fleet.fenced")
            self._stop_soon()
        except Exception:  # noqa: BLE001 - logged; Ray starts the fleet again
            telemetry.fault("fleet.step_failed")
            self._stop_soon()

    def _stop_soon(self) -> None:
        """An activation that is fenced or broken performs nothing more; its process ends and the next reconciles."""
        self.stopped.set()
        self._notify()

    # ---- requests

    async def handle(self, requests: list[Any]) -> list[Any]:
        """The handler for `actors.wire.serve`: one value or exception per request, in order."""
        return await asyncio.gather(*(self._one(request) for request in requests), return_exceptions=True)

    async def _one(self, request: dict[str, Any]) -> Any:
        if self.stopped.is_set():
            raise _restarting()
        try:
            return await self._answer(request)
        except Fenced:
            self._stop_soon()
            raise _restarting() from None
        except asyncio.CancelledError:
            if self.stopped.is_set():
                raise _restarting() from None
            raise
        except ProviderUnavailable:
            raise Unavailable("The provider of machines does not answer.", retry_after_s=5) from None

    async def _answer(self, request: dict[str, Any]) -> Any:
        match request.get("op"):
            case "demand":
                return self._demand(request["job"], request["kind"], int(request["want"]), int(request["active"]))
            case "claim":
                return await self._claim(msgspec.convert(request["claim"], Claim), internal=bool(request["internal"]))
            case "destroy":
                return await self._destroy(
                    request["machine"], request["job"], request["task_id"], int(request["attempt"])
                )
            case "release_job":
                return await self._release_job(request["job"])
            case "list":
                return [msgspec.to_builtins(row) for row in self._rows.values()]
            case "sweep":
                return {"destroyed": await self._sweep(await self._provider.list())}
            case other:
                raise InvalidInput(f"The fleet knows no operation {other!r}.", field="op")

    def _demand(self, job: str, kind: str, want: int, active: int) -> dict[str, Any]:
        """Replaces what this job wanted. The answer's `lease`: how many tasks it may hold at once while others wait."""
        former = self._demands.get(job)
        if want <= 0:
            self._demands.pop(job, None)
            return {"lease": None}
        self._demands[job] = Demand(
            job=job, kind=kind, want=want, active=max(0, active),
            taking=former.taking if former else 0,
            not_before=former.not_before if former else 0,
            version=former.version + 1 if former else 0,
        )  # fmt: skip
        self._notify()
        slots = self._most * self._concurrency
        small = want + active <= max(1, slots // len(self._demands))
        if small or not any(d.want > 0 for d in self._demands.values() if d.job != job):
            return {"lease": None}
        return {"lease": rules.leases(self._demands, slots)[job]}

    async def _destroy(self, machine: str, job: str, task_id: str, attempt: int) -> dict[str, Any]:
        """Conditional: only while the machine may still run this attempt. Done in the background, once committed.

        What it was given since is asked of the store, since `next` tasks do not come from here. A task that it
        takes in this very moment goes back (`_take_for`).
        """
        held = await self._store.held(job, machine)
        moved_on = rules.has_moved_on(held, task_id, attempt, concurrency=self._concurrency)
        row = self._rows.get(machine)
        if row is not None and row.job_id == job and not moved_on:
            await self._destroy_row(row, "destroyed: its task was overdue")
        return {}

    async def _release_job(self, job: str) -> dict[str, Any]:
        """The job is over: its wishes are forgotten and its machines destroyed. Asked too late, when a new run of it
        has begun, this ends nothing: what works for that run is not what was meant.
        """
        known = await self._store.job(job)
        if known is None or known.state in TERMINAL_JOBS:
            self._demands.pop(job, None)
            for row in [row for row in self._rows.values() if row.job_id == job]:
                await self._destroy_row(row, "destroyed: its batch was ended")
        return {}

    async def _destroy_row(self, row: Machine, reason: str) -> None:
        """End a machine. All jobs that took work on it are told, but for those that are over by then."""
        if row.id in self._endings:
            return
        if row.state is MachineState.PLANNED:
            self._unwanted.add(row.id)
        elif await self._move(row.id, MachineState.DESTROYING, reason=reason) is not None:
            jobs = self._jobs_of.get(row.id, [])  # as of now: it may have taken work until the commit
            self._endings[row.id] = Ending(why="gone", message=reason, tell=list(jobs))
            self._notify()
            if row.id not in self._creating:
                self._background(self._bury(row.id))

    # ---- claims

    async def _claim(self, claim: Claim, *, internal: bool) -> dict[str, Any]:
        """Long poll. The same claim sent twice at once is one poll; sent again later, the same job is asked first."""
        if not internal and claim.machine in self._rows:
            raise InvalidInput("This name belongs to a machine of the service. Choose another.", field="machine")
        key = (claim.machine, claim.claim)
        poll = self._polls.get(key)
        if poll is None:
            poll = asyncio.create_task(self._poll(claim, internal))
            self._polls[key] = poll
            poll.add_done_callback(lambda _: self._polls.pop(key, None))
            self._tasks.add(poll)
            poll.add_done_callback(self._tasks.discard)
        return {"tasks": await asyncio.shield(poll)}

    async def _poll(self, claim: Claim, internal: bool) -> list[Environment]:
        until = self._now() + min(max(0, claim.wait_ms), MAX_CLAIM_WAIT_MS)
        free = min(max(1, claim.free), MAX_CLAIM_FREE)
        self._overstays.pop(claim.machine, None)
        former = self._claims.get((claim.machine, claim.claim))
        if former is not None:
            self._check(claim.machine, internal)
            tasks = await self._take_for(claim, former, free, internal)
            if tasks:
                return tasks
        key = (claim.machine, claim.claim)
        try:
            while True:
                changed = self._changed
                self._check(claim.machine, internal)
                self._waiting.setdefault(key, rules.Waiting(claim.machine, claim.kinds, free))
                if share := self._share(key):
                    del self._waiting[key]
                    if tasks := await self._take_any(claim, share, internal):
                        return tasks
                    self._waiting[key] = rules.Waiting(claim.machine, claim.kinds, free)
                left = until - self._now()
                if left <= 0:
                    return []
                await self._wait(changed, min(left, self._pause(left)))
        finally:
            self._waiting.pop(key, None)
            if self._waiting and self._unmet(claim.kinds):
                self._notify()  # what this claim leaves is for the next

    def _check(self, machine: str, internal: bool) -> None:
        """Invariant 2 for machines: one that the fleet has given up gets no work, even if it still runs."""
        if self.stopped.is_set():
            raise _restarting()
        if internal and not self._counts_on(machine):
            raise Retired

    def _counts_on(self, machine: str) -> bool:
        row = self._rows.get(machine)
        alive = row is not None and row.state in (MachineState.SPAWNING, MachineState.RUNNING)
        return alive and machine not in self._endings

    def _share(self, key: rules.ClaimKey) -> int:
        """How many tasks this waiting claim may ask for now, others that wait for the same considered."""
        kinds = self._waiting[key].kinds
        unmet = self._unmet(kinds)
        if not unmet:
            return 0
        moment = (self._changed, kinds, len(unmet))
        if self._dealt.of != moment or key not in self._dealt.claims:
            rivals = {k: claim for k, claim in self._waiting.items() if not set(kinds).isdisjoint(claim.kinds)}
            self._dealt = Deal(of=moment, claims=frozenset(rivals), shares=rules.deal(rivals, sum(unmet)))
        return self._dealt.shares.pop(key, 0)

    def _unmet(self, kinds: Collection[str]) -> list[int]:
        """How many tasks of each job can be asked for now and are not yet; without jobs that have none."""
        now = self._now()
        return [d.unmet for d in self._demands.values() if d.unmet and d.not_before <= now and d.kind in kinds]

    def _pause(self, most: int) -> int:
        """How long nothing can change by itself: until a host that did not answer is asked again."""
        now = self._now()
        return min((d.not_before - now for d in self._demands.values() if d.unmet and d.not_before > now), default=most)

    async def _take_any(self, claim: Claim, free: int, internal: bool) -> list[Environment]:
        asked: set[str] = set()
        while True:
            order = rules.in_turn(self._demands, kinds=claim.kinds, after=self._last_job, now=self._now())
            job = next((job for job in order if job not in asked), None)
            if job is None:
                return []
            asked.add(job)
            self._last_job = job
            tasks = await self._take_for(claim, job, free, internal)
            if tasks:
                return tasks

    async def _take_for(self, claim: Claim, job: str, free: int, internal: bool) -> list[Environment]:
        self._remember(claim, job)
        demand = self._demands.get(job)
        kind = demand.kind if demand else claim.kinds[0]
        tasks = await self._take(job, claim.machine, claim.claim, free, kind)
        if tasks:
            await self._worked_for(claim.machine, job, tasks[0])
        if tasks and internal and not self._counts_on(claim.machine):
            self._background(self._give_back(job, tasks))
            raise Retired
        return [task["env"] for task in tasks or ()]

    async def _give_back(self, job: str, tasks: list[dict[str, Any]]) -> None:
        """Release assignments that no worker has heard of: who is told of the end of their machine was settled before.

        A batch that stays silent for longer than its front is patient with it has their deadlines.
        """
        for task in tasks:
            body = {"task_id": task["task_id"], "status": "released"}
            report = {"op": "callback", "job": job, "run": task["run"], "attempt": task["attempt"], "body": body}
            try:
                await self._call_host(job, report)
            except (ArkeError, OSError) as failure:
                telemetry.warning("fleet.not_given_back", task=task["task_id"], why=failure)

    def _remember(self, claim: Claim, job: str) -> None:
        """Before the job is asked: its answer may get lost. The job itself knows what it gave to this claim."""
        key = (claim.machine, claim.claim)
        self._claims[key] = job
        self._claims.move_to_end(key)
        while len(self._claims) > CLAIMS_REMEMBERED:
            self._claims.popitem(last=False)

    async def _worked_for(self, machine: str, job: str, task: dict[str, Any]) -> None:
        """Write down the job that a machine works for, before the worker is told: it is whom we tell of its end."""
        row = self._rows.get(machine)
        if row is None:
            return
        known = self._jobs_of.setdefault(machine, [])
        if job in known:
            known.remove(job)
        self._jobs_of[machine] = [*known[1 - JOBS_REMEMBERED :], job]
        if row.job_id != job:
            await self._change(machine, job_id=job, task_id=task["task_id"], attempt=task["attempt"])

    async def _take(self, job: str, machine: str, claim: str, free: int, kind: str) -> list[dict[str, Any]] | None:
        """Ask a job for work. Empty: it has none now, or is over. None: no answer, it may have assigned some."""
        demand = self._demands.get(job)
        version = demand.version if demand else None
        reserved = min(free, max(1, demand.unmet)) if demand else 0
        self._adjust(job, taking=reserved)
        request = {"op": "take", "job": job, "machine": machine, "claim": claim, "free": free, "kind": kind}
        taken = 0
        try:
            answer = await self._call_host(job, request)
            tasks: list[dict[str, Any]] = answer["tasks"]
            taken = len(tasks)
            left = answer.get("want", None if tasks else 0)
            if left is not None and version is not None:
                self._adjust(job, left=(version, left + taken))
            return tasks
        except (Unavailable, OSError) as failure:
            telemetry.event("fleet.batch_did_not_answer", batch=job, why=failure)
            self._adjust(job, not_before=self._now() + HOST_PAUSE_MS)
            return None
        except ArkeError as refusal:
            telemetry.event("fleet.batch_gives_no_work", batch=job, why=refusal.code)
            self._demands.pop(job, None)
            return []
        finally:
            self._adjust(job, taking=-reserved, taken=taken)

    def _adjust(
        self, job: str, *, taking: int = 0, taken: int = 0, left: tuple[int, int] | None = None,
        not_before: int | None = None,
    ) -> None:  # fmt: skip
        """Change a wish that may have been replaced or forgotten meanwhile. `left` is a wish as of a version."""
        demand = self._demands.get(job)
        if demand is None:
            return
        want = left[1] if left is not None and left[0] == demand.version else demand.want
        self._demands[job] = msgspec.structs.replace(
            demand,
            want=max(0, want - taken),
            active=demand.active + taken,
            taking=max(0, demand.taking + taking),
            not_before=demand.not_before if not_before is None else not_before,
        )

    # ---- making machines

    def _fill(self) -> None:
        """Begin the machines that are due. Each is made in its own task, so that a slow one delays no other."""
        now = self._now()
        alive = len((self._rows.keys() | self._creating.keys()) - self._endings.keys())
        places = rules.to_spawn(
            self._demands, alive=alive, most=self._most, waiting=self._places(),
            closed=[kind for kind, (_, until) in self._refusals.items() if until > now],
            after=self._last_job, now=now,
        )  # fmt: skip
        for place in places[: self._granted()]:
            self._numbers += 1
            machine = f"m-{self._epoch}-{self._numbers}"
            self._creating[machine] = place.job
            self._unasked.add(machine)
            self._last_job = place.job
            self._adjust(place.job, taking=1)
            self._background(self._create(machine, place))

    def _granted(self) -> int | None:
        """How many machines the provider would make soon; None: it has no such limit."""
        if not isinstance(self._provider, Pooling):
            return None
        return max(0, self._provider.grants(PACE_S) - len(self._unasked))

    def _places(self) -> Counter[str]:
        """How many tasks the claims that wait could take, by kind."""
        places: Counter[str] = Counter()
        for claim in self._waiting.values():
            places.update(dict.fromkeys(claim.kinds, claim.free))
        return places

    async def _create(self, machine: str, place: rules.Place) -> None:
        reserved = 1  # by _fill, until the take reserves for itself
        try:
            row = Machine(
                id=machine, provider=self._provider.name, kind=place.kind, job_id=place.job, created_at=self._now()
            )
            await self._commit(row)
            self._jobs_of[machine] = [place.job]
            self._adjust(place.job, taking=-1)
            reserved = 0
            tasks = await self._take(place.job, machine, f"spawn:{machine}", 1, place.kind)
            if tasks is None:
                await self._end(machine, "unmade", "The batch did not answer.", bury=False)
            elif not tasks:
                await self._move(machine, MachineState.GONE, ended_at=self._now(), reason="no task")
            elif machine in self._unwanted:
                await self._end(machine, "unmade", "The batch was ended.", bury=False)
            else:
                await self._spawn(machine, tasks[0])
        finally:
            self._adjust(place.job, taking=-reserved)
            self._creating.pop(machine, None)
            self._unasked.discard(machine)
            self._unwanted.discard(machine)
        if machine in self._endings:
            await self._bury(machine)
        self._notify()

    async def _spawn(self, machine: str, task: dict[str, Any]) -> None:
        row = await self._move(
            machine, MachineState.SPAWNING, name=task["name"], task_id=task["task_id"], attempt=task["attempt"]
        )
        if row is None or self.stopped.is_set():
            return
        env = {**self._base_env(machine), **task["env"]}
        await self._check_epoch()
        self._unasked.discard(machine)
        try:
            provider_id = await self._provider.spawn(MachineSpec(name=task["name"], kind=row.kind, env=env))
        except SpawnRefused as refusal:
            self._refused(row.kind)
            await self._end(
                machine, "refused", refusal.message, permanent=refusal.permanent, hopeless=refusal.hopeless, bury=False
            )
        except (ProviderUnavailable, OSError) as failure:
            telemetry.warning("fleet.spawn_not_answered", machine=task["name"], why=failure)
            await self._found_or_lost(row, "refused", "The provider did not answer.")
        else:
            await self._runs(row, provider_id)

    async def _runs(self, row: Machine, provider_id: str) -> None:
        self._refusals.pop(row.kind, None)
        now = self._now()
        moved = await self._move(row.id, MachineState.RUNNING, provider_id=provider_id, started_at=now, seen_at=now)
        if moved is None and row.id in self._rows:  # cancelled before the answer came: the ending needs the id
            await self._change(row.id, provider_id=provider_id)

    async def _found_or_lost(self, row: Machine, why: str, message: str) -> None:
        """A spawn whose answer is not known (invariant 3): adopted when the provider has it, else told as `why`."""
        while not self.stopped.is_set() and row.id not in self._endings:
            try:
                status = await self._provider.inspect(row.name or row.id)
            except (ProviderUnavailable, OSError) as failure:
                telemetry.warning("fleet.not_inspected", machine=row.name, why=failure)
                await self._wait(asyncio.Event(), self._tick_ms)
                continue
            if status.state == "gone":
                if why == "refused":
                    self._refused(row.kind)
                await self._end(row.id, why, message, bury=row.id not in self._creating)
            else:
                await self._runs(row, status.provider_id)
            break
        if row.id in self._endings:
            await self._bury(row.id)

    def _refused(self, kind: str) -> None:
        count = self._refusals.get(kind, (0, 0))[0] + 1
        self._refusals[kind] = (count, self._now() + rules.backoff_ms(count, self._random.random()))

    # ---- watching and ending machines

    async def _tick(self) -> None:
        """Compare what the provider has with the rows; go on with what could not be finished."""
        if self._ticking:
            return  # the provider is slow
        self._ticking = True
        try:
            await self._look_after(self._now())
        finally:
            self._ticking = False

    async def _look_after(self, now: int) -> None:
        if any(d.unmet for d in self._demands.values()):
            self._notify()  # back-offs may be over
        for machine in [m for m in self._endings if m not in self._creating]:
            self._background(self._bury(machine))
        try:
            await self._forget_wishes_of_jobs_that_are_over()
            await self._part_from_idle_machines(now)
        except (Unavailable, OSError) as failure:
            telemetry.event("fleet.work_not_known", why=failure)
        watched = [row for row in self._rows.values() if row.state is MachineState.RUNNING]
        sweep = now - self._swept_at >= self._sweep_ms or bool(self._orphans)
        if not watched and not sweep:
            return
        try:
            statuses = await self._provider.list()
            await self._compare([row for row in watched if row.id not in self._endings], statuses)
            if sweep:
                await self._sweep(statuses)
        except (ProviderUnavailable, OSError) as failure:
            telemetry.warning("fleet.provider_away", why=failure)

    async def _forget_wishes_of_jobs_that_are_over(self) -> None:
        """What the end of a job asked of the fleet may have been lost."""
        versions = {job: demand.version for job, demand in self._demands.items()}
        if not versions:
            return
        over = versions.keys() - await self._store.open_jobs(sorted(versions))
        for job in sorted(over & self._demands.keys()):
            if self._demands[job].version == versions[job]:
                del self._demands[job]

    async def _part_from_idle_machines(self, now: int) -> None:
        """Invariants 3 and 5: what a job asked of the fleet, to release its machines or to destroy one that was
        overdue, may have been lost. A machine without work that asks for none ends all the same.
        """
        jobs = {job for known in self._at_work().values() for job in known}
        busy = await self._store.busy_machines(sorted(jobs)) if jobs else set()
        self._overstays, due = rules.overstaying(
            self._at_work(), busy, self._overstays, now=now, patience_ms=OVERSTAY_MS
        )
        for machine in due:
            row = self._rows.get(machine)
            if row is not None and machine in self._overstays:  # else it has asked for work while another was ended
                await self._destroy_row(row, "destroyed: it had no work and asked for none")

    def _at_work(self) -> dict[str, list[str]]:
        """The jobs that each machine may work for; without the machines that ask for work at this moment."""
        asking = {machine for machine, _ in self._polls}
        return {machine: self._jobs_of.get(machine, []) for machine in self._rows if machine not in asking}

    async def _compare(self, watched: list[Machine], statuses: list[MachineStatus]) -> None:
        by_id = {status.provider_id: status for status in statuses}
        for row in watched:
            status = by_id.get(row.provider_id or "")
            if status is None:
                status = await self._provider.inspect(row.provider_id or row.name or row.id)
            if status.state != "running":
                await self._end(row.id, *_why(status))

    async def _sweep(self, statuses: list[MachineStatus]) -> int:
        """Destroy what nobody knows, once it was seen for `sweep_ms`: rows of other machines may be under way."""
        self._swept_at = self._now()
        found = [rules.Found(status.provider_id, status.name) for status in statuses]
        self._orphans, over = rules.orphans(
            self._rows.values(), found, self._orphans, now=self._swept_at, patience_ms=self._sweep_ms
        )
        for provider_id in over:
            telemetry.warning("fleet.orphan_destroyed", machine=provider_id)
            await self._check_epoch()
            await self._provider.destroy(provider_id)
            self._orphans.pop(provider_id, None)
        return len(over)

    async def _end(
        self, machine: str, why: str, message: str, *, permanent: bool = False, hopeless: bool = False,
        bury: bool = True,
    ) -> None:  # fmt: skip
        """Begin the end of a machine. The jobs that took work on it are told, however long it takes."""
        if machine in self._rows and machine not in self._endings:
            jobs = list(self._jobs_of.get(machine, []))
            self._endings[machine] = Ending(why=why, message=message, permanent=permanent, hopeless=hopeless, tell=jobs)
            self._notify()
        if bury:
            self._background(self._bury(machine))

    async def _bury(self, machine: str) -> None:
        """Destroy, tell, forget. What fails is done again with the next tick; every step may be repeated."""
        row = self._rows.get(machine)
        ending = self._endings.get(machine)
        if row is None or ending is None or machine in self._burying or self.stopped.is_set():
            return
        self._burying.add(machine)
        try:
            if row.state is not MachineState.PLANNED:
                await self._check_epoch()
                await self._provider.destroy(row.provider_id or row.name or machine)
            for job in list(ending.tell):
                await self._tell(job, row, ending)
                ending.tell.remove(job)
            await self._move(machine, MachineState.GONE, ended_at=self._now(), reason=row.reason or ending.message)
            self._endings.pop(machine, None)
            self._notify()
        except (ProviderUnavailable, Unavailable, OSError) as failure:
            telemetry.event("fleet.end_waits", machine=machine, why=failure)
        finally:
            self._burying.discard(machine)

    async def _check_epoch(self) -> None:
        """Invariant 2, before a machine is made or ended: what is nobody's to a fleet that was overtaken is a machine
        of its heir. Raises Fenced.
        """
        while (asked_at := _time_s()) - self._valid_at > EPOCH_TRUST_MS / 1000:  # again where the answer took as long
            try:
                newest = await self._store.singleton_epoch(SINGLETON)
            except (Unavailable, OSError) as failure:
                if self.stopped.is_set():
                    raise Fenced from failure
                telemetry.warning("fleet.store_away", why=failure)
                await self._wait(asyncio.Event(), COMMIT_PAUSE_MS)
                continue
            if newest != self._epoch:
                raise Fenced
            self._valid_at = asked_at

    async def _tell(self, job: str, row: Machine, ending: Ending) -> None:
        """All open assignments of this job on the machine are lost. A finished job is not woken for that."""
        known = await self._store.job(job)
        if known is None or known.state in TERMINAL_JOBS:
            return
        try:
            await self._call_host(job, {
                "op": "lost", "job": job, "machine": row.id, "task_id": None, "attempt": row.attempt,
                "why": ending.why, "message": ending.message, "permanent": ending.permanent,
                "hopeless": ending.hopeless,
            })  # fmt: skip
        except Unavailable:
            raise
        except ArkeError as answer:
            telemetry.event("fleet.batch_need_not_know", batch=job, machine=row.id, why=answer.code)

    # ---- rows

    async def _move(self, machine: str, to: MachineState, **changes: Any) -> Machine | None:
        """Commit the move; None when the row has moved on meanwhile and the table does not permit it any more."""
        async with self._committing:
            row = self._rows.get(machine)
            if row is None or not rules.may_move(row, to):
                return None
            return await self._commit_locked(msgspec.structs.replace(row, state=to, **changes))

    async def _change(self, machine: str, **changes: Any) -> None:
        """Commit other fields of a row that still exists."""
        async with self._committing:
            row = self._rows.get(machine)
            if row is not None:
                await self._commit_locked(msgspec.structs.replace(row, **changes))

    async def _commit(self, row: Machine) -> None:
        async with self._committing:
            await self._commit_locked(row)

    async def _commit_locked(self, row: Machine) -> Machine:
        """Memory changes only after the commit. A lost answer is no reason to do it twice: the number is the same."""
        seq, asked_at = self._seq + 1, _time_s()
        while True:
            try:
                await self._store.commit_machines(SINGLETON, self._epoch, seq, [row])
                break
            except (Unavailable, OSError) as failure:
                if self.stopped.is_set():
                    raise Fenced from failure
                telemetry.warning("fleet.store_away", why=failure)
                await self._wait(asyncio.Event(), COMMIT_PAUSE_MS)
        self._seq = seq
        self._valid_at = asked_at  # the answer may have been on its way for long
        if row.state is MachineState.GONE:
            self._rows.pop(row.id, None)
            self._jobs_of.pop(row.id, None)
        else:
            self._rows[row.id] = row
        return row


def _time_s() -> float:
    return asyncio.get_running_loop().time()


def _restarting() -> Unavailable:
    return Unavailable("The fleet is starting again. Send the same request again.", retry_after_s=1)


def _why(status: MachineStatus) -> tuple[str, str]:
    """The `why` and the message of a lost machine."""
    if status.code == -signal.SIGKILL:  # who sent it is not known
        return "exited", "The machine was killed by SIGKILL, as the kernel does when memory runs out."
    if status.state == "exited":
        code = "" if status.code is None else f" with code {status.code}"
        return "exited", f"The machine exited{code}."
    return "gone", "The machine has vanished."
