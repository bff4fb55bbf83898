"""What tests share that need a real Postgres."""

from collections.abc import Callable, Iterator

import pytest

from tests.stand_ins import postgres as stand_in


@pytest.fixture(scope="session")
def postgres() -> Iterator[stand_in.Postgres]:
    """One server for all tests; each has a database of its own."""
    with stand_in.serving() as running:
        yield running


@pytest.fixture(scope="session")
def new_database(postgres: stand_in.Postgres) -> Callable[[], str]:
    """Makes a database with the newest schema, and answers its URL."""
    from actors.store.postgres import make_postgres_engine
    from actors.store.schema import migrate

    template = postgres.database()
    migrate(make_postgres_engine(template))
    return lambda: postgres.database(template)
