"""The file of the store on a disk that fails now and then: it is full, or does not take a transaction, or a read."""

import sqlite3
from pathlib import Path
from typing import Any

from actors.store.engine import FileDb, make_engine
from actors.store.file_reads import FileReads
from tests.simulation.chance import Chance


class FaultyDisk(FileDb):
    """The connection of the writer. What fails is the end of a transaction: nothing of it is kept."""

    is_full = False
    fails_next = False

    def __init__(self, path: Path) -> None:
        super().__init__(make_engine(path))

    def control(self, text: str) -> None:
        """As in `FileDb`."""
        if text == "COMMIT":
            if self.is_full:
                raise _error("database or disk is full", 13, "SQLITE_FULL")
            if self.fails_next:
                self.fails_next = False
                raise _error("disk I/O error", 10, "SQLITE_IOERR")
        super().control(text)


class FaultyReads(FileReads):
    """Reads of the file, some of which fail as the real ones do: by an error of the driver."""

    def __init__(self, path: Path, chance: Chance) -> None:
        super().__init__(path, inline=True)
        self._chance = chance

    def _answer(self, question: str, arguments: tuple[Any, ...]) -> Any:
        if self._chance.hits("store.read_fails"):
            self._close_file()
            self._db = _Unreadable()
        return super()._answer(question, arguments)


class _Unreadable(FileDb):
    """A connection by which nothing can be read."""

    def __init__(self) -> None:
        """There is no file."""

    def rows(self, *_: Any) -> Any:
        """As in `FileDb`."""
        raise _error("disk I/O error", 10, "SQLITE_IOERR")

    run = control = rows

    def close(self) -> None:
        """There is nothing to close."""


def _error(text: str, code: int, name: str) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(text)
    error.sqlite_errorcode, error.sqlite_errorname = code, name
    return error
