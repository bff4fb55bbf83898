"""A catalog in somebody else's database, SQLite or Postgres. It is read, and rows of exports are written; nothing in it
is ever created, altered or migrated."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote

from sqlalchemy import (
    URL,
    ColumnElement,
    Connection,
    Engine,
    Row,
    Select,
    create_engine,
    insert,
    literal,
    make_url,
    select,
    tuple_,
    update,
)  # fmt: skip
from sqlalchemy.exc import ArgumentError, DataError, IntegrityError, ProgrammingError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from actors import telemetry
from actors.errors import CannotStart, Conflict, InvalidInput, Unavailable
from actors.store.catalog_rows import CHANGES, ENDS, CatalogExport, CatalogFile, Selection
from actors.store.cursors import cursor_of
from actors.store.foreign_columns import (
    NoTimeError,
    filter_of,
    ms_of,
    place_of,
    read_place,
    to_filter,
    to_id,
    to_time,
    told,
)
from actors.store.foreign_schema import EXPORTS, FILES, TIMES, Schema, read_schema

T = TypeVar("T")

TIMEOUT_S: Final = 10
"""For a connection, and for a statement."""
ANSWER_S: Final = 3 * TIMEOUT_S  # a server that is stopped ends no statement: then nobody waits for it any longer
CONNECTIONS: Final = 4

_POSTGRES: Final = "postgresql+psycopg"
_BOUNDED: Final = f"SELECT set_config('statement_timeout', '{TIMEOUT_S * 1000}', true)"
_IN_ORDER: Final = "SELECT set_config('enable_sort', 'off', true), set_config('enable_incremental_sort', 'off', true)"
"""For this transaction: with old statistics the planner would sort all rows of a user for each page."""
_AWAY: Final = "The catalog does not answer at the moment. Send the same request again."
_INDEX: Final = f"CREATE INDEX storage_files_user ON {FILES} (user_id, id) WHERE deleted_at IS NULL"


class ForeignCatalog:
    """A `Catalog` at `sqlite:///path` or `postgresql://…`. Raises CannotStart for another URL.

    Ids and times are what the columns hold (`foreign_columns`). What is asked runs on threads of its own, at most
    CONNECTIONS at once. No sentence contains the URL.
    """

    def __init__(self, url: str) -> None:
        self._engine = _engine(url)
        self._is_postgres = self._engine.dialect.name == "postgresql"
        self._schema: Schema | None = None
        self._warned = False
        self._threads = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="catalog")

    async def check(self) -> None:
        """Look at the tables now. Raises CannotStart where they do not fit, Unavailable without an answer."""
        await self._ask(lambda _connection, _schema: None)

    async def close(self) -> None:
        """Close all connections; what runs is waited for."""
        await asyncio.to_thread(self._threads.shutdown)
        self._engine.dispose()

    async def files(self, selection: Selection, after: str | None, limit: int) -> list[CatalogFile]:
        """See `Catalog.files`; the order is that of the column."""
        return await self._answer(lambda connection, schema: _files(connection, schema, selection, after, limit))

    async def export(self, export_id: str) -> CatalogExport | None:
        """The row of an export."""
        return await self._answer(lambda connection, schema: _export(connection, schema, export_id))

    async def exports(
        self, user_id: str, *, limit: int = 50, cursor: str | None = None
    ) -> tuple[list[CatalogExport], str | None]:
        """See `Catalog.exports`."""
        return await self._answer(lambda connection, schema: _exports(connection, schema, user_id, limit, cursor))

    async def put_export(self, row: CatalogExport) -> None:
        """See `Catalog.put_export`."""
        with suppress(Conflict):  # somebody else has inserted it just now, or it is refused once more
            return await self._answer(lambda connection, schema: _put_export(connection, schema, row))
        await self._answer(lambda connection, schema: _put_export(connection, schema, row))

    async def _answer(self, work: Callable[[Connection, Schema], T]) -> T:
        try:
            return await self._ask(work)
        except CannotStart as error:
            raise Unavailable(str(error)) from None

    async def _ask(self, work: Callable[[Connection, Schema], T]) -> T:
        try:
            async with asyncio.timeout(ANSWER_S):
                return await asyncio.get_running_loop().run_in_executor(self._threads, self._in_transaction, work)
        except TimeoutError:
            raise Unavailable(_AWAY, retry_after_s=1) from None

    def _in_transaction(self, work: Callable[[Connection, Schema], T]) -> T:
        """One transaction on a thread. What the driver raised stays here: it may name the server and the user."""
        try:
            with self._engine.begin() as connection:
                if self._is_postgres:
                    connection.exec_driver_sql(_BOUNDED)
                return work(connection, self._known(connection))
        except IntegrityError:
            raise Conflict("The catalog refuses the row: it breaks a rule of its table.") from None
        except DataError:
            raise InvalidInput("The catalog's columns cannot hold a value of the row.") from None
        except SQLAlchemyError as error:
            self._schema = None  # a column may have gone
            telemetry.warning("store.catalog_does_not_answer", error=_kind(error))
            refused = isinstance(error, ProgrammingError)
            raise Unavailable(_refusal(error) if refused else _AWAY, retry_after_s=1) from None

    def _known(self, connection: Connection) -> Schema:
        if self._schema is None:
            self._schema = read_schema(connection)
            if ("user_id",) not in self._schema.leads and not self._warned:
                self._warned = True
                telemetry.warning("store.catalog_without_index", each_page_sorts=FILES, create=_INDEX)
        return self._schema


def _engine(url: str) -> Engine:
    """Raises CannotStart."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise CannotStart("The catalog's URL is none of a database. Write sqlite:///path or postgresql://…") from None
    if parsed.get_backend_name() == "sqlite":
        return _sqlite(parsed)
    if parsed.drivername not in ("postgres", "postgresql", _POSTGRES):
        raise CannotStart(f"The catalog's URL begins with {parsed.drivername}. Write sqlite:///path or postgresql://…")
    try:
        return create_engine(
            parsed.set(drivername=_POSTGRES),
            pool_size=CONNECTIONS,
            max_overflow=0,
            pool_timeout=TIMEOUT_S,
            pool_pre_ping=True,
            hide_parameters=True,
            connect_args={
                "connect_timeout": TIMEOUT_S,
                "tcp_user_timeout": TIMEOUT_S * 1000,
                "keepalives_idle": TIMEOUT_S // 2,
                "keepalives_interval": 2,
                "keepalives_count": 3,
                "prepare_threshold": None,  # a plan for all values is the wrong one at one end; and PgBouncer has none
            },
        )
    except ModuleNotFoundError:
        raise CannotStart("A catalog in Postgres needs psycopg: pip install 'psycopg[binary]'.") from None


def _sqlite(url: URL) -> Engine:
    """A connection for each transaction; a file that is missing is not made."""
    if url.database in (None, "", ":memory:"):
        raise CannotStart("The catalog's URL names no file. Write sqlite:///path, or sqlite:////path from the root.")
    file = f"file:{quote(str(Path(str(url.database)).absolute()))}"
    return create_engine(
        URL.create("sqlite", database=file, query={"mode": "rw", "uri": "true"}),
        poolclass=NullPool,
        hide_parameters=True,
        connect_args={"timeout": TIMEOUT_S, "check_same_thread": False},
    )


def _kind(error: SQLAlchemyError) -> str:
    return type(getattr(error, "orig", None) or error).__name__


def _refusal(error: SQLAlchemyError) -> str:
    return f"The catalog refuses what it is asked ({_kind(error)}): its tables have changed, or must not be used."


def _files(
    connection: Connection, schema: Schema, selection: Selection, after: str | None, limit: int
) -> list[CatalogFile]:
    wanted = {"product": selection.product, "category": selection.category}
    values: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
    try:
        last = None if after is None else to_id(after, schema.ids[FILES, "id"])
    except ValueError:
        raise InvalidInput("No file of the catalog can have this id.", field="after") from None
    try:
        values["user_id"] = to_id(selection.user_id, schema.ids[FILES, "user_id"])
    except ValueError:
        return []
    if any(name not in schema.files.c for name in values) or any(
        told(text) != text for text in wanted.values() if text
    ):
        return []
    ordered_by = schema.lead(selection) if connection.dialect.name == "postgresql" else ()
    if ordered_by:
        connection.exec_driver_sql(_IN_ORDER)
    rows = connection.execute(files_page(schema, values, last, limit, ordered_by))
    return [_file(row) for row in rows]


def files_page(
    schema: Schema, values: dict[str, Any], after: Any, limit: int, ordered_by: tuple[str, ...] = ()
) -> Select[Any]:
    """The files that have the values and are not deleted, in the order of id.

    `ordered_by` are the columns of an index that ends with the id. Its last one is then asked for as a range, which
    is ordered by that column and the id: Postgres could find the order of the id alone in the primary key as well, and
    would look at the files of all other users between two of this one.
    """
    table = schema.files
    ranged = ordered_by[-1] if ordered_by else None
    conditions: list[ColumnElement[bool]] = [table.c.deleted_at.is_(None)]
    conditions += [table.c[name] == value for name, value in values.items() if name != ranged]
    order = [table.c.id]
    if ranged is not None:
        column, value = table.c[ranged], values[ranged]
        conditions += [column >= value, column <= value]
        order = [column, table.c.id]
        if after is not None:
            place = tuple_(literal(value, column.type), literal(after, table.c.id.type))
            conditions.append(tuple_(*order) > place)
    elif after is not None:
        conditions.append(table.c.id > after)
    named = [column for column in table.c if column.name in CatalogFile.__struct_fields__]
    return select(*named).where(*conditions).order_by(*order).limit(limit)


def _file(row: Row[Any]) -> CatalogFile:
    values = row._mapping
    return CatalogFile(
        id=str(values["id"]),
        r2_key=_told(values["r2_key"]) or "",  # no object has this key: it is missing
        filename=_told(values["filename"]) or "",
        size_bytes=values["size_bytes"] if isinstance(values["size_bytes"], int) else 0,
        product=_told(values.get("product")),
        category=_told(values.get("category")),
    )


def _told(value: Any) -> str | None:
    """A text, whatever the row has: SQLite lets a column of texts hold anything."""
    return None if value is None else str(value)


def _export(connection: Connection, schema: Schema, export_id: str) -> CatalogExport | None:
    try:
        key = to_id(export_id, schema.ids[EXPORTS, "id"])
    except ValueError:
        return None
    row = connection.execute(select(*schema.exports.c).where(schema.exports.c.id == key)).first()
    return None if row is None else _export_of(row)


def _exports(
    connection: Connection, schema: Schema, user_id: str, limit: int, cursor: str | None
) -> tuple[list[CatalogExport], str | None]:
    table = schema.exports
    before = read_place(cursor, schema.times["created_at"], schema.ids[EXPORTS, "id"]) if cursor else None
    try:
        conditions = [table.c.user_id == to_id(user_id, schema.ids[EXPORTS, "user_id"])]
    except ValueError:
        return [], None
    conditions.append(table.c.created_at.is_not(None))  # it would be in no order
    if before is not None:
        place = (literal(value, table.c[name].type) for name, value in zip(("created_at", "id"), before, strict=True))
        conditions.append(tuple_(table.c.created_at, table.c.id) < tuple_(*place))
    newest_first = (table.c.created_at.desc(), table.c.id.desc())
    rows = connection.execute(select(*table.c).where(*conditions).order_by(*newest_first).limit(limit + 1)).all()
    found = rows[:limit]
    more = len(rows) > limit and found
    return [_export_of(row) for row in found], cursor_of(
        *place_of(found[-1].created_at, found[-1].id)
    ) if more else None


def _export_of(row: Row[Any]) -> CatalogExport:
    values = dict(row._mapping)
    times = {name: _time_of(values[name]) for name in TIMES}
    return CatalogExport(
        **values
        | times
        | {
            "id": str(values["id"]),
            "user_id": _told(values["user_id"]) or "",
            "export_type": _told(values["export_type"]) or "",
            "filter_params": filter_of(values["filter_params"]),
            "created_at": times["created_at"] or 0,
        }
    )


def _time_of(value: Any) -> int | None:
    """None also for what is no time: a row of somebody else's keeps no other from being listed."""
    try:
        return ms_of(value)
    except NoTimeError:
        return None


def _put_export(connection: Connection, schema: Schema, row: CatalogExport) -> None:
    table = schema.exports
    try:
        key = to_id(row.id, schema.ids[EXPORTS, "id"])
    except ValueError:
        raise InvalidInput(
            f"The catalog gives its exports ids of its own: insert a row into {EXPORTS} that is pending, and start it "
            "by its export_id.", field="export_id",
        ) from None  # fmt: skip
    former = connection.execute(select(table.c.created_at).where(table.c.id == key)).first()
    if former is not None:
        changes = _values(schema, row, example=former.created_at, names=CHANGES)
        change = update(table).where(table.c.id == key).values(changes)
        connection.execute(change if row.status in ENDS else change.where(table.c.status.not_in(ENDS)))
        return
    try:
        user_id = to_id(row.user_id, schema.ids[EXPORTS, "user_id"])
    except ValueError:
        raise InvalidInput("No user of the catalog can have this id.", field="user_id") from None
    example = connection.scalar(select(table.c.created_at).where(table.c.created_at.is_not(None)).limit(1))
    values = _values(schema, row, example=example, names=CatalogExport.__struct_fields__)
    connection.execute(insert(table).values(values | {"id": key, "user_id": user_id}))


def _values(schema: Schema, row: CatalogExport, *, example: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """Those fields of the row as the columns hold them. `example` is a `created_at` of the table."""
    values: dict[str, Any] = {name: getattr(row, name) for name in names}
    for name in TIMES:
        if name in values:
            values[name] = to_time(values[name], schema.times[name], example if schema.alike(name) else None)
    if row.error_message is not None:  # cut rather than refused: that the export has failed must be told
        most: int | None = getattr(schema.exports.c.error_message.type, "length", None)
        values["error_message"] = told(row.error_message, most)
    if "filter_params" in values:
        values["filter_params"] = to_filter(row.filter_params, schema.exports.c.filter_params.type)
    return values
