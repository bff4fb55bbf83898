"""How the store speaks SQL, whichever of its two engines answers.

Statements are SQLAlchemy Core, compiled once for each engine (`Sql`) and executed on the driver's connection: a
`Connection.execute` costs ten times the SQLite call beneath it, and a commit is a handful of them. What the two
say differently has a helper here; a statement that is written with them means the same on both.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from operator import itemgetter
from typing import Any, Final, Protocol

from sqlalchemy import Column, ColumnElement, Delete, Dialect, Integer, Table, Text, bindparam, delete, literal, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.dialects.postgresql import psycopg
from sqlalchemy.dialects.sqlite import pysqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.base import Executable
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import ClauseElement
from sqlalchemy.sql.functions import FunctionElement

__all__ = [
    "ADVISORY", "Compiled", "Db", "Row", "Sql", "delete_some", "for_postgres", "is_duplicate", "json_item",
    "listed", "lock_number", "one_of", "upsert",
]  # fmt: skip

_SQLITE: Final[Dialect] = pysqlite.dialect()
_POSTGRES: Final[Dialect] = psycopg.dialect(paramstyle="format")  # type: ignore[no-untyped-call]
_UNIQUE_VIOLATION: Final = "23505"
ADVISORY: Final = "SELECT pg_advisory_xact_lock(%s)"
"""Of Postgres: waits until nobody else has the lock of that number, and has it until the transaction ends."""

Row = tuple[Any, ...]


class Compiled:
    """The text of a statement for one engine, and the order of its parameters there."""

    def __init__(self, statement: Executable, columns: list[str] | None, dialect: Dialect) -> None:
        assert isinstance(statement, ClauseElement)
        compiled = statement.compile(dialect=dialect, column_keys=columns)
        assert isinstance(compiled, SQLCompiler)
        self.text = str(compiled)
        self.names: list[str] = list(compiled.positiontup or ())
        self.literals = {name: value for name, value in compiled.params.items() if value is not None}

    def arguments(self, values: Mapping[str, Any]) -> Row:
        """The values in the order of the statement. Raises KeyError for one that is missing."""
        literals = self.literals
        return tuple(values[name] if name in values else literals[name] for name in self.names)


class Sql(Compiled):
    """A Core statement, compiled once. Parameters are given by name; literals inside it keep their values.

    `columns` names further parameters of an INSERT or UPDATE: those set from values given at execution.
    A parameter `key_x` (WHERE of an UPDATE, where `x` is taken) is filled from `x` by `picker`.
    What it is itself is the text for SQLite; `postgres` is the other one, made when it is first needed.
    """

    def __init__(self, statement: Executable, columns: Iterable[str] | None = None) -> None:
        self._columns = None if columns is None else list(columns)
        self._statement = statement
        super().__init__(statement, self._columns, _SQLITE)

    @cached_property
    def postgres(self) -> Compiled:
        """The same for Postgres."""
        return Compiled(self._statement, self._columns, _POSTGRES)

    @cached_property
    def to_postgres(self) -> Callable[[Row], Row]:
        """Brings a row that is in the order of this statement into that of `postgres`."""
        pick: Callable[[Row], Row] = itemgetter(*(self.names.index(name) for name in self.postgres.names))
        return pick

    def picker(self, columns: list[str]) -> Callable[[Row], Row]:
        """Brings rows whose values stand in the order of `columns` into the order of the statement."""
        pick: Callable[[Row], Row] = itemgetter(*(columns.index(name.removeprefix("key_")) for name in self.names))
        return pick


class Db(Protocol):
    """One connection, as the functions of this package use it: inside a transaction that whoever calls them ends."""

    def run(self, sql: Sql, values: Mapping[str, Any]) -> int:
        """Execute; the number of rows changed."""

    def run_many(self, sql: Sql, rows: list[Row]) -> int:
        """Execute for each row (values in the statement's order); the number of rows changed in all."""

    def rows(self, sql: Sql, values: Mapping[str, Any]) -> list[Row]:
        """All rows."""

    def row(self, sql: Sql, values: Mapping[str, Any]) -> Row | None:
        """The first row, or None."""

    def hold(self, what: str) -> None:
        """Until the transaction ends nobody else holds the same; who does is waited for. What is read afterwards is
        what they committed."""

    def snapshot(self) -> AbstractContextManager[None]:
        """What is read inside is all of one moment. For reads: there is no transaction around it."""


def for_postgres(statement: Executable) -> Compiled:
    """A statement that only Postgres is asked."""
    return Compiled(statement, None, _POSTGRES)


def one_of(column: ColumnElement[str], values: Iterable[str]) -> ColumnElement[bool]:
    """`column IN (…)` with as many parameters as values: Core's own is expanded at execution only."""
    return column.in_([literal(value) for value in values])


def listed(column: ColumnElement[str], parameter: str) -> ColumnElement[bool]:
    """Whether the column is one of the texts of a list, which is given as JSON."""
    return column.in_(select(_Texts(bindparam(parameter)).table_valued("value").c.value))


def json_item(column: Column[str], index: Column[int]) -> ColumnElement[str]:
    """The text at an index of the JSON array of a column."""
    return _Item(column, index)


def delete_some(table: Table, *conditions: ColumnElement[bool]) -> Delete:
    """Delete those that meet the conditions, at most as many as the parameter `most` says."""
    some = select(_RowId()).select_from(table).where(*conditions).limit(bindparam("most"))
    return delete(table).where(_RowId().in_(some))


def is_duplicate(error: Exception) -> bool:
    """Whether a unique index refused a row."""
    name, state = getattr(error, "sqlite_errorname", ""), getattr(error, "sqlstate", "")
    return name == "SQLITE_CONSTRAINT_UNIQUE" or state == _UNIQUE_VIOLATION


def lock_number(what: str) -> int:
    """The number of an advisory lock: 64 bits of a digest, since the name of a user may be any text."""
    digest = hashlib.blake2b(f"arke:{what}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


class _Texts(FunctionElement[str]):
    inherit_cache = True
    name = "texts"


class _Item(FunctionElement[str]):
    inherit_cache = True
    name = "item"
    type = Text()


class _RowId(ColumnElement[int]):
    inherit_cache = True
    type = Integer()


def _inside(element: FunctionElement[str], compiler: SQLCompiler, **more: Any) -> list[str]:
    return [compiler.process(part, **more) for part in element.clauses]


@compiles(_Texts, "sqlite")
def _(element: _Texts, compiler: SQLCompiler, **more: Any) -> str:
    return "json_each({})".format(*_inside(element, compiler, **more))


@compiles(_Texts, "postgresql")
def _(element: _Texts, compiler: SQLCompiler, **more: Any) -> str:
    return "json_array_elements_text(CAST({} AS JSON))".format(*_inside(element, compiler, **more))


@compiles(_Item, "sqlite")
def _(element: _Item, compiler: SQLCompiler, **more: Any) -> str:
    return "json_extract({}, printf('$[%d]', {}))".format(*_inside(element, compiler, **more))


@compiles(_Item, "postgresql")
def _(element: _Item, compiler: SQLCompiler, **more: Any) -> str:
    return "(CAST({} AS JSON) ->> {})".format(*_inside(element, compiler, **more))


@compiles(_RowId, "sqlite")
def _(_element: _RowId, _compiler: SQLCompiler, **_more: Any) -> str:
    return "rowid"


@compiles(_RowId, "postgresql")
def _(_element: _RowId, _compiler: SQLCompiler, **_more: Any) -> str:
    return "ctid"
