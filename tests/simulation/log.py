"""The log of the engine, heard by the simulation."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.simulation.world import World


@contextmanager
def as_it_was() -> Iterator[None]:
    """Afterwards the log is heard by whoever did before."""
    log = logging.getLogger("arke")
    former = log.level, log.propagate, log.handlers
    try:
        yield
    finally:
        log.setLevel(former[0])
        log.propagate, log.handlers = former[1:]


class Log(logging.Handler):
    """The engine's log becomes a part of the history, and a fault in it is a violation: it is for bugs alone."""

    NOISE = ("[Wire] connection_ended",)  # the history says who died, and what broke
    OF_THE_DISK = ("group_not_written", "not_rolled_back")

    def __init__(self, world: "World") -> None:
        super().__init__(logging.DEBUG if world.is_traced else logging.ERROR)
        self._world = world

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hear what is logged, instead of whoever else does."""
        log = logging.getLogger("arke")
        log.setLevel(self.level)
        log.propagate, log.handlers = False, [self]
        try:
            yield
        finally:
            log.handlers = [logging.NullHandler()]  # what is finalised after the end of a run has nothing to say

    def emit(self, record: logging.LogRecord) -> None:
        """Called by logging."""
        if self._world.is_traced and not record.getMessage().startswith(self.NOISE):
            self._world.trace(record.getMessage())
        is_of_the_disk = any(name in record.getMessage() for name in self.OF_THE_DISK)
        if record.levelno >= logging.ERROR and not (is_of_the_disk and self._world.disk_has_failed):
            raised = record.exc_info[1] if record.exc_info else None
            self._world.fail(f"a fault is logged: {record.getMessage()} {raised!r}")
