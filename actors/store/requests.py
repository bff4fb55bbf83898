"""What a store is asked: each request carried out by the function of its name, each caller answered on its loop."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from actors import telemetry
from actors.errors import CANNOT_WRITE, InvalidInput, Unavailable
from actors.store import batches, catalog, catalog_reads, fleet, reads
from actors.store.statements import Db

_OPERATIONS: Final[dict[str, Callable[[Db, dict[str, Any]], Any]]] = {
    **batches.OPERATIONS,
    **fleet.OPERATIONS,
    **catalog.OPERATIONS,
}
_QUESTIONS: Final = {**reads.QUESTIONS, **catalog_reads.QUESTIONS}


class Waiting:
    """One list of one caller."""

    def __init__(self, requests: list[dict[str, Any]]) -> None:
        self.requests = requests
        self.loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[list[Any]] = self.loop.create_future()


def carry_out(db: Db, request: dict[str, Any]) -> Any:
    """The value of a write, inside the transaction that is open. Raises what it ends with."""
    operation = _OPERATIONS.get(request["op"])
    if operation is None:
        raise InvalidInput(f"The store knows no operation {request['op']!r}.", field="op")
    return operation(db, request)


def answer(db: Db, question: str, arguments: tuple[Any, ...]) -> Any:
    """What a function of `reads` or `catalog_reads` answers."""
    return _QUESTIONS[question](db, *arguments)


def unavailable(error: Exception) -> Unavailable:
    """What is told where the disk, or the way to the database, is at fault."""
    refused = Unavailable(CANNOT_WRITE, retry_after_s=1)
    refused.__cause__ = error
    return refused


def hand_out(group: list[Waiting], answers: list[Any]) -> None:
    """Answer each caller on its own loop: one hop per loop, not per caller."""
    at = 0
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[list[Any]], list[Any]]]] = {}
    for waiting in group:
        mine = answers[at : at + len(waiting.requests)]
        at += len(waiting.requests)
        by_loop.setdefault(waiting.loop, []).append((waiting.answer, mine))
    for loop, answered in by_loop.items():
        try:
            loop.call_soon_threadsafe(_resolve, answered)
        except RuntimeError:
            telemetry.detail("store.caller_ended", written=len(answered))


def _resolve(answered: list[tuple[asyncio.Future[list[Any]], list[Any]]]) -> None:
    for future, values in answered:
        if not future.done():
            future.set_result(values)
