"""Reads of the file itself, on one thread with one connection; it is opened at the first read."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sqlalchemy.exc import DBAPIError

from actors.errors import Unavailable
from actors.store.engine import DriverError, FileDb, open_file
from actors.store.requests import answer


class FileReads:
    """Answers the questions of `reads` and `catalog_reads`. `inline`: in the caller's thread, for a simulation."""

    def __init__(self, path: Path, *, inline: bool = False) -> None:
        self._path = path
        self._db: FileDb | None = None
        self._thread = None if inline else ThreadPoolExecutor(max_workers=1, thread_name_prefix="store-reader")

    async def ask(self, question: str, *arguments: Any) -> Any:
        """What the function of that name answers. Raises Unavailable before there is a file."""
        if self._thread is None:
            return self._answer(question, arguments)
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._answer, question, arguments)

    async def close(self) -> None:
        """Close the file."""
        if self._thread is None:
            self._close_file()
            return
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close_file)
        self._thread.shutdown()

    def _answer(self, question: str, arguments: tuple[Any, ...]) -> Any:
        try:
            if self._db is None:
                self._db = open_file(self._path, read_only=True)
            return answer(self._db, question, arguments)
        except (DriverError, DBAPIError) as error:
            self._close_file()
            raise Unavailable(
                "The store cannot be read at the moment. Send the same request again.", retry_after_s=1
            ) from error

    def _close_file(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.close()
