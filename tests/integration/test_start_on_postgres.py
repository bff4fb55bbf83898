"""A database that cannot be used ends a start at once, in a sentence that says what to do and no password."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from actors.settings import Settings
from orchestrator.cli import main as command_line
from tests.stand_ins import postgres as stand_in

ROOT = Path(__file__).parents[2]
PASSWORD = "secret-word"
WITHIN_S = 60
"""For one that must end by itself: far less than a start that goes wrong again and again."""


def refusing(_server: stand_in.Postgres) -> Iterator[str]:
    """Nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"postgresql://someone:{PASSWORD}@127.0.0.1:{bound.getsockname()[1]}/d"


def silent(_server: stand_in.Postgres) -> Iterator[str]:
    """It takes a connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"postgresql://someone:{PASSWORD}@127.0.0.1:{server.getsockname()[1]}/d"


def another_password(server: stand_in.Postgres) -> Iterator[str]:
    yield server.url.replace(PASSWORD, f"not-the-{PASSWORD}")


def no_database(server: stand_in.Postgres) -> Iterator[str]:
    yield f"{server.url.rpartition('/')[0]}/nothing"


def no_right(server: stand_in.Postgres) -> Iterator[str]:
    """A user who may read and write, and create nothing."""
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"DROP ROLE IF EXISTS reader; CREATE ROLE reader LOGIN PASSWORD '{PASSWORD}'".encode())
    yield server.database().replace("//tester:", "//reader:")


def newer(server: stand_in.Postgres) -> Iterator[str]:
    """A later version of the program made it."""
    url = server.database()
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY)")
        connection.execute("INSERT INTO alembic_version VALUES ('9999')")
    yield url


FAULTS: dict[Callable[[stand_in.Postgres], Iterator[str]], tuple[str, str]] = {
    refusing: ("Connection refused", "Start it, or set DATABASE_URL to the right one."),
    silent: ("timeout expired", "Start it, or set DATABASE_URL to the right one."),
    another_password: ("password authentication failed", "Set DATABASE_URL to the right user and password."),
    no_database: ('database "nothing" does not exist', "Create it, or set DATABASE_URL to the right one."),
    no_right: ("permission denied", "Let its user create tables, or run `arke db upgrade` as one who may."),
    newer: ("made by another version of this program", "use that one, or another DATABASE_URL."),
}


@pytest.fixture(params=FAULTS, ids=lambda fault: fault.__name__)
def fault(request: pytest.FixtureRequest, postgres: stand_in.Postgres) -> Iterator[tuple[str, str, str]]:
    """The URL of a database that cannot be used, why, and what is to be done."""
    for url in request.param(postgres):
        yield url, *FAULTS[request.param]


def test_upgrade_says_what_to_do(
    fault: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`arke db upgrade`, and `arke db check`, which may look at what it may not change."""
    url, why, advice = fault
    monkeypatch.setenv("DATABASE_URL", url)
    for command in ("check", "upgrade"):
        with pytest.raises(SystemExit) as left:
            command_line.main(("db", command))
        shown = capsys.readouterr()
        assert left.value.code == 1
        assert PASSWORD not in shown.out + shown.err
    assert (why in shown.err, advice in shown.err) == (True, True), shown.err
    assert (shown.out, shown.err.count("\n")) == ("", 1)


def test_the_service_does_not_try_again(fault: tuple[str, str, str], tmp_path: Path) -> None:
    """It ends before Ray is started, and once."""
    url, why, advice = fault
    ended(("serve",), url, tmp_path, why, advice)


def test_nor_does_the_demo(tmp_path: Path, postgres: stand_in.Postgres) -> None:
    """It says the same sentence."""
    for url in refusing(postgres):
        ended(("demo", "--once"), url, tmp_path, *FAULTS[refusing])


def ended(command: tuple[str, ...], url: str, folder: Path, why: str, advice: str) -> None:
    """Run it until it has ended, and look at what it said and left."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "ARKE_"))}
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    ran = subprocess.run(
        [sys.executable, "-m", "orchestrator.cli.main", *command, "--no-dashboard", "--port", port],
        cwd=ROOT, env={**clean, "DATABASE_URL": url, "DATA_DIR": str(folder)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=WITHIN_S, check=False,
    )  # fmt: skip
    (sentence,) = [line for line in ran.stdout.splitlines() if line.startswith("Error: ")]
    assert ran.returncode == 1
    assert (why in sentence, advice.rstrip(".") in sentence) == (True, True), sentence
    assert PASSWORD not in ran.stdout + "".join(path.read_text() for path in folder.rglob("*.log"))
    assert not list(Settings.load({}, data_dir=folder).run_dir.glob("r/session_*")), "Ray was started"
