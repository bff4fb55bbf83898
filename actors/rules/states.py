"""Every status, and what may follow what. All moves are made by `actors.rules`; this page is the law.

A job is RECEIVING until its last page of files is committed, QUEUED until it has a place, RUNNING
while its phases last. DONE, FAILED and CANCELLED are terminal for a *run*; a new run starts at QUEUED.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class JobState(StrEnum):
    """Where a job is in its life (the `state` field of every status object)."""

    RECEIVING = "receiving"
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class TaskStatus(StrEnum):
    """Where a task is in its life."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"


class MachineState(StrEnum):
    """Where a machine is in its life, as far as the fleet knows."""

    PLANNED = "planned"
    SPAWNING = "spawning"
    PREPARING = "preparing"
    READY = "ready"  # stopped, in the pool
    STARTING = "starting"
    RUNNING = "running"
    DESTROYING = "destroying"
    GONE = "gone"


class Delivery(StrEnum):
    """Where the final callback of a run is. NONE: there is no receiver, or the run is not at its end."""

    NONE = "none"
    PENDING = "pending"
    DELIVERED = "delivered"
    REFUSED = "refused"
    GIVEN_UP = "given_up"
    SUPERSEDED = "superseded"  # a later run began before it was told: that run tells the whole list


JOB_MOVES: Final[Mapping[JobState, frozenset[JobState]]] = {
    JobState.RECEIVING: frozenset({
        JobState.QUEUED,     # the last page of files is committed
        JobState.FAILED,     # intake was not continued in time, a prefix was empty, or reset
        JobState.CANCELLED,  # cancel
    }),
    JobState.QUEUED: frozenset({
        JobState.RUNNING,    # the first turn of its actor; with nothing to do it is DONE in the same turn
        JobState.FAILED,     # reset
        JobState.CANCELLED,  # cancel
    }),
    JobState.RUNNING: frozenset({
        JobState.DONE,       # every task of the last phase is terminal
        JobState.FAILED,     # reset, machines were refused for too long, or the next phase cannot be planned
        JobState.CANCELLED,  # cancel
    }),
    JobState.DONE: frozenset({
        JobState.QUEUED,     # retry: a new run of the failed tasks, from the first phase that has any
    }),
    JobState.FAILED: frozenset({
        JobState.QUEUED,     # retry
        JobState.RECEIVING,  # created again over ERROR: a new run with a new list
    }),
    JobState.CANCELLED: frozenset({
        JobState.QUEUED,     # retry
        JobState.RECEIVING,  # created again over ERROR
    }),
}  # fmt: skip

TASK_MOVES: Final[Mapping[TaskStatus, frozenset[TaskStatus]]] = {
    TaskStatus.PENDING: frozenset({
        TaskStatus.PROCESSING,  # taken: the attempt is written down before anybody is told
        TaskStatus.COMPLETED,   # an older attempt succeeded after all (invariant 4)
        TaskStatus.FAILED,      # cancel, reset
    }),
    TaskStatus.PROCESSING: frozenset({
        TaskStatus.COMPLETED,   # success was called back
        TaskStatus.FAILED,      # an error that cannot get better, the last try, cancel, reset
        TaskStatus.PENDING,     # error or time-out with tries left; released; machine refused
    }),
    TaskStatus.COMPLETED: frozenset(),  # terminal is final (invariant 4)
    TaskStatus.FAILED: frozenset({
        TaskStatus.PENDING,     # only in a new run
    }),
}  # fmt: skip

MACHINE_MOVES: Final[Mapping[MachineState, frozenset[MachineState]]] = {
    MachineState.PLANNED: frozenset({
        MachineState.SPAWNING,   # its task was taken, its name is written: the provider is asked next
        MachineState.GONE,       # the batch had no task after all
    }),
    MachineState.SPAWNING: frozenset({
        MachineState.RUNNING,    # the provider answered, or an inspection found it
        MachineState.DESTROYING, # cancelled before the answer came
        MachineState.GONE,       # refused, or never there
    }),
    MachineState.PREPARING: frozenset({
        MachineState.READY,      # the provider answered, or an inspection found it
        MachineState.GONE,       # refused, or never there
    }),
    MachineState.READY: frozenset({
        MachineState.STARTING,   # there is work: the provider is asked next
        MachineState.DESTROYING, # of an edition of before, or more than the pool shall have
        MachineState.GONE,       # it is not there any more
    }),
    MachineState.STARTING: frozenset({
        MachineState.RUNNING,    # the provider answered, or an inspection found it at work
        MachineState.READY,      # there is no place for it now
        MachineState.DESTROYING, # its batch was ended, or it does not start
        MachineState.GONE,       # it is not there any more
    }),
    MachineState.RUNNING: frozenset({
        MachineState.READY,      # of the pool: it had no more work, and has ended as it should
        MachineState.DESTROYING, # overdue, cancelled, or nobody's
        MachineState.GONE,       # it exited or died
    }),
    MachineState.DESTROYING: frozenset({
        MachineState.READY,      # of the pool: it has stopped in time
        MachineState.GONE,       # the provider confirms
    }),
    MachineState.GONE: frozenset(),
}  # fmt: skip

TERMINAL_JOBS: Final = frozenset({JobState.DONE, JobState.FAILED, JobState.CANCELLED})
TERMINAL_TASKS: Final = frozenset({TaskStatus.COMPLETED, TaskStatus.FAILED})
