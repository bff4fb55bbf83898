"""Tasks are made from files, and files from tasks, page by page; output keys never overwrite an input."""

import re
from collections.abc import AsyncIterator, Sequence
from typing import Final

from actors.phases import Phase, all_phases
from actors.rules.model import Job, Task
from actors.rules.states import TERMINAL_TASKS, TaskStatus
from actors.store import Store
from worker.contract import FileRef

PAGE: Final = 1000


def task_id(job_id: str, phase: int, kind: str, n: int) -> str:
    """Unique by construction: the originals' 31-bit hash let two files share a task."""
    return f"{job_id}_{kind}_{n}" if phase == 0 else f"{job_id}_{kind}{phase}_{n}"


async def plan_tasks(store: Store, job: Job, phase_index: int) -> int:
    """Insert the tasks of a phase whose files are in the store. Idempotent; returns how many are to be done.

    A task of an earlier run whose file is the same stays: what it has completed is not done again.
    An output key that is an input's, or that another task has, gets `-1`, `-2`, … before its ending, in
    the order of the list: the rule is stable, so that a resumed plan gives the same keys.
    """
    phase = all_phases()[job.phases[phase_index]]
    total, after = 0, -1
    while page := await store.files(job.id, phase_index, after, PAGE):
        wanted = [(n, file) for n, file, _ in page if phase.wants(file)]
        known = {n: task for n, _, task in page if task is not None}
        fresh = [(n, file) for n, file in wanted if n not in known]
        if fresh:
            await store.plan(job.id, job.run, phase_index, await _tasks(store, job, phase_index, phase, fresh))
        total += len(fresh) + sum(task.status is not TaskStatus.COMPLETED for task in known.values())
        after = page[-1][0]
    return total


async def processed_files(store: Store, job: Job) -> AsyncIterator[FileRef]:
    """The files as the last phase left them, in the order of the list."""
    phase = all_phases()[job.phases[job.phase]]
    after = -1
    while page := await store.files(job.id, job.phase, after, PAGE):
        for n, file, task in page:
            done = task is not None and task.status in TERMINAL_TASKS
            for result in phase.files_after(file, task) if done and task is not None else (file,):
                yield result
            after = n


async def plan_phase(store: Store, job: Job, phase_index: int) -> int:
    """Make the files of the next phase from the results of the one before, then its tasks.

    Idempotent, and right over what an earlier run has left of the phase. Returns how many tasks are to be done.

    Raises:
        Conflict: the run is over.
        Exception: what the code of a phase raises.
    """
    buffered: list[FileRef] = []
    n = 0
    async for file in processed_files(store, job):
        buffered.append(file)
        if len(buffered) == PAGE:
            await store.add_phase_files(job.id, job.run, phase_index, n, buffered)
            n += len(buffered)
            buffered = []
    await store.add_phase_files(job.id, job.run, phase_index, n, buffered)
    await store.end_phase_files(job.id, job.run, phase_index, n + len(buffered))
    return await plan_tasks(store, job, phase_index)


async def _tasks(
    store: Store, job: Job, phase_index: int, phase: Phase, files: Sequence[tuple[int, FileRef]]
) -> list[Task]:
    keys = await _free_keys(store, job.id, [phase.output_key(file) for _, file in files])
    return [
        Task(
            job_id=job.id,
            phase=phase_index,
            n=n,
            task_id=task_id(job.id, phase_index, phase.kind, n),
            run=job.run,
            input_r2_key=file.r2_key,
            output_r2_key=key,
        )
        for (n, file), key in zip(files, keys, strict=True)
    ]


async def _free_keys(store: Store, job_id: str, wishes: Sequence[str]) -> list[str]:
    """For each wish the first of `p.jpg`, `p-1.jpg`, … that is neither a file's nor another task's."""
    given: dict[int, str] = {}
    taken: set[str] = set()
    attempt = 0
    while len(given) < len(wishes):
        open_wishes = [(i, numbered(wish, attempt)) for i, wish in enumerate(wishes) if i not in given]
        taken |= await store.taken_keys(job_id, [key for _, key in open_wishes])
        for i, key in open_wishes:
            if key not in taken:
                given[i] = key
                taken.add(key)
        attempt += 1
    return [given[i] for i in range(len(wishes))]


def numbered(key: str, number: int) -> str:
    """`a/p.jpg`, 2 → `a/p-2.jpg`; 0 leaves it as it is."""
    return re.sub(r"(\.[^./]*)?$", lambda ending: f"-{number}{ending.group()}", key, count=1) if number else key
