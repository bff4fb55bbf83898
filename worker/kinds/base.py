"""What a kind of task is given and gives back."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worker.errors import Cancelled
from worker.limits import MemoryGate
from worker.objects.base import ObjectStore


@dataclass(frozen=True, kw_only=True)
class Context:
    """One task: its environment, where objects are, an empty folder of its own, and whether it is still wanted."""

    env: Mapping[str, str]
    objects: ObjectStore
    folder: Path
    memory: MemoryGate
    cancelled: threading.Event = field(default_factory=threading.Event)

    def check_wanted(self) -> None:
        """Raises Cancelled when the task was given back or is no longer wanted."""
        if self.cancelled.is_set():
            raise Cancelled("the task is no longer wanted")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a successful task made. Size in bytes; times inside `performance` in milliseconds."""

    output_r2_key: str
    output_file_name: str
    output_file_size: int
    performance: dict[str, Any]
    pages: int | None = None
    notes: tuple[str, ...] = ()
