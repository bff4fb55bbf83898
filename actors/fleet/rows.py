"""The machines as they are written. All that changes them is committed under the epoch of this activation, one write
after the other; memory changes only after the commit."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from actors import telemetry
from actors.errors import Fenced, Unavailable
from actors.fleet.activity import Activity, time_s
from actors.rules import costs
from actors.rules import fleet as rules
from actors.rules.costs import Charge
from actors.rules.model import Job, Machine, Task
from actors.rules.states import MachineState

SINGLETON: Final = "fleet"
EPOCH_TRUST_MS: Final = 10_000
"""How long after a commit its epoch is believed. A fleet that was suspended for longer asks before it acts."""
COMMIT_PAUSE_MS: Final = 200
AT_ONCE: Final = 500
"""Changes in one commit: some 200 KB, a hundredth of a second of the store's writer."""
JOBS_REMEMBERED: Final = 32


class FleetStore(Protocol):
    """What the fleet uses of `actors.store.Store`."""

    async def activate_singleton(self, name: str) -> int: ...

    async def singleton_epoch(self, name: str, /) -> int: ...

    async def commit_machines(
        self, name: str, epoch: int, seq: int, machines: list[Machine], charges: Sequence[Charge] = (), /
    ) -> None: ...

    async def machines(self, *, alive: bool = True) -> list[Machine]: ...

    async def job(self, id: str, /) -> Job | None: ...

    async def open_jobs(self, ids: list[str], /) -> set[str]: ...

    async def held(self, job: str, machine: str, /) -> list[Task]: ...

    async def busy_machines(self, ids: list[str], /) -> set[str]: ...

    async def work_on(self, machines: list[str], /) -> dict[str, list[str]]: ...


class _Change(NamedTuple):
    """What shall become of the row of a machine."""

    machine: str
    of: Callable[[Machine | None], Machine | None]
    done: "asyncio.Future[Machine | None]"


class Rows:
    """The machines that are not gone, by id."""

    def __init__(self, store: FleetStore, activity: Activity) -> None:
        self._store, self._activity = store, activity
        self.epoch = 0
        self._seq = 0
        self._valid_at = 0.0
        self._numbers = 0
        self._changes: list[_Change] = []  # that wait
        self._is_committing = False
        self._counted: dict[str, dict[str, None]] = {}  # the jobs to whose machines each was added, the last one last
        self.by_id: dict[str, Machine] = {}
        self.jobs_of: dict[str, list[str]] = {}
        """Whom each has worked for, the last one last."""
        self.under_way: dict[str, str] = {}
        """Machines that somebody is just making, and for which job: that one ends them too. Not all are written yet."""

    async def take_over(self) -> None:
        """Become the one fleet (invariant 2), and read what the former one left."""
        asked_at = time_s()
        self.epoch = await self._store.activate_singleton(SINGLETON)
        self._valid_at = asked_at
        for row in await self._store.machines(alive=True):
            self.by_id[row.id] = row
            self.jobs_of[row.id] = [row.job_id] if row.job_id else []
            if row.state is MachineState.RUNNING and row.job_id:
                self._counted[row.id] = {row.job_id: None}

    def new_id(self) -> str:
        """One that no other fleet gives."""
        self._numbers += 1
        return f"m-{self.epoch}-{self._numbers}"

    def get(self, machine: str) -> Machine | None:
        """The row; None: it is gone, or was never there."""
        return self.by_id.get(machine)

    async def worked_for(self, machine: str, job: str, task: dict[str, Any]) -> None:
        """Write down the job that a machine works for, before the worker is told: it is whom we tell of its end."""
        row = self.by_id.get(machine)
        if row is None:
            return
        known = self.jobs_of.setdefault(machine, [])
        if job in known:
            known.remove(job)
        self.jobs_of[machine] = [*known[1 - JOBS_REMEMBERED :], job]
        if row.job_id != job:
            await self.change(machine, job_id=job, task_id=task["task_id"], attempt=task["attempt"])

    async def move(self, machine: str, to: MachineState, *, of: str | None = None, **changes: Any) -> Machine | None:
        """Commit the move; None when the row has moved on meanwhile: the table does not permit it any more, or the
        machine works for another job than `of`.
        """

        def moved(row: Machine | None) -> Machine | None:
            if row is None or not rules.may_move(row, to) or of not in (None, row.job_id):
                return None
            return msgspec.structs.replace(row, state=to, **changes)

        return await self._committed(machine, moved)

    async def change(self, machine: str, **changes: Any) -> None:
        """Commit other fields of a row that still exists."""
        await self._committed(machine, lambda row: row and msgspec.structs.replace(row, **changes))

    async def add(self, row: Machine) -> None:
        """Commit a new one."""
        await self._committed(row.id, lambda _: row)

    # ---- committing

    async def _committed(self, machine: str, change: Callable[[Machine | None], Machine | None]) -> Machine | None:
        """The row as `change` has made it of what it was by then, once that is committed; None: it was left as it was.

        What is asked for while a commit is under way waits for the next one: hundreds of machines that are started at
        once cost a few commits.
        """
        done: asyncio.Future[Machine | None] = asyncio.get_running_loop().create_future()
        self._changes.append(_Change(machine, change, done))
        if not self._is_committing:
            self._is_committing = True
            self._activity.background(self._commit_all())
        return await done

    async def _commit_all(self) -> None:
        """Until nothing waits. Whoever still waits when this fails, or is ended, can only end as well."""
        try:
            while self._changes:
                await self._commit_some()
        finally:
            self._is_committing = False
            for change in self._changes:
                change.done.cancel()

    async def _commit_some(self) -> None:
        """Of those that wait the first ones, and of each machine one: the next one follows from what it has become."""
        group = list({change.machine: change for change in reversed(self._changes[:AT_ONCE])}.values())[::-1]
        now = self._activity.now()
        rows: list[Machine | None] = []
        charges: list[Charge] = []
        for change in group:
            row, due = self._changed(change, now)
            rows.append(row)
            charges += due
        if changed := [row for row in rows if row is not None]:
            await self._commit(changed, charges)
        taken = set(map(id, group))
        self._changes = [change for change in self._changes if id(change) not in taken]
        for change, row in zip(group, rows, strict=True):
            if not change.done.done():  # whoever asked may have been ended
                change.done.set_result(row)

    def _changed(self, change: _Change, now: int) -> tuple[Machine | None, tuple[Charge, ...]]:
        former = self.by_id.get(change.machine)
        row = change.of(former)
        return (None, ()) if row is None else costs.charged(former, row, self._counted.get(row.id, ()), now=now)

    async def _commit(self, rows: list[Machine], charges: list[Charge]) -> None:
        """A lost answer is no reason to do it twice: the number is the same."""
        seq, asked_at = self._seq + 1, time_s()
        while True:
            try:
                await self._store.commit_machines(SINGLETON, self.epoch, seq, rows, charges)
                break
            except (Unavailable, OSError) as failure:
                await self._store_is_away(failure)
        self._seq = seq
        self._valid_at = asked_at  # the answer may have been on its way for long
        for row in rows:
            self._remember(row)

    def _remember(self, row: Machine) -> None:
        if row.state is MachineState.GONE:
            self.by_id.pop(row.id, None)
            self.jobs_of.pop(row.id, None)
            self._counted.pop(row.id, None)
        else:
            if row.state is MachineState.RUNNING and row.job_id:
                counted = self._counted.setdefault(row.id, {})
                counted[row.job_id] = None
                while len(counted) > JOBS_REMEMBERED:  # one of the pool works for any number of them
                    del counted[next(iter(counted))]
            self.by_id[row.id] = row
            self.jobs_of.setdefault(row.id, [row.job_id] if row.job_id else [])

    async def check_epoch(self) -> None:
        """Invariant 2, before a machine is made or ended: what is nobody's to a fleet that was overtaken is a machine
        of its heir. Raises Fenced.
        """
        while (asked_at := time_s()) - self._valid_at > EPOCH_TRUST_MS / 1000:  # again where the answer took as long
            try:
                newest = await self._store.singleton_epoch(SINGLETON)
            except (Unavailable, OSError) as failure:
                await self._store_is_away(failure)
                continue
            if newest != self.epoch:
                raise Fenced
            self._valid_at = asked_at

    async def _store_is_away(self, failure: Exception) -> None:
        if self._activity.stopped.is_set():
            raise Fenced from failure
        telemetry.warning("fleet.store_away", why=failure)
        await self._activity.pause(COMMIT_PAUSE_MS)
