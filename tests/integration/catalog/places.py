"""Where a catalog may be, with a way round it: rows are put in and looked at without the code under test."""

import json
import sqlite3
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from actors.store import Store
from actors.store.catalog_rows import Catalog, StorageFile
from actors.store.catalogs import OwnCatalog, open_catalog
from actors.store.postgres_reads import PostgresReads
from actors.store.postgres_writer import PostgresWriter
from actors.store.writer import LocalWriter, Writer

USER = 7
FILE_COLUMNS = "id, user_id, r2_key, filename, size_bytes, product, category, deleted_at"
EXPORT_COLUMNS = (
    "id, user_id, status, export_type, filter_params, r2_key, size_bytes, file_count, created_at, completed_at, "
    "expires_at, error_message"
)

SQLITE_TEXT = """
CREATE TABLE storage_files (id TEXT PRIMARY KEY, user_id TEXT NOT NULL, r2_key TEXT UNIQUE, filename TEXT,
  size_bytes INTEGER, product TEXT, category TEXT, deleted_at TEXT);
CREATE INDEX storage_files_user ON storage_files (user_id, id) WHERE deleted_at IS NULL;
CREATE TABLE storage_exports (id TEXT PRIMARY KEY, user_id TEXT NOT NULL, status TEXT NOT NULL, export_type TEXT,
  filter_params TEXT, r2_key TEXT, size_bytes INTEGER, file_count INTEGER, created_at TEXT, completed_at TEXT,
  expires_at TEXT, error_message TEXT, of_others TEXT DEFAULT 'kept');
"""
SQLITE_INTEGER = """
CREATE TABLE storage_files (id INTEGER PRIMARY KEY, user_id INTEGER NOT NULL, r2_key TEXT UNIQUE, filename TEXT,
  size_bytes INTEGER, product TEXT, category TEXT, deleted_at INTEGER);
CREATE INDEX storage_files_user ON storage_files (user_id);
CREATE TABLE storage_exports (id INTEGER PRIMARY KEY, user_id INTEGER NOT NULL, status TEXT NOT NULL,
  export_type TEXT, filter_params JSON, r2_key TEXT, size_bytes INTEGER, file_count INTEGER, created_at INTEGER,
  completed_at INTEGER, expires_at INTEGER, error_message TEXT, of_others TEXT DEFAULT 'kept');
"""
POSTGRES_UUID = """
CREATE TYPE export_status AS ENUM ('pending', 'processing', 'completed', 'failed');
CREATE TABLE storage_files (id uuid PRIMARY KEY, user_id uuid NOT NULL, r2_key varchar(900) UNIQUE, filename text,
  size_bytes bigint, product text, category text, deleted_at timestamptz);
CREATE INDEX storage_files_user ON storage_files (user_id, id);
CREATE TABLE storage_exports (id uuid PRIMARY KEY, user_id uuid NOT NULL, status export_status NOT NULL,
  export_type text, filter_params jsonb, r2_key text, size_bytes bigint, file_count integer, created_at timestamptz,
  completed_at timestamptz, expires_at timestamp, error_message text, of_others text DEFAULT 'kept');
"""


class Place:
    """A catalog and what is beneath it. `ids` are texts in the order of the column; `step_ms` is what times keep."""

    step_ms = 1

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog

    def id(self, n: int) -> str:
        """The nth id in the order of the column."""
        return f"f{n:06}"

    async def add(self, *rows: dict[str, Any]) -> None:
        """Put files in: n, and user, product, category, deleted."""
        raise NotImplementedError

    async def add_export(self, n: int, created_at: int, user: int = USER) -> None:
        """Put in an export that is pending, as its owner does."""
        raise NotImplementedError

    def export(self, n: int) -> dict[str, Any]:
        """The row as the columns hold it."""
        raise NotImplementedError

    def schema(self) -> list[Any]:
        """All that there is but the rows."""
        raise NotImplementedError

    async def close(self) -> None:
        await self.catalog.close()


def file_row(n: int, user: int = USER, product: str | None = None, category: str | None = None,
             deleted: bool = False) -> dict[str, Any]:  # fmt: skip
    return {"n": n, "user": user, "product": product, "category": category, "deleted": deleted}


class Own(Place):
    """The store's own."""

    def __init__(self, store: Store) -> None:
        self.store = store
        super().__init__(open_catalog(None, store))
        assert isinstance(self.catalog, OwnCatalog)

    async def add(self, *rows: dict[str, Any]) -> None:
        await self.store.add_storage_files([
            StorageFile(
                id=self.id(row["n"]), user_id=self.id(row["user"]), r2_key=f"k/{row['n']}", filename=f"{row['n']}.md",
                size_bytes=row["n"], product=row["product"], category=row["category"], created_at=1,
                deleted_at=5 if row["deleted"] else None,
            )
            for row in rows
        ])  # fmt: skip

    async def close(self) -> None:
        await super().close()
        await self.store.close()


class OwnFile(Own):
    """In SQLite."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "arke.db"
        self.writer = Writer(self.path)
        super().__init__(Store(LocalWriter(self.writer), self.path))

    async def add_export(self, n: int, created_at: int, user: int = USER) -> None:
        with sqlite3.connect(self.path) as connection:
            connection.execute(
                f"INSERT INTO storage_exports ({EXPORT_COLUMNS}) VALUES (?, ?, 'pending', 'full', '{{}}', NULL, NULL, "
                "NULL, ?, NULL, NULL, NULL)",
                (self.id(n), self.id(user), created_at),
            )
        connection.close()

    def export(self, n: int) -> dict[str, Any]:
        return _sqlite_row(self.path, self.id(n))

    async def close(self) -> None:
        await super().close()
        self.writer.close()


class OwnPostgres(Own):
    """In Postgres."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.writer = PostgresWriter(url)
        super().__init__(Store(self.writer, reads=PostgresReads(url)))

    async def add_export(self, n: int, created_at: int, user: int = USER) -> None:
        with psycopg.connect(self.url) as connection:
            connection.execute(
                "INSERT INTO storage_exports (id, user_id, status, export_type, filter_params, created_at) "
                "VALUES (%s, %s, 'pending', 'full', '{}', %s)",
                (self.id(n), self.id(user), created_at),
            )

    def export(self, n: int) -> dict[str, Any]:
        with psycopg.connect(self.url) as connection:
            cursor = connection.execute("SELECT to_jsonb(e) FROM storage_exports e WHERE id = %s", (self.id(n),))
            ((row,),) = cursor.fetchall()
        return row | {"filter_params": json.loads(row["filter_params"])}

    async def close(self) -> None:
        await super().close()
        self.writer.close()


class Sqlite(Place):
    """Somebody else's file."""

    is_numbered = False

    def __init__(self, folder: Path, ddl: str) -> None:
        self.path = folder / "theirs.db"
        self.is_numbered = ddl == SQLITE_INTEGER
        self.step_ms = 1000 if self.is_numbered else 1
        connection = sqlite3.connect(self.path)
        connection.executescript(ddl)
        connection.close()
        self.url = f"sqlite:///{self.path}"
        super().__init__(open_catalog(self.url, None))  # type: ignore[arg-type]

    def id(self, n: int) -> str:
        return str(n) if self.is_numbered else super().id(n)

    def time(self, ms: int) -> int | str:
        return ms // 1000 if self.is_numbered else _iso(ms)

    def run(self, sql: str, rows: list[tuple[Any, ...]]) -> None:
        connection = sqlite3.connect(self.path, timeout=20)
        with connection:
            connection.executemany(sql, rows)
        connection.close()

    async def add(self, *rows: dict[str, Any]) -> None:
        self.run(
            f"INSERT INTO storage_files ({FILE_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (self.id(row["n"]), self.id(row["user"]), f"k/{row['n']}", f"{row['n']}.md", row["n"], row["product"],
                 row["category"], self.time(5000) if row["deleted"] else None)
                for row in rows
            ],
        )  # fmt: skip

    async def add_export(self, n: int, created_at: int, user: int = USER) -> None:
        self.run(
            "INSERT INTO storage_exports (id, user_id, status, export_type, filter_params, created_at) "
            "VALUES (?, ?, 'pending', 'full', '{}', ?)",
            [(self.id(n), self.id(user), self.time(created_at))],
        )

    def export(self, n: int) -> dict[str, Any]:
        return _sqlite_row(self.path, self.id(n))

    def schema(self) -> list[Any]:
        connection = sqlite3.connect(self.path)
        found = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name").fetchall()
        found += (
            connection.execute("PRAGMA journal_mode").fetchall() + connection.execute("PRAGMA user_version").fetchall()
        )
        connection.close()
        return found


class Postgres(Place):
    """Somebody else's database of its own on a server."""

    def __init__(self, server_url: str, ddl: str = POSTGRES_UUID) -> None:
        name = f"d{uuid.uuid4().hex}"
        with psycopg.connect(server_url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload]
        self.url = f"{server_url.rpartition('/')[0]}/{name}"
        self.run(ddl)
        super().__init__(open_catalog(self.url, None))  # type: ignore[arg-type]

    def run(self, sql: str, values: tuple[Any, ...] | None = None) -> list[Any]:
        with psycopg.connect(self.url) as connection:
            cursor = connection.execute(sql, values)  # type: ignore[call-overload]
            return cursor.fetchall() if cursor.description else []

    def id(self, n: int) -> str:
        return str(uuid.UUID(int=n))

    async def add(self, *rows: dict[str, Any]) -> None:
        with psycopg.connect(self.url) as connection, connection.cursor() as cursor:
            cursor.executemany(
                f"INSERT INTO storage_files ({FILE_COLUMNS}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
                [
                    (self.id(row["n"]), self.id(row["user"]), f"k/{row['n']}", f"{row['n']}.md", row["n"],
                     row["product"], row["category"], _moment(5000) if row["deleted"] else None)
                    for row in rows
                ],
            )  # fmt: skip

    async def add_export(self, n: int, created_at: int, user: int = USER) -> None:
        self.run(
            "INSERT INTO storage_exports (id, user_id, status, export_type, filter_params, created_at) "
            "VALUES (%s, %s, 'pending', 'full', '{}', %s)",
            (self.id(n), self.id(user), _moment(created_at)),
        )

    def export(self, n: int) -> dict[str, Any]:
        ((row,),) = self.run("SELECT to_jsonb(e) FROM storage_exports e WHERE id = %s", (self.id(n),))
        return row

    def schema(self) -> list[Any]:
        return [
            *self.run("SELECT table_schema, table_name, column_name, data_type FROM information_schema.columns "
                      "ORDER BY 1, 2, 3"),
            *self.run("SELECT indexname, indexdef FROM pg_indexes ORDER BY 1"),
            *self.run("SELECT relname, relkind FROM pg_class WHERE relpersistence = 'p' ORDER BY 1"),
        ]  # fmt: skip


def _sqlite_row(path: Path, export_id: str) -> dict[str, Any]:
    connection = sqlite3.connect(path)
    connection.row_factory = sqlite3.Row
    row = dict(connection.execute("SELECT * FROM storage_exports WHERE id = ?", (export_id,)).fetchone())
    connection.close()
    row["filter_params"] = json.loads(row["filter_params"])
    return row


def _moment(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, tz=UTC)


def _iso(ms: int) -> str:
    return _moment(ms).strftime("%Y-%m-%dT%H:%M:%S.") + f"{ms % 1000:03}Z"
