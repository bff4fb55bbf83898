"""The one writing process: what has gathered from all callers is one transaction and one fsync."""

import queue
import threading
from pathlib import Path
from typing import Any, Final

from actors import telemetry
from actors.errors import ArkeError, Unavailable
from actors.store.engine import DriverError, FileDb, make_engine
from actors.store.requests import Waiting, carry_out, hand_out, unavailable

MAX_GROUP: Final = 4096  # requests of one transaction, so that none waits for a very long one


class _GroupFailed(Exception):
    """The disk, not a request, is at fault: nothing of the group may be kept."""


class Writer:
    """Owns the file: creates and migrates it, and carries out requests. There is one per file.

    `inline` executes in the caller's thread, for a simulation that must be deterministic; else a thread
    of its own does, and `put` may be called from any event loop.
    """

    def __init__(self, path: Path, *, inline: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        from actors.store.schema import migrate  # alembic: 0.2 s that readers need not pay

        engine = make_engine(path)
        migrate(engine)
        self._db = FileDb(engine)
        self._gathered: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()
        self._closed = False
        self._is_refused = False  # the last group was: until one is written, a ping has to prove that it can be
        self._thread: threading.Thread | None = None
        if not inline:
            self._thread = threading.Thread(target=self._work, name="store-writer", daemon=True)
            self._thread.start()

    async def put(self, requests: list[dict[str, Any]]) -> list[Any]:
        """Carry out all requests of the list. For each its value, or the exception it ended with.

        Returns after COMMIT (invariant 1). When the disk refuses, nothing of the whole group was written
        and each answer is Unavailable.
        """
        if self._closed:
            return [Unavailable() for _ in requests]
        if self._thread is None:
            return self.execute(requests)
        waiting = Waiting(requests)
        self._gathered.put(waiting)
        return await waiting.answer

    def close(self) -> None:
        """End the thread after what has gathered, then close the file. Blocks for one group."""
        if self._closed:
            return
        self._closed = True
        if self._thread is not None:
            self._gathered.put(None)
            self._thread.join()
        self._db.close()

    def execute(self, requests: list[dict[str, Any]]) -> list[Any]:
        """One transaction in this thread. `put` is what callers use."""
        if not requests:
            return []
        try:
            self._db.control("BEGIN IMMEDIATE")
            if self._is_refused:
                self._db.control("PRAGMA user_version = 0")  # writes a page, though nothing changes
            answers = self._apply(requests)
            self._db.control("COMMIT")
            self._is_refused = False
        except (_GroupFailed, DriverError) as error:
            self._is_refused = True
            telemetry.fault("store.group_not_written", requests=len(requests))
            self._roll_back()
            return [unavailable(error) for _ in requests]
        except BaseException:
            self._roll_back()
            raise
        return answers

    def _apply(self, requests: list[dict[str, Any]]) -> list[Any]:
        """Each request behind its savepoint, so that one that fails leaves the others applied."""
        answers: list[Any] = []
        for request in requests:
            self._db.control("SAVEPOINT request")
            try:
                answers.append(carry_out(self._db, request))
            except Exception as error:
                if _is_fault_of_the_disk(error) or not self._db.in_transaction:
                    raise _GroupFailed(str(error)) from error
                if not isinstance(error, ArkeError):
                    telemetry.fault("store.operation_failed", op=request.get("op"))
                self._db.control("ROLLBACK TO request")
                answers.append(error)
            self._db.control("RELEASE request")
        return answers

    def _roll_back(self) -> None:
        try:
            if self._db.in_transaction:
                self._db.control("ROLLBACK")
        except DriverError:
            telemetry.fault("store.not_rolled_back")

    def _work(self) -> None:
        while True:
            first = self._gathered.get()
            if first is None:
                return
            group, ended = self._gather(first)
            try:
                answers = self.execute([request for waiting in group for request in waiting.requests])
            except Exception as error:  # noqa: BLE001 - a caller must be answered, and the thread go on
                telemetry.fault("store.writer_failed")
                answers = [error] * sum(len(waiting.requests) for waiting in group)
            hand_out(group, answers)
            if ended:
                return

    def _gather(self, first: Waiting) -> tuple[list[Waiting], bool]:
        """What is there, up to MAX_GROUP requests, and whether the end was among it."""
        group, size = [first], len(first.requests)
        while size < MAX_GROUP:
            try:
                waiting = self._gathered.get_nowait()
            except queue.Empty:
                break
            if waiting is None:
                return group, True
            group.append(waiting)
            size += len(waiting.requests)
        return group, False


class LocalWriter:
    """The write side of a Store in the process that owns the file: no socket, the same grouping."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def call(self, request: dict[str, Any]) -> Any:
        """The value of one request. Raises what it ended with."""
        (answer,) = await self._writer.put([request])
        if isinstance(answer, Exception):
            raise answer
        return answer


def _is_fault_of_the_disk(error: Exception) -> bool:
    """Full, unreadable, locked, …: SQLite may have ended the transaction. Not a constraint, nor a wrong statement."""
    if not isinstance(error, DriverError):
        return False
    name: str = getattr(error, "sqlite_errorname", "")
    return not name.startswith(("SQLITE_CONSTRAINT", "SQLITE_ERROR", "SQLITE_MISMATCH", "SQLITE_TOOBIG")) and name != ""
