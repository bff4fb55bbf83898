"""What may be asked of the world, and the shape of a decision."""

from collections.abc import Mapping
from typing import Literal, Protocol

import msgspec

from actors.rules.model import Job, Task


class Rng(Protocol):
    """Where the jitter comes from: `random.Random`, handed in."""

    def randint(self, a: int, b: int, /) -> int: ...


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """Something to do after the commit. Its result is the next event."""


class Announce(Effect, frozen=True, kw_only=True):
    """Tell the fleet how many more tasks could be taken now; 0 takes the demand back. `large` of them need a machine
    that is made for them (`Task.memory_mb`)."""

    want: int
    large: int = 0


class DestroyMachine(Effect, frozen=True, kw_only=True):
    """End the machine, if it still has this assignment (invariant 3: conditional, by the fleet)."""

    machine: str
    task_id: str
    attempt: int


class ReleaseMachines(Effect, frozen=True, kw_only=True):
    """End all machines that work for this job: it was cancelled or reset."""


class Deliver(Effect, frozen=True, kw_only=True):
    """Send the final callback of `run` (invariant 6)."""

    run: int


class PlanPhase(Effect, frozen=True, kw_only=True):
    """Make the files and tasks of the next phase of `run` from the results of the one before."""

    run: int
    phase: int


class Remove(Effect, frozen=True, kw_only=True):
    """Remove the job: its outputs from the object store, then its rows. Of an archive the objects, and no row."""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers the rules need, in milliseconds where a time. Handed in: rules read no settings."""

    max_attempts: int = 5
    task_timeout_ms: int = 60_000
    boot_timeout_ms: int = 60_000
    task_max_ms: int = 600_000
    alarm_delay_ms: int = 5_000
    backoff_base_ms: int = 1_000
    backoff_cap_ms: int = 30_000
    spawn_give_up_ms: int = 600_000
    intake_timeout_ms: int = 300_000
    batch_size: int = 1_000
    memory_most_mb: int = 0  # of a machine that is made for a task at which another one has run out of memory
    delivery_give_up_ms: int = 86_400_000
    delivers: bool = False  # whether there is a receiver of the final callback
    removal_delay_ms: int = 120_000  # how long after its download a job is kept that goes then
    tells_each_end: bool = False  # also that a job was cancelled or has failed, not only that it is done
    kept_ms: int | None = None  # how long a job is kept after its end, with its outputs; None: the outputs are not ours
    cancelled_kept_ms: int | None = None  # the same where it was cancelled; None: as long as any other
    unfinished_ms: int = 3_600_000  # how long such a job may be without a machine, from its creation on
    kinds: Mapping[str, str] = {}  # the kind of machine that each phase takes; one that is not named takes any


class Granted(msgspec.Struct, frozen=True):
    """The answer to WorkTaken: tasks whose assignment is committed, and how many more could be taken, of which `large`
    only by machines that are made for them."""

    tasks: tuple[Task, ...]
    want: int = 0
    large: int = 0


class Received(msgspec.Struct, frozen=True):
    """The answer to CalledBack."""

    stop: bool = False
    next: Task | None = None


class Refused(msgspec.Struct, frozen=True):
    """The answer to a request that the state does not allow: code and sentence of the error."""

    code: str
    message: str


Answer = Granted | Received | Refused | None


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What a job's loop holds in memory: its row, the tasks in flight, and a page of those ready to be taken."""

    job: Job
    in_flight: Mapping[str, Task] = {}  # by task_id
    ready: tuple[Task, ...] = ()  # pending: `tasks.large_first`, in the order they will be taken
    next_due: int | None = None  # when the first task in backoff may be taken
    announced: int = 0  # the demand the fleet was last told
    lease: int | None = None  # tasks that may be in flight while other jobs wait for machines; None: any number
    plan: Literal["no", "asked", "failed"] = "no"  # of the next phase, by this activation
    done_before: int = 0  # tasks that were over when this activation last looked whether an export gets on
    delivering_until: int = 0  # until then the delivery that this activation began may be on its way


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What the events led to. Rows are committed first, then answers are sent, then effects performed."""

    state: State
    tasks: tuple[Task, ...] = ()  # changed rows, whole
    rerun: bool = False  # a new run begins: what failed is pending in it
    answers: tuple[Answer, ...] = ()  # one per event, in order
    effects: tuple[Effect, ...] = ()
    changed: bool = True  # False: nothing to commit
