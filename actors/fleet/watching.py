"""What the provider says of the machines against the rows; machines that are nobody's; machines without work."""

import asyncio
import signal
from typing import Any, Final

from actors import telemetry
from actors.errors import Unavailable
from actors.fleet.activity import Activity
from actors.fleet.claims import Claims
from actors.fleet.endings import Endings
from actors.fleet.rows import FleetStore, Rows
from actors.machines.base import MachineStatus, Provider, ProviderUnavailable
from actors.rules import fleet as rules
from actors.rules.model import Machine
from actors.rules.states import MachineState

OVERSTAY_MS: Final = 30_000
"""How long a machine may have no work and ask for none: its jobs are over, or it hangs since its task was given up."""
IDLE_LOOK_MS: Final = OVERSTAY_MS // 6
"""How often the store is asked which machines have work. At 100,000 tasks in flight an answer takes up to a tenth of a
second of a core: asked with each tick, a tenth of that core; so, a fiftieth. An idle machine lives so much longer."""

AT_ONCE: Final = 4
"""Machines that the provider is asked about, or told to destroy, side by side: what has ended can wait, and must not be
in the way of what begins."""


class Watching:
    """Looks at every machine now and then."""

    def __init__(
        self, store: FleetStore, provider: Provider, claims: Claims, rows: Rows, endings: Endings, activity: Activity,
        sweep_ms: int,
    ) -> None:  # fmt: skip
        self._store, self._provider, self._claims = store, provider, claims
        self._rows, self._endings, self._activity = rows, endings, activity
        self._sweep_ms = sweep_ms
        self._orphans: dict[str, int] = {}
        self._overstays: dict[str, int] = {}
        self._idle_looked_at = 0
        self._swept_at = 0
        self._sweeping = False
        self._limit = asyncio.Semaphore(AT_ONCE)
        self._away: str | None = None

    async def look(self) -> None:
        """One round. What cannot be known at the moment is looked at in the next one."""
        now = self._activity.now()
        try:
            await self._part_from_idle_machines(now)
        except (Unavailable, OSError) as failure:
            telemetry.event("fleet.work_not_known", why=failure)
        watched = [row for row in self._rows.by_id.values() if row.state is MachineState.RUNNING]
        sweep = now - self._swept_at >= self._sweep_ms or bool(self._orphans)
        if not watched and not sweep:
            return
        try:
            statuses = await self._provider.list()
            await self._compare([row for row in watched if row.id not in self._endings.of], statuses)
            if sweep and not self._sweeping:
                self._activity.background(self._sweep_beside(statuses))
        except (ProviderUnavailable, OSError) as failure:
            self._note_away(str(failure))
        else:
            self._note_away(None)

    def _note_away(self, why: str | None) -> None:
        """Told when it begins, changes and ends: it is looked for each second."""
        if why is not None and why != self._away:
            telemetry.warning("fleet.provider_away", why=why)
        elif why is None and self._away is not None:
            telemetry.event("fleet.provider_back")
        self._away = why

    async def sweep(self, *, dry_run: bool = False) -> dict[str, Any]:
        """Destroy what is nobody's and has been so for long enough: how many those were, and all that is nobody's."""
        destroyed = 0
        statuses = await self._provider.list()
        names = {status.provider_id: status.name for status in statuses}
        since = self._find_orphans(statuses)
        items = [
            {"provider_id": provider_id, "name": names.get(provider_id), "since": at}
            for provider_id, at in since.items()
        ]
        if not dry_run:
            destroyed = await self._sweep(statuses)
        return {"destroyed": destroyed, "items": items}

    # ---- without work

    async def _part_from_idle_machines(self, now: int) -> None:
        """Invariants 3 and 5: what a job asked of the fleet, to release its machines or to destroy one that was
        overdue, may have been lost. A machine without work that asks for none ends all the same.
        """
        if now - self._idle_looked_at < IDLE_LOOK_MS:
            return
        jobs = {job for known in self._at_work().values() for job in known}
        busy = await self._store.busy_machines(sorted(jobs)) if jobs else set()
        for machine in self._claims.asked_by:
            self._overstays.pop(machine, None)
        self._claims.asked_by.clear()
        self._overstays, due = rules.overstaying(
            self._at_work(), busy, self._overstays, now=now, patience_ms=OVERSTAY_MS
        )
        await self._find_forgotten_work(due)
        self._idle_looked_at = now
        for machine in due:
            row = self._rows.get(machine)
            has_asked = machine in self._claims.asked_by  # while another one was ended
            if row is not None and machine in self._overstays and not has_asked:
                await self._endings.destroy(row, "destroyed: it had no work and asked for none")

    async def _find_forgotten_work(self, machines: list[str]) -> None:
        """Before a machine is ended as idle: the fleet may not know all the batches that it works for. After a start
        that is the last one, and never more than JOBS_REMEMBERED. One that is found is known from now on, so that the
        machine counts as busy, and the batch is told of its end.
        """
        found = await self._store.work_on(machines) if machines else {}
        for machine in found.keys() & self._rows.by_id.keys():
            known = self._rows.jobs_of.get(machine, [])
            self._rows.jobs_of[machine] = [*(job for job in found[machine] if job not in known), *known]
            self._overstays.pop(machine, None)

    def _at_work(self) -> dict[str, list[str]]:
        """The jobs that each machine may work for; without the machines that ask for work at this moment, or are being
        ended."""
        others = self._claims.asking.union(self._endings.of, self._rows.under_way)
        return {
            machine: self._rows.jobs_of.get(machine, [])
            for machine, row in self._rows.by_id.items()
            if machine not in others and row.state is not MachineState.READY
        }

    # ---- what the provider says

    async def _compare(self, watched: list[Machine], statuses: list[MachineStatus]) -> None:
        """Side by side: each that has ended is asked how, and hundreds may have at once."""
        by_id = {status.provider_id: status for status in statuses}
        listed = [(row, by_id.get(row.provider_id or "")) for row in watched]
        await asyncio.gather(
            *(self._look_at(row, status) for row, status in listed if status is None or status.state != "running")
        )

    async def _look_at(self, row: Machine, status: MachineStatus | None) -> None:
        """A machine that is not listed as running. A list need not tell how it has ended, and may be older than the
        last start of one of the pool: then the machine itself is asked.
        """
        comes_back = self._endings.comes_back(row)
        if status is None or comes_back or status.code is None:
            try:
                async with self._limit:
                    status = await self._provider.inspect(row.provider_id or row.name or row.id)
            except (ProviderUnavailable, OSError) as failure:
                telemetry.detail("fleet.not_inspected", machine=row.name, why=failure)
                return
        if status.state == "running" or self._rows.get(row.id) is not row or row.id in self._endings.of:
            return
        if status.state == "exited" and comes_back and status.code == 0 and not status.oom:
            self._endings.has_stopped(row.id)
        else:
            self._end(row, status)

    def _end(self, row: Machine, status: MachineStatus) -> None:
        self._endings.end(row.id, *_why(status), short_of_mb=status.memory_mb if status.oom else None)

    async def _sweep(self, statuses: list[MachineStatus]) -> int:
        """Destroy what nobody knows, once it was seen for `sweep_ms`: rows of other machines may be under way."""
        self._swept_at = self._activity.now()
        since = self._find_orphans(statuses)
        over = {provider_id for provider_id, at in since.items() if self._swept_at - at >= self._sweep_ms}
        found = [status for status in statuses if status.provider_id in over]
        return sum(await asyncio.gather(*(self._part_from(status) for status in found)))

    async def _sweep_beside(self, statuses: list[MachineStatus]) -> None:
        """While the fleet goes on to look: a machine may take long to be destroyed."""
        self._sweeping = True
        try:
            await self._sweep(statuses)
        finally:
            self._sweeping = False

    async def _part_from(self, orphan: MachineStatus) -> bool:
        """Destroy it, unless a row has come to it meanwhile; one that cannot be keeps no other."""
        async with self._limit:
            await self._rows.check_epoch()
            if not rules.orphans(self._rows.by_id.values(), [_found(orphan)], {}, now=0):
                return False
            try:
                await self._provider.destroy(orphan.provider_id)
            except (ProviderUnavailable, OSError) as failure:
                telemetry.warning("fleet.orphan_stays", machine=orphan.name, why=failure)
                return False
        telemetry.warning("fleet.orphan_destroyed", machine=orphan.name)
        self._orphans.pop(orphan.provider_id, None)
        return True

    def _find_orphans(self, statuses: list[MachineStatus]) -> dict[str, int]:
        """The machines without a row, by the provider's id: since when each was seen so."""
        found = [_found(status) for status in statuses]
        self._orphans = rules.orphans(self._rows.by_id.values(), found, self._orphans, now=self._activity.now())
        return dict(self._orphans)


def _found(status: MachineStatus) -> rules.Found:
    return rules.Found(status.provider_id, status.name)


def _why(status: MachineStatus) -> tuple[str, str]:
    """The `why` and the message of a lost machine."""
    if status.oom:
        had = "" if status.memory_mb is None else f" of {status.memory_mb} MB"
        return "exited", f"The machine ran out of memory{had}."
    if status.code == -signal.SIGKILL:  # who sent it is not known
        return "exited", "The machine was killed by SIGKILL, as the kernel does when memory runs out."
    if status.state == "exited":
        code = "" if status.code is None else f" with code {status.code}"
        return "exited", f"The machine exited{code}."
    return "gone", "The machine has vanished."
