"""The rows, as frozen structs. Times are milliseconds since 1970 UTC; sizes are bytes; 0 and None mean "not yet"."""

import re
from typing import Any, Final, Literal

import msgspec

from actors.rules.states import Delivery, JobState, MachineState, TaskStatus

MOST_WEIGHT: Final = 100
JOB_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What ids of jobs are made of. "batch" is none: it is a part of paths."""

JobKind = Literal["batch", "export", "exports", "archive"]
"""A batch of files; one export, which is its own and only task; a batch of exports; files that become archives."""


class PhaseCount(msgspec.Struct, frozen=True):
    """The counters of one phase of one run, kept as history when it is over."""

    name: str
    run: int
    tasks_total: int
    tasks_completed: int
    tasks_failed: int
    delivery: Delivery = Delivery.NONE  # of the run that ended with it


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One durable job. The row of table `jobs`."""

    id: str
    kind: JobKind = "batch"
    state: JobState = JobState.RECEIVING
    phases: tuple[str, ...] = ("TIFF_CONVERSION",)
    phase: int = 0  # index into phases
    run: int = 1
    epoch: int = 0  # activation that may write (invariant 2)
    seq: int = 0  # commits of this epoch, so that a commit can be sent again
    placement: str | None = None  # name of the actor, set once on admission: "batch:{id}" or "batches:{n}"
    alarm_at: int | None = None
    tasks_total: int = 0
    tasks_completed: int = 0
    tasks_failed: int = 0
    tasks_in_flight: int = 0
    files_total: int = 0
    history: tuple[PhaseCount, ...] = ()
    error: str | None = None
    code: str | None = None
    refused_since: int | None = None  # first refusal of a spawn since one was accepted
    delivery: Delivery = Delivery.NONE
    delivery_tries: int = 0
    delivery_at: int | None = None  # when the final callback is due (again)
    delivery_error: str | None = None
    delivered_run: int = 0  # the last run whose list the receiver has accepted; 0: none
    body_digest: str | None = None
    message: dict[str, Any] = {}  # the queue message, unknown fields included: they are passed back
    source_cursor: str | None = None  # the last key read of a prefix ("": none yet); None: a list, read by the front
    owner: str | None = None
    created_at: int = 0
    queued_at: int | None = None
    started_at: int | None = None
    updated_at: int = 0
    completed_at: int | None = None
    delivery_since: int | None = None  # when the present attempts to deliver began: at the end, or by `redeliver`
    retries: int = 0  # tries of tasks after a failed one, in all runs
    throttled_ms: int = 0  # for which hosts have slowed down its machines, as far as workers have told
    removed_since: int | None = None  # since when its files are being removed: it cannot begin again
    expires_at: int | None = None  # an export: until then it must have a machine; once it is over: it is removed
    files_missing: int = 0  # of files_total, those of an archive that were not there when they were verified
    bytes_total: int = 0  # of its files that were
    user_id: str | None = None  # whose files they are

    @property
    def tasks_pending(self) -> int:
        return self.tasks_total - self.tasks_completed - self.tasks_failed - self.tasks_in_flight

    @property
    def weight(self) -> int:
        """Its share beside other batches', as its creation says; what was taken in before that was checked counts as
        1."""
        weight = self.message.get("weight", 1)
        return weight if type(weight) is int and 1 <= weight <= MOST_WEIGHT else 1

    @property
    def count(self) -> PhaseCount:
        """The counters of the present phase and run, as `history` keeps them when they are over."""
        return PhaseCount(
            name=self.phases[self.phase],
            run=self.run,
            tasks_total=self.tasks_total,
            tasks_completed=self.tasks_completed,
            tasks_failed=self.tasks_failed,
            delivery=self.delivery,
        )

    @property
    def past(self) -> tuple[PhaseCount, ...]:
        """The history that a new run begins with. An intake that was never completed has counted nothing."""
        if self.queued_at is None:
            return self.history
        pending = self.delivery is Delivery.PENDING
        ended = msgspec.structs.replace(self.count, delivery=Delivery.SUPERSEDED) if pending else self.count
        return (*self.history, ended)

    @property
    def receiver_may_have_older_list(self) -> bool:
        """Whether the receiver has, or may have, the list of an earlier run and not this one's.

        The outcome of a delivery that was given up or superseded is not known for certain: an answer may be lost.
        """
        if self.delivered_run == self.run:
            return False
        doubtful = (Delivery.GIVEN_UP, Delivery.SUPERSEDED)
        return self.delivered_run > 0 or any(count.delivery in doubtful for count in self.history)


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """One task: the work on file `n` of a job in one phase. The row of table `tasks`, key (job_id, phase, n)."""

    job_id: str
    phase: int
    n: int
    task_id: str  # "{job_id}_{kind}_{n}" (phase 0); unique over the job
    run: int = 1
    status: TaskStatus = TaskStatus.PENDING
    attempt: int = 0  # names one assignment; never restarts within a run
    tries: int = 0  # attempts that count against MAX_RETRY_ATTEMPTS
    input_r2_key: str
    output_r2_key: str
    not_before: int = 0  # backoff: not taken earlier
    machine: str | None = None
    claim: str | None = None
    assigned_at: int | None = None
    heard_at: int | None = None  # first sign of life of this attempt
    deadline_at: int | None = None
    started_at: int | None = None
    completed_at: int | None = None
    error: str | None = None
    output_file_name: str | None = None
    output_file_size: int | None = None
    performance: dict[str, Any] | None = None
    cpu_ms: int | None = None
    pages: int | None = None
    notes: tuple[str, ...] = ()
    memory_mb: int | None = None  # that its machine must have: one with less has run out of it


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """One machine. The row of table `machines`, key `id`, written before the provider is called (invariant 3)."""

    id: str  # "m-{epoch}-{number}", given by the fleet
    name: str | None = None  # provider's name: follows from batch, run, task and attempt; in a pool from the id
    provider: str = "subprocess"
    provider_id: str | None = None
    kind: str = "tiff"
    state: MachineState = MachineState.PLANNED
    job_id: str | None = None  # the batch it last took work from
    task_id: str | None = None
    attempt: int = 0
    created_at: int = 0
    started_at: int | None = None
    seen_at: int | None = None
    ended_at: int | None = None
    reason: str | None = None
    pool: str | None = None  # the edition of the pool that it is of; None: it was made for one task
    price: int | None = None  # 10^-9 dollars a second while it runs
    charged_at: int | None = None  # until when its time was charged to jobs (`rules.costs`)
