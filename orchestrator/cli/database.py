"""`arke db`: the version of the database's schema, and the way to the newest."""

import os

import click

from actors.errors import CannotStart
from actors.settings import Settings
from actors.store.check import Versions, versions
from actors.store.check import check as bring_up


@click.group()
def db() -> None:
    """Look at the schema of the database, or bring it up to date.

    It is the database of DATABASE_URL, else the file in DATA_DIR. Each start of the service brings it up to date by
    itself; a cluster whose nodes must not do that is upgraded by `arke db upgrade` before.
    """


@db.command()
def check() -> int:
    """Say which version the database has and which is wanted. Exit code 1 where they differ."""
    now = _versions()
    click.echo(f"{now.place}: version {now.found or 'none'}, wanted {now.wanted}.")
    if not now.is_current:
        click.echo(_advice(now), err=True)
    return 0 if now.is_current else 1


@db.command()
def upgrade() -> int:
    """Bring the schema to the version that this program wants. However many do it at once, one does."""
    before = _versions()
    try:
        bring_up(Settings.load(os.environ).store)
    except CannotStart as error:
        raise click.ClickException(str(error)) from None
    if before.is_current:
        click.echo(f"{before.place}: version {before.wanted}, as wanted.")
    else:
        click.echo(f"{before.place}: from version {before.found or 'none'} to {before.wanted}.")
    return 0


def _versions() -> Versions:
    try:
        return versions(Settings.load(os.environ).store)
    except CannotStart as error:
        raise click.ClickException(str(error)) from None


def _advice(now: Versions) -> str:
    if not now.is_known:
        return "It was made by another version of this program: use that one."
    return "Run `arke db upgrade`; the next start of the service does it too."
