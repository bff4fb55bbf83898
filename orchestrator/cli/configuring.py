"""`arke settings`: what can be set, and what is set."""

import os

import click

from actors.settings import Settings, reference_page


@click.command()
@click.option("--page", is_flag=True, help="Print the reference page (Markdown) instead.")
def settings(page: bool) -> None:
    """Print the settings, secrets masked.

    They are what `arke serve` would use here; each is an environment variable.
    """
    if page:
        click.echo(reference_page(), nl=False)
        return
    for name, value in Settings.load(os.environ).masked().items():
        click.echo(f"{name}={value}")
