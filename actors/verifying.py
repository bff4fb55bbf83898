"""What goes into an archive is verified: each object is looked at, in chunks, with a durable cursor. Then the files are
divided into parts, and each part is a task.

A list object names the files of a part: for the worker it is all that there is to know. All of this may be done again
from the last chunk on, and gives the same.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from actors import telemetry
from actors.clock import TimeSource
from actors.errors import NotFound, TooManyFiles
from actors.phases import all_phases
from actors.planning import task_id
from actors.rules import archive
from actors.rules.model import Job, Task
from actors.rules.states import JobState
from actors.sources.base import Listing, Named
from actors.store import Store
from worker.contract import FileRef
from worker.errors import BadInput, ObjectMissing
from worker.kinds.zip.manifest import MANIFEST, README
from worker.kinds.zip.names import Names
from worker.kinds.zip.source import Member

CHUNK_FILES: Final = 100
CHUNK_BYTES: Final = 50_000_000
AT_ONCE: Final = 10
"""Objects that are looked at side by side."""
PAGE: Final = 1000
LINES: Final = "application/x-ndjson"


class Objects(Protocol):
    """The object store, as far as this needs it. Blocking: called on a thread."""

    def head(self, key: str) -> Any: ...
    def put(self, key: str, body: bytes, content_type: str) -> Any: ...


class Limits(NamedTuple):
    """Most files of one archive, milliseconds between two chunks, and those that an intake may stand still, that what
    is queued may be without a machine."""

    files: int
    delay_ms: int
    timeout_ms: int
    unfinished_ms: int


class Verifying:
    """Takes in what goes into archives."""

    def __init__(
        self, *, store: Store, objects: Objects, clock: TimeSource, listing: Callable[[Job], Listing], limits: Limits
    ) -> None:
        """`listing` opens the source of a job."""
        self._store, self._objects, self._clock = store, objects, clock
        self._listing, self._limits = listing, limits
        self._lookers = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="head")
        self._dividing = asyncio.Lock()

    async def read(self, job: Job) -> Job:
        """Verify what is left of the list, then queue the job. Raises Conflict when it is not RECEIVING any more, and
        what stores and databases do."""
        found, cursor = job.files_total, job.source_cursor or ""
        async for chunk in _chunks(self._listing(job), cursor):
            if found + len(chunk) > self._limits.files:
                raise TooManyFiles(f"The archive would have more than {self._limits.files} files. Choose fewer.")
            await self._add(job, (found, cursor), await self._verified(chunk), chunk[-1].cursor)
            found, cursor = found + len(chunk), chunk[-1].cursor
            if self._limits.delay_ms:
                await asyncio.sleep(self._limits.delay_ms / 1000)
        return await self._finish(job.id)

    async def _verified(self, chunk: list[Named]) -> list[FileRef]:
        """On threads of its own: a store that hangs holds up no removal and no list. Where one fails none goes on."""
        loop = asyncio.get_running_loop()
        looking = [loop.run_in_executor(self._lookers, self._look, named) for named in chunk]
        try:
            return list(await asyncio.gather(*looking))
        except BaseException:
            for each in looking:
                each.cancel()
            raise

    def _look(self, named: Named) -> FileRef:
        """As it is kept. One that is not there is empty and has no ETag: its worker asks for it once more, and tells
        why it is not in the archive."""
        try:
            _, size, etag = self._objects.head(named.key)
        except (ObjectMissing, BadInput):  # BadInput: a key that no store of ours takes
            return _kept(named, 0, {"missing": True})
        return _kept(named, size, {"etag": etag})

    async def _add(self, job: Job, at: tuple[int, str], files: list[FileRef], cursor: str) -> None:
        """`at`: how many files there are before these, and the cursor of the last of them."""
        first, after = at
        await self._store.add_files(
            job.id, job.run, first, files, cursor, self._clock.now() + self._limits.timeout_ms, after=after,
            missing=sum("missing" in _about(file) for file in files), bytes=sum(file.file_size for file in files),
        )  # fmt: skip

    async def _finish(self, job_id: str) -> Job:
        """Divide the files, then plan and queue. One archive at a time: all its paths are in memory meanwhile."""
        async with self._dividing:
            return await self._divided(job_id)

    async def _divided(self, job_id: str) -> Job:
        job = await self._store.job(job_id)
        if job is None:
            raise NotFound
        parts = _Parts(job.message["part_bytes"], job.message["part_files"])
        after = -1
        while page := await self._store.files(job.id, 0, after, PAGE):
            after = page[-1][0]
            for lines in await asyncio.to_thread(lambda files: list(parts.add(files)), [file for _, file, _ in page]):
                await self._put_list(job, lines)
        last = parts.end()
        if last is not None:
            await self._put_list(job, last)
        return await self._queue(job, parts.made)

    async def _put_list(self, job: Job, lines: "_Lines") -> None:
        """With the alarm, since many lists take long; and not where the list is another reader's by now."""
        await self._store.add_files(
            job.id, job.run, job.files_total, [], job.source_cursor, self._clock.now() + self._limits.timeout_ms,
            after=job.source_cursor,
        )  # fmt: skip
        await asyncio.to_thread(self._objects.put, archive.list_key(job, lines.number), lines.body, LINES)

    async def _queue(self, job: Job, made: list[dict[str, int]]) -> Job:
        now = self._clock.now()
        tasks = _tasks(job, len(made))
        for first in range(0, len(tasks), PAGE):
            await self._store.plan_anew(job.id, job.run, tasks[first : first + PAGE], is_first=first == 0)
        queued = msgspec.structs.replace(
            job, state=JobState.QUEUED, message=job.message | {"parts": made}, tasks_total=len(tasks), queued_at=now,
            updated_at=now, alarm_at=now, expires_at=now + self._limits.unfinished_ms,
        )  # fmt: skip
        await self._store.queue(queued)
        telemetry.event("archive.verified", archive=job.id, files=job.files_total, missing=job.files_missing,
                        parts=len(tasks))  # fmt: skip
        return queued


async def _chunks(listing: Listing, after: str) -> AsyncIterator[list[Named]]:
    """At most CHUNK_FILES, and no more of them when those have CHUNK_BYTES; never empty."""
    while page := await listing.page(after):
        after = page[-1].cursor
        chunk: list[Named] = []
        size = 0
        for named in page:
            chunk.append(named)
            size += named.size
            if len(chunk) == CHUNK_FILES or size >= CHUNK_BYTES:
                yield chunk
                chunk, size = [], 0
        if chunk:
            yield chunk


def _kept(named: Named, size: int, about: dict[str, Any]) -> FileRef:
    """A file of an archive as the store has it. `logical_path` is the path that is wanted; what else there is to know
    is in `processing_config`."""
    more = {"product": named.product, "category": named.category}
    return FileRef(
        r2_key=named.key,
        logical_path=named.path,
        file_name=named.filename,
        file_size=size,
        processing_config=about | {name: value for name, value in more.items() if value is not None},
    )


def _about(file: FileRef) -> dict[str, Any]:
    return file.processing_config or {}


class _Lines(NamedTuple):
    """The list object of part `number`, from 0."""

    number: int
    body: bytes


class _Parts:
    """Divides files into parts, in their order. No two files of the whole archive have one path, so that all parts can
    be unpacked into one folder."""

    def __init__(self, most_bytes: int, most_files: int) -> None:
        self._most_bytes, self._most_files = most_bytes, most_files
        self._names = Names(README, MANIFEST)
        self._lines: list[bytes] = []
        self._bytes = 0
        self.made: list[dict[str, int]] = []
        """Files and bytes of each part."""

    def add(self, files: list[FileRef]) -> Iterator[_Lines]:
        """The parts that are complete by now."""
        for file in files:
            is_full = self._bytes + file.file_size > self._most_bytes or len(self._lines) == self._most_files
            if self._lines and is_full:
                yield self._cut()
            self._lines.append(msgspec.json.encode(_member(file, self._names.give(file.logical_path))))
            self._bytes += file.file_size

    def end(self) -> _Lines | None:
        """The last part, unless there is no file at all."""
        return self._cut() if self._lines else None

    def _cut(self) -> _Lines:
        lines = _Lines(len(self.made), b"\n".join(self._lines) + b"\n")
        self.made.append({"files": len(self._lines), "bytes": self._bytes})
        self._lines, self._bytes = [], 0
        return lines


def _member(file: FileRef, path: str) -> Member:
    about = _about(file)
    return Member(
        key=file.r2_key, path=path, size=file.file_size, etag=about.get("etag", ""), filename=file.file_name,
        product=about.get("product"), category=about.get("category"),
    )  # fmt: skip


def _tasks(job: Job, count: int) -> list[Task]:
    kind = all_phases()[job.phases[0]].kind
    return [
        Task(
            job_id=job.id,
            phase=0,
            n=n,
            task_id=task_id(job.id, 0, kind, n),
            run=job.run,
            input_r2_key=archive.list_key(job, n),
            output_r2_key=archive.archive_key(job, n, count),
        )
        for n in range(count)
    ]
