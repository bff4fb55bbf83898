"""Commands on whole batches: status, list, cancel, retry, reset, redeliver."""

import click

from orchestrator.cli.remote import Remote, as_json, batch_argument, counts, show_json, show_page, show_status


@click.command()
@batch_argument
@as_json
@click.pass_obj
def status(remote: Remote, batch: str, as_json: bool) -> None:
    """Show where BATCH stands."""
    with remote.client() as arke:
        answer = arke.status(batch)
    if as_json:
        show_json(answer)
    else:
        show_status(answer)


@click.command("list")
@click.option(
    "--state",
    type=click.Choice(["receiving", "queued", "running", "done", "failed", "cancelled"]),
    help="Only batches in this state.",
)
@click.option("--status", help="Only batches with this status: a phase's name, DONE or ERROR.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="Most batches to show.")
@click.option("--cursor", help="Go on where the last page ended.")
@as_json
@click.pass_obj
def list_batches(
    remote: Remote, state: str | None, status: str | None, limit: int, cursor: str | None, as_json: bool
) -> None:
    """List batches, newest first.

    \b
      arke list --state failed
      arke list --json | jq -r '.items[].batch_id'
    """
    with remote.client() as arke:
        page = arke.batches(status=status, state=state, limit=limit, cursor=cursor)
    if as_json:
        show_json(page)
        return
    columns = ("batch", "status", "state", "completed", "failed", "total", "updated")
    rows = []
    for item in page["items"]:
        total, completed, failed = counts(item)
        names = (item.get("batch_id"), item.get("status"), item.get("state"))
        rows.append((*names, completed, failed, total, item.get("updated_at")))
    show_page(page, columns, rows, "No batch is found. `arke submit --help` shows how to create one.")


@click.command()
@batch_argument
@click.option("--reason", help="Why; it is shown as the batch's error.")
@click.pass_obj
def cancel(remote: Remote, batch: str, reason: str | None) -> None:
    """End BATCH before its time.

    Its machines are stopped, and tasks that have not begun never begin.
    """
    with remote.client() as arke:
        arke.cancel(batch, reason)
    click.echo(f"{batch} is cancelled.")


@click.command()
@batch_argument
@click.pass_obj
def retry(remote: Remote, batch: str) -> None:
    """Run the failed tasks of BATCH again.

    BATCH must have ended; the new run has counters and a final callback of its own.
    """
    with remote.client() as arke:
        answer = arke.retry(batch)
    click.echo(f"{batch} runs again{_run(answer.get('run'))}.")


@click.command()
@batch_argument
@click.pass_obj
def reset(remote: Remote, batch: str) -> None:
    """Set BATCH to ERROR, as an administrator.

    Its machines are stopped. Needs --admin-key where the service has one.
    """
    with remote.client() as arke:
        arke.reset(batch)
    click.echo(f"{batch} is reset.")


@click.command()
@batch_argument
@click.pass_obj
def redeliver(remote: Remote, batch: str) -> None:
    """Send the final callback again.

    It carries the same idempotency key as before.
    """
    with remote.client() as arke:
        arke.redeliver(batch)
    click.echo(f"The final callback of {batch} is sent again.")


def _run(number: object) -> str:
    return f" (run {number})" if isinstance(number, int) else ""
