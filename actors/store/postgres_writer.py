"""The write side where the store is Postgres: each process commits its own, over a few connections.

What has gathered in the process while a connection was busy is one transaction, as in `writer`. Every write may be
sent again, so a group whose connection was lost under COMMIT is simply sent again: a commit that was written
answers by its epoch and seq that it is there.
"""

import queue
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import msgspec
import psycopg

from actors import telemetry
from actors.errors import ArkeError, Unavailable
from actors.store import turns
from actors.store.postgres import Fault, Pool, PostgresDb, fault_of, why
from actors.store.requests import Waiting, carry_out, hand_out, unavailable

CONNECTIONS: Final = 4
MAX_GROUP: Final = 64
"""Requests of one transaction. A backend notes 64 savepoints for all others to see; more make every snapshot slower."""
TRIES: Final = 6
"""Of a group that Postgres has refused for the sake of another one. The last comes about half a second after the
first."""
FIRST_PAUSE_S: Final = 0.01
AWAY_PAUSE_S: Final = 0.2

_ALONE: Final = frozenset({"admit"})
"""They wait for a lock that all of them need: whoever has it must not wait for rows that others of them hold."""


_Way = Callable[[PostgresDb, list[dict[str, Any]]], list[Any]]
"""How a group is carried out: the answers, once they are on disk."""


class _NotSo(Exception):
    """The group cannot be carried out this way: nothing was written."""


class _OneFailed(Exception):
    """A request of the group failed: nothing is kept of this try."""

    def __init__(self, answer: Exception) -> None:
        self.answer = answer


class _GroupFailed(Exception):
    """Not a request, but what is around it."""

    def __init__(self, fault: Fault, error: Exception) -> None:
        self.fault, self.error = fault, error


class PostgresWriter:
    """Carries out requests on threads of its own, one connection each. `call` may be used from any event loop.

    `patience_s`: so long a group is tried again while the database is away. Who repeats by itself needs none.
    """

    def __init__(self, url: str, *, patience_s: float = 0.0, connections: int = CONNECTIONS) -> None:
        self._pool = Pool(url)
        self._patience_s = patience_s
        self._gathered: queue.SimpleQueue[Waiting] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(connections, thread_name_prefix="store-writer")
        self._closed = False

    async def call(self, request: dict[str, Any]) -> Any:
        """The value of one request. Raises what it ended with; Unavailable where it may, or may not, have been written.

        Returns after COMMIT (invariant 1).
        """
        (answer,) = await self.put([request])
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def put(self, requests: list[dict[str, Any]]) -> list[Any]:
        """Carry out all requests of the list, each for itself. For each its value, or the exception it ended with."""
        if self._closed:
            return [Unavailable() for _ in requests]
        waiting = Waiting(requests)
        self._gathered.put(waiting)
        self._threads.submit(self._work)
        return await waiting.answer

    def close(self) -> None:
        """Carry out what has gathered, then let go of the database. Blocks for that."""
        self._closed = True
        self._threads.shutdown()
        self._pool.close()

    def execute(self, requests: list[dict[str, Any]]) -> list[Any]:
        """Carry out a list in this thread, in as few transactions as may be. `put` is what callers use."""
        alone = [n for n, request in enumerate(requests) if request.get("op") in _ALONE]
        others = [n for n in range(len(requests)) if n not in alone]
        answers: list[Any] = [None] * len(requests)
        for part in (alone, others):
            # In the order of their rows, which is the same in all processes: so they do not wait for each other.
            ordered = sorted(part, key=lambda n: row_of(requests[n]))
            for n, answer in zip(ordered, self._carry_out([requests[n] for n in ordered]), strict=True):
                answers[n] = answer
        return answers

    def _work(self) -> None:
        """Called once for each list; the first that finds a connection free takes what has gathered."""
        group = self._gather()
        if not group:
            return
        requests = [request for waiting in group for request in waiting.requests]
        try:
            answers = self.execute(requests)
        except Exception as error:  # noqa: BLE001 - a caller must be answered
            telemetry.fault("store.writer_failed")
            answers = [error] * len(requests)
        hand_out(group, answers)

    def _gather(self) -> list[Waiting]:
        group: list[Waiting] = []
        size = 0
        while size < MAX_GROUP:
            try:
                group.append(self._gathered.get_nowait())
            except queue.Empty:
                break
            size += len(group[-1].requests)
        return group

    def _carry_out(self, requests: list[dict[str, Any]]) -> list[Any]:
        """One transaction, repeated as long as that may help."""
        if not requests:
            return []
        is_ping = all(request.get("op") == "ping" for request in requests)
        deadline = time.monotonic() + (0.0 if is_ping else self._patience_s)
        ways = [_guarded, _at_once, _as_statement] if turns.are_turns(requests) else [_guarded, _at_once]
        tries, lost = 0, 0
        while True:
            try:
                return self._leased(requests, ways[-1])
            except _NotSo:
                ways.pop()
            except _OneFailed as failed:
                if len(requests) == 1:
                    return [failed.answer]
                ways.pop()
            except _GroupFailed as failed:
                if failed.fault is Fault.CONFLICT and tries < TRIES:
                    tries += 1
                    time.sleep(random.uniform(0, FIRST_PAUSE_S * 2**tries))
                    continue
                lost += 1
                if failed.fault is not Fault.LOST or (lost > 1 and time.monotonic() > deadline):
                    telemetry.warning("store.group_not_written", requests=len(requests), why=why(failed.error))
                    return [unavailable(failed.error) for _ in requests]
                if lost > 1:
                    time.sleep(AWAY_PAUSE_S)

    def _leased(self, requests: list[dict[str, Any]], way: _Way) -> list[Any]:
        """Raises what the way does, and _GroupFailed: then nothing was written, or it is not known."""
        try:
            with self._pool.leased() as db:
                try:
                    return way(db, requests)
                except psycopg.Error as error:
                    raise _GroupFailed(fault_of(error, is_connected=db.is_connected), error) from error
        except psycopg.Error as error:  # there was no way to the database
            raise _GroupFailed(Fault.LOST, error) from error


class _OfJob(msgspec.Struct):
    id: str


class _OfCommit(msgspec.Struct):
    job: _OfJob


_decode_job: Final = msgspec.msgpack.Decoder(_OfJob).decode
_decode_commit: Final = msgspec.msgpack.Decoder(_OfCommit).decode


def row_of(request: dict[str, Any]) -> str:
    """The id of the job, or the name of what else a request writes to; "" where it says none."""
    try:
        if "commit" in request:
            return _decode_commit(request["commit"]).job.id
        if "job" in request:
            return _decode_job(request["job"]).id
    except msgspec.MsgspecError:
        return ""
    return str(request.get("job_id") or request.get("name") or "")


def _as_statement(db: PostgresDb, requests: list[dict[str, Any]]) -> list[Any]:
    """Of commits only, where all is as they expect. Raises _NotSo."""
    if not turns.write(db, requests):
        raise _NotSo
    return [None] * len(requests)


def _at_once(db: PostgresDb, requests: list[dict[str, Any]]) -> list[Any]:
    """Without savepoints: most groups have none that fails, and each savepoint is two ways to the server and back.
    Raises _OneFailed."""
    answers = []
    db.control("BEGIN")
    for request in requests:
        try:
            answers.append(carry_out(db, request))
        except Exception as error:
            raise _OneFailed(_answer(db, request, error)) from error
    db.commit()
    return answers


def _guarded(db: PostgresDb, requests: list[dict[str, Any]]) -> list[Any]:
    """Each request behind its savepoint, so that one that fails leaves the others applied."""
    answers: list[Any] = []
    db.control("BEGIN")
    for request in requests:
        db.control("SAVEPOINT request")
        try:
            answers.append(carry_out(db, request))
        except Exception as error:  # noqa: BLE001 - in its place of the list it is the answer
            answers.append(_answer(db, request, error))
            db.control("ROLLBACK TO request")
        db.control("RELEASE request")
    db.commit()
    return answers


def _answer(db: PostgresDb, request: dict[str, Any], error: Exception) -> Exception:
    """What the caller of a failed request is told. Raises _GroupFailed where it is not the request's fault."""
    fault = fault_of(error, is_connected=db.is_connected)
    if fault is Fault.REQUEST:
        if not isinstance(error, ArkeError):
            telemetry.fault("store.operation_failed", op=request.get("op"))
        return error
    if fault is Fault.BUSY:
        telemetry.warning("store.row_is_held", op=request.get("op"))
        return unavailable(error)
    raise _GroupFailed(fault, error) from error
