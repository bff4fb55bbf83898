"""What must be true of a cluster after its parts have died: by the store, the bucket, and what was told.

Pure: `Evidence` is collected elsewhere, so that its faults can be made up to try the checker itself.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.acceptance.cluster import audit
from tests.acceptance.service import Report
from tests.stand_ins.receiver import Post

CLOCK_S: Final = 0.5
"""How far the times of two processes on one computer may be apart."""


@dataclass
class Evidence:
    """All that is known. `outputs` are the keys in the bucket under which a picture is."""

    created: Mapping[str, int]
    """Acknowledged creations, and the number of files of each."""
    reports: Sequence[Report]
    jobs: Sequence[audit.Job]
    tasks: Sequence[audit.Task]
    owners: Sequence[audit.Owned]
    completions: Sequence[audit.Completion]
    outputs: Collection[str]
    posts: Sequence[Post]
    _of_job: dict[str, list[audit.Task]] = field(init=False)

    def __post_init__(self) -> None:
        self._of_job = defaultdict(list)
        for task in self.tasks:
            self._of_job[task.job].append(task)

    def of_job(self, job: str) -> list[audit.Task]:
        """Its tasks."""
        return self._of_job.get(job, [])


def faults(found: Evidence) -> list[str]:
    """Everything that is wrong, a sentence each; nothing where all is right."""
    checks = (_creations, _counters, _callbacks, _outputs, _deliveries, _epochs)
    return [fault for check in checks for fault in check(found)]


def _creations(found: Evidence) -> Iterator[str]:
    """Every acknowledged creation finished, with all its files."""
    rows = {job.id: job for job in found.jobs}
    for name, files in found.created.items():
        row = rows.get(name)
        if row is None:
            yield f"{name} was acknowledged, and is not there"
        elif (row.state, row.total, row.error) != ("done", files, None):
            yield f"{name} is {row.state} with {row.total} tasks of {files}: {row.error}"


def _counters(found: Evidence) -> Iterator[str]:
    """What a job counts is what its tasks are."""
    for job in found.jobs:
        states = Counter(task.status for task in found.of_job(job.id))
        counted = (job.total, job.completed, job.failed, job.in_flight)
        there = (states.total(), states["completed"], states["failed"], states["processing"])
        if counted != there:
            yield f"{job.id} counts {counted}, and its tasks are {there} (all, completed, failed, in flight)"
        if states["failed"]:
            yield f"{job.id} has {states['failed']} tasks that failed"


def _callbacks(found: Evidence) -> Iterator[str]:
    """Every acknowledged callback was in the store when it was acknowledged, and counted once."""
    moves: dict[tuple[str, int], list[audit.Completion]] = defaultdict(list)
    for move in found.completions:
        moves[move.task, move.run].append(move)
    for (task, _), several in moves.items():
        if [move.done for move in several] != [True]:
            yield f"{task} was counted {len(several)} times"
    with_job = {(each.owner, each.tx) for each in found.owners}
    for move in found.completions:
        if (f"job {move.job}", move.tx) not in with_job:
            yield f"{move.task} was completed in a transaction that did not write its job"
    first = {task: several[0].at for (task, _), several in moves.items()}
    for report in found.reports:
        if report.status == 200 and not first.get(report.task_id, float("inf")) <= report.at + CLOCK_S:
            yield f"{report.task_id} was acknowledged, and was not completed then"


def _outputs(found: Evidence) -> Iterator[str]:
    """Of every completed task the output is there."""
    for task in found.tasks:
        if task.status == "completed" and task.output not in found.outputs:
            yield f"the output {task.output} of {task.id} is missing"


def _deliveries(found: Evidence) -> Iterator[str]:
    """The end of each job was taken by the receiver, once; what was sent under one key was one body."""
    posts: dict[str, list[Post]] = defaultdict(list)
    for post in found.posts:
        posts[post.batch].append(post)
    for job in found.jobs:
        taken = sum(post.status == 200 for post in posts[job.id])
        if (job.delivery, taken) != ("delivered", 1):
            yield f"the end of {job.id} is {job.delivery}, and was taken {taken} times"
    bodies: dict[str, list[Any]] = defaultdict(list)
    for post in found.posts:
        if post.body not in bodies[post.key]:
            bodies[post.key].append(post.body)
    for key, different in bodies.items():
        if len(different) > 1:
            yield f"{len(different)} different bodies were sent as {key}"


def _epochs(found: Evidence) -> Iterator[str]:
    """Nobody wrote after somebody of a later epoch had, and no commit was written twice."""
    by_owner: dict[str, list[audit.Owned]] = defaultdict(list)
    for one in found.owners:
        by_owner[one.owner].append(one)
    for owner, commits in by_owner.items():
        for before, after in itertools.pairwise(commits):
            if (after.epoch, after.seq) <= (before.epoch, before.seq):
                yield (
                    f"{owner}: epoch {after.epoch}, commit {after.seq} was written after epoch {before.epoch}, "
                    f"commit {before.seq}"
                )


def collect(url: str, bucket: Path, posts: Sequence[Post], created: Mapping[str, int],
            reports: Sequence[Report]) -> Evidence:  # fmt: skip
    """Read the store and the bucket."""
    tasks = audit.tasks(url)
    outputs = {task.output for task in tasks if _is_picture(bucket / task.output)}
    return Evidence(created=created, reports=reports, jobs=audit.jobs(url), tasks=tasks, owners=audit.owners(url),
                    completions=audit.completions(url), outputs=outputs, posts=posts)  # fmt: skip


def _is_picture(path: Path) -> bool:
    try:
        with path.open("rb") as opened:
            return opened.read(3) == b"\xff\xd8\xff"
    except OSError:
        return False
