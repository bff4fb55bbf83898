"""How a machine ends: it is destroyed, the batches that took work on it are told, then its row is GONE. What fails is
done again with the next tick; every step may be repeated."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from actors import telemetry
from actors.errors import ArkeError, Unavailable
from actors.fleet.activity import Activity, Again
from actors.fleet.rows import FleetStore, Rows
from actors.fleet.work import CallHost
from actors.machines.base import Pooling, Provider, ProviderUnavailable
from actors.rules import fleet as rules
from actors.rules.model import Machine
from actors.rules.states import TERMINAL_JOBS, MachineState

COUNTED_ON: Final = frozenset({MachineState.SPAWNING, MachineState.STARTING, MachineState.RUNNING})
STOP_S: Final = 15.0
"""How long a machine may take to give its tasks back and to stop, before it is destroyed."""


@dataclass(kw_only=True)
class Ending:
    """A machine that is to be ended: what the jobs in `tell` still have to be told about it."""

    why: str  # refused | unmade | gone | exited
    message: str
    permanent: bool = False
    hopeless: bool = False
    short_of_mb: int | None = None
    tell: list[str]
    may_run: bool  # it has not been seen to yet that nothing runs there
    again: Again
    back: Literal["stop", "stopped"] | None = None  # for the pool: it is to be stopped, or has stopped


class Endings:
    """The machines that are being ended."""

    def __init__(
        self, store: FleetStore, provider: Provider, call_host: CallHost, rows: Rows, activity: Activity,
        concurrency: int,
    ) -> None:  # fmt: skip
        self._store, self._provider, self._call_host = store, provider, call_host
        self._stopping = provider if isinstance(provider, Pooling) else None
        self._rows, self._activity, self._concurrency = rows, activity, concurrency
        self.of: dict[str, Ending] = {}
        self.unwanted: set[str] = set()
        """Of those that are planned: their batch was ended."""
        self.comes_back: Callable[[Machine], bool] = lambda row: False
        """Whether the pool takes a machine again when it has stopped."""
        self._burying: set[str] = set()

    @property
    def at_rest(self) -> set[str]:
        """Those of them on which nothing runs any more."""
        return {machine for machine, ending in self.of.items() if not ending.may_run}

    @property
    def lost(self) -> set[str]:
        """Those that will be gone, and do not come back."""
        return {machine for machine, ending in self.of.items() if ending.back is None}

    def counts_on(self, machine: str) -> bool:
        """Invariant 2 for machines: one that the fleet has given up gets no work, even if it still runs."""
        row = self._rows.get(machine)
        return row is not None and row.state in COUNTED_ON and machine not in self.of

    # ---- what batches ask for

    async def destroy_if_still_at(self, machine: str, job: str, task_id: str, attempt: int) -> None:
        """Conditional: only while the machine may still run this attempt. Done in the background, once committed.

        What it was given since is asked of the store, since `next` tasks do not come from here. A task that it
        takes in this very moment goes back (`Claims`).
        """
        held = await self._store.held(job, machine)
        moved_on = rules.has_moved_on(held, task_id, attempt, concurrency=self._concurrency)
        row = self._rows.get(machine)
        if row is not None and row.job_id == job and not moved_on:
            await self.destroy(row, "destroyed: its task was overdue", of=job)

    async def is_over(self, job: str) -> bool:
        """Whether this job needs no machine any more, and nobody to tell it of one."""
        known = await self._store.job(job)
        return known is None or known.state in TERMINAL_JOBS

    async def destroy_all_of(self, job: str) -> None:
        """Its machines, as its batch was ended. Those of the pool are stopped, and wait for the next work there. One
        that also works for another batch is left to that: what it does for this one ends with its next sign of life.
        """
        rows = [row for row in self._rows.by_id.values() if row.job_id == job]
        shared = await self._works_for([row.id for row in rows]) if self._concurrency > 1 else {}
        for row in rows:
            if others := shared.get(row.id, set()) - {job}:
                await self._rows.change(row.id, job_id=min(others))
                continue
            back: Literal["stop"] | None = "stop" if self.comes_back(row) else None
            await self.destroy(row, "destroyed: its batch was ended", of=job, back=back)

    async def _works_for(self, machines: list[str]) -> dict[str, set[str]]:
        """The jobs that are not over and have tasks there, by machine."""
        found = await self._store.work_on(machines) if machines else {}
        jobs = {job for some in found.values() for job in some}
        still_open = await self._store.open_jobs(sorted(jobs)) if jobs else set()
        return {machine: still_open.intersection(some) for machine, some in found.items()}

    # ---- ending

    async def destroy(
        self, row: Machine, reason: str, *, of: str | None = None, back: Literal["stop"] | None = None
    ) -> None:
        """End a machine, `of` a job: if it works for that one still. All jobs that took work on it are told, but for
        those that are over by then.
        """
        if row.id in self.of:
            return
        if row.state is MachineState.PLANNED:
            self.unwanted.add(row.id)
        elif await self._rows.move(row.id, MachineState.DESTROYING, of=of, reason=reason) is not None:
            jobs = self._rows.jobs_of.get(row.id, [])  # as of now: it may have taken work until the commit
            self.of[row.id] = Ending(
                why="gone", message=reason, tell=list(jobs), back=back, may_run=True, again=self._again(row.id)
            )
            self._activity.notify()
            if row.id not in self._rows.under_way:
                self._activity.background(self.bury(row.id))

    def end(
        self, machine: str, why: str, message: str, *, permanent: bool = False, hopeless: bool = False,
        short_of_mb: int | None = None, bury: bool = True, may_run: bool = False,
    ) -> None:  # fmt: skip
        """Begin the end of a machine, which `may_run` still. The jobs that took work on it are told, however long it
        takes."""
        if machine in self._rows.by_id and machine not in self.of:
            jobs = list(self._rows.jobs_of.get(machine, []))
            self.of[machine] = Ending(
                why=why, message=message, permanent=permanent, hopeless=hopeless, short_of_mb=short_of_mb, tell=jobs,
                may_run=may_run, again=self._again(machine),
            )  # fmt: skip
            self._activity.notify()
        if bury:
            self._activity.background(self.bury(machine))

    def has_stopped(self, machine: str) -> None:
        """It is of the pool, and has ended as it should. What it may have had in hand is told all the same."""
        self.end(machine, "exited", "The machine has stopped.", bury=False)
        self.of[machine].back = "stopped"
        self._activity.background(self.bury(machine))

    def go_on(self) -> None:
        """With all that could not be finished, and is due again."""
        now = self._activity.now()
        for machine in [m for m, ending in self.of.items() if ending.again.not_before <= now]:
            if machine not in self._rows.under_way:
                self._activity.background(self.bury(machine))

    def _again(self, machine: str) -> Again:
        return Again(self._activity, "fleet.end_waits", machine=machine)

    async def bury(self, machine: str) -> None:
        """Destroy, tell, forget; or for the pool: stop, tell, keep."""
        row = self._rows.get(machine)
        ending = self.of.get(machine)
        if row is None or ending is None or machine in self._burying or self._activity.stopped.is_set():
            return
        self._burying.add(machine)
        try:
            await self._quiet(row, ending)
            ending.may_run = False
            for job in list(ending.tell):
                await self._tell(job, row, ending)
                ending.tell.remove(job)
            await self._close(row, ending)
            self.of.pop(machine, None)
            self._activity.notify()
        except (ProviderUnavailable, Unavailable, OSError) as failure:
            ending.again.failed(failure)
        finally:
            self._burying.discard(machine)

    async def _quiet(self, row: Machine, ending: Ending) -> None:
        """See to it that nothing runs there any more."""
        if row.state is MachineState.PLANNED or ending.back == "stopped":
            return
        await self._rows.check_epoch()
        which = row.provider_id or row.name or row.id
        if ending.back == "stop" and self._stopping is not None:
            await self._stopping.stop(which)
            stopped = await self._stopping.wait(which, "exited", within_s=STOP_S)
            ending.back = "stopped" if stopped.state == "exited" else None
        if ending.back is None:
            await self._provider.destroy(which)

    async def _close(self, row: Machine, ending: Ending) -> None:
        now = self._activity.now()
        if ending.back == "stopped" and self.comes_back(row):
            await self._rows.move(
                row.id, MachineState.READY, job_id=None, task_id=None, attempt=0, reason=None, started_at=None,
                seen_at=now,
            )  # fmt: skip
            self._rows.jobs_of[row.id] = []
        else:
            if ending.back == "stopped":  # the pool has become another one meanwhile
                await self._rows.check_epoch()
                await self._provider.destroy(row.provider_id or row.name or row.id)
            await self._rows.move(row.id, MachineState.GONE, ended_at=now, reason=row.reason or ending.message)

    async def _tell(self, job: str, row: Machine, ending: Ending) -> None:
        """All open assignments of this job on the machine are lost. A finished job is not woken for that."""
        if await self.is_over(job):
            return
        try:
            await self._call_host(job, {
                "op": "lost", "job": job, "machine": row.id, "task_id": None, "attempt": row.attempt,
                "why": ending.why, "message": ending.message, "permanent": ending.permanent,
                "hopeless": ending.hopeless, "short_of_mb": ending.short_of_mb,
            })  # fmt: skip
        except Unavailable:
            raise
        except ArkeError as answer:
            telemetry.event("fleet.batch_need_not_know", batch=job, machine=row.id, why=answer.code)
