"""What can happen to a job. Every input of the loop is one of these; each has at most one answer."""

from typing import Any, Literal

import msgspec

from actors.rules.model import Task


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened."""


class Activated(Event, frozen=True, kw_only=True):
    """A new activation has taken the job over: always its first event. Time may have passed, or gone back."""


class AlarmFired(Event, frozen=True, kw_only=True):
    """`alarm_at` has come. May happen twice and must not mind."""


class CalledBack(Event, frozen=True, kw_only=True):
    """A worker reported on one assignment; the signature was checked before it came here."""

    run: int
    attempt: int
    task_id: str
    status: Literal["success", "error", "running", "released"]
    output_r2_key: str | None = None
    output_file_name: str | None = None
    output_file_size: int | None = None
    performance: dict[str, Any] | None = None
    error: str | None = None
    retryable: bool = True
    accepts_next: bool = False
    cpu_ms: int | None = None
    pages: int | None = None
    throttled_ms: int | None = None
    notes: tuple[str, ...] = ()


class WorkTaken(Event, frozen=True, kw_only=True):
    """A machine (created for this job, or claiming) takes up to `free` tasks. The same claim gets the same again."""

    machine: str
    claim: str
    free: int
    kind: str = "tiff"


class MachineLost(Event, frozen=True, kw_only=True):
    """A machine is gone, was refused by its provider, or was never asked for: "unmade". The last two cost no try.

    `permanent`: another try of its task would be refused too; `hopeless`: so would every machine of the service.
    `short_of_mb`: it ran out of memory, and had so much.
    `task_id` None: all it had of this job.
    """

    machine: str
    why: Literal["refused", "unmade", "gone", "exited"]
    message: str
    permanent: bool = False
    hopeless: bool = False
    short_of_mb: int | None = None
    task_id: str | None = None
    attempt: int = 0


class Leased(Event, frozen=True, kw_only=True):
    """The fleet's answer to a demand: how many tasks may be in flight while other jobs wait; None: any number."""

    lease: int | None


class Cancelled(Event, frozen=True, kw_only=True):
    """An operator cancels the job."""

    reason: str


class WasReset(Event, frozen=True, kw_only=True):
    """An administrator resets the job."""


class Retried(Event, frozen=True, kw_only=True):
    """A new run of the failed tasks of run `after_run` is asked for. Sent again, it asks for the same run.

    `created_at` is the job's as the caller has seen it: one that was created again since is not what was meant.
    """

    after_run: int
    created_at: int | None = None


class Downloaded(Event, frozen=True, kw_only=True):
    """The whole file of an export has been sent to a caller, and the export is to be removed after that."""


class OutputsRemoved(Event, frozen=True, kw_only=True):
    """The objects of an archive are gone, at that time. Its row stays."""


class Redelivered(Event, frozen=True, kw_only=True):
    """The final callback is to be sent again, under the same key."""


class DeliveryEnded(Event, frozen=True, kw_only=True):
    """What the receiver of the final callback made of it. `run` is the run that was told."""

    run: int
    outcome: Literal["delivered", "retry", "refused"]
    message: str | None = None


class PhasePlanned(Event, frozen=True, kw_only=True):
    """The tasks of phase `phase` are in the store: `tasks_total` of them are to be done in `run`."""

    run: int
    phase: int
    tasks_total: int


class PlanFailed(Event, frozen=True, kw_only=True):
    """The tasks of phase `phase` could not be made. `permanent`: the same would happen again."""

    run: int
    phase: int
    message: str
    permanent: bool = False


class Loaded(Event, frozen=True, kw_only=True):
    """Rows that the next events speak of, read from the store since they were not in memory."""

    tasks: tuple[Task, ...]
