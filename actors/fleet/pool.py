"""Machines made ahead of their work: prepared within what the provider grants, started when there is work, and stopped
again when there is none. A machine of the pool is of no task: it asks for its work as all do (`Claims`)."""

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec

from actors import telemetry
from actors.fleet.activity import Activity, Again
from actors.fleet.claims import Claims
from actors.fleet.endings import Endings
from actors.fleet.pace import Pace
from actors.fleet.refusals import Refusals
from actors.fleet.rows import Rows
from actors.machines.base import MachineSpec, Pooling, ProviderUnavailable, SpawnRefused
from actors.rules import pool as rules
from actors.rules.fleet import Place
from actors.rules.model import Machine
from actors.rules.pool import Wanted
from actors.rules.states import MachineState
from worker.contract import Environment

FULL_MS: Final = 30_000
"""How long a machine is not started again for which there was no place: a stopped one cannot go to another region."""
START_TRIES: Final = 5
"""After so many refusals in a row a machine is made anew: perhaps elsewhere."""
EDITION_CHARS: Final = 12
SHOWN: Final = ("ready", "preparing", "working", "outdated")
ITS_OWN: Final = frozenset({"MACHINE_NAME", "MACHINE_TOKEN"})
"""What differs from machine to machine."""


class Pool:
    """The pools of all kinds."""

    def __init__(
        self, provider: Pooling, base_env: Callable[[str, str], Environment],
        price_of: Callable[[str, int | None], int | None], sizes: Mapping[str, int], claims: Claims, rows: Rows,
        endings: Endings, refusals: Refusals, pace: Pace, activity: Activity,
    ) -> None:  # fmt: skip
        """`sizes`: how many machines of each kind."""
        self._provider, self._base_env, self._price_of = provider, base_env, price_of
        self._claims, self._rows, self._endings, self._activity = claims, rows, endings, activity
        self._refusals, self._pace = refusals, pace
        self._begun: dict[str, str] = {}  # to be prepared, and not written yet: its kind
        self._start_refused: Counter[str] = Counter()  # how often in a row
        self._resting: dict[str, int] = {}  # until when a machine is not started
        self.wanted = {kind: Wanted(size, self._edition(kind)) for kind, size in sizes.items() if size > 0}
        """As the pools shall be."""
        endings.comes_back = self.comes_back

    # ---- what there is

    def _edition(self, kind: str) -> str:
        """Of what is made now: another image, size or environment is another edition."""
        env = {name: value for name, value in self._base_env("", kind).items() if name not in ITS_OWN}
        told = msgspec.json.encode([self._provider.edition(kind), sorted(env.items())])
        return hashlib.sha256(told).hexdigest()[:EDITION_CHARS]

    def comes_back(self, row: Machine) -> bool:
        """Whether the pool takes it when it has ended as it should."""
        return rules.is_current(row, self.wanted)

    def shown(self) -> dict[str, dict[str, int]]:
        """By kind: how many there shall be, and how many there are, by what they do."""
        every = {kind: {"size": pool.size, **dict.fromkeys(SHOWN, 0)} for kind, pool in self.wanted.items()}
        for row in self._rows.by_id.values():
            if row.pool is not None:
                of = every.setdefault(row.kind, {"size": 0, **dict.fromkeys(SHOWN, 0)})
                of[_doing(row) if self.comes_back(row) else "outdated"] += 1
        return every

    # ---- filling it

    def refill(self) -> None:
        """Begin to prepare those that are missing, as far as the provider has turns for them."""
        kinds = {kind for kind in self.wanted if not self._refusals.closes(kind) and self._pace.permits(kind)}
        if not kinds:
            return
        missing = rules.missing(self._rows.by_id.values(), self.wanted, self._endings.lost)
        missing -= Counter(self._begun.values())
        for kind in sorted(kinds & missing.keys()):
            while missing[kind] > 0 and self._pace.permits(kind):
                missing[kind] -= 1
                machine = self._rows.new_id()
                self._begun[machine] = kind
                self._pace.begin(machine, kind)
                self._activity.background(self._prepare(machine, kind, self.wanted[kind].edition))

    async def _prepare(self, machine: str, kind: str, edition: str) -> None:
        row = Machine(
            id=machine, provider=self._provider.name, kind=kind, state=MachineState.PREPARING, pool=edition,
            name=f"pool-{edition}-{machine}", created_at=self._activity.now(), price=self._price_of(kind, None),
        )  # fmt: skip
        self._rows.under_way[machine] = ""
        try:
            await self._rows.add(row)
            self._begun.pop(machine, None)
            env = {**self._base_env(machine, kind), "WORKER_KINDS": kind}
            await self._rows.check_epoch()
            self._pace.asked(machine)
            provider_id = await self._provider.prepare(MachineSpec(name=row.name or machine, kind=kind, env=env))
        except SpawnRefused as refusal:
            self._refusals.note(kind)
            telemetry.warning("fleet.pool_not_filled", kind=kind, why=refusal.message)
            self._endings.end(machine, "refused", refusal.message, bury=False)
        except (ProviderUnavailable, OSError) as failure:
            telemetry.warning("fleet.spawn_not_answered", machine=row.name, why=failure)
            await self._find(row)
        else:
            self._refusals.forget(kind)
            await self._is_ready(row, provider_id)
        finally:
            self._begun.pop(machine, None)
            self._pace.asked(machine)
            self._rows.under_way.pop(machine, None)
        if machine in self._endings.of:
            await self._endings.bury(machine)

    async def _is_ready(self, row: Machine, provider_id: str) -> None:
        await self._rows.move(row.id, MachineState.READY, provider_id=provider_id, seen_at=self._activity.now())
        self._activity.notify()

    async def _find(self, row: Machine) -> None:
        """One that may have been made (invariant 3)."""
        again = Again(self._activity, "fleet.not_inspected", machine=row.name)
        while not self._activity.stopped.is_set():
            try:
                status = await self._provider.inspect(row.name or row.id)
            except (ProviderUnavailable, OSError) as failure:
                await again.later(failure)
                continue
            if status.state == "gone":
                self._refusals.note(row.kind)
                self._endings.end(row.id, "refused", "The provider did not answer.", bury=False)
            else:
                await self._is_ready(row, status.provider_id)
            return

    def trim(self) -> None:
        """Part from what waits in vain: it would never be started."""
        for row in rules.superfluous(self._rows.by_id.values(), self.wanted, self._endings.lost):
            self._activity.background(self._endings.destroy(row, "destroyed: the pool needs it no more"))

    # ---- using it

    def ready(self) -> dict[str, deque[Machine]]:
        """The machines that can be started, by kind, in the order in which they are."""
        now = self._activity.now()
        self._resting = {machine: until for machine, until in self._resting.items() if until > now}
        without = self._resting.keys() | self._rows.under_way.keys() | self._endings.of.keys()
        return rules.ready(self._rows.by_id.values(), self.wanted, without)

    def start(self, places: Iterable[Place], ready: Mapping[str, deque[Machine]]) -> None:
        """Begin to start a machine for each place, as long as there are any."""
        for place in places:
            if ready[place.kind]:
                row = ready[place.kind].popleft()
                self._rows.under_way[row.id] = place.job
                self._claims.expect(row.id, row.kind)
                self._activity.background(self._start(row, place.job))

    async def _start(self, row: Machine, job: str) -> None:
        try:
            moved = await self._rows.move(
                row.id, MachineState.STARTING, job_id=job, task_id=None, attempt=0, reason=None, started_at=None
            )
            if moved is not None:
                self._rows.jobs_of[row.id] = [job]
                await self._start_until_answered(moved)
        finally:
            self._rows.under_way.pop(row.id, None)
        if row.id in self._endings.of:
            await self._endings.bury(row.id)
        self._activity.notify()

    async def take_over(self, row: Machine) -> None:
        """A former fleet may have asked for it, and has not written the answer."""
        if row.state is MachineState.PREPARING:
            await self._find_again(row)
        elif row.state is MachineState.STARTING:
            await self._start_again(row)

    async def _find_again(self, row: Machine) -> None:
        self._rows.under_way[row.id] = ""
        try:
            await self._find(row)
        finally:
            self._rows.under_way.pop(row.id, None)
        if row.id in self._endings.of:
            await self._endings.bury(row.id)

    async def _start_again(self, row: Machine) -> None:
        """One that runs is let be by that."""
        self._rows.under_way[row.id] = row.job_id or ""
        self._claims.expect(row.id, row.kind)
        try:
            await self._start_until_answered(row)
        finally:
            self._rows.under_way.pop(row.id, None)
        if row.id in self._endings.of:
            await self._endings.bury(row.id)

    async def _start_until_answered(self, row: Machine) -> None:
        again = Again(self._activity, "fleet.start_not_answered", machine=row.name)
        while not self._activity.stopped.is_set() and row.id not in self._endings.of:
            try:
                await self._rows.check_epoch()
                status = await self._provider.start(row.provider_id or row.name or row.id)
            except SpawnRefused as refusal:
                await self._rest(row, refusal)
            except (ProviderUnavailable, OSError) as failure:
                await again.later(failure)
                continue
            else:
                await self._started(row, is_there=status.state != "gone")
            return

    async def _rest(self, row: Machine, refusal: SpawnRefused) -> None:
        """There is no place for it now. One that is never started again gives its place to another."""
        telemetry.warning("fleet.not_started", machine=row.name, why=refusal.message)
        self._claims.expect_no_more(row.id)
        self._start_refused[row.id] += 1
        if not refusal.hopeless and (refusal.permanent or self._start_refused[row.id] >= START_TRIES):
            del self._start_refused[row.id]
            await self._endings.destroy(row, "destroyed: it could not be started")
        else:
            self._resting[row.id] = self._activity.now() + FULL_MS
            if await self._rows.move(row.id, MachineState.READY, job_id=None) is not None:
                self._rows.jobs_of[row.id] = []

    async def _started(self, row: Machine, *, is_there: bool) -> None:
        self._start_refused.pop(row.id, None)
        if not is_there:
            self._claims.expect_no_more(row.id)
            self._endings.end(row.id, "gone", "The machine has vanished.", bury=False)
            return
        now = self._activity.now()
        await self._rows.move(row.id, MachineState.RUNNING, started_at=now, seen_at=now)


def _doing(row: Machine) -> str:
    if row.state in (MachineState.PREPARING, MachineState.READY):
        return row.state.value
    return "working"
