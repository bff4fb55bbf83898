"""Metadata of an entity tree of the Arke archive as MODS, Dublin Core or MARCXML: `run` does one task of this kind."""

from worker.kinds.base import Context, Outcome


def run(context: Context) -> Outcome:
    """Exports PI into a file and uploads it. Raises WorkerError with the sentence to report."""
    from worker.kinds.mods.task import run as run_task  # with it XML and HTTP, which other kinds need not load

    return run_task(context)
