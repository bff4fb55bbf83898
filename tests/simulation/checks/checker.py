"""What must be true, whatever happened: the eight invariants of the design, looked at from outside the engine.

After each write of the store what it changed is compared with what was there before; what is told to anybody, or done
to machines, is compared with what is written at that moment; at the end everything is counted from the rows.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from actors.rules.model import Job
from actors.rules.states import JobState
from actors.store.catalog_rows import CatalogExport
from actors.store.commit import Commit
from actors.store.statements import Db
from tests.simulation.checks.archives import ArchiveChecks
from tests.simulation.checks.deliveries import DeliveryChecks
from tests.simulation.checks.facts import Facts
from tests.simulation.checks.jobs import JobChecks
from tests.simulation.checks.machines import MachineChecks
from tests.simulation.machines import SimMachine

_decode_commit = msgspec.msgpack.Decoder(Commit).decode
_decode_activation = msgspec.msgpack.Decoder(tuple[Job, msgspec.Raw]).decode

CHANGE_JOBS: Final = {
    "create",
    "take_in",
    "recreate",
    "queue",
    "admit",
    "activate",
    "add_files",
    "clear",
    "plan",
    "remove",
}


class Checker:
    """Sees every write, every answer and every machine, and hands each to the checks that it concerns."""

    def __init__(
        self, db: Db, *, max_attempts: int, max_machines: int, sweep_s: float, now_s: Callable[[], float],
        fail: Callable[[str], None],
    ) -> None:  # fmt: skip
        """`fail` is told the first violation."""
        self.facts = Facts(now_s, fail)
        self.jobs = JobChecks(self.facts, db, max_attempts)
        self.machines = MachineChecks(self.facts, sweep_s, max_machines)
        self.deliveries = DeliveryChecks(self.facts, self.jobs.begun)
        self.archives = ArchiveChecks(self.facts, db, self.jobs.over_since)

    def stored(self, requests: list[dict[str, Any]], answers: list[Any]) -> None:
        """A transaction was carried out."""
        for request, answer in zip(requests, answers, strict=True):
            if not isinstance(answer, BaseException):
                self._stored(request["op"], request, answer)

    def _stored(self, op: str, request: dict[str, Any], answer: Any) -> None:
        if op == "commit":
            self._turn(_decode_commit(request["commit"]))
        elif op == "commit_machines":
            self.machines.written(request)
        elif op == "activate_singleton":
            self.machines.begins(answer)
        elif op == "put_export":
            self.archives.told(msgspec.msgpack.decode(request["export"], type=CatalogExport).id)
        elif op in CHANGE_JOBS:
            if op == "activate":
                self.jobs.activated(_decode_activation(answer)[0])
            self.jobs.read_again(_job_of(request), op)

    def _turn(self, commit: Commit) -> None:
        old = self.facts.books[commit.job.id].job
        self.jobs.turn(commit)
        if old.kind == "archive":
            self.archives.turn(old, self.facts.books[old.id])

    def check_end(self, alive: list[SimMachine]) -> None:
        """Everything is calm, and nobody asks for anything."""
        self.jobs.check_end()
        for book in self.facts.books.values():
            is_told = book.job.kind == "batch" and book.job.id in self.jobs.acknowledged_jobs
            if is_told and book.job.state is JobState.DONE:
                self.deliveries.check_end(book.job)
        self.archives.check_end()
        self.machines.check_end(alive)


def _job_of(request: dict[str, Any]) -> str:
    if "job_id" in request:
        return str(request["job_id"])
    return msgspec.msgpack.decode(request["job"], type=Job).id
