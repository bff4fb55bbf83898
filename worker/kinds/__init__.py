"""Kinds of task, one module each, found by name: `worker.kinds.{KIND}` has `run(context) -> Outcome`."""

import importlib
import re
from collections.abc import Callable

from worker.errors import BadInput
from worker.kinds.base import Context, Outcome


def find(kind: str) -> Callable[[Context], Outcome]:
    """The `run` of a kind. Raises BadInput when this worker does not know it."""
    if not re.fullmatch(r"[a-z][a-z_]{0,30}", kind) or kind == "base":
        raise BadInput(f"{kind[:40]!r} is no kind of task")
    try:
        module = importlib.import_module(f"worker.kinds.{kind}")
    except ModuleNotFoundError as error:
        if error.name != f"worker.kinds.{kind}":
            raise
        raise BadInput(f"this worker does not know tasks of the kind {kind!r}") from error
    run: Callable[[Context], Outcome] = module.run
    return run
