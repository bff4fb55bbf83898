"""What is looked at before Ray is started, and what the store says of a disk that takes nothing."""

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from actors.assembly import check
from actors.errors import CANNOT_WRITE, CannotStart, Unavailable
from actors.settings import Settings
from actors.signing import load_or_make_secret
from actors.store.engine import open_file
from actors.store.writer import LocalWriter, Writer
from tests.integration.test_store import a_job


def test_a_first_start_is_prepared(tmp_path: Path) -> None:
    """An empty folder gets its secret and its database, and the next start finds both as they are."""
    settings = Settings.load({}, data_dir=tmp_path)
    check(settings)
    secret = settings.callback_secret_file.read_text()
    check(settings)
    assert settings.callback_secret_file.read_text() == secret
    assert settings.store.exists()


def test_what_is_no_database_is_named(tmp_path: Path) -> None:
    """A file that is something else is left as it is; the sentence says which it is, why, and what to do."""
    settings = Settings.load({}, data_dir=tmp_path)
    settings.store.write_bytes(b"something else" * 1000)
    with pytest.raises(CannotStart, match=r"/arke\.db cannot be used \(file is not a database\)\. Mend it or put"):
        check(settings)
    assert settings.store.read_bytes() == b"something else" * 1000


def test_a_folder_in_place_of_the_database_is_named(tmp_path: Path) -> None:
    """What cannot be opened at all is told in the same way, without a link to SQLAlchemy's pages."""
    settings = Settings.load({}, data_dir=tmp_path)
    settings.store.mkdir()
    with pytest.raises(CannotStart, match=r"cannot be used \(unable to open database file\)"):
        check(settings)


def test_a_database_of_a_later_version_is_named(tmp_path: Path) -> None:
    """A schema that this version does not know is not touched."""
    settings = Settings.load({}, data_dir=tmp_path)
    check(settings)
    later = open_file(settings.store, read_only=False)
    later.control("UPDATE alembic_version SET version_num = '9999'")
    later.close()
    with pytest.raises(CannotStart, match="was made by another version of this program"):
        check(settings)


def test_an_empty_secret_is_named(tmp_path: Path) -> None:
    """Whoever signs with an empty key signs for everybody: the service does not start, and says what to delete."""
    settings = Settings.load({}, data_dir=tmp_path)
    settings.callback_secret_file.touch()
    with pytest.raises(CannotStart, match=r"callback\.secret is empty or too short\. Delete it"):
        check(settings)


def test_a_secret_that_is_there_needs_no_room(tmp_path: Path) -> None:
    """On a full disk a part that starts again reads the secret; a new one cannot be kept, and leaves nothing behind."""
    kept = load_or_make_secret(tmp_path / "kept")
    (tmp_path / "empty").touch()
    with full_disk(tmp_path / "empty"):
        assert load_or_make_secret(tmp_path / "kept") == kept
        with pytest.raises(OSError, match="File too large"):
            load_or_make_secret(tmp_path / "new")
    assert {path.name for path in tmp_path.iterdir()} == {"kept", "empty"}


async def test_a_ping_after_a_refused_write_proves_that_the_disk_takes_one(tmp_path: Path) -> None:
    """A ping writes nothing as a rule; once the disk has refused a group it is refused too, until the disk takes it."""
    writer = Writer(tmp_path / "a.db", inline=True)
    store = LocalWriter(writer)
    await store.call({"op": "create", "job": msgspec.msgpack.encode(a_job("before"))})
    with full_disk(tmp_path / "a.db-wal"):
        await store.call({"op": "ping"})
        with pytest.raises(Unavailable):
            await store.call({"op": "create", "job": msgspec.msgpack.encode(a_job("refused"))})
        with pytest.raises(Unavailable, match=CANNOT_WRITE):
            await store.call({"op": "ping"})
    await store.call({"op": "ping"})
    written = (tmp_path / "a.db-wal").stat().st_size
    await store.call({"op": "ping"})
    assert (tmp_path / "a.db-wal").stat().st_size == written
    writer.close()


@contextlib.contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """No file of this process grows beyond the present size of `path`: a write there fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
