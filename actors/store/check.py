"""Whether the database can be used, and of which version it is: found out before anything is started, and told in a
sentence. No sentence has a password in it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from alembic.util.exc import CommandError
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from actors.errors import CannotStart
from actors.store import schema
from actors.store.engine import DriverError, make_engine

_NO_RIGHT: Final = "42501"


class Versions(NamedTuple):
    """The version that a database has (None: no table yet), the one that this program wants, and whether it knows the
    first."""

    place: str
    found: str | None
    wanted: str
    is_known: bool

    @property
    def is_current(self) -> bool:
        """Whether there is nothing to do."""
        return self.found == self.wanted


def check(where: Path | str) -> None:
    """Create and migrate the store: a file, or the database of a URL. Raises CannotStart where that fails."""
    if isinstance(where, Path):
        where.parent.mkdir(parents=True, exist_ok=True)
    with _told(where):
        schema.migrate(_engine(where))


def versions(where: Path | str) -> Versions:
    """Look only: a file that is missing is not made. Raises CannotStart where that fails."""
    is_missing = isinstance(where, Path) and not where.exists()
    with _told(where):
        found = None if is_missing else schema.found(_engine(where, read_only=True))
    return Versions(_place(where), found, schema.wanted(), found is None or schema.is_known(found))


def _engine(where: Path | str, *, read_only: bool = False) -> Engine:
    if isinstance(where, Path):
        return make_engine(where, read_only=read_only)
    from actors.store.postgres import make_postgres_engine  # a driver that a file does without

    return make_postgres_engine(where)


def _place(where: Path | str) -> str:
    if isinstance(where, Path):
        return str(where)
    from actors.store.postgres import shown

    return shown(where)


@contextmanager
def _told(where: Path | str) -> Iterator[None]:
    place = _place(where)
    is_file = isinstance(where, Path)
    try:
        yield
    except CommandError as error:
        other = "another DATA_DIR" if is_file else "another DATABASE_URL"
        raise CannotStart(
            f"The database {place} was made by another version of this program: use that one, or {other}."
        ) from error
    except (DBAPIError, DriverError) as error:
        if not is_file:
            raise CannotStart(_away(place, error)) from None
        why = getattr(error, "orig", None) or error
        raise CannotStart(
            f"The database {place} cannot be used ({why}). Mend it or put a copy in its place; or move it away, with "
            f"its -wal and -shm, to start with an empty one."
        ) from error
    except OSError as error:
        raise CannotStart(f"The database {place} cannot be used ({error.strerror}).") from error


def _away(place: str, error: Exception) -> str:
    from actors.store.postgres import why

    reason = why(getattr(error, "orig", None) or error).rstrip(".")
    return f"The database {place} cannot be used ({reason}). {_mend(error, reason)}"


def _mend(error: Exception, reason: str) -> str:
    """What to do. A connection that is refused has no SQLSTATE: it is known by the server's words, if English."""
    if getattr(getattr(error, "orig", None) or error, "sqlstate", None) == _NO_RIGHT:
        return "Let its user create tables, or run `arke db upgrade` as one who may."
    if "authentication" in reason or "role " in reason:
        return "Set DATABASE_URL to the right user and password."
    if "does not exist" in reason:
        return "Create it, or set DATABASE_URL to the right one."
    return "Start it, or set DATABASE_URL to the right one."
