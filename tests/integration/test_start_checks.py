"""What is looked at before Ray is started, and what the store says of a disk that takes nothing."""

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from actors.assembly import check, fly_options, machine_environment
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


FLY = {"MACHINE_PROVIDER": "fly", "FLY_API_TOKEN": "t0k3n", "FLY_WORKER_IMAGE": "registry.fly.io/w:1"}
REACHABLE = {"ORCHESTRATOR_URL": "https://arke.example"}
S3 = {"R2_ACCOUNT_ID": "a", "R2_ACCESS_KEY_ID": "b", "R2_SECRET_ACCESS_KEY": "c"}


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"MACHINE_PROVIDER": "fly"}, "MACHINE_PROVIDER=fly needs FLY_API_TOKEN and FLY_WORKER_IMAGE: set them."),
        (FLY | {"FLY_API_TOKEN": ""}, "MACHINE_PROVIDER=fly needs FLY_API_TOKEN: set it."),
        (FLY | {"FLY_WORKER_IMAGE": ""}, "MACHINE_PROVIDER=fly needs FLY_WORKER_IMAGE: set it."),
        (FLY | S3, r"Machines of Fly cannot reach http://127\.0\.0\.1:8787: set ORCHESTRATOR_URL to an address"),
        (FLY | REACHABLE, "Machines of Fly cannot reach the objects in DATA_DIR: set R2_ACCOUNT_ID or"),
    ],
)
def test_what_fly_needs_is_named(tmp_path: Path, environ: dict[str, str], sentence: str) -> None:
    """Else each machine would be refused, or would run and reach nobody."""
    with pytest.raises(CannotStart, match=sentence) as failure:
        check(Settings.load(environ, data_dir=tmp_path))
    assert "t0k3n" not in str(failure.value)


@pytest.mark.parametrize("environ", [FLY | REACHABLE | S3, FLY | {"FLY_API_URL": "http://127.0.0.1:4280/v1"}])
def test_what_fly_needs_is_there(tmp_path: Path, environ: dict[str, str]) -> None:
    """A stand-in of the API on this computer needs no more than a token and an image."""
    check(Settings.load(environ, data_dir=tmp_path))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"WORKER_MEMORY_MB": "300"}, "512 to 4096 MB, in steps of 256. Set WORKER_CPU_KIND_TIFF"),
        ({"WORKER_CPUS_TIFF": "3"}, "one of 1, 2, 4, 6, 8 processors"),
        ({"WORKER_CPU_KIND_MODS": "performance"}, "4096 to 16384 MB, in steps of 256. Set WORKER_CPU_KIND_MODS"),
        ({"WORKER_MEMORY_MB": "2048", "WORKER_MEMORY_MAX_MB": "1024"}, "below the 2048 MB that a machine has"),
        ({"MACHINE_PRICES": "shared-2x-1024=0.1,shared-2x-1024=0.2"}, "gives shared-2x-1024 two prices"),
    ],
)
def test_a_size_or_price_that_cannot_be_is_told_at_the_start(tmp_path: Path, given: dict[str, str], words: str) -> None:
    """Else each task would be refused, one a second."""
    with pytest.raises(CannotStart, match=words):
        check(Settings.load(FLY | REACHABLE | S3 | given, data_dir=tmp_path))


def test_the_kinds_of_work_have_apps_images_and_buckets_of_their_own(tmp_path: Path) -> None:
    """As far as they are set; else those of all."""
    given = FLY | {
        "FLY_APP_NAME_MODS": "exports", "FLY_WORKER_IMAGE_MODS": "registry.fly.io/e:1", "R2_BUCKET_MODS": "exports",
        "WORKER_MEMORY_MB_MODS": "2048", "ARKE_API_URL": "http://arke.test/", "MAX_MACHINES_MODS": "3",
    }  # fmt: skip
    settings = Settings.load(given, data_dir=tmp_path)
    options = fly_options(settings)
    assert options is not None
    assert (options.apps_for("tiff"), options.apps_for("mods")) == (("arke-tiff-worker",), ("exports",))
    assert (options.image_for("tiff"), options.image_for("mods")) == ("registry.fly.io/w:1", "registry.fly.io/e:1")
    assert options.all_apps == ("arke-tiff-worker", "exports")
    assert (options.sizes["tiff"].memory_mb, options.sizes["mods"].memory_mb) == (1024, 2048)
    tiff, mods = (machine_environment(settings, kind) for kind in ("tiff", "mods"))
    assert (tiff["R2_BUCKET"], mods["R2_BUCKET"]) == ("arke-staging", "exports")
    assert (tiff["WORKER_TASK_MAX_S"], mods["WORKER_TASK_MAX_S"]) == ("600", "21600")
    assert "ARKE_API_URL" not in tiff
    assert mods["ARKE_API_URL"] == "http://arke.test"
    same = fly_options(Settings.load(FLY, data_dir=tmp_path))
    assert same is not None
    assert (same.apps_for("mods"), same.image_for("mods")) == (("arke-tiff-worker",), "registry.fly.io/w:1")


def test_what_the_provider_of_fly_is_told(tmp_path: Path) -> None:
    """The values of the settings; services that are called back elsewhere do not take each other's machines."""
    given = FLY | {"FLY_APP_NAMES": "a,b", "FLY_REGIONS": "ord,iad", "WORKER_CPUS_TIFF": "4", "SERVICE_NAME": "arke"}
    options = fly_options(Settings.load(given, data_dir=tmp_path))
    assert options is not None
    assert (options.apps, options.regions, options.image) == (("a", "b"), ("ord", "iad"), "registry.fly.io/w:1")
    assert options.sizes["tiff"] == ("shared", 4, 1024)
    assert options.sizes[""] == ("shared", 2, 1024)
    assert "t0k3n" not in repr(options)
    other = fly_options(Settings.load(given, data_dir=tmp_path, port=9000))
    assert other is not None
    assert options.service.startswith("arke-")
    assert options.service != other.service
    assert fly_options(Settings.load({}, data_dir=tmp_path)) is None


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
