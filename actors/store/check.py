"""Whether the database can be opened: found out before anything is started, and told in a sentence."""

from pathlib import Path

from alembic.util.exc import CommandError
from sqlalchemy.exc import DBAPIError

from actors.errors import CannotStart
from actors.store.engine import DriverError
from actors.store.writer import Writer


def check(path: Path) -> None:
    """Create and migrate the file, as the process that will own it does. Raises CannotStart where that fails."""
    try:
        Writer(path, inline=True).close()
    except CommandError as error:
        raise CannotStart(
            f"The database {path} was made by another version of this program: use that one, or another DATA_DIR."
        ) from error
    except (DBAPIError, DriverError) as error:
        why = getattr(error, "orig", None) or error
        raise CannotStart(
            f"The database {path} cannot be used ({why}). Mend it or put a copy in its place; or move it away, with "
            f"its -wal and -shm, to start with an empty one."
        ) from error
    except OSError as error:
        raise CannotStart(f"The database {path} cannot be used ({error.strerror}).") from error
