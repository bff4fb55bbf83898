"""The versions of the schema, on both engines: which one a database has, and how it gets the newest."""

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine

from actors.store.statements import ADVISORY, lock_number

MIGRATION: Final = "migration"
WAIT_S: Final = 600
"""How long the nodes that start together wait for the one that migrates."""
DDL_LOCK_S: Final = 10  # a table that is in use: whoever wants it next waits behind this migration


def migrate(engine: Engine) -> None:
    """Bring the schema to the newest version, in one transaction: a crash leaves the old one.

    However many do it at once, one does: SQLite has one writer at a time, and in Postgres the others wait for a lock,
    then find it done. Raises alembic's CommandError for a version that is not known here.
    """
    config = _config()
    with engine.begin() as connection:
        _wait_for_turn(connection)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def wanted() -> str:
    """The version that this program needs."""
    return str(ScriptDirectory.from_config(_config()).get_current_head())


def found(engine: Engine) -> str | None:
    """The version that the database has; None where it has no table yet."""
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def is_known(version: str) -> bool:
    """Whether this program has a way from that version to the newest."""
    return any(script.revision == version for script in ScriptDirectory.from_config(_config()).walk_revisions())


def _config() -> Config:
    config = Config()
    location = Path(__file__).parent / "migrations"
    config.set_main_option("script_location", str(location).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _wait_for_turn(connection: Connection) -> None:
    if connection.dialect.name != "postgresql":
        return
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{WAIT_S}s'")
    connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
    connection.exec_driver_sql(ADVISORY, (lock_number(MIGRATION),))
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{DDL_LOCK_S}s'")
