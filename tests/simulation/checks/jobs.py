"""Batches: each write against the one before, what callers are told against what is written, and how they end."""

from collections import Counter
from typing import Any, Final

import msgspec
from sqlalchemy import bindparam, select

from actors.rules import invariants
from actors.rules.effects import State
from actors.rules.model import Job, Task
from actors.rules.states import (
    JOB_MOVES,
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
from actors.store.standing import standing
from actors.store.statements import Db, Sql
from actors.store.tables import TASKS, jobs, tasks
from tests.simulation.checks.facts import EPOCH_S, Assignment, Book, Facts

EXPORT_KEPT_S: Final = 20
"""As the settings of a run say."""
_ALL_TASKS = Sql(select(*TASKS.select).where(tasks.c.job_id == bindparam("job_id")))
_ALARM = Sql(select(jobs.c.alarm_at).where(jobs.c.id == bindparam("job_id")))


class JobChecks:
    """The rows and the counters of batches, and what their callers hear."""

    def __init__(self, facts: Facts, db: Db, max_attempts: int) -> None:
        self._facts, self._db, self._max_attempts = facts, db, max_attempts
        self.wrong = facts.wrong
        self._given: dict[str, int] = {}  # the epoch of the newest activation
        self._removed: set[str] = set()
        self.over_since: dict[tuple[str, int], float] = {}
        self.may_go: set[str] = set()
        """Exports that were downloaded as a whole, perhaps."""
        self._epoch_of: dict[Assignment, int] = {}
        self._boot_of: dict[Assignment, int | None] = {}
        self._forgiven: set[Assignment] = set()
        self._acknowledged: set[tuple[str, int, str]] = set()  # job, run, task
        self.acknowledged_jobs: set[str] = set()
        self._sizes: dict[tuple[str, int], int] = {}  # by the job and when it was created, perhaps again
        self.begun: dict[tuple[str, int], float] = {}  # when an epoch of a job began

    def activated(self, job: Job) -> None:
        """One was given to whoever asked for it."""
        if job.epoch <= self._given.get(job.id, 0):
            self.wrong(f"2: {job.id} was activated twice in epoch {job.epoch}")
        self._given[job.id] = job.epoch

    def read_again(self, job_id: str, op: str) -> None:
        """Something else than a turn has changed it."""
        job = reads.job(self._db, job_id)
        if job is None:
            self._check_removal(self._facts.books.pop(job_id, None))
            return
        former = self._facts.books.get(job_id)
        if former is not None and job.epoch < former.job.epoch:
            self.wrong(f"2: the epoch of {job_id} went back from {former.job.epoch} to {job.epoch}")
        if former is not None and former.job.state in TERMINAL_JOBS and op == "recreate" and job.run == former.job.run:
            self.wrong(f"4: {job_id} was created again in the same run")
        self.begun.setdefault((job_id, job.epoch), self._facts.now_s())
        self._facts.books[job_id] = Book(job, self._rows(job_id))
        for task in self._facts.books[job_id].rows.values():
            self._note_assignment(task)

    def _check_removal(self, book: Book | None) -> None:
        """A batch goes a month after its end, told or given up, and no sooner; an export after its time, its files
        before its rows."""
        if book is None:
            return
        job = book.job
        if job.kind not in ("batch", "archive"):
            self._check_removal_of_export(book)
            return
        if job.kind == "archive" and (job.removed_since is None or job.expires_at is not None):
            self.wrong(f"8: the row of {job.id} is removed, and its objects are not")
        if not self._facts.month_is_over or job.state not in TERMINAL_JOBS or job.delivery is Delivery.PENDING:
            self.wrong(f"8: {job.id} is removed; it was {job.state}, its delivery {job.delivery}")
        self._removed.add(job.id)

    def _check_removal_of_export(self, book: Book) -> None:
        job = book.job
        self._removed.add(job.id)
        if job.state not in TERMINAL_JOBS:
            self.wrong(f"8: {job.id} is removed; it was {job.state}")
        since = self.over_since.get((job.id, job.run), self._facts.now_s())
        keys = [row.output_r2_key for row in book.rows.values() if row.output_r2_key in self._facts.objects]
        left = [
            key for key in keys if self._facts.uploaded_at[key] < since
        ]  # what comes later is of a machine gone wild
        if left:
            self.wrong(f"8: {job.id} is removed, and nobody knows any more of {left[0]}")
        decided_s = (job.completed_at or 0) / 1000 - EPOCH_S  # its commit may have waited for a store that stood still
        is_early = self._facts.now_s() - min(since, decided_s) < EXPORT_KEPT_S / 2
        if is_early and job.id not in self.may_go and not self._facts.clock_has_jumped:
            self.wrong(f"8: {job.id} is removed {self._facts.now_s() - since:.0f} s after its end")

    def _rows(self, job_id: str) -> list[Task]:
        return [TASKS.struct_of(row) for row in self._db.rows(_ALL_TASKS, {"job_id": job_id})]

    def turn(self, turn: Commit) -> None:
        """A turn was committed."""
        book, new = self._facts.books[turn.job.id], turn.job
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
            source_cursor=old.source_cursor, files_missing=old.files_missing, bytes_total=old.bytes_total,
        )  # fmt: skip
        for task in turn.tasks:
            self._changed(old, book, task)
            book.put(task)
            self._note_assignment(task)
            if task.status is TaskStatus.PROCESSING and book.claimed[(task.machine, task.claim)] > 1:
                self.wrong(f"3: {task.machine} holds two tasks for its claim {task.claim}, which asked for one")
        is_told_again = old.delivery is not Delivery.PENDING and new.delivery is Delivery.PENDING
        if is_told_again and old.state is JobState.DONE and new.run == old.run:
            self._facts.to_be_told_again[f"{new.id}:{new.run}"] = self._facts.now_s()
        if new.state in TERMINAL_JOBS:
            self._facts.ended.add(new.id)
            self.over_since.setdefault((new.id, new.run), self._facts.now_s())
            if new.kind != "batch" and new.alarm_at is None and not _is_gone(new):
                self.wrong(f"5: {new.id} is over and will never be removed")
        if new.state in TERMINAL_JOBS or (new.run, new.phase) != (old.run, old.phase):
            self.check_whole(new.id)
        else:
            self._check_counters(book)
        if new.state not in TERMINAL_JOBS and new.alarm_at is None:
            self.wrong(f"5: {new.id} is {new.state} and has no alarm")
        ((alarm_at,),) = self._db.rows(_ALARM, {"job_id": new.id})
        if alarm_at != new.alarm_at:
            self.wrong(f"5: the alarm of {new.id} is in memory alone")

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
        found = self._facts.runs_at.get(machine or "")
        is_denied = found is not None and (found.is_late or (found.has_exited and found.code is None))
        return key not in self._facts.started or is_denied or (job_id, "released", key) in self._facts.reported

    def _has_succeeded(self, job_id: str, task: Task) -> bool:
        return any(
            (job_id, "success", Assignment(task.task_id, task.run, attempt)) in self._facts.reported
            for attempt in range(task.attempt, 0, -1)
        )

    def _check_reason(self, job: Job, old: Task, new: Task) -> None:
        """An attempt is given up when it is reported on, overdue, or its machine is not there."""
        if new.status is TaskStatus.COMPLETED or job.state in TERMINAL_JOBS:
            return
        key = Assignment(old.task_id, old.run, old.attempt)
        if self._facts.clock_has_jumped and self._epoch_of.get(key) != job.epoch:
            return  # its process has another clock than the one that has set the deadline
        if any((job.id, status, key) in self._facts.reported for status in ("error", "released")):
            return
        row = self._facts.machines.get(old.machine or "")
        if row is None or row.state is not MachineState.RUNNING or old.machine not in self._facts.runs_at:
            return
        machine = self._facts.runs_at[old.machine]
        if self._boot_of.get(key) not in (None, machine.starts):
            return  # it was started again since: what it had in hand was lost
        if (old.deadline_at or 0) > job.updated_at and not machine.has_exited and not machine.is_late:
            self.wrong(f"4: attempt {old.attempt} of {old.task_id} was given up for nothing: {new.error}")

    def _note_assignment(self, task: Task) -> None:
        if task.status is not TaskStatus.PROCESSING:
            return
        key = Assignment(task.task_id, task.run, task.attempt)
        known = self._facts.assigned.setdefault(key, task.machine)
        machine = self._facts.runs_at.get(task.machine or "")
        self._boot_of.setdefault(key, machine.starts if machine is not None else None)
        self._epoch_of.setdefault(key, self._facts.books[task.job_id].job.epoch)
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

    # ---- what is told

    def reports(self, batch: str, env: Assignment, status: str) -> None:
        """A callback that is signed is on its way."""
        self._facts.reported.add((batch, status, env))

    def callback_answered(self, batch: str, env: Assignment, status: str, answer: dict[str, Any]) -> None:
        """A callback got 200. Invariant 1: what it says is written."""
        book = self._facts.books.get(batch)
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
            self._facts.check_given(following)

    def creation_answered(self, job: Job, files: int | None) -> None:
        """202 or 200: the batch is there, and will have so many files, where that is known."""
        job_id = job.id
        self.acknowledged_jobs.add(job_id)
        if files is not None:
            self._sizes[(job_id, job.created_at)] = files
        if job_id not in self._facts.books:
            self.wrong(f"1: the creation of {job_id} was acknowledged, and it is not written")

    def ended_by_operator(self, job_id: str, run: int) -> None:
        """A cancel or reset got 200."""
        book = self._facts.books.get(job_id)
        if book is not None and book.job.run == run and book.job.state not in TERMINAL_JOBS:
            self.wrong(f"1: the end of {job_id} was acknowledged, and it is {book.job.state}")

    def retried(self, job_id: str, run: int) -> None:
        """A retry after this run got 200: the next one is written, or a later one."""
        book = self._facts.books.get(job_id)
        if book is not None and book.job.run <= run:
            self.wrong(f"1: a run of {job_id} after {run} was acknowledged, and is not written")

    # ---- at the end

    def check_end(self) -> None:
        """Everything is calm, and nobody asks for anything."""
        for job_id in sorted(self.acknowledged_jobs):
            self._check_at_end(job_id)
        self._check_runs()

    def _check_at_end(self, job_id: str) -> None:
        book = self._facts.books.get(job_id)
        if book is None:
            if job_id not in self._removed:
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
        for task in book.rows.values():
            stood = standing(task, job)
            if job.state is JobState.DONE and stood.status is TaskStatus.FAILED and stood.run == job.run:
                self._check_failure(stood)

    def _check_failure(self, task: Task) -> None:
        for_good = ("404 Not Found", "422")
        if task.tries < self._max_attempts and not any(words in (task.error or "") for words in for_good):
            self.wrong(f"5: {task.task_id} has failed after {task.tries} tries: {task.error}")

    def _check_runs(self) -> None:
        runs = Counter((key.task_id, key.run) for key in self._facts.started if key not in self._forgiven)
        for (task_id, run), count in runs.items():
            if count > self._max_attempts:
                self.wrong(f"5: {task_id} ran {count} times in run {run}")


def _is_gone(job: Job) -> bool:
    """Of an archive the row stays."""
    return job.kind == "archive" and job.removed_since is not None and job.expires_at is None


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
