"""The catalogs that the tests run against."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.catalog import places
from tests.stand_ins import postgres as stand_in

KINDS = ["own", "own, postgres", "sqlite, text", "sqlite, integer", "postgres, uuid"]


@pytest.fixture(scope="session")
def server(postgres: stand_in.Postgres) -> stand_in.Postgres:
    """One server for all tests; each has a database of its own."""
    return postgres


@pytest.fixture(params=KINDS)
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[places.Place]:
    """A catalog without a row."""
    made = _made(request, tmp_path)
    yield made
    await made.close()


@pytest.fixture(params=KINDS[2:])
async def foreign(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[places.Sqlite | places.Postgres]:
    """A catalog of somebody else without a row."""
    made = _made(request, tmp_path)
    assert isinstance(made, places.Sqlite | places.Postgres)
    yield made
    await made.close()


@pytest.fixture
async def in_postgres(server: stand_in.Postgres) -> AsyncIterator[places.Postgres]:
    """A catalog in Postgres without a row."""
    made = places.Postgres(server.url)
    yield made
    await made.close()


def _made(request: pytest.FixtureRequest, folder: Path) -> places.Place:
    match request.param:
        case "own":
            return places.OwnFile(folder)
        case "own, postgres":
            return places.OwnPostgres(request.getfixturevalue("new_database")())
        case "sqlite, text":
            return places.Sqlite(folder, places.SQLITE_TEXT)
        case "sqlite, integer":
            return places.Sqlite(folder, places.SQLITE_INTEGER)
    return places.Postgres(request.getfixturevalue("server").url)
