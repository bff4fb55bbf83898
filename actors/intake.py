"""A request becomes rows: RECEIVING until its last page is committed, then QUEUED, then admitted.

A list or manifest is checked as a whole before the first row is written: bad input costs nothing.
Every step is idempotent, so that the same body sent again goes on where a crash ended the first.
"""

import asyncio
import hashlib
import secrets
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from actors import telemetry
from actors.bodies import as_object
from actors.clock import TimeSource
from actors.errors import BatchExists, Conflict, EmptyBatch, InvalidInput
from actors.phases import all_phases
from actors.planning import plan_tasks
from actors.rules.model import JOB_ID, MOST_WEIGHT, Job
from actors.rules.states import JobState
from actors.sources import manifest, prefix
from actors.sources.base import Objects, check_value, checked_file
from actors.store import Store
from worker.contract import FileRef

PAGE: Final = 1000
SMALL_BODY_BYTES: Final = 64 * 1024
"""Read where it arrives, in a few milliseconds; a larger body on a thread, so that other requests are answered."""
TEXT_FIELDS: Final = ("batch_id", "manifest_r2_key", "r2_prefix", "uploader", "root_path", "parent_pi")


class Intake:
    """Creates batches. Any number of processes may run it for the same batch."""

    def __init__(
        self,
        *,
        store: Store,
        objects: Objects,
        clock: TimeSource,
        max_files: int,
        timeout_ms: int,
        default_phases: Sequence[str],
    ):
        self._store, self._objects, self._clock = store, objects, clock
        self._max_files, self._timeout_ms = max_files, timeout_ms
        self._default_phases = tuple(default_phases)

    async def create(self, raw: bytes | dict[str, Any], owner: str | None = None) -> tuple[Job, bool]:
        """Take a batch in. Returns its row and whether this call began a run (202) or it existed (200).

        Raises:
            InvalidInput, EmptyBatch: nothing was written.
            BatchExists: the id is used by another body.
        """
        is_large = isinstance(raw, dict) or len(raw) > SMALL_BODY_BYTES
        message, digest = await asyncio.to_thread(_understand, raw) if is_large else _understand(raw)
        job_id = message.get("batch_id") or f"batch_{secrets.token_hex(8)}"
        existing = await self._store.job(job_id)
        if existing is not None and existing.kind != "batch":
            raise BatchExists
        if existing is not None and existing.state not in (JobState.FAILED, JobState.CANCELLED):
            if existing.body_digest != digest:
                raise BatchExists
            if existing.state is not JobState.RECEIVING:
                return existing, False
        files, manifest_digest = await self._list(message)
        row = self._row(message, job_id, digest, files is None, owner)
        try:
            return await self._carry_out(row, existing is None, files, manifest_digest), True
        except BatchExists:
            raise
        except Conflict:
            # The same body came twice at once, and the other call was quicker.
            quicker = await self._store.job(job_id)
            if quicker is None or quicker.body_digest != digest or quicker.state is JobState.RECEIVING:
                raise
            return quicker, False

    async def _carry_out(self, row: Job, is_new: bool, files: list[FileRef] | None, manifest_digest: str | None) -> Job:
        job = await self._begin(row, is_new, manifest_digest)
        telemetry.event("intake.received", batch=job.id, run=job.run, files="?" if files is None else len(files))
        return job if files is None else await self._receive(job, files)

    def _row(self, message: dict[str, Any], job_id: str, digest: str, by_prefix: bool, owner: str | None) -> Job:
        now = self._clock.now()
        return Job(
            id=job_id,
            phases=_phases(message, self._default_phases),
            body_digest=digest,
            message={key: value for key, value in message.items() if key != "files"},
            source_cursor="" if by_prefix else None,
            alarm_at=now + self._timeout_ms,
            owner=owner,
            created_at=now,
            updated_at=now,
        )

    async def _receive(self, job: Job, files: list[FileRef]) -> Job:
        for first in range(0, len(files), PAGE):
            await self._add(job, first, files[first : first + PAGE], None)
        return await self.finish(job, len(files))

    async def _add(
        self, job: Job, first: int, page: list[FileRef], cursor: str | None, after: str | None = None
    ) -> None:
        alarm_at = self._clock.now() + self._timeout_ms
        await self._store.add_files(job.id, job.run, first, page, cursor, alarm_at, after=after)

    async def read_prefix(self, job: Job) -> Job:
        """Read the keys under a prefix, from the durable cursor on, in the order of their keys."""
        await self._store.clear(job.id, job.run)
        wanted: str = job.message["r2_prefix"]
        found, cursor = job.files_total, job.source_cursor
        while True:
            after = cursor
            page, cursor = await prefix.page(self._objects, wanted, after)
            if not page:
                break
            if found + len(page) > self._max_files:
                return await self._fail(job, "too_many_files", f"More than {self._max_files} objects under it.")
            await self._add(job, found, page, cursor, after)
            found += len(page)
        if found == 0:
            return await self._fail(job, EmptyBatch.code, f"No object under the prefix {wanted}.")
        return await self.finish(job, found)

    async def finish(self, job: Job, files_total: int) -> Job:
        """The list is complete: make the tasks of the first phase, then queue the job. Raises Conflict."""
        now = self._clock.now()
        total = await plan_tasks(self._store, job, 0)
        queued = msgspec.structs.replace(
            job, state=JobState.QUEUED, files_total=files_total, tasks_total=total, queued_at=now, alarm_at=now
        )
        await self._store.queue(queued)
        telemetry.event("intake.queued", batch=job.id, files=files_total, tasks=total)
        return await self._store.job(job.id) or queued

    async def _begin(self, job: Job, is_new: bool, manifest_digest: str | None) -> Job:
        """The row to add files to: a new one, the one of an intake that died, or a new run over a batch in ERROR.

        Where the manifest has changed since an intake died, a new run begins too, and what was listed goes.
        """
        if is_new:
            row, created = await self._store.create(job, manifest_digest)
            if created:
                return row
            if row.body_digest != job.body_digest:
                raise BatchExists
        return await self._store.recreate(job, manifest_digest)

    async def _fail(self, job: Job, code: str, error: str) -> Job:
        now = self._clock.now()
        failed = msgspec.structs.replace(
            job, state=JobState.FAILED, code=code, error=error, completed_at=now, alarm_at=None
        )
        await self._store.queue(failed)
        return failed

    async def _list(self, message: dict[str, Any]) -> tuple[list[FileRef] | None, str | None]:
        """The files of a list or manifest; None for a prefix, which a standing actor reads. And, of a manifest, what
        tells it from another one under its key."""
        digest = None
        if "files" in message:
            files = await asyncio.to_thread(_checked_files, message["files"])
        elif message.get("manifest_r2_key"):
            files, digest = await manifest.read(self._objects, message["manifest_r2_key"])
        else:
            return None, None
        if not files:
            raise EmptyBatch
        if len(files) > self._max_files:
            raise InvalidInput(
                f"The batch has {len(files)} files, more than {self._max_files}. Split it.", field="files"
            )
        return files, digest


def _checked_files(entries: list[Any]) -> list[FileRef]:
    return [checked_file(entry, f"files[{n}]") for n, entry in enumerate(entries)]


def _understand(raw: bytes | dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The message, and the digest by which the same one is known again, whatever the order of its fields."""
    message = decode(raw)
    try:
        canonical = msgspec.json.encode(message, order="deterministic")
    except RecursionError as error:  # in `files`, of which only what is used is looked at
        raise InvalidInput("The body is nested too deeply.") from error
    return message, hashlib.sha256(canonical).hexdigest()


def decode(raw: bytes | dict[str, Any]) -> dict[str, Any]:
    """The message in the body of a creation; what its files say is not checked yet. Raises InvalidInput."""
    message = raw if isinstance(raw, dict) else as_object(raw)
    for field in TEXT_FIELDS:
        if message.get(field) is not None and not isinstance(message[field], str):
            raise InvalidInput(f"{field} must be a string.", field=field)
    job_id = message.get("batch_id")
    if job_id is not None and (not JOB_ID.fullmatch(job_id) or job_id == "batch"):
        raise InvalidInput("batch_id must match [A-Za-z0-9_-]{1,64} and not be 'batch'.", field="batch_id")
    if "files" in message and not isinstance(message["files"], list):
        raise InvalidInput("files must be a list.", field="files")
    if not ("files" in message or message.get("manifest_r2_key") or message.get("r2_prefix")):
        raise InvalidInput("Name the files: give manifest_r2_key, files, or r2_prefix.", field="files")
    if message.get("r2_prefix") and "files" not in message and not message.get("manifest_r2_key"):
        prefix.check(message["r2_prefix"])
    weight = message.get("weight", 1)
    if type(weight) is not int or not 1 <= weight <= MOST_WEIGHT:
        raise InvalidInput(f"weight must be a whole number from 1 to {MOST_WEIGHT}.", field="weight")
    for name, value in message.items():
        if name != "files":
            check_value(value, name)
    return message


def _phases(message: dict[str, Any], default: tuple[str, ...]) -> tuple[str, ...]:
    phases = message.get("phases")
    if phases is None:
        return default
    known = {name for name, phase in all_phases().items() if phase.is_of_batches}
    if not isinstance(phases, list) or not phases or any(not isinstance(p, str) or p not in known for p in phases):
        raise InvalidInput(f"phases must be a list of some of {', '.join(sorted(known))}.", field="phases")
    if len(set(phases)) < len(phases):
        raise InvalidInput("phases must name each phase once.", field="phases")
    return tuple(phases)
