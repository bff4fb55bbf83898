"""An export: the walk, the crosswalk, the writer and the checks put together, streamed into one file."""

import contextlib
import logging
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from worker.errors import BadInput, Unavailable
from worker.kinds.mods import reading, structure
from worker.kinds.mods.crosswalk import Sites, record_of
from worker.kinds.mods.entity import Entity
from worker.kinds.mods.ledger import Ledger
from worker.kinds.mods.options import Format, Options
from worker.kinds.mods.reading import Archive, NotRead
from worker.kinds.mods.record import Position
from worker.kinds.mods.schemas import Schemas
from worker.kinds.mods.text import clean
from worker.kinds.mods.tree import Found, Walk
from worker.kinds.mods.writers import DECLARATION, WRITERS
from worker.kinds.mods.xml import parsed

log = logging.getLogger("worker.kinds.mods")

MOST_FAILURES: Final = 100
"""So many are named in the metrics; all are counted."""
TELL_EVERY_S: Final = 0.25

Tell = Callable[["Progress"], None]


class Progress(msgspec.Struct, frozen=True):
    """How far an export is."""

    entities_exported: int = 0
    entities_failed: int = 0
    entities_incomplete: int = 0


class Metrics(msgspec.Struct, frozen=True, kw_only=True):
    """What an export has done. Times in milliseconds, memory in MB. `entities_exported` counts the records written,
    incomplete ones included. `changes` and `warnings`: how often, by reason; `failures`: the first of them."""

    total_time_ms: int
    entities_exported: int
    entities_failed: int
    entities_incomplete: int
    peak_memory_mb: int
    validated: bool
    changes: dict[str, int]
    warnings: dict[str, int]
    failures: list[dict[str, str]]


async def export(
    pi: str, *, format: Format, options: Options, archive: Archive, sites: Sites, schemas: Schemas | None,
    target: BinaryIO, tell: Tell | None = None,
) -> Metrics:  # fmt: skip
    """Write the records of an entity, and with `options.recursive` of all below it, to `target`.

    Raises:
        BadInput: the root is not there, or no record can be made of it.
        Unavailable: the root could not be had; another try may.
    """
    running = _Export(format, options, archive, sites, schemas, tell or (lambda progress: None))
    return await running.run(pi, target)


class _Export:
    def __init__(
        self, format: Format, options: Options, archive: Archive, sites: Sites, schemas: Schemas | None, tell: Tell
    ) -> None:
        self._format, self._writer, self._options = format, WRITERS[format], options
        self._archive, self._sites, self._schemas, self._tell = archive, sites, schemas, tell
        self._ledger = Ledger()
        self._failures: list[dict[str, str]] = []
        self._titles: list[str] = []  # of the entities above the one at hand, from the root down
        self._exported = self._failed = self._incomplete = 0
        self._told_s = 0.0

    async def run(self, root: str, target: BinaryIO) -> Metrics:
        begun_s = time.monotonic()
        walk = Walk(
            root, self._fetch, at_once=self._options.parallel_batch_size,
            max_depth=self._options.max_depth if self._options.recursive else 0,
        )  # fmt: skip
        target.write((DECLARATION + self._writer.begin).encode())
        async with contextlib.aclosing(walk.each()) as found_ones:
            async for found in found_ones:
                self._take(target, found)
                self._say()
        target.write(self._writer.end.encode())
        if walk.repeated:
            self._ledger.changed("entities left out that are another one, which is here", walk.repeated)
        self._tell(self._progress())
        return Metrics(
            total_time_ms=round((time.monotonic() - begun_s) * 1000),
            entities_exported=self._exported,
            entities_failed=self._failed,
            entities_incomplete=self._incomplete,
            peak_memory_mb=peak_memory_mb(),
            validated=self._schemas is not None,
            changes=dict(sorted(self._ledger.changes.items())),
            warnings=dict(sorted(self._ledger.warnings.items())),
            failures=self._failures,
        )

    async def _fetch(self, pi: str) -> Entity:
        return await reading.entity(pi, self._archive, self._options, self._ledger)

    def _take(self, target: BinaryIO, found: Found) -> None:
        self._titles[found.position.depth :] = [""]
        if found.entity is None:
            fault = found.fault or Unavailable("no answer")
            if found.position.depth == 0:
                is_final = isinstance(fault, NotRead) and fault.is_final
                raise (BadInput if is_final else Unavailable)(str(fault))
            self._fail(found.pi, str(fault))
            return
        reason = self._write(target, found.entity, found.position)
        if reason is not None and found.position.depth == 0:
            raise BadInput(f"No record can be made of the entity: {reason}")
        if reason is not None:
            self._fail(found.pi, reason)

    def _write(self, target: BinaryIO, entity: Entity, position: Position) -> str | None:
        """Write the record; None, or why it was not."""
        is_below = position.depth > 0 and entity.manifest.parent == position.parent
        parent = self._titles[position.depth - 1] if is_below else ""
        try:
            record = record_of(
                entity, position=position if self._options.recursive else None, parent_title=parent or None,
                options=self._options, sites=self._sites, ledger=self._ledger,
            )  # fmt: skip
            self._titles[position.depth] = "" if record.is_incomplete else record.title
            markup = self._writer.markup(record)
            element = parsed(markup)
        except Exception as error:
            log.exception("[Mods] no record can be made of %s", entity.manifest.pi)
            return f"{type(error).__name__} (see the worker's log)"
        faults = structure.faults(self._format, element)
        if not faults and self._schemas is not None:
            faults = self._schemas.faults(self._format, element)
        if faults:
            return f"the record is not valid: {faults[0]}"
        target.write(markup.encode())
        self._exported += 1
        self._incomplete += record.is_incomplete
        return None

    def _fail(self, pi: str, reason: str) -> None:
        self._failed += 1
        if len(self._failures) < MOST_FAILURES:
            shown = clean(pi[:64], Ledger()) or "?"  # what was listed as a child may be anything
            self._failures.append({"pi": shown, "reason": reason[:300]})

    def _progress(self) -> Progress:
        return Progress(self._exported, self._failed, self._incomplete)

    def _say(self) -> None:
        now_s = time.monotonic()
        if now_s - self._told_s >= TELL_EVERY_S:
            self._told_s = now_s
            self._tell(self._progress())


def peak_memory_mb() -> int:
    """Of this process since its start."""
    with contextlib.suppress(OSError, ValueError, IndexError):  # Linux; what follows also counts who has started it
        words = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()
        return round(int(words[0]) / 1024)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024 * 1024 if sys.platform == "darwin" else 1024))
