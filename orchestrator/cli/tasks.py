"""Commands on the tasks of a batch."""

import shlex

import click

from orchestrator.cli.remote import Remote, as_json, batch_argument, show_json, show_page


@click.command()
@batch_argument
@click.option(
    "--status", type=click.Choice(["pending", "processing", "completed", "failed"]), help="Only tasks with this status."
)
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="Most tasks to show.")
@click.option("--cursor", help="Go on where the last page ended.")
@as_json
@click.pass_obj
def tasks(remote: Remote, batch: str, status: str | None, limit: int, cursor: str | None, as_json: bool) -> None:
    """List the tasks of BATCH, with their errors.

    \b
      arke tasks my-batch --status failed
    """
    with remote.client() as arke:
        page = arke.tasks(batch, status=status, limit=limit, cursor=cursor)
    if as_json:
        show_json(page)
        return
    fields = ("task_id", "status", "attempt", "input_r2_key", "error")
    rows = [[item.get(field) for field in fields] for item in page["items"]]
    show_page(page, ("task", "status", "attempt", "input", "error"), rows, "No task is found.")


@click.group()
def task() -> None:
    """Look at one task."""


@task.command()
@batch_argument
@click.argument("task_id", metavar="TASK")
@as_json
@click.pass_obj
def env(remote: Remote, batch: str, task_id: str, as_json: bool) -> None:
    """Print the signed environment of TASK, for running a worker by hand.

    \b
      set -a; eval "$(arke task env my-batch my-batch_tiff_0)"; set +a
      python -m worker

    The signature in CALLBACK_URL lets whoever has it report on this task. A service with WORKER_PRESIGNED gives no
    access to the objects here: set R2_* yourself.
    """
    with remote.client() as arke:
        environment = arke.task_environment(batch, task_id)
    if as_json:
        show_json(environment)
        return
    for name, value in sorted(environment.items()):
        click.echo(f"{name}={shlex.quote(value)}")
