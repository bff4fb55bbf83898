"""Machines that are made, each in a task of its own, so that a slow one delays no other; and spawns whose answer is not
known."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from actors import telemetry
from actors.fleet.activity import Activity, Again
from actors.fleet.claims import Claims
from actors.fleet.endings import Endings
from actors.fleet.pace import Pace
from actors.fleet.pool import Pool
from actors.fleet.refusals import Refusals
from actors.fleet.rows import Rows
from actors.fleet.work import Work
from actors.machines.base import MachineSpec, Provider, ProviderUnavailable, SpawnRefused
from actors.rules import fleet as rules
from actors.rules.model import Machine
from actors.rules.states import MachineState
from worker.contract import Environment

IN_POOL: Final = frozenset({MachineState.PREPARING, MachineState.READY})


class Making:
    """Makes machines for what waiting claims do not take."""

    def __init__(
        self, provider: Provider, base_env: Callable[[str, str], Environment],
        price_of: Callable[[str, int | None], int | None], work: Work, claims: Claims, rows: Rows, endings: Endings,
        refusals: Refusals, pace: Pace, activity: Activity, *, most: int, most_of: Mapping[str, int], pool: Pool | None,
    ) -> None:  # fmt: skip
        """`most`: machines that run at once, `most_of` by kind."""
        self._provider, self._base_env, self._price_of = provider, base_env, price_of
        self._work, self._claims, self._rows, self._endings, self._activity = work, claims, rows, endings, activity
        self._refusals, self._pace, self._most, self._most_of, self._pool = refusals, pace, most, most_of, pool

    def fill(self) -> None:
        """Begin the machines that are due: those of the pool are started, others are made. What the provider grants
        beyond that is for the pool."""
        if self._pool is not None and (ready := self._pool.ready()):
            self._pool.start(self._due(ready.keys(), by_any=True), ready)
        kinds = {k for k in self._work.kinds if not self._refusals.closes(k) and self._pace.permits(k)}
        for place in self._due(kinds):
            if place.kind in kinds and self._pace.permits(place.kind):
                self._begin(place)
            else:
                kinds.discard(place.kind)
        if self._pool is not None:
            self._pool.refill()

    def _due(self, kinds: Collection[str], *, by_any: bool = False) -> list[rules.Place]:
        """The machines of these kinds that should run, beside those that do. `by_any`: for what any may take."""
        alive = self._alive()
        return rules.to_spawn(
            self._work.demands, alive=alive.total(), most=self._most, alive_of=alive, most_of=self._most_of,
            waiting=self._claims.places(), kinds=kinds,
            after=self._work.last_job, now=self._activity.now(), by_any=by_any,
        )  # fmt: skip

    def _alive(self) -> Counter[str]:
        """How many run, or will, by kind: what waits in the pool, or is made for it, does not."""
        here = {machine for machine, row in self._rows.by_id.items() if row.state not in IN_POOL}
        made_for_a_job = {machine for machine, job in self._rows.under_way.items() if job}
        alive = (here | made_for_a_job) - self._endings.at_rest
        return Counter(row.kind if (row := self._rows.get(m)) is not None else self._pace.kind(m) for m in alive)

    def _begin(self, place: rules.Place) -> None:
        machine = self._rows.new_id()
        self._rows.under_way[machine] = place.job
        self._pace.begin(machine, place.kind)
        self._work.has_turn(place.job)
        self._work.adjust(place.job, taking=1)
        self._activity.background(self._create(machine, place))

    async def _create(self, machine: str, place: rules.Place) -> None:
        reserved = 1  # by `fill`, until the take reserves for itself
        try:
            row = Machine(
                id=machine, provider=self._provider.name, kind=place.kind, job_id=place.job,
                created_at=self._activity.now(),
            )  # fmt: skip
            await self._rows.add(row)
            self._work.adjust(place.job, taking=-1)
            reserved = 0
            tasks = await self._work.take(place.job, machine, f"spawn:{machine}", 1, place.kind)
            if tasks is None:
                self._endings.end(machine, "unmade", "The batch did not answer.", bury=False)
            elif not tasks:
                await self._rows.move(machine, MachineState.GONE, ended_at=self._activity.now(), reason="no task")
            elif machine in self._endings.unwanted:
                self._endings.end(machine, "unmade", "The batch was ended.", bury=False)
            else:
                await self._spawn(machine, tasks[0])
        finally:
            self._work.adjust(place.job, taking=-reserved)
            self._rows.under_way.pop(machine, None)
            self._pace.asked(machine)
            self._endings.unwanted.discard(machine)
        if machine in self._endings.of:
            await self._endings.bury(machine)
        self._activity.notify()

    async def _spawn(self, machine: str, task: dict[str, Any]) -> None:
        row = await self._rows.move(
            machine, MachineState.SPAWNING, name=task["name"], task_id=task["task_id"], attempt=task["attempt"],
            price=self._price_of(self._rows.by_id[machine].kind, task.get("memory_mb")),
        )  # fmt: skip
        if row is None or self._activity.stopped.is_set():
            return
        if machine in self._endings.unwanted:  # since the row was written
            self._endings.end(machine, "unmade", "The batch was ended.", bury=False)
            return
        env = {**self._base_env(machine, row.kind), "WORKER_KINDS": row.kind, **task["env"]}
        await self._rows.check_epoch()
        self._pace.asked(machine)
        try:
            spec = MachineSpec(name=task["name"], kind=row.kind, env=env, memory_mb=task.get("memory_mb"))
            provider_id = await self._provider.spawn(spec)
        except SpawnRefused as refusal:
            if refusal.hopeless or not refusal.permanent:  # else it is about this one: another may be made
                self._refusals.note(row.kind)
            self._endings.end(
                machine, "refused", refusal.message, permanent=refusal.permanent, hopeless=refusal.hopeless, bury=False
            )
        except (ProviderUnavailable, OSError) as failure:
            telemetry.warning("fleet.spawn_not_answered", machine=task["name"], why=failure)
            await self._found_or_lost(row, "refused", "The provider did not answer.")
        else:
            await self._runs(row, provider_id)

    async def _runs(self, row: Machine, provider_id: str) -> None:
        self._refusals.forget(row.kind)
        now = self._activity.now()
        moved = await self._rows.move(
            row.id, MachineState.RUNNING, provider_id=provider_id, started_at=now, seen_at=now
        )
        if moved is None and row.id in self._rows.by_id:  # cancelled before the answer came: the ending needs the id
            await self._rows.change(row.id, provider_id=provider_id)

    async def look_for(self, row: Machine) -> None:
        """A former fleet may have asked for it, and has not written the answer."""
        self._rows.under_way[row.id] = row.job_id or ""
        try:
            await self._found_or_lost(row, "unmade", "The fleet started again while the machine was being made.")
        finally:
            self._rows.under_way.pop(row.id, None)

    async def _found_or_lost(self, row: Machine, why: str, message: str) -> None:
        """A spawn whose answer is not known (invariant 3): adopted when the provider has it, else told as `why`."""
        again = Again(self._activity, "fleet.not_inspected", machine=row.name)
        while not self._activity.stopped.is_set() and row.id not in self._endings.of:
            try:
                status = await self._provider.inspect(row.name or row.id)
            except (ProviderUnavailable, OSError) as failure:
                await again.later(failure)
                continue
            if status.state == "gone":
                if why == "refused":
                    self._refusals.note(row.kind)
                self._endings.end(row.id, why, message, bury=row.id not in self._rows.under_way)
            else:
                await self._runs(row, status.provider_id)
            break
        if row.id in self._endings.of:
            await self._endings.bury(row.id)
