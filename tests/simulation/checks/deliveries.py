"""Final callbacks: when they are sent, by whom, what they say, and that each is accepted (invariant 6)."""

from collections import Counter

import msgspec

from actors.rules.model import Job
from actors.rules.states import Delivery, JobState, TaskStatus
from actors.store.standing import standing
from tests.simulation.checks.facts import TRUST_S, Book, Facts
from tests.simulation.loop import Process


class DeliveryChecks:
    """What the receiver sees."""

    def __init__(self, facts: Facts, begun: dict[tuple[str, int], float]) -> None:
        """`begun`: when an epoch of a job began."""
        self._facts, self._begun = facts, begun
        self.wrong = facts.wrong
        self._epochs: dict[tuple[Process, str], int] = {}  # of the activation of a job in a process
        self._received_at: dict[str, float] = {}  # last, by key
        self.delivered: dict[str, bytes] = {}  # by key
        self.accepted: set[str] = set()

    def received(self, job_id: str, key: str, body: bytes) -> None:
        """A final callback came. Invariant 6."""
        book = self._facts.books.get(job_id)
        run = int(key.rpartition(":")[2])
        self._received_at[key] = self._facts.now_s()
        if book is None:
            self.wrong(f"6: {job_id} was delivered and is not written")
            return
        if book.job.run == run and book.job.state is not JobState.DONE:
            self.wrong(f"6: {job_id} was delivered while it is {book.job.state}")
        if self.delivered.setdefault(key, body) != body:
            self.wrong(f"6: the two deliveries of {key} are not equal")
        if book.job.run == run:
            self._check_list(book, body)

    def _check_list(self, book: Book, body: bytes) -> None:
        """It names each output that there is, once, and none that there is not."""
        keys = Counter(file["r2_key"] for file in msgspec.json.decode(body)["files"])
        tasks = [standing(task, book.job) for task in book.rows.values()]
        made = {task.output_r2_key for task in tasks if task.status is TaskStatus.COMPLETED}
        not_made = {task.output_r2_key for task in tasks} - made
        inputs = {task.input_r2_key for task in tasks} - not_made
        wrong = {key: count for key, count in keys.items() if count > 1 or key in not_made}
        if wrong or not (made | inputs) <= keys.keys():
            missing = sorted((made | inputs) - keys.keys())
            self.wrong(f"6: the list of {book.job.id} is not what was made: missing {missing}, too many {wrong}")

    def activated(self, process: Process, job: Job) -> None:
        """An activation of a job begins in this process."""
        self._epochs[(process, job.id)] = job.epoch

    def delivers(self, job_id: str, run: int, by: Process | None) -> None:
        """An activation begins to send a final callback. Invariants 3 and 2: its end is written, and it has not lost
        the job long ago.
        """
        book = self._facts.books.get(job_id)
        if book is not None and book.job.run == run and book.job.state is not JobState.DONE:
            self.wrong(f"3: {job_id} is being delivered while it is {book.job.state}")
        epoch = self._epochs.get((by, job_id)) if by is not None else None
        if epoch is None:
            return
        since = self._begun.get((job_id, epoch + 1))
        if since is not None and self._facts.now_s() - since > TRUST_S:
            self.wrong(
                f"2: {job_id} is delivered by an activation that has lost it {self._facts.now_s() - since:.0f} s ago"
            )

    def redelivered(self, job_id: str, run: int, asked_at: float) -> None:
        """A redelivery got 200: it is written that it is to be sent, or it has been sent by now."""
        book = self._facts.books.get(job_id)
        if book is None or book.job.run != run or book.job.delivery is Delivery.PENDING:
            return
        if self._received_at.get(f"{job_id}:{run}", 0.0) < asked_at:
            self.wrong(f"1: a redelivery of {job_id} was acknowledged, and nothing is sent")

    def check_end(self, job: Job) -> None:
        """One that is done, and everything is calm."""
        key = f"{job.id}:{job.run}"
        if self._received_at.get(key, 0.0) < self._facts.to_be_told_again.get(key, 0.0):
            self.wrong(f"6: {key} was to be told again, and was not")
        if self._facts.month_is_over and job.delivery is Delivery.GIVEN_UP:
            return
        if job.delivery is not Delivery.DELIVERED:
            self.wrong(f"6: {job.id} is done, and its delivery is {job.delivery}")
        elif key not in self.accepted:
            self.wrong(f"6: {job.id} counts as delivered, and the receiver has not accepted it")
