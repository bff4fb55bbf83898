"""Catalogs of somebody else: what their columns may be, what must never happen to them, and when they are away."""

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from actors.errors import CannotStart, Conflict, InvalidInput, Unavailable
from actors.store import foreign_catalog
from actors.store.catalog_rows import CatalogExport, Selection
from actors.store.catalogs import open_catalog
from actors.store.cursors import cursor_of
from actors.store.foreign_catalog import ForeignCatalog
from tests.integration.catalog import places
from tests.integration.catalog.places import USER, Postgres, Sqlite, file_row
from tests.stand_ins import postgres as stand_in

NOW = 1_764_201_600_123
DAY = 86_400_000
change = msgspec.structs.replace


def whole(place: Sqlite | Postgres, n: int = 1) -> CatalogExport:
    return CatalogExport(
        id=place.id(n), user_id=place.id(USER), status="completed", export_type="full", filter_params={"a": [1]},
        created_at=NOW, completed_at=NOW + 1, expires_at=NOW + DAY,
    )  # fmt: skip


def altered(ddl: str, *changes: tuple[str, str]) -> str:
    for old, new in changes:
        assert old in ddl, old
        ddl = ddl.replace(old, new)
    return ddl


# -- nothing is made there ---------------------------------------------------------------------------


async def test_nothing_is_created_or_altered(foreign: Sqlite | Postgres) -> None:
    """Every operation leaves the schema as it was."""
    before = foreign.schema()
    await foreign.add(file_row(1))
    await foreign.catalog.put_export(whole(foreign))
    await foreign.catalog.put_export(whole(foreign))
    await foreign.catalog.files(Selection(user_id=foreign.id(USER)), None, 5)
    await foreign.catalog.exports(foreign.id(USER))
    await foreign.catalog.export(foreign.id(1))
    assert foreign.schema() == before


async def test_a_file_that_is_missing_is_not_made(tmp_path: Path) -> None:
    """Nor is an empty one filled."""
    catalog = open_catalog(f"sqlite:///{tmp_path / 'none.db'}", None)  # type: ignore[arg-type]
    with pytest.raises(Unavailable):
        await catalog.export("1")
    await catalog.close()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "empty.db").touch()
    catalog = open_catalog(f"sqlite:///{tmp_path / 'empty.db'}", None)  # type: ignore[arg-type]
    with pytest.raises(Unavailable, match="no table storage_files"):
        await catalog.export("1")
    await catalog.close()
    assert (tmp_path / "empty.db").stat().st_size == 0


# -- what does not fit is told -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gone", "told"),
    [
        ("storage_exports", "no table storage_exports"),
        ("storage_files", "no table storage_files"),
        ("storage_files.deleted_at", "storage_files has no column deleted_at"),
        ("storage_exports.filter_params", "storage_exports has no column filter_params"),
        ("storage_exports.expires_at", "storage_exports has no column expires_at"),
    ],
)
async def test_what_is_missing_is_named(server: stand_in.Postgres, tmp_path: Path, gone: str, told: str) -> None:
    """In a sentence without the URL; when it is mended, the catalog works without a new start."""
    for place in (
        Sqlite(tmp_path, altered(places.SQLITE_TEXT, (" WHERE deleted_at IS NULL", ""))),
        Postgres(server.url),
    ):
        table, _, column = gone.partition(".")
        away, back = f"ALTER TABLE {table} RENAME TO x", f"ALTER TABLE x RENAME TO {table}"
        if column:
            away = f"ALTER TABLE {table} RENAME COLUMN {column} TO x"
            back = f"ALTER TABLE {table} RENAME COLUMN x TO {column}"
        alter(place, away)
        assert isinstance(place.catalog, ForeignCatalog)
        with pytest.raises(CannotStart, match=told):
            await place.catalog.check()
        with pytest.raises(Unavailable, match=told) as raised:
            await place.catalog.exports(place.id(USER))
        assert place.url not in str(raised.value)
        alter(place, back)
        await place.catalog.check()
        alter(place, away)  # while it is in use
        with pytest.raises(Unavailable) as raised:
            await asyncio.gather(
                place.catalog.exports(place.id(USER)), place.catalog.files(Selection(user_id=place.id(USER)), None, 5)
            )
        with pytest.raises(Unavailable, match=told):
            await place.catalog.export(place.id(USER))
        await place.close()


def alter(place: Sqlite | Postgres, sql: str) -> None:
    if isinstance(place, Postgres):
        place.run(sql)
    else:
        place.run(sql, [()])


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("id uuid PRIMARY KEY", "id bytea PRIMARY KEY", "storage_files.id"),
        ("created_at timestamptz", "created_at bytea", "storage_exports.created_at"),
        ("filter_params jsonb", "filter_params integer", "storage_exports.filter_params"),
    ],
)
async def test_a_type_that_cannot_be_used_is_named(server: stand_in.Postgres, old: str, new: str, told: str) -> None:
    """Before anything is asked of it."""
    place = Postgres(server.url, altered(places.POSTGRES_UUID, (old, new)))
    with pytest.raises(Unavailable, match=told):
        await place.catalog.export(place.id(1))
    await place.close()


@pytest.mark.parametrize(
    "url",
    ["", "mysql://u:secret-word@h/d", "nonsense secret-word", "sqlite://", "postgresql+asyncpg://u:secret-word@h/d",
     "postgresql://u:secret-word@h:port/d"],
)  # fmt: skip
def test_a_url_of_no_catalog_is_refused(url: str) -> None:
    """Without showing it."""
    with pytest.raises(CannotStart) as raised:
        ForeignCatalog(url)
    assert "secret-word" not in str(raised.value)


# -- columns -----------------------------------------------------------------------------------------


async def test_product_and_category_may_be_missing(server: stand_in.Postgres, tmp_path: Path) -> None:
    """Then no file has one."""
    for place in (Sqlite(tmp_path, places.SQLITE_TEXT), Postgres(server.url)):
        await place.add(file_row(1, product="blog", category="a"))
        for column in ("product", "category"):
            alter(place, f"ALTER TABLE storage_files DROP COLUMN {column}")
        (file,) = await place.catalog.files(Selection(user_id=place.id(USER)), None, 5)
        assert (file.product, file.category) == (None, None)
        assert await place.catalog.files(Selection(user_id=place.id(USER), product="blog"), None, 5) == []
        await place.close()


@pytest.mark.parametrize(
    ("created", "stored", "step_ms"),
    [
        ("bigint", NOW + 1, 1),
        ("integer", (NOW + 1) // 1000, 1000),
        ("text", "2025-11-27T00:00:00.124Z", 1),
        ("varchar(40)", "2025-11-27T00:00:00.124Z", 1),
        ("timestamp", "2025-11-27T00:00:00.124", 1),
        ("timestamptz", "2025-11-27T00:00:00.124+00:00", 1),
        ("timestamptz(0)", "2025-11-27T00:00:00+00:00", 1000),
    ],
)
async def test_times_in_postgres(server: stand_in.Postgres, created: str, stored: Any, step_ms: int) -> None:
    """Each type of column holds them in its own way, and gives them back."""
    columns = (
        ("created_at timestamptz", f"created_at {created}"),
        ("completed_at timestamptz", f"completed_at {created}"),
    )
    place = Postgres(server.url, altered(places.POSTGRES_UUID, *columns))
    await place.catalog.put_export(whole(place))
    assert place.export(1)["completed_at"] == stored
    found = await place.catalog.export(place.id(1))
    assert found is not None
    assert found.completed_at == (NOW + 1) // step_ms * step_ms
    assert (found.expires_at, found.filter_params) == (NOW + DAY, {"a": [1]})
    await place.catalog.put_export(whole(place, 2))
    (newest,), cursor = await place.catalog.exports(place.id(USER), limit=1)
    (oldest,), _ = await place.catalog.exports(place.id(USER), limit=1, cursor=cursor)
    assert (newest.id, oldest.id) == (place.id(2), place.id(1))
    await place.close()


@pytest.mark.parametrize(
    ("type_", "former", "stored"),
    [
        ("INTEGER", None, NOW + 1),
        ("INTEGER", NOW // 1000, (NOW + 1) // 1000),
        ("INTEGER", NOW, NOW + 1),
        ("DATETIME", None, "2025-11-27T00:00:00.124Z"),
        ("DATETIME", "2025-11-26 01:02:03", "2025-11-27 00:00:00.124"),
        ("DATETIME", NOW, NOW + 1),
        ("TEXT", str(NOW), str(NOW + 1)),
        ("TEXT", "2025-11-26T01:02:03Z", "2025-11-27T00:00:00.124Z"),
    ],
)
async def test_times_in_sqlite(tmp_path: Path, type_: str, former: Any, stored: Any) -> None:
    """A new row has its times in the form that the others have."""
    columns = [(f"{name} TEXT", f"{name} {type_}") for name in ("created_at", "completed_at", "expires_at")]
    place = Sqlite(tmp_path, altered(places.SQLITE_TEXT, *columns))
    if former is not None:
        place.run(
            "INSERT INTO storage_exports (id, user_id, status, created_at) VALUES ('a', 'u', 'pending', ?)", [(former,)]
        )
    await place.catalog.put_export(whole(place))
    assert place.export(1)["completed_at"] == stored
    step_ms = 1000 if stored == (NOW + 1) // 1000 else 1
    found = await place.catalog.export(place.id(1))
    assert found is not None
    assert found.completed_at == (NOW + 1) // step_ms * step_ms
    await place.close()


async def test_what_is_no_time_counts_as_none(tmp_path: Path) -> None:
    """It keeps no other row from being listed. Without a time of its own none is in the list, and none begins."""
    place = Sqlite(tmp_path, places.SQLITE_TEXT)
    for n in (1, 2):
        await place.add_export(n, NOW)
    place.run("UPDATE storage_exports SET expires_at = 'soon' WHERE id = ?", [(place.id(1),)])
    place.run("UPDATE storage_exports SET created_at = 'once' WHERE id = ?", [(place.id(2),)])
    rows, _ = await place.catalog.exports(place.id(places.USER))
    assert {row.id: (row.created_at, row.expires_at) for row in rows} == {
        place.id(1): (NOW, None), place.id(2): (0, None),
    }  # fmt: skip
    await place.close()


async def test_a_file_of_odd_values_is_a_file(tmp_path: Path) -> None:
    """That cannot be had, perhaps: it keeps no other from the archive."""
    place = Sqlite(tmp_path, places.SQLITE_TEXT)
    await place.add(*(places.file_row(n) for n in range(1, 5)))
    changes = ("r2_key = NULL, filename = NULL", "r2_key = 7", "r2_key = x'00ff'", "size_bytes = 'big'")
    for n, change in enumerate(changes, start=1):
        place.run(f"UPDATE storage_files SET {change} WHERE id = ?", [(place.id(n),)])
    found = await place.catalog.files(Selection(user_id=place.id(places.USER)), None, 10)
    assert [file.r2_key for file in found] == ["", "7", str(b"\x00\xff"), "k/4"]
    assert [file.size_bytes for file in found] == [1, 2, 3, 0]
    await place.close()


@pytest.mark.parametrize("after", ["f000001", "1.5", "", "9" * 30, "{", "١", "\0", "\ud800"])
async def test_an_id_that_the_column_cannot_hold(server: stand_in.Postgres, tmp_path: Path, after: str) -> None:
    """As the place of a page it is refused, before the database sees it."""
    for place in (Sqlite(tmp_path, places.SQLITE_INTEGER), Postgres(server.url)):
        with pytest.raises(InvalidInput) as raised:
            await place.catalog.files(Selection(user_id=place.id(USER)), after, 5)
        assert raised.value.field == "after"
        with pytest.raises(InvalidInput):
            await place.catalog.put_export(change(whole(place), id=after))
        await place.close()


async def test_a_cursor_of_another_catalog_is_refused(in_postgres: Postgres) -> None:
    """Its time is none of this column."""
    for key in (
        (0, "no", in_postgres.id(1)),
        (1, "5", in_postgres.id(1)),
        (0, "2025-11-27T00:00:00", in_postgres.id(1)),
    ):
        with pytest.raises(InvalidInput) as raised:
            await in_postgres.catalog.exports(in_postgres.id(USER), cursor=cursor_of(*key))
        assert raised.value.field == "cursor"


async def test_a_row_that_breaks_a_rule_is_refused(in_postgres: Postgres) -> None:
    """To send it again would not help."""
    in_postgres.run("ALTER TABLE storage_exports ADD CHECK (export_type <> 'full')")
    with pytest.raises(Conflict, match="breaks a rule"):
        await in_postgres.catalog.put_export(whole(in_postgres))
    with pytest.raises((InvalidInput, Unavailable, Conflict)):
        await in_postgres.catalog.put_export(change(whole(in_postgres), status="none of the type"))


async def test_what_went_wrong_is_told_in_what_room_there_is(server: stand_in.Postgres) -> None:
    """A sentence that the column cannot hold is cut and cleaned."""
    place = Postgres(server.url, altered(places.POSTGRES_UUID, ("error_message text", "error_message varchar(20)")))
    await place.catalog.put_export(change(whole(place), status="failed", error_message="a\0b \ud800" + "é" * 99))
    assert place.export(1)["error_message"] == "a?b ?" + "é" * 15
    await place.close()


# -- away and back -----------------------------------------------------------------------------------


async def test_a_server_that_goes_away_and_comes_back(
    server: stand_in.Postgres, in_postgres: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    """Unavailable meanwhile, without the URL; afterwards the same catalog answers again."""
    await in_postgres.add(file_row(1))
    selection = Selection(user_id=in_postgres.id(USER))
    assert len(await in_postgres.catalog.files(selection, None, 5)) == 1
    server.stop()
    try:
        for ask in asks(in_postgres):
            with pytest.raises(Unavailable) as raised:
                await ask()
            assert raised.value.retry_after_s == 1
            assert not shows_secret(str(raised.value))
            assert raised.value.__cause__ is None
    finally:
        server.start()
    assert len(await in_postgres.catalog.files(selection, None, 5)) == 1
    await in_postgres.catalog.put_export(whole(in_postgres))
    server.stop()
    server.start()
    assert await in_postgres.catalog.export(in_postgres.id(1)) is not None, (
        "a connection from before is looked at first"
    )
    assert not shows_secret(caplog.text)


def asks(place: Postgres) -> list[Callable[[], Any]]:
    return [
        lambda: place.catalog.files(Selection(user_id=place.id(USER)), None, 5),
        lambda: place.catalog.export(place.id(1)),
        lambda: place.catalog.exports(place.id(USER)),
        lambda: place.catalog.put_export(whole(place)),
    ]


def shows_secret(text: str) -> bool:
    return any(secret in text for secret in ("secret-word", "127.0.0.1", "tester"))


async def test_a_server_that_hangs(
    server: stand_in.Postgres, in_postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for it for ever."""
    await in_postgres.catalog.export(in_postgres.id(1))
    monkeypatch.setattr(foreign_catalog, "ANSWER_S", 0.3)
    server.hold(held=True)
    try:
        with pytest.raises(Unavailable):
            await in_postgres.catalog.export(in_postgres.id(1))
    finally:
        server.hold(held=False)
    monkeypatch.undo()
    assert await in_postgres.catalog.export(in_postgres.id(1)) is None


async def test_a_table_that_is_locked(in_postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """The statement is given up."""
    await in_postgres.catalog.export(in_postgres.id(1))
    monkeypatch.setattr(foreign_catalog, "_BOUNDED", "SELECT set_config('statement_timeout', '200', true)")
    import psycopg

    with psycopg.connect(in_postgres.url) as connection:
        connection.execute("LOCK TABLE storage_exports")
        with pytest.raises(Unavailable):
            await in_postgres.catalog.export(in_postgres.id(1))
    assert await in_postgres.catalog.export(in_postgres.id(1)) is None


async def test_a_file_that_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unavailable until the other has ended."""
    monkeypatch.setattr(foreign_catalog, "TIMEOUT_S", 0.1)
    place = Sqlite(tmp_path, places.SQLITE_TEXT)
    other = sqlite3.connect(place.path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(Unavailable):
        await place.catalog.put_export(whole(place))
    other.execute("ROLLBACK")
    other.close()
    await place.catalog.put_export(whole(place))
    await place.close()


# -- cost --------------------------------------------------------------------------------------------


async def test_an_index_that_is_missing_is_told_once(
    server: stand_in.Postgres, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With the statement that makes it; pages are right without."""
    ddl = altered(places.SQLITE_TEXT, ("(user_id, id) WHERE deleted_at IS NULL", "(user_id, filename)"))
    kept = altered(places.POSTGRES_UUID, ("(user_id, id)", "(user_id, id) WHERE product = 'blog'"))
    for place in (Sqlite(tmp_path, ddl), Postgres(server.url, kept)):
        caplog.clear()
        await place.add(*(file_row(n) for n in range(1, 9)))
        for _ in range(2):
            assert len(await place.catalog.files(Selection(user_id=place.id(USER)), place.id(3), 50)) == 5
        told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert len(told) == 1
        assert "CREATE INDEX storage_files_user ON storage_files (user_id, id)" in told[0]
        await place.close()


async def test_an_index_that_is_there_is_seen(foreign: Sqlite | Postgres, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is told."""
    await foreign.catalog.files(Selection(user_id=foreign.id(USER)), None, 5)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def statements(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The pages of files that are asked for from now on."""
    asked: list[Any] = []
    page = foreign_catalog.files_page

    def noted(*arguments: Any, **named: Any) -> Any:
        asked.append(page(*arguments, **named))
        return asked[-1]

    monkeypatch.setattr(foreign_catalog, "files_page", noted)
    return asked


@pytest.mark.parametrize("is_analyzed", [True, False])
@pytest.mark.parametrize("by", [None, "product", "category"])
async def test_pages_in_postgres_come_from_the_index(
    server: stand_in.Postgres, monkeypatch: pytest.MonkeyPatch, by: str | None, is_analyzed: bool
) -> None:
    """The first and one deep in the list, of a user with a third of all files: as few rows are read as are answered,
    with statistics or without."""
    more = "".join(f"CREATE INDEX i_{c} ON storage_files (user_id, {c}, id);" for c in ("product", "category"))
    place = Postgres(server.url, places.POSTGRES_UUID + more)
    place.run(
        "INSERT INTO storage_files (id, user_id, r2_key, product, category) SELECT "
        "lpad(to_hex(n), 32, '0')::uuid, lpad(to_hex(n % 3), 32, '0')::uuid, 'k/' || n, 'blog', 'a' "
        "FROM generate_series(1, 30000) n"
    )
    if is_analyzed:
        place.run("ANALYZE")
    asked = statements(monkeypatch)
    selection = Selection(user_id=place.id(1), **({by: "blog" if by == "product" else "a"} if by else {}))
    for after in (None, place.id(15000), place.id(29000)):
        assert len(await place.catalog.files(selection, after, 100)) == 100
        plan = explained(place, asked[-1])
        assert plan["Plan"]["Node Type"] == "Limit"
        (scan,) = plan["Plan"]["Plans"]
        expected = f"i_{by}" if by else "storage_files_user"
        assert (scan["Node Type"], scan["Index Name"]) == ("Index Scan", expected), plan
        assert scan["Actual Rows"] + scan.get("Rows Removed by Filter", 0) <= 101
        assert scan["Shared Hit Blocks"] + scan["Shared Read Blocks"] < 220, plan
    await place.close()


def explained(place: Postgres, statement: Any) -> dict[str, Any]:
    """The plan as the catalog's own transaction gets it."""
    assert isinstance(place.catalog, ForeignCatalog)
    with place.catalog._engine.begin() as connection:
        connection.exec_driver_sql(foreign_catalog._IN_ORDER)
        from sqlalchemy.dialects import postgresql

        text = str(statement.compile(dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True}))
        plan = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {text}").scalar()
    assert isinstance(plan, list)
    return plan[0]


@pytest.mark.parametrize("ddl", [places.SQLITE_TEXT, places.SQLITE_INTEGER], ids=["text", "integer"])
async def test_pages_in_sqlite_come_from_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ddl: str) -> None:
    """Nothing is sorted, wherever the page begins."""
    place = Sqlite(tmp_path, ddl)
    await place.add(*(file_row(n, user=n % 3) for n in range(1, 3000)))
    asked = statements(monkeypatch)
    for is_analyzed in (False, True):
        if is_analyzed:
            place.run("ANALYZE", [()])
        for after in (None, place.id(2000)):
            assert len(await place.catalog.files(Selection(user_id=place.id(1)), after, 10)) == 10
            assert isinstance(place.catalog, ForeignCatalog)
            text = str(asked[-1].compile(place.catalog._engine, compile_kwargs={"literal_binds": True}))
            with place.catalog._engine.begin() as connection:
                plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}")]
            assert len(plan) == 1, plan
            assert "USING INDEX storage_files_user" in plan[0], plan
    await place.close()
