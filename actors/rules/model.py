"""The rows, as frozen structs. Times are milliseconds since 1970 UTC; sizes are bytes; 0 and None mean "not yet"."""

from typing import Any

import msgspec

from actors.rules.states import Delivery, JobState, MachineState, TaskStatus


class PhaseCount(msgspec.Struct, frozen=True):
    """The counters of one phase of one run, kept as history when it is over."""

    name: str
    run: int
    tasks_total: int
    tasks_completed: int
    tasks_failed: int


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One durable job: a batch (kind "batch") or, later, an export. The row of table `jobs`."""

    id: str
    kind: str = "batch"
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
    delivered_runs: int = 0  # runs whose list the receiver has accepted
    body_digest: str | None = None
    message: dict[str, Any] = {}  # the queue message, unknown fields included: they are passed back
    source_cursor: str | None = None  # the last key read of a prefix ("": none yet); None: a list, read by the front
    owner: str | None = None
    created_at: int = 0
    queued_at: int | None = None
    started_at: int | None = None
    updated_at: int = 0
    completed_at: int | None = None

    @property
    def tasks_pending(self) -> int:
        return self.tasks_total - self.tasks_completed - self.tasks_failed - self.tasks_in_flight


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


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """One machine. The row of table `machines`, key `id`, written before the provider is called (invariant 3)."""

    id: str  # "m-{number}", given by the fleet
    name: str | None = None  # provider's name: follows from batch, run, task and attempt
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
