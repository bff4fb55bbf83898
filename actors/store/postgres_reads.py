"""Reads of Postgres: on a few threads, over connections that can write nothing."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import psycopg

from actors import telemetry
from actors.errors import Unavailable
from actors.store.postgres import Fault, Pool, fault_of, why
from actors.store.requests import answer

CONNECTIONS: Final = 4
PAUSE_S: Final = 0.2


class PostgresReads:
    """Answers the questions of `reads` and `catalog_reads`.

    `patience_s`: so long a question is asked again while the database is away; once again it always is, since a
    connection that was at rest may have ended with a restart of the server.
    """

    def __init__(self, url: str, *, patience_s: float = 0.0, connections: int = CONNECTIONS) -> None:
        self._pool = Pool(url, read_only=True)
        self._patience_s = patience_s
        self._threads = ThreadPoolExecutor(connections, thread_name_prefix="store-reader")

    async def ask(self, question: str, *arguments: Any) -> Any:
        """What the function of that name answers. Raises Unavailable."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._answer, question, arguments)

    async def close(self) -> None:
        """Close all connections; what runs is waited for."""
        await asyncio.to_thread(self._threads.shutdown)
        self._pool.close()

    def _answer(self, question: str, arguments: tuple[Any, ...]) -> Any:
        deadline = time.monotonic() + self._patience_s
        is_again = False
        while True:
            is_connected = False
            try:
                with self._pool.leased() as db:
                    try:
                        return answer(db, question, arguments)
                    finally:
                        is_connected = db.is_connected
            except psycopg.Error as error:
                is_lost = fault_of(error, is_connected=is_connected) is Fault.LOST
                if not is_lost or (is_again and time.monotonic() > deadline):
                    telemetry.warning("store.read_failed", question=question, why=why(error))
                    raise Unavailable(
                        "The store cannot be read at the moment. Send the same request again.", retry_after_s=1
                    ) from error
            if is_again:
                time.sleep(PAUSE_S)
            is_again = True
