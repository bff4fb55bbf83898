"""What is known of a run: what is written, what was told, what runs. The checks look at it, and add to it."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple
from urllib.parse import parse_qs, urlsplit

from actors.rules.model import Job, Machine, Task
from actors.rules.states import TaskStatus
from tests.simulation.machines import SimMachine

TRUST_S: Final = 12.0
"""How long after another one has taken over an actor may still act: EPOCH_TRUST_S of the loop, and a call."""


EPOCH_S: Final = 1_700_000_000
"""Where the wall clock of a run begins."""


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


class Facts:
    """`wrong` is told the first violation."""

    def __init__(self, now_s: Callable[[], float], wrong: Callable[[str], None]) -> None:
        self.now_s, self.wrong = now_s, wrong
        self.clock_has_jumped = self.month_is_over = False
        self.books: dict[str, Book] = {}
        self.machines: dict[str, Machine] = {}  # the rows, by MACHINE_NAME
        self.runs_at: dict[str, SimMachine] = {}  # by MACHINE_NAME
        self.reported: set[tuple[str, str, Assignment]] = set()  # batch, status
        self.assigned: dict[Assignment, str | None] = {}
        self.started: dict[Assignment, str] = {}
        self.given: set[Assignment] = set()
        """What a worker was told of, or should have been: what was only taken for it is given back without it."""
        self.to_be_told_again: dict[str, float] = {}  # since when, by key
        self.objects: dict[str, bytes] = {}
        self.uploaded_at: dict[str, float] = {}
        self.ended: set[str] = set()
        """Batches that were over once, and have perhaps begun again since."""

    def check_given(self, env: dict[str, str]) -> None:
        """Nobody is told of an assignment that is not written."""
        key = assignment(env)
        if key not in self.assigned:
            self.wrong(f"3: {key.task_id}, attempt {key.attempt}, was given out and not written")
        self.given.add(key)
