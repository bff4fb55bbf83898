"""The entry point of `arke`: options that all commands share, and errors as one sentence.

Exit codes: 0 done, 1 it failed (or the batch ended in ERROR), 2 the command was not used rightly,
130 interrupted.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

import click

from actors.settings import InvalidSetting
from orchestrator.cli.remote import Remote, visible
from orchestrator.client import ClientError, Refused, Unreachable

COMMANDS: Final = {
    "serve": "serving:serve",
    "demo": "serving:demo",
    "convert": "convert:convert",
    "export": "exporting:export",
    "download": "exporting:download",
    "schemas": "exporting:schemas",
    "zip": "zipping:zip_",
    "submit": "submitting:submit",
    "status": "batches:status",
    "watch": "watching:watch",
    "list": "batches:list_batches",
    "tasks": "tasks:tasks",
    "task": "tasks:task",
    "cancel": "batches:cancel",
    "retry": "batches:retry",
    "reset": "batches:reset",
    "redeliver": "batches:redeliver",
    "machines": "machines:machines",
    "db": "database:db",
    "settings": "configuring:settings",
}
"""Name to module and function in `orchestrator.cli`."""
OURS: Final = ("actors", "orchestrator", "worker")


class Commands(click.Group):
    """Imports a command when it is asked for: `arke convert` needs no more than the worker does, and runs where the
    service's dependencies are not installed."""

    def list_commands(self, context: click.Context) -> list[str]:
        """In the order of their names."""
        return sorted(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """The command, or one in its place that says what is not installed."""
        if name not in COMMANDS:
            return None
        module, _, function = COMMANDS[name].partition(":")
        try:
            command: click.Command = getattr(importlib.import_module(f"orchestrator.cli.{module}"), function)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] in OURS:
                raise
            return _not_installed(name, error.name)
        return command


def _not_installed(name: str, missing: str) -> click.Command:
    sentence = f"Needs {missing}, which comes with the service: pip install 'arke-orchestrator[service]'."

    def refuse(rest: tuple[str, ...]) -> None:
        raise click.UsageError(sentence)

    rest = click.Argument(["rest"], nargs=-1, type=click.UNPROCESSED)
    ignoring = {"ignore_unknown_options": True}
    return click.Command(name, params=[rest], callback=refuse, help=sentence, context_settings=ignoring)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--server",
    envvar="ARKE_URL",
    default="http://127.0.0.1:8787",
    show_default=True,
    show_envvar=True,
    help="Address of the service.",
)
@click.option("--api-key", envvar="ARKE_API_KEY", show_envvar=True, help="Key, where the service asks for one.")
@click.option("--admin-key", envvar="ARKE_ADMIN_KEY", show_envvar=True, help="Key of the administrator.")
@click.version_option(package_name="arke-orchestrator", prog_name="arke")
@click.pass_context
def cli(context: click.Context, server: str, api_key: str | None, admin_key: str | None) -> None:
    """Run batches of conversion tasks that outlive every process that works on them.

    \b
    A first look:                       arke demo
    The service:                        arke serve
    Convert a folder, no service:       arke convert ~/scans
    Export a tree's metadata as MODS:   arke export PI --recursive
    Make an archive of a folder:        arke zip ~/scans -o scans.zip
    Convert what is under a prefix:     arke submit --prefix staging/my-scans/ --watch
    Convert files of this machine:      arke submit --data-dir data ~/scans --watch
    What became of it:                  arke list; arke status BATCH; arke tasks BATCH --status failed
    Once more, what failed:             arke retry BATCH
    What runs, for whom and since when: arke machines
    Is the database up to date:         arke db check

    `arke COMMAND --help` tells more.
    """
    if not isinstance(context.obj, Remote):
        context.obj = Remote(_address(server), _key(api_key), _key(admin_key))


def main(arguments: Sequence[str] | None = None, *, remote: Remote | None = None) -> None:
    """Run a command and exit. `remote` is there for tests."""
    sys.exit(_run(arguments, remote))


def _run(arguments: Sequence[str] | None, remote: Remote | None) -> int:
    try:
        code = cli.main(args=arguments, prog_name="arke", obj=remote, standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 0
    except click.UsageError as error:
        return _fail(_usage(error), 2)
    except InvalidSetting as error:
        return _fail(str(error), 2)
    except Refused as error:
        return _fail(visible(_explained(error)), 1)
    except click.ClickException as error:
        return _fail(error.format_message(), 1)
    except Unreachable as error:
        return _fail(visible(f"{error} `arke serve` starts it; --server or ARKE_URL names another address."), 1)
    except ClientError as error:
        return _fail(visible(error), 1)
    except (KeyboardInterrupt, click.Abort):
        return 130
    except BrokenPipeError:  # `arke list | head`: what was read is what was wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _fail(f"{error.filename or 'The system'}: {error.strerror or error}.", 1)
    except Exception as error:  # noqa: BLE001 - people get a sentence, whatever it was
        return _fail(visible(f"This should not happen: {type(error).__name__}: {error}"), 1)
    return code if isinstance(code, int) else 0


def _fail(sentence: str, code: int) -> int:
    click.echo(f"Error: {sentence}", err=True)
    return code


def _usage(error: click.UsageError) -> str:
    """Click's sentence, and where to read on."""
    sentence = error.format_message().rstrip(".")
    where = error.ctx.command_path if error.ctx else "arke"
    if isinstance(error, click.NoSuchOption) and error.option_name in {"--server", "--api-key", "--admin-key"}:
        return f"{error.option_name} is given before the command, as in `arke {error.option_name} … list`."
    return f"{sentence}. See `{where} --help`."


def _explained(error: Refused) -> str:
    """The service's sentence, with what to do on the command line where that is known."""
    if error.status == 401:
        return f"{error} Give it with --api-key or --admin-key (ARKE_API_KEY, ARKE_ADMIN_KEY)."
    if error.code == "not_found":
        return f"{error} `arke list` and `arke tasks BATCH` show what there is."
    if error.code is None:
        return f"{error} Is it this service that --server (ARKE_URL) names?"
    return str(error)


def _address(server: str) -> str:
    """The address of the service. Raises UsageError where it cannot be one."""
    try:
        parts = urlsplit(server)
        is_one = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none
        is_one = False
    if not is_one:
        raise click.UsageError("--server (ARKE_URL) must be an address such as http://127.0.0.1:8787.")
    return server


def _key(given: str | None) -> str | None:
    """A key as it is sent in a header; None where it is empty."""
    if given and not (given.isascii() and given.isprintable()):
        raise click.UsageError("A key has ASCII characters only: is it the right one?")
    return given or None


if __name__ == "__main__":
    main()
