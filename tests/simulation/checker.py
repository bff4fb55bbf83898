"""What must be true, whatever happened: the eight invariants of the design, looked at from outside the engine.

After each write of the store what it changed is compared with what was there before; what is told to anybody, or done
to machines, is compared with what is written at that moment; at the end everything is counted from the rows.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs, urlsplit

import msgspec
from sqlalchemy import bindparam, select

from actors.machines.base import MachineSpec
from actors.rules import invariants
from actors.rules.effects import State
from actors.rules.model import Job, Machine, Task
from actors.rules.states import (
    JOB_MOVES,
    MACHINE_MOVES,
    TASK_MOVES,
    TERMINAL_JOBS,
    TERMINAL_TASKS,
    Delivery,
    JobState,
    MachineState,
    TaskStatus,
)
from actors.store import reads
from actors.store.commit import Commit
from actors.store.engine import Db, Sql
from actors.store.standing import standing
from actors.store.tables import TASKS, tasks
from tests.simulation.loop import Process
from tests.simulation.machines import SimMachine

_decode_commit = msgspec.msgpack.Decoder(Commit).decode
_decode_activation = msgspec.msgpack.Decoder(tuple[Job, msgspec.Raw]).decode
_decode_machines = msgspec.msgpack.Decoder(list[Machine]).decode
_ALL_TASKS = Sql(select(*TASKS.select).where(tasks.c.job_id == bindparam("job_id")))

TRUST_S: Final = 12.0
"""How long after another one has taken over an actor may still act: EPOCH_TRUST_S of the loop, and a call."""

LOOKS: Final = 8
"""How often a fleet has seen a machine without an owner, at least, when it should have ended it."""

CHANGE_JOBS: Final = {"create", "recreate", "queue", "admit", "activate", "add_files", "clear", "plan", "remove"}


class Assignment(NamedTuple):
    """One attempt of one task in one run."""

    task_id: str
    run: int
    attempt: int


def assignment(env: dict[str, str]) -> Assignment:
    """The one that an environment is for."""
    query = parse_qs(urlsplit(env["CALLBACK_URL"]).query)
    return Assignment(env["TASK_ID"], int(query["run"][0]), int(query["attempt"][0]))


class Book:
    """One job as the last write has left it, and its tasks as they are stored."""

    def __init__(self, job: Job, rows: Iterable[Task]) -> None:
        self.job = job
        self.rows: dict[str, Task] = {}
        self.count: Counter[tuple[int, int, TaskStatus]] = Counter()
        self.claimed: Counter[tuple[str | None, str | None]] = Counter()  # in flight, by machine and claim
        for task in rows:
            self.put(task)

    def put(self, task: Task) -> None:
        former = self.rows.get(task.task_id)
        if former is not None:
            self.count[_place(former)] -= 1
            if former.status is TaskStatus.PROCESSING:
                self.claimed[(former.machine, former.claim)] -= 1
        self.rows[task.task_id] = task
        self.count[_place(task)] += 1
        if task.status is TaskStatus.PROCESSING:
            self.claimed[(task.machine, task.claim)] += 1

    def counted(self, status: TaskStatus) -> int:
        return self.count[(self.job.phase, self.job.run, status)]


def _place(task: Task) -> tuple[int, int, TaskStatus]:
    return (task.phase, task.run, task.status)


class Checker:
    """Sees every write, every answer and every machine. `fail` is told the first violation."""

    def __init__(
        self, db: Db, *, max_attempts: int, sweep_s: float, now_s: Callable[[], float], fail: Callable[[str], None]
    ) -> None:
        self._db, self._max_attempts, self._sweep_s, self._now_s = db, max_attempts, sweep_s, now_s
        self.wrong = fail
        self.clock_has_jumped = False
        self._reported: set[tuple[str, str, Assignment]] = set()  # batch, status
        self._given: dict[str, int] = {}  # the epoch of the newest activation
        self._epochs: dict[tuple[Process, str], int] = {}  # of the activation of a job in a process
        self._begun: dict[tuple[str, int], float] = {}  # when an epoch of a job began
        self._runs_at: dict[str, SimMachine] = {}  # by MACHINE_NAME
        self._held_at_destroying: dict[str, set[Assignment]] = {}
        self.books: dict[str, Book] = {}
        self.machines: dict[str, Machine] = {}
        self._fleet_epoch = 0
        self._forgiven: set[Assignment] = set()
        self._assigned: dict[Assignment, str | None] = {}
        self._started: dict[Assignment, str] = {}
        self._spawned: set[str] = set()
        self._seen_alone: dict[tuple[int, str], tuple[float, int]] = {}  # since, and how often
        self._acknowledged: set[tuple[str, int, str]] = set()  # job, run, task
        self.acknowledged_jobs: set[str] = set()
        self._sizes: dict[tuple[str, int], int] = {}  # by the job and when it was created, perhaps again
        self.delivered: dict[str, bytes] = {}  # by key
        self.accepted: set[str] = set()
        self._overtaken: dict[Process, float] = {}

    # ---- what is written

    def stored(self, requests: list[dict[str, Any]], answers: list[Any]) -> None:
        """A transaction was carried out."""
        for request, answer in zip(requests, answers, strict=True):
            if isinstance(answer, BaseException):
                continue
            op = request["op"]
            if op == "commit":
                self._turn(_decode_commit(request["commit"]))
            elif op == "commit_machines":
                self._machines(request)
            elif op == "activate_singleton":
                if answer <= self._fleet_epoch:
                    self.wrong(f"2: a fleet begins with epoch {answer} after {self._fleet_epoch}")
                self._fleet_epoch = answer
            elif op in CHANGE_JOBS:
                if op == "activate":
                    self._check_new_epoch(*_decode_activation(answer))
                self._read_again(_job_of(request), op)

    def _check_new_epoch(self, job: Job, _: msgspec.Raw) -> None:
        if job.epoch <= self._given.get(job.id, 0):
            self.wrong(f"2: {job.id} was activated twice in epoch {job.epoch}")
        self._given[job.id] = job.epoch

    def _read_again(self, job_id: str, op: str) -> None:
        job = reads.job(self._db, job_id)
        if job is None:
            self.books.pop(job_id, None)
            return
        former = self.books.get(job_id)
        if former is not None and job.epoch < former.job.epoch:
            self.wrong(f"2: the epoch of {job_id} went back from {former.job.epoch} to {job.epoch}")
        if former is not None and former.job.state in TERMINAL_JOBS and op == "recreate" and job.run == former.job.run:
            self.wrong(f"4: {job_id} was created again in the same run")
        self._begun.setdefault((job_id, job.epoch), self._now_s())
        self.books[job_id] = Book(job, self._rows(job_id))
        for task in self.books[job_id].rows.values():
            self._note_assignment(task)

    def _rows(self, job_id: str) -> list[Task]:
        return [TASKS.struct_of(row) for row in self._db.rows(_ALL_TASKS, {"job_id": job_id})]

    def _turn(self, turn: Commit) -> None:
        book, new = self.books[turn.job.id], turn.job
        old = book.job
        if (new.epoch, new.seq) == (old.epoch, old.seq):
            return  # sent again, since its answer was lost
        if new.epoch != old.epoch:
            self.wrong(f"2: {new.id}: a commit of epoch {new.epoch} was taken while {old.epoch} is the newest")
        if new.seq != old.seq + 1:
            self.wrong(f"2: {new.id}: commit {new.seq} follows on {old.seq}")
        if new.state not in _reachable(old.state):
            self.wrong(f"4: {new.id} went from {old.state} to {new.state}")
        book.job = msgspec.structs.replace(
            new, placement=None if turn.rerun else old.placement, files_total=old.files_total,
            source_cursor=old.source_cursor,
        )  # fmt: skip
        for task in turn.tasks:
            self._changed(old, book, task)
            book.put(task)
            self._note_assignment(task)
            if task.status is TaskStatus.PROCESSING and book.claimed[(task.machine, task.claim)] > 1:
                self.wrong(f"3: {task.machine} holds two tasks for its claim {task.claim}, which asked for one")
        if new.state in TERMINAL_JOBS or (new.run, new.phase) != (old.run, old.phase):
            self.check_whole(new.id)
        else:
            self._check_counters(book)
        if new.state not in TERMINAL_JOBS and new.alarm_at is None:
            self.wrong(f"5: {new.id} is {new.state} and has no alarm")

    def _changed(self, before: Job, book: Book, task: Task) -> None:
        old = book.rows.get(task.task_id)
        if old is None:
            self.wrong(f"7: {task.task_id} was written and does not exist")
            return
        stood = standing(old, before)
        if stood.run == task.run and stood.status in TERMINAL_TASKS and stood.status is not task.status:
            self.wrong(f"4: {task.task_id} was {stood.status} and became {task.status} in the same run")
        if old.status is TaskStatus.COMPLETED:
            self.wrong(f"4: {task.task_id} was completed and was written again")
        if task.status is TaskStatus.COMPLETED and not self._has_succeeded(book.job.id, task):
            self.wrong(f"4: {task.task_id} is completed, and no attempt of run {task.run} has reported a success")
        if stood.status is TaskStatus.PROCESSING and task.status is not TaskStatus.PROCESSING:
            self._check_reason(book.job, stood, task)
        if task.status is not stood.status and task.status not in _reachable_task(stood.status):
            self.wrong(f"4: {task.task_id} went from {stood.status} to {task.status}")
        if task.run == old.run and task.attempt < old.attempt:
            self.wrong(f"4: {task.task_id}: attempt {task.attempt} after {old.attempt}")
        if task.tries > self._max_attempts:
            self.wrong(f"5: {task.task_id} has {task.tries} tries, of {self._max_attempts}")
        if task.status is TaskStatus.PROCESSING and (task.deadline_at is None or task.machine is None):
            self.wrong(f"5: {task.task_id} is in flight without a deadline or a machine")
        if task.status is TaskStatus.PENDING and task.run == old.run and task.tries < old.tries:
            key = Assignment(task.task_id, task.run, old.attempt)
            if self._costs_nothing(book.job.id, key, old.machine):
                self._forgiven.add(key)

    def _costs_nothing(self, job_id: str, key: Assignment, machine: str | None) -> bool:
        """Its worker has given it back or never begun; or its provider has said that there is no such machine."""
        found = self._runs_at.get(machine or "")
        is_denied = found is not None and (found.is_late or (found.has_exited and found.code is None))
        return key not in self._started or is_denied or (job_id, "released", key) in self._reported

    def _has_succeeded(self, job_id: str, task: Task) -> bool:
        return any(
            (job_id, "success", Assignment(task.task_id, task.run, attempt)) in self._reported
            for attempt in range(task.attempt, 0, -1)
        )

    def _check_reason(self, job: Job, old: Task, new: Task) -> None:
        """An attempt is given up when it is reported on, overdue, or its machine is not there."""
        if new.status is TaskStatus.COMPLETED or job.state in TERMINAL_JOBS or self.clock_has_jumped:
            return
        key = Assignment(old.task_id, old.run, old.attempt)
        if any((job.id, status, key) in self._reported for status in ("error", "released")):
            return
        row = self.machines.get(old.machine or "")
        if row is None or row.state is not MachineState.RUNNING or old.machine not in self._runs_at:
            return
        machine = self._runs_at[old.machine]
        if (old.deadline_at or 0) > job.updated_at and not machine.has_exited and not machine.is_late:
            self.wrong(f"4: attempt {old.attempt} of {old.task_id} was given up for nothing: {new.error}")

    def _note_assignment(self, task: Task) -> None:
        if task.status is not TaskStatus.PROCESSING:
            return
        key = Assignment(task.task_id, task.run, task.attempt)
        known = self._assigned.setdefault(key, task.machine)
        if known != task.machine:
            self.wrong(f"3: {task.task_id}, attempt {task.attempt}, was given to {known} and to {task.machine}")

    def _check_counters(self, book: Book) -> None:
        job = book.job
        if job.queued_at is None:
            return
        for name, counter, status in (
            ("tasks_completed", job.tasks_completed, TaskStatus.COMPLETED),
            ("tasks_failed", job.tasks_failed, TaskStatus.FAILED),
            ("tasks_in_flight", job.tasks_in_flight, TaskStatus.PROCESSING),
        ):
            if counter != book.counted(status):
                self.wrong(f"7: {name} of {job.id} is {counter}, the rows say {book.counted(status)}")

    def check_whole(self, job_id: str) -> None:
        """Everything of a job, from its rows."""
        job = reads.job(self._db, job_id)
        if job is None:
            return
        rows = [standing(row, job) for row in self._rows(job_id)]
        flying = {
            row.task_id: row
            for row in rows
            if row.status is TaskStatus.PROCESSING and (row.phase, row.run) == (job.phase, job.run)
        }
        for sentence in invariants.check(State(job=job, in_flight=flying), rows):
            self.wrong(sentence)

    def _machines(self, request: dict[str, Any]) -> None:
        if request["epoch"] != self._fleet_epoch:
            self.wrong(f"2: the fleet of epoch {request['epoch']} wrote while {self._fleet_epoch} is the newest")
        for row in _decode_machines(request["machines"]):
            old = self.machines.get(row.id)
            if old is None and row.state is not MachineState.PLANNED:
                self.wrong(f"3: {row.id} begins as {row.state}")
            if old is not None and old.state is not row.state and row.state not in MACHINE_MOVES[old.state]:
                self.wrong(f"3: {row.id} went from {old.state} to {row.state}")
            self.machines[row.id] = row
            if row.state is MachineState.GONE:
                self._check_told(row)
                self._begin_to_miss(row)
                machine = self._runs_at.get(row.id)
                if machine is not None and not machine.has_exited and not machine.is_late:
                    self.wrong(f"3: {row.id} is written as gone, and runs")

    def _begin_to_miss(self, row: Machine) -> None:
        """From when the fleet has written it last: until it has the answer it holds the machine for its own."""
        self._seen_alone = {place: seen for place, seen in self._seen_alone.items() if place[1] != row.name}

    def _check_told(self, row: Machine) -> None:
        """The batch for which a machine was made knows of its end before it is forgotten."""
        book = self.books.get(row.job_id or "")
        if book is None or book.job.state in TERMINAL_JOBS:
            return
        for key in self._held_at_destroying.pop(row.id, ()):
            task = book.rows.get(key.task_id)
            if task is not None and task.status is TaskStatus.PROCESSING and (task.run, task.attempt) == key[1:]:
                self.wrong(f"5: {row.id} is gone, and nobody has told {row.job_id}, which waits for it")

    # ---- what is told

    def reports(self, batch: str, env: Assignment, status: str) -> None:
        """A callback that is signed is on its way."""
        self._reported.add((batch, status, env))

    def callback_answered(self, batch: str, env: Assignment, status: str, answer: dict[str, Any]) -> None:
        """A callback got 200. Invariant 1: what it says is written."""
        book = self.books.get(batch)
        if book is None or answer.get("stop") or status == "running":
            return
        job, task = book.job, book.rows.get(env.task_id)
        if task is None or job.state in TERMINAL_JOBS or job.run != env.run:
            return
        stood = standing(task, job)
        is_open = stood.status is TaskStatus.PROCESSING and stood.attempt == env.attempt
        if status == "success":
            self._acknowledged.add((batch, env.run, env.task_id))
            if stood.status not in TERMINAL_TASKS:
                self.wrong(f"1: the success of {env.task_id} was acknowledged, and it is {stood.status}")
        elif is_open:
            self.wrong(f"1: the {status} of {env.task_id}, attempt {env.attempt}, was acknowledged and is not written")
        following = answer.get("next")
        if following is not None:
            self._check_given(following)

    def _check_given(self, env: dict[str, str]) -> None:
        key = assignment(env)
        if key not in self._assigned:
            self.wrong(f"3: {key.task_id}, attempt {key.attempt}, was given out and not written")

    def claim_answered(self, envs: list[dict[str, str]]) -> None:
        """A claim got work."""
        for env in envs:
            self._check_given(env)

    def creation_answered(self, job: Job, files: int) -> None:
        """202 or 200: the batch is there, and will have so many files."""
        job_id = job.id
        self.acknowledged_jobs.add(job_id)
        self._sizes[(job_id, job.created_at)] = files
        if job_id not in self.books:
            self.wrong(f"1: the creation of {job_id} was acknowledged, and it is not written")

    def ended_by_operator(self, job_id: str, run: int) -> None:
        """A cancel or reset got 200."""
        book = self.books.get(job_id)
        if book is not None and book.job.run == run and book.job.state not in TERMINAL_JOBS:
            self.wrong(f"1: the end of {job_id} was acknowledged, and it is {book.job.state}")

    def received(self, job_id: str, key: str, body: bytes) -> None:
        """A final callback came. Invariant 6."""
        book = self.books.get(job_id)
        run = int(key.rpartition(":")[2])
        if book is None:
            self.wrong(f"6: {job_id} was delivered and is not written")
            return
        if book.job.run == run and book.job.state is not JobState.DONE:
            self.wrong(f"6: {job_id} was delivered while it is {book.job.state}")
        if book.job.run == run and self.delivered.setdefault(key, body) != body:
            self.wrong(f"6: the two deliveries of {key} are not equal")

    # ---- what is done by whom

    def activated(self, process: Process, job: Job) -> None:
        """An activation of a job begins in this process."""
        self._epochs[(process, job.id)] = job.epoch

    def delivers(self, job_id: str, run: int, by: Process | None) -> None:
        """An activation begins to send a final callback. Invariants 3 and 2: its end is written, and it has not lost
        the job long ago.
        """
        book = self.books.get(job_id)
        if book is not None and book.job.run == run and book.job.state is not JobState.DONE:
            self.wrong(f"3: {job_id} is being delivered while it is {book.job.state}")
        epoch = self._epochs.get((by, job_id)) if by is not None else None
        if epoch is None:
            return
        since = self._begun.get((job_id, epoch + 1))
        if since is not None and self._now_s() - since > TRUST_S:
            self.wrong(f"2: {job_id} is delivered by an activation that has lost it {self._now_s() - since:.0f} s ago")

    # ---- what is done to machines

    def spawned(self, spec: MachineSpec, by: Process | None) -> None:
        """Invariant 3: the intent is written, and it is not repeated."""
        row = self.machines.get(spec.env["MACHINE_NAME"])
        if row is None or row.name != spec.name or row.state is MachineState.PLANNED:
            self.wrong(f"3: {spec.name} was spawned before its intent was written")
        if spec.name in self._spawned:
            self.wrong(f"3: {spec.name} was spawned twice")
        self._spawned.add(spec.name)
        self._check_given(spec.env)
        self._check_not_overtaken(by)

    def made(self, machine: SimMachine) -> None:
        """The provider has made it."""
        self._runs_at[machine.spec.env["MACHINE_NAME"]] = machine

    def destroyed(self, machine: SimMachine | None, which: str, by: Process | None) -> None:
        """By whoever the fleet is."""
        self._check_not_overtaken(by)
        rows = (row for row in self.machines.values() if which in (row.provider_id, row.name))
        row = next(rows, None)
        book = self.books.get(row.job_id or "") if row is not None else None
        if row is not None and book is not None:
            self._held_at_destroying.setdefault(row.id, {
                Assignment(task.task_id, task.run, task.attempt)
                for task in book.rows.values()
                if task.status is TaskStatus.PROCESSING and task.machine == row.id and task.claim == f"spawn:{row.id}"
            })  # fmt: skip

    def overtaken(self, fleet: Process) -> None:
        """Another fleet has begun."""
        self._overtaken.setdefault(fleet, self._now_s())

    def _check_not_overtaken(self, by: Process | None) -> None:
        since = self._overtaken.get(by) if by is not None else None
        if since is not None and self._now_s() - since > TRUST_S:
            self.wrong("2: a fleet acts on machines long after another one has taken over")

    def started_task(self, machine: SimMachine, env: dict[str, str]) -> None:
        """A worker begins."""
        key = assignment(env)
        name = machine.spec.name
        if self._started.setdefault(key, name) != name:
            self.wrong(f"3: {key.task_id}, attempt {key.attempt}, runs on two machines")

    def listed(self, alive: list[SimMachine], by: Process | None) -> None:
        """The fleet looks at what runs: what has no owner must be gone before the sweep has looked too often."""
        for machine in alive:
            row = self.machines.get(machine.spec.env["MACHINE_NAME"])
            place = (id(by), machine.spec.name)
            if row is not None and row.state is not MachineState.GONE:
                self._seen_alone.pop(place, None)
                continue
            since, times = self._seen_alone.get(place, (self._now_s(), 0))
            self._seen_alone[place] = (since, times + 1)
            if self._now_s() - since > self._sweep_s and times >= LOOKS:  # a fleet that stands still sees nothing
                self.wrong(f"3: {machine.spec.name} runs without an owner since {self._now_s() - since:.0f} s")

    # ---- at the end

    def check_end(self, alive: list[SimMachine], *, delivers: bool) -> None:
        """Everything is calm, and nobody asks for anything."""
        for job_id in sorted(self.acknowledged_jobs):
            self._check_job_at_end(job_id, delivers)
        for machine in alive:
            self.wrong(f"3: {machine.spec.name} still runs")
        for row in self.machines.values():
            if row.state is not MachineState.GONE:
                self.wrong(f"3: the row of {row.id} is still {row.state}")
        self._check_runs()

    def _check_job_at_end(self, job_id: str, delivers: bool) -> None:
        book = self.books.get(job_id)
        if book is None:
            self.wrong(f"8: {job_id} is gone")
            return
        job = book.job
        self.check_whole(job_id)
        if job.state not in TERMINAL_JOBS:
            self.wrong(f"5: {job_id} is still {job.state}")
        files = self._sizes.get((job_id, job.created_at), job.files_total)
        if job.queued_at is not None and job.files_total != files:
            self.wrong(f"1: {job_id} was created with {files} files and has {job.files_total}")
        for of_job, run, task_id in sorted(self._acknowledged):
            task = book.rows.get(task_id)
            if of_job != job_id or task is None or not run == job.run == task.run:
                continue
            if standing(task, job).status not in TERMINAL_TASKS:
                self.wrong(f"4: the success of {task_id} was acknowledged and is not counted")
        if delivers and job.state is JobState.DONE:
            if job.delivery is not Delivery.DELIVERED:
                self.wrong(f"6: {job_id} is done, and its delivery is {job.delivery}")
            elif f"{job_id}:{job.run}" not in self.accepted:
                self.wrong(f"6: {job_id} counts as delivered, and the receiver has not accepted it")
        for task in book.rows.values():
            stood = standing(task, job)
            if job.state is JobState.DONE and stood.status is TaskStatus.FAILED and stood.run == job.run:
                self._check_failure(stood)

    def _check_failure(self, task: Task) -> None:
        for_good = ("404 Not Found", "422")
        if task.tries < self._max_attempts and not any(words in (task.error or "") for words in for_good):
            self.wrong(f"5: {task.task_id} has failed after {task.tries} tries: {task.error}")

    def _check_runs(self) -> None:
        runs = Counter((key.task_id, key.run) for key in self._started if key not in self._forgiven)
        for (task_id, run), count in runs.items():
            if count > self._max_attempts:
                self.wrong(f"5: {task_id} ran {count} times in run {run}")


def _job_of(request: dict[str, Any]) -> str:
    if "job_id" in request:
        return str(request["job_id"])
    return msgspec.msgpack.decode(request["job"], type=Job).id


_STEPS: Final = 3


def _reachable(state: JobState) -> set[JobState]:
    """What one turn can lead to: it may make several moves."""
    found = {state}
    for _ in range(_STEPS):
        found |= {after for before in found for after in JOB_MOVES[before]}
    return found if state not in TERMINAL_JOBS else {state, *JOB_MOVES[state]}


def _reachable_task(status: TaskStatus) -> set[TaskStatus]:
    if status is TaskStatus.COMPLETED:
        return set()
    if status is TaskStatus.FAILED:
        return {TaskStatus.PENDING, TaskStatus.PROCESSING, TaskStatus.COMPLETED, TaskStatus.FAILED}
    return {TaskStatus.PENDING, TaskStatus.PROCESSING, *TASK_MOVES[status], *TERMINAL_TASKS}
