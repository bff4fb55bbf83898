"""The store's own catalog: how it is filled, and by whom it can be read."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from actors.errors import Conflict
from actors.store import Store, client
from actors.store.catalog_rows import CatalogExport, Selection, StorageFile
from actors.store.catalogs import OwnCatalog
from actors.store.file_reads import FileReads
from actors.store.postgres_reads import PostgresReads
from actors.store.postgres_writer import PostgresWriter
from actors.store.served import Served
from actors.store.writer import Writer

ALL = Selection(user_id="u")
change = msgspec.structs.replace


class Owner:
    """The process that owns the file, without a socket: requests and answers are what can cross one."""

    def __init__(self, served: Served) -> None:
        self._served = served

    async def call(self, request: dict[str, Any]) -> Any:
        (answer,) = await self._served.handle([msgspec.msgpack.decode(msgspec.msgpack.encode(request))])
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture(params=["the file", "by the owner", "postgres"])
async def store(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    """Reading the file, by way of the process that owns it, and Postgres."""
    if request.param == "postgres":
        url = request.getfixturevalue("new_database")()
        writer = PostgresWriter(url)
        store = Store(writer, reads=PostgresReads(url))
        yield store
        await store.close()
        writer.close()
        return
    path = tmp_path / "arke.db"
    served = Served(Writer(path), FileReads(path))
    store = Store(Owner(served), path if request.param == "the file" else None)
    yield store
    await store.close()
    await served.close()


def a_file(n: int, **fields: Any) -> StorageFile:
    row = {"id": f"f{n}", "user_id": "u", "r2_key": f"k/{n}", "filename": f"{n}.md", "created_at": 1}
    return StorageFile(**{**row, **fields})


async def ids(store: Store) -> list[str]:
    return [file.id for file in await store.storage_files(ALL, None, 10_000)]


async def test_a_list_of_files_may_be_added_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """In several requests where it is long; what has changed meanwhile is replaced, the rest stays."""
    monkeypatch.setattr(client, "FILES_AT_ONCE", 2)
    files = [a_file(n, mime_type="text/markdown", product="blog", category="a", size_bytes=2**40) for n in range(5)]
    await store.add_storage_files(files)
    first = await store.storage_files(ALL, None, 9)
    await store.add_storage_files(files)
    assert await store.storage_files(ALL, None, 9) == first
    assert first[0].size_bytes == 2**40
    await store.add_storage_files([change(files[1], filename="new.md", product=None)])
    (changed,) = await store.storage_files(ALL, "f0", 1)
    assert (changed.filename, changed.product) == ("new.md", None)


async def test_a_deleted_file_comes_back_only_when_its_row_says_so(store: Store) -> None:
    """A list that says nothing of it leaves it deleted."""
    await store.add_storage_files([a_file(1), a_file(2), a_file(3, deleted_at=4)])
    assert await ids(store) == ["f1", "f2"]
    await store.add_storage_files([a_file(1, deleted_at=5)])
    await store.add_storage_files([a_file(1), a_file(2), a_file(3)])
    assert await ids(store) == ["f2"]
    await store.add_storage_files([a_file(1, deleted_at=None)])
    assert await ids(store) == ["f1", "f2"]


async def test_a_key_is_of_one_file(store: Store) -> None:
    """Under another id it is refused, and nothing of that request is kept."""
    await store.add_storage_files([a_file(1)])
    with pytest.raises(Conflict, match="k/1"):
        await store.add_storage_files([a_file(2), a_file(3, r2_key="k/1")])
    assert await ids(store) == ["f1"]
    await store.add_storage_files([a_file(2), a_file(3)])
    assert await ids(store) == ["f1", "f2", "f3"]


async def test_the_owner_answers_for_the_catalog(store: Store) -> None:
    """Everything that a catalog is asked crosses the way to the owner."""
    catalog = OwnCatalog(store)
    await store.add_storage_files([a_file(1, product="blog"), a_file(2, category="a")])
    row = CatalogExport(id="e", user_id="u", export_type="full", filter_params={"é": [1]}, created_at=5)
    await catalog.put_export(row)
    await catalog.put_export(change(row, id="f", created_at=6))
    assert [file.id for file in await catalog.files(Selection(user_id="u", product="blog"), None, 5)] == ["f1"]
    assert [file.id for file in await catalog.files(Selection(user_id="u", category="a"), "f1", 5)] == ["f2"]
    assert (await catalog.export("e"), await catalog.export("none")) == (row, None)
    (newest,), cursor = await catalog.exports("u", limit=1)
    assert (newest.id, await catalog.exports("u", limit=1, cursor=cursor)) == ("f", ([row], None))
    await catalog.close()
