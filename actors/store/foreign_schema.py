"""The two tables of a foreign catalog as they are found: nothing is created, what does not fit is told."""

from typing import Any, Final, TypeVar

import msgspec
from sqlalchemy import Column, Connection, Inspector, MetaData, Table, inspect
from sqlalchemy.engine.interfaces import ReflectedIndex
from sqlalchemy.exc import NoSuchTableError
from sqlalchemy.types import BigInteger, NullType, Text, TypeEngine

from actors.errors import CannotStart
from actors.store.catalog_rows import CatalogExport, Selection
from actors.store.foreign_columns import NUMBERS, Ids, Times, ids_of, is_filter, times_of

T = TypeVar("T")

FILES: Final = "storage_files"
EXPORTS: Final = "storage_exports"
NEEDED: Final = {
    FILES: ("id", "user_id", "r2_key", "filename", "size_bytes", "deleted_at"),
    EXPORTS: CatalogExport.__struct_fields__,
}
MAY_BE_MISSING: Final = {FILES: ("product", "category"), EXPORTS: ()}
IDS: Final = ("id", "user_id")
TIMES: Final = ("created_at", "completed_at", "expires_at")


class Schema(msgspec.Struct, frozen=True, kw_only=True):
    """The tables with the columns that are used, what their ids and times are, and which columns lead to pages."""

    files: Table
    exports: Table
    ids: dict[tuple[str, str], Ids]
    """By table and column."""
    times: dict[str, Times]
    """Of the exports, by column."""
    leads: frozenset[tuple[str, ...]]
    """Columns such that an index has them and then the id: pages of equal ones need no sorting."""

    def lead(self, selection: Selection) -> tuple[str, ...]:
        """The columns of the best index for the selection; empty: none."""
        product, category = selection.product is not None, selection.category is not None
        best = ("user_id", "product") if product else ("user_id", "category") if category else ("user_id",)
        return best if best in self.leads else ("user_id",) if ("user_id",) in self.leads else ()

    def alike(self, time: str) -> bool:
        """Whether a column of times holds what `created_at` does, so that its form can be seen there."""
        kinds = {self.times[time], self.times["created_at"]}
        return len(kinds) == 1 or kinds <= set(NUMBERS)


def read_schema(connection: Connection) -> Schema:
    """Look at the tables. Raises CannotStart, with a sentence that names it, for a table or column that is missing or
    of a type that it cannot have."""
    is_sqlite = connection.dialect.name == "sqlite"
    inspector = inspect(connection)
    found = {name: _columns(inspector, name) for name in (FILES, EXPORTS)}
    ids = {(table, name): _fitting(ids_of(found[table][name]), table, name) for table in found for name in IDS}
    times = {name: _fitting(times_of(found[EXPORTS][name], is_sqlite=is_sqlite), EXPORTS, name) for name in TIMES}
    _fitting(is_filter(found[EXPORTS]["filter_params"]) or None, EXPORTS, "filter_params")
    if is_sqlite:  # its values have types of their own, whatever the column was declared as
        found = {table: {name: _as_stored(kind) for name, kind in columns.items()} for table, columns in found.items()}
    files, exports = (
        Table(table, MetaData(), *(Column(name, kind) for name, kind in columns.items()))
        for table, columns in found.items()
    )
    leads = frozenset(_leads(inspector, is_sqlite=is_sqlite))
    return Schema(files=files, exports=exports, ids=ids, times=times, leads=leads)


def _columns(inspector: Inspector, table: str) -> dict[str, TypeEngine[Any]]:
    try:
        there = {column["name"]: column["type"] for column in inspector.get_columns(table)}
    except NoSuchTableError:
        there = {}
    if not there:
        raise CannotStart(f"The catalog has no table {table}: its URL must name a database that has it.") from None
    missing = [name for name in NEEDED[table] if name not in there]
    if missing:
        raise CannotStart(f"The catalog's table {table} has no column {', '.join(missing)}.")
    return {name: there[name] for name in (*NEEDED[table], *MAY_BE_MISSING[table]) if name in there}


def _fitting(kind: T | None, table: str, column: str) -> T:
    if kind is None:
        raise CannotStart(f"The catalog's column {table}.{column} is of a type that cannot be used.")
    return kind


def _as_stored(kind: TypeEngine[Any]) -> TypeEngine[Any]:
    ids = ids_of(kind)
    return BigInteger() if ids is Ids.INTEGER else Text() if ids is Ids.TEXT else NullType()


def _leads(inspector: Inspector, *, is_sqlite: bool) -> list[tuple[str, ...]]:
    key = tuple(inspector.get_pk_constraint(FILES)["constrained_columns"])
    indexes = [key, *(_names(index) for index in inspector.get_indexes(FILES) if _serves(index))]
    if is_sqlite:
        indexes += [tuple(unique["column_names"]) for unique in inspector.get_unique_constraints(FILES)]
    leads = [index[: index.index("id")] for index in indexes if "id" in index]
    if is_sqlite and key == ("id",) and _is_rowid(inspector):
        leads += [index for index in indexes if "id" not in index]  # SQLite ends every index with the row's number
    return leads


def _names(index: ReflectedIndex) -> tuple[str, ...]:
    return tuple(name or "an expression" for name in index["column_names"])


def _serves(index: ReflectedIndex) -> bool:
    """Whether pages of files that are not deleted, in rising order, can be read from it."""
    options = index.get("dialect_options", {})
    where = str(options.get("postgresql_where", options.get("sqlite_where", ""))).strip("() ").lower()
    descends = any("desc" in order for order in index.get("column_sorting", {}).values())
    is_tree = options.get("postgresql_using", "btree") == "btree"
    return is_tree and not descends and where in ("", "deleted_at is null")


def _is_rowid(inspector: Inspector) -> bool:
    kinds = {column["name"]: column["type"] for column in inspector.get_columns(FILES)}
    return str(kinds["id"]).upper() == "INTEGER"
