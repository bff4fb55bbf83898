"""Machines: their rows, what is asked of the provider and by whom, and what runs without an owner."""

from typing import Any, Final

import msgspec

from actors.machines.base import MachineSpec
from actors.rules.model import Machine
from actors.rules.states import MACHINE_MOVES, TERMINAL_JOBS, MachineState, TaskStatus
from tests.simulation.checks.facts import TRUST_S, Assignment, Facts, assignment
from tests.simulation.loop import Process, current
from tests.simulation.machines import SimMachine

_decode_machines = msgspec.msgpack.Decoder(list[Machine]).decode

AT_WORK: Final = frozenset({MachineState.SPAWNING, MachineState.STARTING, MachineState.RUNNING})
LOOKS: Final = 24
"""How often a fleet has seen a machine without an owner, at least, when it should have ended it: it looks each second,
ten times until the next sweep and ten until it was seen for long enough; some looks fail."""


class MachineChecks:
    """Invariant 3, and 2 as far as the fleet goes."""

    def __init__(self, facts: Facts, sweep_s: float, most: int) -> None:
        """`sweep_s`: how long one without an owner may run, as long as the fleet sees it; `most`: how many at once."""
        self._facts, self._sweep_s, self._most = facts, sweep_s, most
        self.wrong = facts.wrong
        self._epoch = 0
        self._held_at_destroying: dict[str, set[Assignment]] = {}
        self._spawned: set[str] = set()
        self._seen_alone: dict[tuple[str, str], tuple[float, int]] = {}  # since, and how often
        self._overtaken: dict[Process, float] = {}

    def begins(self, epoch: int) -> None:
        """A fleet was given this epoch."""
        if epoch <= self._epoch:
            self.wrong(f"2: a fleet begins with epoch {epoch} after {self._epoch}")
        self._epoch = epoch

    def written(self, request: dict[str, Any]) -> None:
        """The fleet has committed rows."""
        if request["epoch"] != self._epoch:
            self.wrong(f"2: the fleet of epoch {request['epoch']} wrote while {self._epoch} is the newest")
        for row in _decode_machines(request["machines"]):
            old = self._facts.machines.get(row.id)
            if old is None and row.state not in (MachineState.PLANNED, MachineState.PREPARING):
                self.wrong(f"3: {row.id} begins as {row.state}")
            if old is not None and old.state is not row.state and row.state not in MACHINE_MOVES[old.state]:
                self.wrong(f"3: {row.id} went from {old.state} to {row.state}")
            if row.state is MachineState.DESTROYING and (old is None or old.state is not row.state):
                self._check_reason(row)
            self._facts.machines[row.id] = row
            machine = self._facts.runs_at.get(row.id)
            if row.state is MachineState.READY and machine is not None and machine.runs:
                self.wrong(f"3: {row.id} is written as waiting in the pool, and runs")
            if row.state is MachineState.GONE:
                self._check_told(row)
                self._begin_to_miss(row)
                if machine is not None and machine.runs and not machine.is_late:
                    self.wrong(f"3: {row.id} is written as gone, and runs")

    def _begin_to_miss(self, row: Machine) -> None:
        """From when the fleet has written it last: until it has the answer it holds the machine for its own."""
        self._seen_alone = {place: seen for place, seen in self._seen_alone.items() if place[1] != row.name}

    def _check_told(self, row: Machine) -> None:
        """The batch for which a machine has worked last knows of its end before it is forgotten."""
        book = self._facts.books.get(row.job_id or "")
        if book is None or book.job.state in TERMINAL_JOBS:
            return
        for key in self._held_at_destroying.pop(row.id, ()):
            task = book.rows.get(key.task_id)
            if task is not None and task.status is TaskStatus.PROCESSING and (task.run, task.attempt) == key[1:]:
                self.wrong(f"5: {row.id} is gone, and nobody has told {row.job_id}, which waits for it")

    # ---- what is done

    def spawned(self, spec: MachineSpec, by: Process | None) -> None:
        """Invariant 3: the intent is written, and it is not repeated."""
        row = self._facts.machines.get(spec.env["MACHINE_NAME"])
        if row is None or row.name != spec.name or row.state is MachineState.PLANNED:
            self.wrong(f"3: {spec.name} was spawned before its intent was written")
        if spec.name in self._spawned:
            self.wrong(f"3: {spec.name} was spawned twice")
        self._spawned.add(spec.name)
        self._facts.check_given(spec.env)
        self._check_not_overtaken(by)

    def made(self, machine: SimMachine) -> None:
        """The provider has made it. What an overtaken fleet had asked for may be looked for before it is there."""
        machine.is_late = machine.is_late or current() in self._overtaken
        self._facts.runs_at[machine.spec.env["MACHINE_NAME"]] = machine
        alive = [name for name, one in self._facts.runs_at.items() if self._counts(name, one)]
        if len(alive) > self._most:
            self.wrong(f"3: {len(alive)} machines run at once, of {self._most}: {', '.join(sorted(alive))}")

    def _counts(self, name: str, machine: SimMachine) -> bool:
        """Whether the fleet has every reason to count it among those that run."""
        row = self._facts.machines.get(name)
        is_meant = row is not None and row.state in AT_WORK
        return is_meant and machine.runs and not (machine.is_late or machine.is_told_to_stop.is_set())

    def _check_reason(self, row: Machine) -> None:
        """Machines of a batch are ended when it is over; of one that never was there is no reason."""
        if row.reason == "destroyed: its batch was ended" and row.job_id not in self._facts.ended:
            self.wrong(f"3: {row.id} is destroyed since {row.job_id} was ended, which it was not")

    def gives(self, machine: str, row: Machine | None, env: dict[str, str]) -> None:
        """A fleet answers a claim of this machine with a task; `row` is what that fleet knows of it. It may work, and
        whom it works for is written: that one is told of its end.
        """
        if row is None or row.state not in AT_WORK:
            self.wrong(f"2: {machine} is {'gone' if row is None else row.state} and gets {env['TASK_ID']}")
        self._facts.given.add(assignment(env))
        job_id = env["TASK_ID"] if env["BATCH_ID"] == "single" else env["BATCH_ID"]
        if row is not None and row.job_id != job_id:
            self.wrong(f"5: {machine} gets work of {job_id}, and it is written that it works for {row.job_id}")

    def prepared(self, spec: MachineSpec, by: Process | None) -> None:
        """A machine is made for the pool."""
        row = self._facts.machines.get(spec.env["MACHINE_NAME"])
        if row is None or row.name != spec.name:
            self.wrong(f"3: {spec.name} was prepared before its intent was written")
        self._check_not_overtaken(by)

    def started(self, machine: SimMachine, by: Process | None) -> None:
        """A stopped machine is started; its batch may have been ended since the provider was asked."""
        name = machine.spec.env["MACHINE_NAME"]
        row = self._facts.machines.get(name)
        is_meant = row is not None and row.state in (MachineState.STARTING, MachineState.DESTROYING)
        if by not in self._overtaken and not is_meant:
            self.wrong(f"3: {name} was started before its intent was written")
        self._check_not_overtaken(by)

    def destroyed(self, machine: SimMachine | None, which: str, by: Process | None) -> None:
        """By whoever the fleet is."""
        self._check_not_overtaken(by)
        rows = (row for row in self._facts.machines.values() if which in (row.provider_id, row.name))
        row = next(rows, None)
        is_there = machine is not None and machine.runs and not machine.is_late
        if row is not None and is_there and row.state is MachineState.RUNNING:
            self.wrong(f"3: {row.id} is destroyed, and it is written that it is {row.state}")
        book = self._facts.books.get(row.job_id or "") if row is not None else None
        if row is not None and book is not None:
            held = {
                Assignment(task.task_id, task.run, task.attempt)
                for task in book.rows.values()
                if task.status is TaskStatus.PROCESSING and task.machine == row.id
            }
            self._held_at_destroying.setdefault(row.id, held & self._facts.given)

    def overtaken(self, fleet: Process) -> None:
        """Another fleet has begun."""
        self._overtaken.setdefault(fleet, self._facts.now_s())

    def _check_not_overtaken(self, by: Process | None) -> None:
        since = self._overtaken.get(by) if by is not None else None
        if since is not None and self._facts.now_s() - since > TRUST_S:
            self.wrong("2: a fleet acts on machines long after another one has taken over")

    def started_task(self, machine: SimMachine, env: dict[str, str]) -> None:
        """A worker begins."""
        key = assignment(env)
        name = machine.spec.name
        book = self._facts.books.get(env["BATCH_ID"])
        row = book.rows.get(key.task_id) if book is not None else None
        is_it = row is not None and (row.machine, row.attempt) == (machine.spec.env["MACHINE_NAME"], key.attempt)
        if is_it and row is not None and (row.memory_mb or 0) > machine.memory_mb:
            self.wrong(f"3: {key.task_id} needs {row.memory_mb} MB, and {name} has {machine.memory_mb}")
        if self._facts.started.setdefault(key, name) != name:
            self.wrong(f"3: {key.task_id}, attempt {key.attempt}, runs on two machines")

    def listed(self, alive: list[SimMachine], by: Process | None) -> None:
        """The fleet looks at what runs: what has no owner must be gone before the sweep has looked too often."""
        for machine in alive:
            row = self._facts.machines.get(machine.spec.env["MACHINE_NAME"])
            place = (by.name if by is not None else "", machine.spec.name)
            if row is not None and row.state is not MachineState.GONE:
                self._seen_alone.pop(place, None)
                continue
            since, times = self._seen_alone.get(place, (self._facts.now_s(), 0))
            self._seen_alone[place] = (since, times + 1)
            if self._facts.now_s() - since > self._sweep_s and times >= LOOKS:  # a fleet that stands still sees nothing
                self.wrong(f"3: {machine.spec.name} runs without an owner since {self._facts.now_s() - since:.0f} s")

    # ---- at the end

    def check_end(self, alive: list[SimMachine]) -> None:
        """Nothing is left."""
        for machine in alive:
            self.wrong(f"3: {machine.spec.name} still runs")
        for row in self._facts.machines.values():
            if row.state not in (MachineState.GONE, MachineState.READY):
                self.wrong(f"3: the row of {row.id} is still {row.state}")
