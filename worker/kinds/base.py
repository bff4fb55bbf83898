"""What a kind of task is given and gives back."""

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from worker.errors import Cancelled
from worker.limits import MemoryGate
from worker.objects.base import ObjectStore
from worker.until import Until


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a conversion made, and took: processor milliseconds, and bytes of memory at the highest."""

    converted: Any
    cpu_ms: int
    peak_bytes: int


class Converts(Protocol):
    """Where decoding and encoding happen: processes of their own (`worker.isolation.Converters`)."""

    def warm(self) -> None:
        """Begins to start one, while something else is done."""

    def measure(self, source: Path, target: Path, options: Any) -> Measured:
        """Converts a file. Raises WorkerError."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """One task: its environment, where objects are, an empty folder of its own, what shares the memory and the cores
    with other tasks, whether it is still wanted, how many seconds its download and its upload may take each, and whom
    a long task tells how far it is: any number of times, the last one counts."""

    env: Mapping[str, str]
    objects: ObjectStore
    folder: Path
    memory: MemoryGate
    converters: Converts
    cancelled: threading.Event = field(default_factory=threading.Event)
    transfer_s: float = math.inf
    tell: Callable[[dict[str, Any]], None] = lambda progress: None

    def until(self) -> Until:
        """How long a transfer that begins now may go on."""
        return Until(self.cancelled, self.transfer_s)

    def check_wanted(self) -> None:
        """Raises Cancelled when the task was given back or is no longer wanted."""
        if self.cancelled.is_set():
            raise Cancelled("the task is no longer wanted")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a successful task made. Size in bytes; times inside `performance` in milliseconds; `cpu_ms` is the processor
    time of other processes that worked for it."""

    output_r2_key: str
    output_file_name: str
    output_file_size: int
    performance: dict[str, Any]
    cpu_ms: int = 0
    pages: int | None = None
    notes: tuple[str, ...] = ()
