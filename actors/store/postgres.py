"""A database of Postgres: how it is connected to and spoken to.

The driver begins and commits nothing by itself; transactions are begun with BEGIN, which is READ COMMITTED, and a
statement outside of one is a transaction of its own. Which locks make that enough: docs/decisions/0014.
"""

import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import Enum, auto
from typing import Any, Final

import psycopg
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus
from psycopg.types.string import StrDumper
from sqlalchemy import Engine, create_engine, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import NullPool

from actors.errors import CannotStart
from actors.store.statements import ADVISORY, Compiled, Row, Sql, lock_number

DriverError: Final[type[Exception]] = psycopg.Error
"""The base of everything that the driver raises."""

CONNECT_S: Final = 5
LOCK_S: Final = 5
"""For a row or a lock that somebody else has: who has it is in a transaction, and those are short."""
STATEMENT_S: Final = 20
IDLE_IN_TRANSACTION_S: Final = 10
"""A process that was stopped in the middle of a transaction loses it, with the rows that it holds."""
ANSWER_S: Final = 30.0
"""For any answer: a server that is stopped, or no longer reachable, ends no statement."""
IDLE_S: Final = 60.0
"""After which a connection that nobody uses is closed."""

_SESSION: Final = (
    f"SET lock_timeout = '{LOCK_S}s'; SET statement_timeout = '{STATEMENT_S}s'; "
    f"SET idle_in_transaction_session_timeout = '{IDLE_IN_TRANSACTION_S}s'"
)
_AS_WRITTEN: Final = "; ".join(f"SET enable_{way} = off" for way in ("seqscan", "sort", "hashjoin", "mergejoin"))
"""Each question is written for an index that has its rows, in its order. With statistics from before a list came in,
the planner thinks that a job has two tasks, and that any way to them is as good."""
_ON_DISK: Final = (  # invariant 1; a stricter value than "on" stays
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
)
_READ_ONLY: Final = "SET default_transaction_read_only = on"


class Fault(Enum):
    """What a driver's error says, and what follows from it."""

    REQUEST = auto()
    """The request cannot be carried out: it alone is told."""
    BUSY = auto()
    """Somebody has its row for longer than the time-out. It alone is Unavailable: the others had no such wait."""
    CONFLICT = auto()
    """Chosen as the victim of a deadlock, or not serializable: the whole group again."""
    LOST = auto()
    """The connection is gone, or leads to no primary: the whole group again, on another one."""
    REFUSED = auto()
    """The server takes nothing now (a full disk, no memory, too many connections): the group is Unavailable."""


def fault_of(error: Exception, *, is_connected: bool) -> Fault:
    """By the class of its SQLSTATE (the first two characters), where it has one."""
    if not isinstance(error, psycopg.Error):
        return Fault.REQUEST
    state = error.sqlstate or ""
    if not is_connected or state == "25006" or (state[:2] in ("08", "57") and state != "57014"):
        return Fault.LOST
    if state in ("40001", "40P01"):
        return Fault.CONFLICT
    if state in ("55P03", "57014"):
        return Fault.BUSY
    return Fault.REFUSED if state[:2] in ("53", "58", "XX") else Fault.REQUEST


class _Text(StrDumper):
    """Texts without the character NUL, which Postgres cannot hold. No key has one (`key_fault`); what a worker says of
    its failure may, and must not be what a whole turn fails by."""

    def dump(self, obj: str) -> Any:
        return super().dump(obj.replace("\0", "\N{REPLACEMENT CHARACTER}") if "\0" in obj else obj)


class _Connection(psycopg.Connection[Row]):
    """One that waits for no answer longer than ANSWER_S. It is of no use after that."""

    def wait(self, gen: PQGen[Any], interval: float = 0.1, timeout: float | None = None) -> Any:
        try:
            return super().wait(gen, interval, ANSWER_S if timeout is None else timeout)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                self.close()
            raise


class PostgresDb:
    """A `Db` of Postgres; used by one thread at a time."""

    def __init__(self, url: str, *, read_only: bool = False) -> None:
        self._connection = _Connection.connect(_conninfo(url), autocommit=True, **_options())
        try:
            self._connection.adapters.register_dumper(str, _Text)
            self._cursor = self._connection.cursor()
            self._cursor.execute(f"{_SESSION}; {_AS_WRITTEN}")
            self._cursor.execute(_READ_ONLY if read_only else _ON_DISK)
        except BaseException:
            self._connection.close()
            raise

    def run(self, sql: Sql, values: Mapping[str, Any]) -> int:
        """Execute; the number of rows changed."""
        compiled = sql.postgres
        self._cursor.execute(compiled.text, compiled.arguments(values))
        return self._cursor.rowcount

    def run_many(self, sql: Sql, rows: list[Row]) -> int:
        """Execute for each row (values in the statement's order), all in one go; the number of rows changed in all."""
        if not rows:
            return 0
        text, order = sql.postgres.text, sql.to_postgres
        if len(rows) == 1:
            self._cursor.execute(text, order(rows[0]))
        else:
            self._cursor.executemany(text, [order(row) for row in rows])
        return self._cursor.rowcount

    def ask(self, compiled: Compiled, values: Mapping[str, Any]) -> None:
        """Execute what only Postgres is asked, outside of a transaction: it is on disk then."""
        self._cursor.execute(compiled.text, compiled.arguments(values), prepare=True)

    def rows(self, sql: Sql, values: Mapping[str, Any]) -> list[Row]:
        """All rows."""
        compiled = sql.postgres
        self._cursor.execute(compiled.text, compiled.arguments(values))
        return self._cursor.fetchall()

    def row(self, sql: Sql, values: Mapping[str, Any]) -> Row | None:
        """The first row, or None."""
        found = self.rows(sql, values)
        return found[0] if found else None

    def hold(self, what: str) -> None:
        """See `Db.hold`. Statements see what was committed before they began, so the next one sees the others' work."""
        self._cursor.execute(ADVISORY, (lock_number(what),))

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """What is read inside is all of one moment."""
        self.control("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        try:
            yield
        except BaseException:
            self.roll_back()
            raise
        self.control("COMMIT")

    def control(self, text: str) -> None:
        """BEGIN, SAVEPOINT …: what has no Core expression."""
        self._cursor.execute(text)

    def commit(self) -> None:
        """Returns when it is on disk. COMMIT of a transaction that has failed is a rollback, and no error."""
        self._cursor.execute("COMMIT")
        if self._cursor.statusmessage != "COMMIT":
            raise psycopg.errors.InFailedSqlTransaction("the transaction had failed")

    def roll_back(self) -> None:
        """End what is open. A connection that cannot even do that is of no use (`is_usable`)."""
        with suppress(psycopg.Error):
            if self._connection.info.transaction_status != TransactionStatus.IDLE:
                self._cursor.execute("ROLLBACK")

    @property
    def is_connected(self) -> bool:
        """Whether the server is still there, as far as is known."""
        return not self._connection.closed

    @property
    def is_usable(self) -> bool:
        """Whether it is connected, with no transaction open."""
        return not self._connection.closed and self._connection.info.transaction_status == TransactionStatus.IDLE

    def close(self) -> None:
        """Whatever was not committed is rolled back by the server."""
        with suppress(psycopg.Error):
            self._connection.close()


class Pool:
    """Connections to one database, opened when they are needed, as many as there are threads that ask at once.

    The one that was used last is used next, so that those which a burst needed are closed after it.
    """

    def __init__(self, url: str, *, read_only: bool = False) -> None:
        self._url, self._read_only = url, read_only
        self._idle: deque[tuple[PostgresDb, float]] = deque()
        self._lock = threading.Lock()

    @contextmanager
    def leased(self) -> Iterator[PostgresDb]:
        """A connection without a transaction; what is open at the end is rolled back. Raises DriverError where there
        is no way to the database, or where that is lost: then all that wait here are closed too."""
        db = self._take()
        try:
            yield db
        finally:
            db.roll_back()
            if db.is_usable:
                self._give_back(db)
            else:
                db.close()
                self.close()

    def close(self) -> None:
        """Close those that nobody uses."""
        with self._lock:
            idle, self._idle = self._idle, deque()
        for db, _ in idle:
            db.close()

    def _take(self) -> PostgresDb:
        with self._lock:
            if self._idle:
                return self._idle.pop()[0]
        return PostgresDb(self._url, read_only=self._read_only)

    def _give_back(self, db: PostgresDb) -> None:
        now = time.monotonic()
        with self._lock:
            self._idle.append((db, now))
            old = []
            while self._idle and self._idle[0][1] < now - IDLE_S:
                old.append(self._idle.popleft()[0])
        for db in old:
            db.close()


def make_postgres_engine(url: str) -> Engine:
    """The SQLAlchemy engine of the database, for migrations: they may take longer than any answer of a `PostgresDb`."""

    def connected() -> psycopg.Connection[Row]:
        return psycopg.connect(_conninfo(url), **_options())

    return create_engine("postgresql+psycopg://", creator=connected, poolclass=NullPool)


def shown(url: str) -> str:
    """The URL without its password, for people. Raises CannotStart for one that is none."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise CannotStart("DATABASE_URL is none of a database. Write postgresql://USER@HOST/DATABASE.") from None
    return parsed.set(query={}).render_as_string(hide_password=True)


def why(error: BaseException) -> str:
    """What the server, or the way to it, says; no value of a statement, and of the URL host and user only."""
    message = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    if message:
        return message
    if not isinstance(error, psycopg.OperationalError):
        return type(error).__name__
    first = str(error).strip().partition("\n")[0]  # libpq's words: they name host, port and user
    return first.rpartition("failed: ")[2].removeprefix("FATAL:").strip()


def _conninfo(url: str) -> str:
    return "postgresql://" + url.partition("://")[2]


def _options() -> dict[str, Any]:
    return {
        "connect_timeout": CONNECT_S,
        "keepalives_idle": CONNECT_S,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": int(ANSWER_S * 1000),
        "target_session_attrs": "primary",  # a standby is behind what was acknowledged
        "application_name": "arke",
        "client_encoding": "utf8",
    }
