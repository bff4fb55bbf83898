"""The catalog of ZIP exports: what a page of 1,000 files costs at the start, in the middle and at the end.

python -m bench.catalog [--rows 1000000] [own] [sqlite] [postgres] [verifying]      all, when none is named

A third of the files are the user's, between those of two others. Beside each figure stands that of the same page
by OFFSET, from the same run.
"""

import argparse
import asyncio
import sqlite3
import statistics
import time
import uuid
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import psycopg

from actors.archives import ArchiveRequest, Archives, Division, listing
from actors.clock import Clock
from actors.store import Store
from actors.store.catalog_rows import Catalog, Selection
from actors.store.catalogs import open_catalog
from actors.store.writer import LocalWriter, Writer
from actors.verifying import CHUNK_FILES, Limits, Verifying
from bench.service import scratch, table
from tests.stand_ins import postgres as stand_in
from worker.objects.base import ObjectInfo

PAGE: Final = 1_000
USERS: Final = 3
PAGES: Final = 9
"""Measured at each place, in turn with those by OFFSET."""
COLUMNS: Final = "id, r2_key, filename, size_bytes, product, category"
NUMBERS: Final = "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?)"


def own(rows: int) -> None:
    """The store's own tables."""
    with scratch() as folder:
        path = folder / "arke.db"
        writer = Writer(path)
        _fill_sqlite(path, rows, "id, user_id, r2_key, filename, size_bytes, product, category, created_at",
                     "printf('f%09d', n), printf('u%d', n % 3), 'k/' || n, n || '.md', n, 'blog', 'a', 1")  # fmt: skip
        store = Store(LocalWriter(writer), path)
        with sqlite3.connect(path) as connection:
            _measure(
                "own, SQLite", open_catalog(None, store), rows, lambda n: f"f{n:09}", "u1", _offset(connection, "?")
            )
        connection.close()
        asyncio.run(store.close())
        writer.close()


def sqlite(rows: int) -> None:
    """Somebody else's file with integer ids, and an index by user alone."""
    with scratch() as folder:
        path = folder / "theirs.db"
        with sqlite3.connect(path) as connection:
            connection.executescript("""
                CREATE TABLE storage_files (id INTEGER PRIMARY KEY, user_id TEXT, r2_key TEXT UNIQUE, filename TEXT,
                  size_bytes INTEGER, product TEXT, category TEXT, deleted_at INTEGER);
                CREATE INDEX storage_files_user ON storage_files (user_id);
            """)
            connection.execute(EXPORTS)
        connection.close()
        _fill_sqlite(path, rows, "id, user_id, r2_key, filename, size_bytes, product, category",
                     "n, printf('u%d', n % 3), 'k/' || n, n || '.md', n, 'blog', 'a'")  # fmt: skip
        with sqlite3.connect(path) as connection:
            catalog = open_catalog(f"sqlite:///{path}", None)  # type: ignore[arg-type]
            _measure("foreign, SQLite", catalog, rows, str, "u1", _offset(connection, "?"))
        connection.close()


def postgres(rows: int) -> None:
    """Somebody else's Postgres with UUIDs."""
    with stand_in.serving() as server, psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE storage_files (id uuid PRIMARY KEY, user_id text, r2_key text UNIQUE, filename text, "
            "size_bytes bigint, product text, category text, deleted_at timestamptz)"
        )
        connection.execute(EXPORTS)
        connection.execute(
            f"INSERT INTO storage_files ({COLUMNS}, user_id) SELECT lpad(to_hex(n), 32, '0')::uuid, 'k/' || n, "
            "n || '.md', n, 'blog', 'a', 'u' || n %% 3 FROM generate_series(1, %s) n",
            (rows * USERS,),
        )
        connection.execute("CREATE INDEX ON storage_files (user_id, id)")
        connection.execute("VACUUM ANALYZE storage_files")
        catalog = open_catalog(server.url, None)  # type: ignore[arg-type]
        _measure("foreign, Postgres", catalog, rows, lambda n: str(uuid.UUID(int=n)), "u1", _offset(connection, "%s"))


EXPORTS: Final = (
    "CREATE TABLE storage_exports (id text PRIMARY KEY, user_id text, status text, export_type text, "
    "filter_params text, r2_key text, size_bytes bigint, file_count bigint, created_at bigint, completed_at bigint, "
    "expires_at bigint, error_message text)"
)


def _fill_sqlite(path: Path, rows: int, columns: str, values: str) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(
            f"INSERT INTO storage_files ({columns}) {NUMBERS} SELECT {values} FROM numbers", (rows * USERS,)
        )
    connection.close()


def _offset(connection: Any, mark: str) -> Callable[[int], int]:
    """Reads the page after so many files of the user; how many there were."""
    text = (
        f"SELECT {COLUMNS} FROM storage_files WHERE user_id = 'u1' AND deleted_at IS NULL ORDER BY id "
        f"LIMIT {PAGE} OFFSET {mark}"
    )
    return lambda skipped: len(connection.execute(text, (skipped,)).fetchall())


def _measure(
    name: str, catalog: Catalog, rows: int, id_of: Callable[[int], str], user: str, by_offset: Callable[[int], int]
) -> None:
    places = {"start": 0, "middle": rows // 2, "end": rows - PAGE}
    taken = asyncio.run(_taken(catalog, places, id_of, user, by_offset))
    first = statistics.median(taken["start"][0])
    print(f"\n{name}: pages of {PAGE:,}, {rows:,} files of the user, {rows * USERS:,} in all\n")
    lines = []
    for place, (ours, theirs) in taken.items():
        ms, offset_ms = statistics.median(ours), statistics.median(theirs)
        lines.append([place, f"{ms:.1f} ms", f"{ms / first:.2f}", f"{offset_ms:.1f} ms"])
    print(table(["", "a page", "over the first", "by OFFSET"], lines), flush=True)


async def _taken(
    catalog: Catalog, places: dict[str, int], id_of: Callable[[int], str], user: str, by_offset: Callable[[int], int]
) -> dict[str, tuple[list[float], list[float]]]:
    """Milliseconds of each page, ours and by OFFSET, in turn over the places. A first round fills the caches."""
    taken: dict[str, tuple[list[float], list[float]]] = {place: ([], []) for place in places}
    for turn in range(PAGES + 1):
        for place, skipped in places.items():
            after = id_of((skipped - 1) * USERS + 1) if skipped else None
            begun = time.perf_counter()
            page = await catalog.files(Selection(user_id=user), after, PAGE)
            ours_ms = (time.perf_counter() - begun) * 1000
            assert (len(page), page[0].id) == (PAGE, id_of(skipped * USERS + 1)), (len(page), page[0])
            begun = time.perf_counter()
            assert by_offset(skipped) == PAGE
            if turn:
                taken[place][0].append(ours_ms)
                taken[place][1].append((time.perf_counter() - begun) * 1000)
    await catalog.close()
    return taken


def verifying(rows: int) -> None:
    """What a chunk of 100 costs while the files of an archive are verified, by objects that answer at once: the store's
    rows and the catalog's pages are what is left. Then all of them are divided into parts."""
    with scratch() as folder:
        path = folder / "arke.db"
        writer = Writer(path)
        _fill_sqlite(path, rows, "id, user_id, r2_key, filename, size_bytes, product, category, created_at",
                     "printf('f%09d', n), printf('u%d', n % 3), 'k/' || n, n || '.md', n, 'blog', 'a', 1")  # fmt: skip
        store = Store(LocalWriter(writer), path)
        asyncio.run(_verify(store, rows))
        writer.close()


class _Instant:
    """Objects that are all there. Notes when each was looked at."""

    def __init__(self) -> None:
        self.looked: list[float] = []

    def head(self, key: str) -> ObjectInfo:
        self.looked.append(time.perf_counter())
        return ObjectInfo(key, 100, "e")

    def put(self, key: str, body: bytes, content_type: str) -> None:
        """Kept by nobody."""


async def _verify(store: Store, rows: int) -> None:
    objects: Any = _Instant()
    catalog = open_catalog(None, store)
    clock = Clock()
    taking_in = Archives(
        store=store, objects=objects, catalog=catalog, clock=clock, timeout_ms=300_000,
        division=Division(10**9, 100_000),
    )  # fmt: skip
    job = await taking_in.create(ArchiveRequest(user_id="u1", export_type="full"), None)
    await Verifying(
        store=store, objects=objects, clock=clock, listing=lambda job: listing(job, objects, catalog),
        limits=Limits(files=10**9, delay_ms=0, timeout_ms=300_000, unfinished_ms=300_000),
    ).read(job)  # fmt: skip
    ended = time.perf_counter()
    await store.close()
    chunks = [later - sooner for sooner, later in pairwise(objects.looked[::CHUNK_FILES])]
    tenth = max(1, len(chunks) // 10)
    places = {"first tenth": chunks[:tenth], "last tenth": chunks[-tenth:]}
    first = statistics.mean(places["first tenth"])
    print(f"\nverifying: chunks of {CHUNK_FILES}, {rows:,} files\n")
    lines = [
        [place, f"{statistics.mean(taken) * 1000:.1f} ms", f"{statistics.mean(taken) / first:.2f}"]
        for place, taken in places.items()
    ]
    print(table(["", "a chunk", "over the first"], lines), flush=True)
    print(f"\ndivided into parts and planned in {ended - objects.looked[-1]:.1f} s", flush=True)


ALL: Final[dict[str, Callable[[int], None]]] = {
    "own": own, "sqlite": sqlite, "postgres": postgres, "verifying": verifying,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.catalog", description=__doc__)
    parser.add_argument("what", nargs="*", metavar="WHAT", help=", ".join(ALL))
    parser.add_argument("--rows", type=int, default=1_000_000, help="files of the user (1000000)")
    arguments = parser.parse_args()
    for name in arguments.what or ALL:
        ALL[name](arguments.rows)


if __name__ == "__main__":
    main()
