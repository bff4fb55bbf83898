"""The file: how it is opened, migrated and spoken to.

Statements are SQLAlchemy Core, compiled once (`Sql`) and executed on the driver's connection: a
`Connection.execute` costs ten times the SQLite call beneath it, and a commit is a handful of them.
The driver never begins or commits by itself here; transactions are begun with BEGIN IMMEDIATE.
"""

from collections.abc import Callable, Iterable, Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from sqlalchemy import URL, ColumnElement, Engine, create_engine, event, literal
from sqlalchemy.dialects.sqlite import pysqlite
from sqlalchemy.pool import NullPool
from sqlalchemy.sql.base import Executable
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import ClauseElement

BUSY_TIMEOUT_MS: Final = 5_000
CHECKPOINT_PAGES: Final = 4_000  # 16 MiB of log: a checkpoint every few thousand commits, not a long one at the end
KEPT_LOG_BYTES: Final = 64 * 1024 * 1024

_DIALECT: Final = pysqlite.dialect()
DriverError: Final[type[Exception]] = pysqlite.dialect.import_dbapi().Error
"""The base of everything that SQLite raises."""

Row = tuple[Any, ...]


class Sql:
    """A Core statement, compiled once. Parameters are given by name; literals inside it keep their values.

    `columns` names further parameters of an INSERT or UPDATE: those set from values given at execution.
    A parameter `key_x` (WHERE of an UPDATE, where `x` is taken) is filled from `x` by `picker`.
    """

    def __init__(self, statement: Executable, columns: Iterable[str] | None = None) -> None:
        assert isinstance(statement, ClauseElement)
        compiled = statement.compile(
            dialect=_DIALECT,
            column_keys=None if columns is None else list(columns),
        )
        assert isinstance(compiled, SQLCompiler)
        self.text = str(compiled)
        self._names: list[str] = list(compiled.positiontup or ())
        self._literals = {name: value for name, value in compiled.params.items() if value is not None}

    def arguments(self, values: Mapping[str, Any]) -> Row:
        """The values in the order of the statement. Raises KeyError for one that is missing."""
        literals = self._literals
        return tuple(values[name] if name in values else literals[name] for name in self._names)

    def picker(self, columns: list[str]) -> Callable[[Row], Row]:
        """Brings rows whose values stand in the order of `columns` into the order of the statement."""
        pick: Callable[[Row], Row] = itemgetter(*(columns.index(name.removeprefix("key_")) for name in self._names))
        return pick


def one_of(column: ColumnElement[str], values: Iterable[str]) -> ColumnElement[bool]:
    """`column IN (…)` with as many parameters as values: Core's own is expanded at execution only."""
    return column.in_([literal(value) for value in values])


class Db:
    """One connection; used by one thread at a time, which need not be the one that opened it."""

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


def open_file(path: Path, *, read_only: bool) -> Db:
    """A connection to the file with this project's pragmas. Raises DriverError (wrapped or not) if it cannot.

    The writer's file is created where it is missing; a reader's must exist.
    """
    return Db(make_engine(path, read_only=read_only))


def make_engine(path: Path, *, read_only: bool = False) -> Engine:
    """The SQLAlchemy engine of the file. Its driver is in autocommit; `begin` is BEGIN IMMEDIATE."""
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
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
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


def migrate(engine: Engine) -> None:
    """Bring the schema to the newest version, in one transaction: a crash leaves the old one."""
    from alembic import command  # 0.2 s that readers need not pay
    from alembic.config import Config

    config = Config()
    location = Path(__file__).parent / "migrations"
    config.set_main_option("script_location", str(location).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
