"""Archives: what is in them, what the catalog is told of them, and what is left of them when they are over."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from actors.rules import archive
from actors.rules.model import Job, Task
from actors.rules.states import TERMINAL_JOBS, Delivery, JobState
from actors.store.catalog_reads import storage_export
from actors.store.catalog_rows import ENDS, row_of
from actors.store.standing import standing
from actors.store.statements import Db
from tests.simulation.checks.facts import EPOCH_S, Book, Facts
from worker.kinds.zip.source import Member

ARCHIVE_KEPT_S: Final = 20
"""As the settings of a run say."""
SILENT_S: Final = 14.0
"""So long after the end of an archive a worker may store something that is removed: its boot and its silence."""


class Wanted(NamedTuple):
    """What was asked for: the keys of files that were there, and of those that never were."""

    there: frozenset[str]
    absent: frozenset[str]
    is_listed: bool
    """By name, so that also those count that are not there."""


class ArchiveChecks:
    """Looked at with each turn that ends something, and at the end."""

    def __init__(self, facts: Facts, db: Db, ended_s: Mapping[tuple[str, int], float]) -> None:
        """`ended_s`: when each run of a job was over."""
        self._facts, self._db, self._ended_s = facts, db, ended_s
        self.wrong = facts.wrong
        self.touched: set[str] = set()
        """Files that have come or gone since an archive of them was asked for."""
        self.wanted: dict[str, Wanted] = {}
        self.written_at: Mapping[str, float] = {}
        self.begun: Mapping[tuple[str, str], float] = {}
        self._made: dict[str, set[tuple[int, int]]] = {}  # by the key of an archive: files in it, and missing ones
        self._rows: dict[str, str] = {}  # the status of each row of the catalog

    # ---- what workers do

    def is_read(self, env: Mapping[str, str], members: Sequence[Member]) -> None:
        """A worker has read the list of its part: it must be the one that the service has told it of."""
        options = json.loads(env["ARCHIVE_OPTIONS"])
        found = (len(members), sum(one.size for one in members))
        if found != (options["files"], options["bytes"]):
            self.wrong(f"7: the list of {env['TASK_ID']} has {found[0]} files and {found[1]} bytes, not {options}")

    def is_made(self, key: str, files: int, missing: int) -> None:
        """A worker has stored an archive."""
        self._made.setdefault(key, set()).add((files, missing))

    def finds_no_list(self, env: Mapping[str, str]) -> None:
        """A worker has asked for the list of its part, and there is none."""
        book = self._facts.books.get(env["BATCH_ID"])
        if book is not None and book.job.state is JobState.RUNNING:
            self.wrong(f"7: {env['TASK_ID']} has no list")

    def aborts(self, key: str, begun_s: float) -> None:
        """The service gives an upload up that was begun then: not one of a run that is not over."""
        job_id = key.split("/")[2]
        book = self._facts.books.get(job_id)
        ended_s = max((at for (of, _), at in self._ended_s.items() if of == job_id), default=0.0)
        if book is not None and book.job.state not in TERMINAL_JOBS and begun_s > ended_s:
            self.wrong(f"3: an upload of {key} is given up while {job_id} is {book.job.state}")

    # ---- what is written

    def turn(self, old: Job, book: Book) -> None:
        """A turn of an archive was committed."""
        new = book.job
        if new.state in TERMINAL_JOBS and new.expires_at is not None and (new.alarm_at or 0) > new.expires_at:
            self.wrong(f"5: {new.id} is over, and looked at after it has expired")
        if new.removed_since is not None and old.removed_since is None:
            self._check_time(new)
        if new.state is JobState.DONE and old.state is not JobState.DONE and not new.tasks_failed:
            self._check_parts(new, _tasks(book))
        is_told = new.delivery is Delivery.DELIVERED and old.delivery is not Delivery.DELIVERED
        if is_told and new.removed_since is None:
            self._check_index(new, _tasks(book))

    def told(self, export_id: str) -> None:
        """The row of an export was written: of one that is over nobody says that it has begun."""
        row = storage_export(self._db, export_id)
        if row is None:
            return
        former = self._rows.get(export_id)
        if former in ENDS and row.status not in ENDS:
            self.wrong(f"6: the catalog is told that {export_id} is {row.status}, which was {former}")
        self._rows[export_id] = row.status

    def _check_time(self, job: Job) -> None:
        """What was cancelled goes at once, the others are kept."""
        decided_s = (job.completed_at or 0) / 1000 - EPOCH_S
        kept_s = self._facts.now_s() - min(self._ended_s[(job.id, job.run)], decided_s)
        if job.state is not JobState.CANCELLED and kept_s < ARCHIVE_KEPT_S / 2 and not self._facts.clock_has_jumped:
            self.wrong(f"8: {job.id} is {job.state} and removed {kept_s:.0f} s after its end")

    def _check_parts(self, job: Job, tasks: list[Task]) -> None:
        parts = archive.parts(job)
        if len(parts) != len(tasks):
            self.wrong(f"7: {job.id} has {len(parts)} parts and {len(tasks)} tasks")
        found: Counter[str] = Counter()
        for task in tasks:
            body = self._facts.objects.get(task.output_r2_key)
            if body is None:
                self.wrong(f"1: {job.id} is completed, and there is no {task.output_r2_key}")
                return
            found.update(json.loads(body))
            counted = (archive.told(task, "files"), archive.told(task, "missing"))
            if counted not in self._made[task.output_r2_key]:
                self.wrong(f"7: {task.task_id} is said to have {counted} files and missing ones")
        self._check_files(job, found)
        self._check_counts(job, tasks)

    def _check_files(self, job: Job, found: "Counter[str]") -> None:
        twice = sorted(key for key, count in found.items() if count > 1)
        if twice:
            self.wrong(f"7: {job.id} has {twice[0]} twice")
        wanted = self.wanted.get(job.id)
        if wanted is None:
            return
        lost = sorted(wanted.there - self.touched - found.keys())
        if lost:
            self.wrong(f"7: {len(lost)} files are in no part of {job.id}, {lost[0]} among them")
        too_many = sorted(found.keys() - wanted.there - self.touched)
        if too_many:
            self.wrong(f"7: {job.id} has {too_many[0]}, which nobody has asked for")

    def _check_counts(self, job: Job, tasks: list[Task]) -> None:
        parts = archive.parts(job)
        counted = {
            "parts": sum(part["files"] for part in parts),
            "workers": archive.file_count(tasks) + sum(archive.told(task, "missing") for task in tasks),
        }
        wanted = self.wanted.get(job.id)
        if wanted is not None and wanted.is_listed:
            counted["callers"] = len(wanted.there | wanted.absent)
        for who, count in counted.items():
            if count != job.files_total:
                self.wrong(f"7: {job.id} has {job.files_total} files, by its {who} {count}")
        if sum(part["bytes"] for part in parts) != job.bytes_total:
            self.wrong(f"7: {job.id} has {job.bytes_total} bytes, its parts {sum(part['bytes'] for part in parts)}")
        if wanted is not None:
            least = len(wanted.absent) if wanted.is_listed else 0
            if not least <= job.files_missing <= least + len(self.touched):
                self.wrong(f"7: of {job.id} {job.files_missing} files are missing, not {least}")

    def _check_index(self, job: Job, tasks: list[Task]) -> None:
        if archive.result_key(job) != archive.index_key(job):
            return
        body = self._facts.objects.get(archive.index_key(job))
        if body is None:
            self.wrong(f"6: the end of {job.id} was told, and its parts have no index")
            return
        index = json.loads(body)
        named = [(part["part"], part["r2_key"]) for part in index["parts"]]
        if named != [(task.n + 1, task.output_r2_key) for task in tasks]:
            self.wrong(f"6: the index of {job.id} names {named}")
        if index["file_count"] != archive.file_count(tasks):
            self.wrong(f"6: by its index {job.id} has {index['file_count']} files")

    # ---- at the end

    def check_end(self) -> None:
        """Everything is calm, and the uploads that nobody needs were looked for once more."""
        for job_id, book in sorted(self._facts.books.items()):
            if book.job.kind == "archive":
                self._check_told(book)
                self._check_left(book.job)
                if book.job.state not in TERMINAL_JOBS:
                    self.wrong(f"5: {job_id} is still {book.job.state}")

    def _check_told(self, book: Book) -> None:
        job = book.job
        if job.delivery is not Delivery.DELIVERED and not self._facts.month_is_over:
            self.wrong(f"6: {job.id} is {job.state}, and its delivery {job.delivery}")
        if job.message["source"] != "catalog" or job.delivery is not Delivery.DELIVERED:
            return
        row, due = storage_export(self._db, job.id), row_of(job, _tasks(book))
        if row is None:
            self.wrong(f"6: the catalog has no row of {job.id}")
            return
        said, meant = (
            (one.status, one.r2_key, one.file_count, one.size_bytes, one.error_message) for one in (row, due)
        )
        if said != meant:
            self.wrong(f"6: the catalog says of {job.id} {said}, and it is {meant}")

    def _check_left(self, job: Job) -> None:
        folder = archive.folder(job)
        if job.removed_since is None and not self._facts.clock_has_jumped:
            self.wrong(f"8: {job.id} is {job.state} and was not removed")
        uploads = [key for key, _ in self.begun if key.startswith(folder)]
        if uploads:
            self.wrong(f"8: an upload of {uploads[0]} stays")
        if job.removed_since is None or job.alarm_at is not None:
            return
        left = [
            key for key in self._facts.objects if key.startswith(folder) and not self._is_of_one_gone_wild(job, key)
        ]
        if left:
            self.wrong(f"8: {job.id} is {job.state} and removed, and there is {left[0]}")

    def _is_of_one_gone_wild(self, job: Job, key: str) -> bool:
        """What a worker has stored that should have been dead by then."""
        is_of_worker = key.endswith((".zip", ".checkpoint"))
        ended_s = self._ended_s.get((job.id, job.run), self._facts.now_s())
        return is_of_worker and self.written_at[key] > ended_s + SILENT_S


def _tasks(book: Book) -> list[Task]:
    return sorted((standing(task, book.job) for task in book.rows.values()), key=lambda task: task.n)
