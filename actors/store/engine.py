"""The file of SQLite: how it is opened and spoken to.

The driver never begins or commits by itself here; transactions are begun with BEGIN IMMEDIATE.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from sqlalchemy import URL, Engine, create_engine, event
from sqlalchemy.dialects.sqlite import pysqlite
from sqlalchemy.pool import NullPool

from actors.store.statements import Row, Sql

BUSY_TIMEOUT_MS: Final = 5_000
CHECKPOINT_PAGES: Final = 4_000  # 16 MiB of log: a checkpoint every few thousand commits, not a long one at the end
KEPT_LOG_BYTES: Final = 64 * 1024 * 1024

DriverError: Final[type[Exception]] = pysqlite.dialect.import_dbapi().Error
"""The base of everything that SQLite raises."""


class FileDb:
    """A `Db` of SQLite; used by one thread at a time, which need not be the one that opened it."""

    def __init__(self, engine: Engine) -> None:
        self._connection = engine.raw_connection()
        self._cursor = self._connection.cursor()

    def run(self, sql: Sql, values: Mapping[str, Any]) -> int:
        """Execute; the number of rows changed."""
        self._cursor.execute(sql.text, sql.arguments(values))
        return int(self._cursor.rowcount)

    def run_many(self, sql: Sql, rows: list[Row]) -> int:
        """Execute for each row (values in the statement's order); the number of rows changed in all."""
        if not rows:
            return 0
        self._cursor.executemany(sql.text, rows)
        return int(self._cursor.rowcount)

    def rows(self, sql: Sql, values: Mapping[str, Any]) -> list[Row]:
        """All rows at once: no read stays open, which would keep the log from being emptied."""
        self._cursor.execute(sql.text, sql.arguments(values))
        return list(self._cursor.fetchall())

    def row(self, sql: Sql, values: Mapping[str, Any]) -> Row | None:
        """The first row, or None."""
        found = self.rows(sql, values)
        return found[0] if found else None

    def hold(self, what: str) -> None:
        """Nothing: the file has one writer."""

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """What is read inside is all of one moment."""
        self.control("BEGIN")
        try:
            yield
        finally:
            self.control("COMMIT")

    def control(self, text: str) -> None:
        """BEGIN IMMEDIATE, COMMIT, ROLLBACK, SAVEPOINT …, PRAGMA: what has no Core expression."""
        self._cursor.execute(text)
        self._cursor.fetchall()

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open (SQLite may have ended it itself after an error)."""
        driver = self._connection.driver_connection
        assert driver is not None
        return bool(driver.in_transaction)

    def close(self) -> None:
        self._cursor.close()
        self._connection.close()


def open_file(path: Path, *, read_only: bool) -> FileDb:
    """A connection to the file with this project's pragmas. Raises DriverError (wrapped or not) if it cannot.

    The writer's file is created where it is missing; a reader's must exist.
    """
    return FileDb(make_engine(path, read_only=read_only))


def make_engine(path: Path, *, read_only: bool = False) -> Engine:
    """The SQLAlchemy engine of the file. Its driver is in autocommit; `begin` is BEGIN IMMEDIATE for who writes."""
    engine = create_engine(
        URL.create(
            "sqlite",
            database=f"file:{quote(str(path.absolute()))}",
            query={"mode": "ro" if read_only else "rwc", "uri": "true"},
        ),
        poolclass=NullPool,
        connect_args={
            "isolation_level": None,
            "check_same_thread": False,
            "timeout": BUSY_TIMEOUT_MS / 1000,
            "cached_statements": 256,
        },
    )
    event.listen(engine, "connect", _read_pragmas if read_only else _write_pragmas)
    begin = "BEGIN" if read_only else "BEGIN IMMEDIATE"
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
    return engine


def _write_pragmas(connection: Any, _record: object) -> None:
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",  # invariant 1: COMMIT returns after the log is on disk
        f"wal_autocheckpoint={CHECKPOINT_PAGES}",
        f"journal_size_limit={KEPT_LOG_BYTES}",
        "cache_size=-65536",  # KiB
        "foreign_keys=ON",
    ):
        connection.execute(f"PRAGMA {pragma}").fetchall()


def _read_pragmas(connection: Any, _record: object) -> None:
    for pragma in ("query_only=ON", "cache_size=-16384"):
        connection.execute(f"PRAGMA {pragma}").fetchall()
