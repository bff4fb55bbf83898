"""Commands on machines: what runs, the pool, a sweep."""

import time
from datetime import UTC, datetime
from typing import Any, Final

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from orchestrator.cli.remote import Remote, as_json, show_json, show_table, visible

LOOK_S: Final = 1.0


@click.group(invoke_without_command=True)
@as_json
@click.pass_context
def machines(context: click.Context, as_json: bool) -> None:
    """Show what runs, for whom, since when and why.

    \b
      arke machines                     all machines that are not gone
      arke machines pool                the machines that wait stopped
      arke machines pool --wait         until the pool is full
      arke machines sweep --dry-run     machines that are nobody's

    Needs --admin-key where the service has one.
    """
    if context.invoked_subcommand is not None:
        return
    remote: Remote = context.obj
    with remote.client() as arke:
        answer = arke.machines()
    if as_json:
        show_json(answer)
        return
    if not answer["items"]:
        click.echo("No machine runs.", err=True)
        return
    columns = ("machine", "state", "kind", "since", "batch", "task", "name", "why")
    show_table(columns, [_row(item) for item in answer["items"]])


@machines.command()
@click.option("--wait", "waits", is_flag=True, help="Show how it fills, until it is full (Ctrl-C ends the waiting).")
@as_json
@click.pass_obj
def pool(remote: Remote, waits: bool, as_json: bool) -> None:
    """Show the pool, which MACHINE_POOL makes.

    It fills by itself, as fast as the provider permits, and replaces machines of an older image or configuration.
    """
    with remote.client() as arke:
        answer = arke.pool()
        if waits and answer["pools"]:
            answer = _until_full(arke.pool)
    if as_json:
        show_json(answer)
        return
    if not answer["pools"]:
        click.echo("There is no pool: set MACHINE_POOL, with MACHINE_PROVIDER=fly.", err=True)
        return
    columns = ("kind", "size", "ready", "preparing", "working", "outdated")
    show_table(columns, [(kind, *(counts[name] for name in columns[1:])) for kind, counts in answer["pools"].items()])


@machines.command()
@click.option("--dry-run", is_flag=True, help="Only show what is nobody's.")
@as_json
@click.pass_obj
def sweep(remote: Remote, dry_run: bool, as_json: bool) -> None:
    """Destroy machines that are nobody's.

    The service does that by itself every 10 s, with what it has seen for 10 s: what was found just now may be
    under way.
    """
    with remote.client() as arke:
        answer = arke.sweep(dry_run=dry_run)
    if as_json:
        show_json(answer)
        return
    if answer["items"]:
        show_table(
            ("machine", "name", "seen since"),
            [(item["provider_id"], item["name"], item["since"]) for item in answer["items"]],
        )
    click.echo(_swept(answer, dry_run=dry_run), err=True)


def _swept(answer: dict[str, Any], *, dry_run: bool) -> str:
    if not answer["items"]:
        return "No machine is nobody's."
    left = len(answer["items"]) - answer["destroyed"]
    if dry_run:
        return f"{len(answer['items'])} would be destroyed, once seen for 10 s."
    return f"{answer['destroyed']} destroyed" + (f"; {left} are seen for too short a time." if left else ".")


def _until_full(look: Any) -> Any:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as progress:
        bars: dict[str, Any] = {}
        while True:
            answer = look()
            for kind, counts in answer["pools"].items():
                here = counts["ready"] + counts["working"]
                if kind not in bars:
                    bars[kind] = progress.add_task(visible(kind), total=counts["size"])
                progress.update(bars[kind], completed=min(here, counts["size"]), total=counts["size"])
            if all(c["ready"] + c["working"] >= c["size"] and not c["outdated"] for c in answer["pools"].values()):
                return answer
            time.sleep(LOOK_S)


def _row(item: dict[str, Any]) -> tuple[Any, ...]:
    why = item["reason"] or ("of the pool" if item["pool"] else "made for its first task")
    since = _age(item["started_at"] or item["created_at"])
    return (
        item["machine"], item["state"], item["kind"], since, item["batch_id"], item["task_id"], item["name"], why,
    )  # fmt: skip


def _age(since: str | None) -> str | None:
    """How long ago that was, in the largest unit that says something."""
    if since is None:
        return None
    seconds = max(0, int((datetime.now(UTC) - datetime.fromisoformat(since)).total_seconds()))
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
