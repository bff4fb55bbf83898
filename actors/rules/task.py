"""The rules of one task: assignment, outcome, backoff, deadline. Pure."""

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from actors.rules.effects import Policy, Rng
from actors.rules.events import CalledBack
from actors.rules.model import Task
from actors.rules.states import TASK_MOVES, TaskStatus

replace = msgspec.structs.replace

SPAWN: Final = "spawn:"
"""A claim that begins so was made by the fleet, for a machine that it is about to spawn."""

MAX_ERROR_CHARS: Final = 2_000
"""Of a reason as it is kept: it comes from outside, and each list of tasks and the final callback carry it."""


class ImpossibleMove(Exception):
    """A rule tried a move that is not in the table. Says what, from where and to where."""


def move(task: Task, status: TaskStatus) -> None:
    """Check a move against the table.

    Raises:
        ImpossibleMove: the table has no such move; a bug in the rules, never a caller's fault.
    """
    if status not in TASK_MOVES[task.status]:
        raise ImpossibleMove(f"task {task.task_id}: {task.status} -> {status}")


def assign(task: Task, machine: str, claim: str, policy: Policy, now: int) -> Task:
    """The next attempt of a pending task, on `machine`; one that has yet to boot gets the time for it on top."""
    move(task, TaskStatus.PROCESSING)
    boot_ms = policy.boot_timeout_ms if claim.startswith(SPAWN) else 0
    return replace(
        task,
        status=TaskStatus.PROCESSING,
        attempt=task.attempt + 1,
        tries=task.tries + 1,
        machine=machine,
        claim=claim,
        assigned_at=now,
        heard_at=None,
        deadline_at=now + boot_ms + policy.task_timeout_ms,
        started_at=task.started_at or now,
        error=None,
    )


def alive(task: Task, policy: Policy, now: int, progress: dict[str, Any] | None = None) -> Task:
    """A sign of life moves the deadline by a full time-out, at most to task_max_ms after the assignment; it may say how
    far the task is."""
    latest = (task.assigned_at or now) + policy.task_max_ms
    return replace(
        task,
        heard_at=task.heard_at or now,
        deadline_at=min(now + policy.task_timeout_ms, latest),
        performance=progress or task.performance,
    )


def resume(task: Task, policy: Policy, now: int) -> Task:
    """As a new activation finds it: with a full time-out to report, and nothing from before the clock went back."""
    earliest = now + policy.task_timeout_ms
    deadline = max(task.deadline_at or 0, earliest)
    return replace(
        task,
        deadline_at=min(deadline, earliest + policy.boot_timeout_ms),
        assigned_at=min(task.assigned_at or now, now),
    )


def succeed(task: Task, report: CalledBack, now: int) -> Task:
    """The task is completed, whichever attempt did it (invariant 4)."""
    move(task, TaskStatus.COMPLETED)
    return replace(
        task,
        status=TaskStatus.COMPLETED,
        output_r2_key=report.output_r2_key or task.output_r2_key,
        output_file_name=report.output_file_name,
        output_file_size=report.output_file_size,
        performance=report.performance,
        cpu_ms=report.cpu_ms,
        pages=report.pages,
        notes=report.notes,
        completed_at=now,
        deadline_at=None,
        error=None,
    )


def bounded(reason: str) -> str:
    """The reason as it is kept."""
    return reason if len(reason) <= MAX_ERROR_CHARS else reason[: MAX_ERROR_CHARS - 1] + "…"


def fail(task: Task, reason: str, now: int) -> Task:
    """The task has failed for good."""
    move(task, TaskStatus.FAILED)
    return replace(task, status=TaskStatus.FAILED, error=bounded(reason), completed_at=now, deadline_at=None)


def try_again(task: Task, reason: str, policy: Policy, now: int, rng: Rng) -> Task:
    """After a failed try: pending again behind a full-jitter backoff, or failed when the tries are used up."""
    if task.tries >= policy.max_attempts:
        return fail(task, reason, now)
    ceiling = min(policy.backoff_cap_ms, policy.backoff_base_ms * 2 ** max(0, task.tries - 1))
    return _back(task, reason, now + rng.randint(0, ceiling))


def with_more_memory(task: Task, had_mb: int, most_mb: int) -> Task:
    """After its machine has run out of memory: the next one has twice as much, but no more than `most_mb`."""
    wanted_mb = min(2 * had_mb, most_mb)
    return replace(task, memory_mb=wanted_mb) if wanted_mb > max(had_mb, task.memory_mb or 0) else task


def large_first(ready: Iterable[Task]) -> tuple[Task, ...]:
    """In the order in which they are taken: those that need a machine of their own before the others, wherever else
    they stand, so that they are found at once."""
    return tuple(sorted(ready, key=lambda task: task.memory_mb is None))


def give_back(task: Task, reason: str | None, now: int, *, wait_ms: int = 0) -> Task:
    """Pending again without a try: released by its machine, or its spawn was refused."""
    return replace(_back(task, reason, now + wait_ms), tries=max(0, task.tries - 1))


def _back(task: Task, reason: str | None, not_before: int) -> Task:
    move(task, TaskStatus.PENDING)
    return replace(
        task,
        status=TaskStatus.PENDING,
        not_before=not_before,
        machine=None,
        claim=None,
        assigned_at=None,
        heard_at=None,
        deadline_at=None,
        performance=None,
        error=None if reason is None else bounded(reason),
    )
