"""The walk: entities in depth-first order, fetched ahead of the one whose turn it is, and never many at once.

The order is that of the manifests' lists, whatever comes first over the network. What is known of it is a linked list
of slots, one for each entity that is or will be fetched; a list of children that has not begun stays a list of ids, so
that memory does not grow with the tree. An entity is exported once: whether it is a second arrival is decided when its
turn comes, since only then all before it is known.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from worker.errors import WorkerError
from worker.kinds.mods.entity import Entity
from worker.kinds.mods.record import Position

HELD_BYTES: Final = 32 * 1024 * 1024
"""Nothing is fetched ahead while so much waits for its turn: a page of OCR may be large."""
AHEAD: Final = 3
"""So many entities for each that is fetched at once may wait for their turn."""


@dataclass(frozen=True, slots=True)
class Found:
    """An entity whose turn it is, or why there is none."""

    pi: str
    position: Position
    entity: Entity | None
    fault: WorkerError | None


@dataclass(eq=False, slots=True)
class _Slot:
    """A place in the order: one entity, or (`pi` None) a list of siblings that has not begun."""

    pi: str | None
    path: tuple[str, ...]
    siblings: Iterator[str] | None = None
    task: "asyncio.Task[Entity] | None" = None
    is_expanded: bool = False
    next: "_Slot | None" = field(default=None, repr=False)

    @property
    def depth(self) -> int:
        return len(self.path) - (self.pi is not None)


Fetch = Callable[[str], Awaitable[Entity]]


class Walk:
    """One walk from `root` down. `fetch` raises WorkerError; `at_once` entities are fetched at the same time."""

    def __init__(self, root: str, fetch: Fetch, *, at_once: int, max_depth: int) -> None:
        self._fetch, self._at_once, self._max_depth = fetch, at_once, max_depth
        self._head: _Slot | None = _Slot(root, (root,))
        self._done: set[str] = set()
        self._running = 0
        self._waiting = 0  # fetched or being fetched, and not handed out
        self._held = 0  # bytes of those that are fetched
        self._is_closed = False
        self.repeated = 0
        """Entities left out since what they were merged into, or say that they are, was here already."""

    async def each(self) -> AsyncGenerator[Found, None]:
        """All entities, in order."""
        try:
            while (slot := self._next()) is not None:
                found = await self._turn(slot)
                if found is not None:
                    yield found
        finally:
            await self._close()

    def _next(self) -> _Slot | None:
        """The slot whose turn it is, with its fetch begun; what may be fetched ahead is begun as well."""
        while self._head is not None and self._head.pi is None:
            if not self._begin_sibling(None, self._head):
                self._head = self._head.next
        if self._head is not None:
            self._start(self._head)
            self._fill()
        return self._head

    async def _turn(self, slot: _Slot) -> Found | None:
        assert slot.pi is not None
        assert slot.task is not None
        entity, fault = None, None
        try:
            entity = await slot.task
        except WorkerError as error:
            fault = error
        self._waiting -= 1
        self._held -= 0 if entity is None else entity.size
        self._expand(slot, entity)
        pi = entity.manifest.pi if entity is not None else slot.pi  # another one where it was merged
        self._head = slot.next
        if pi in self._done or slot.pi in self._done:
            self.repeated += slot.pi not in self._done
            self._done.add(slot.pi)
            self._skip_below(slot.depth)
            return None
        self._done |= {pi, slot.pi}
        path = (*slot.path[:-1], pi)
        return Found(pi, Position(depth=slot.depth, path=path), entity, fault)

    def _expand(self, slot: _Slot, entity: Entity | None) -> None:
        """Put the children behind their parent, once."""
        if slot.is_expanded:
            return
        slot.is_expanded = True
        if entity is None or slot.depth >= self._max_depth or not entity.manifest.children:
            return
        path = (*slot.path[:-1], entity.manifest.pi)
        slot.next = _Slot(None, path, siblings=iter(entity.manifest.children), next=slot.next)

    def _begin_sibling(self, before: _Slot | None, run: _Slot) -> _Slot | None:
        """The next entity of a list as a slot of its own, in front of the rest; None: the list is at its end."""
        assert run.siblings is not None
        for pi in run.siblings:
            if pi in run.path or pi in self._done:
                continue  # a cycle, or here already: the record of its parent points to it
            slot = _Slot(pi, (*run.path, pi), next=run)
            if before is None:
                self._head = slot
            else:
                before.next = slot
            return slot
        return None

    def _skip_below(self, depth: int) -> None:
        """Drop what was fetched ahead below an entity that was here already."""
        while self._head is not None and self._head.depth > depth:
            if self._head.task is not None:
                self._held -= self._drop(self._head.task)
                self._waiting -= 1
            self._head = self._head.next

    def _fill(self) -> None:
        """Begin fetches in the order, as far as it is known, within both bounds."""
        before, slot = None, self._head
        while slot is not None and self._may_fetch:
            if slot.pi is None:
                begun = self._begin_sibling(before, slot)
                if begun is None:
                    slot = self._without(before, slot)
                    continue
                slot = begun
            self._start(slot)
            before, slot = slot, slot.next

    @property
    def _may_fetch(self) -> bool:
        is_roomy = self._waiting < self._at_once * AHEAD and self._held < HELD_BYTES
        return is_roomy and self._running < self._at_once

    def _without(self, before: _Slot | None, run: _Slot) -> _Slot | None:
        if before is None:
            self._head = run.next
        else:
            before.next = run.next
        return run.next

    def _start(self, slot: _Slot) -> None:
        if slot.task is None and slot.pi is not None:
            self._running += 1
            self._waiting += 1
            slot.task = asyncio.get_running_loop().create_task(_awaited(self._fetch, slot.pi))
            slot.task.add_done_callback(lambda task: self._fetched(slot, task))

    def _fetched(self, slot: _Slot, task: "asyncio.Task[Entity]") -> None:
        self._running -= 1
        if self._is_closed or task.cancelled():
            return
        entity = None if task.exception() is not None else task.result()
        self._held += 0 if entity is None else entity.size
        self._expand(slot, entity)
        self._fill()

    def _drop(self, task: "asyncio.Task[Entity]") -> int:
        """Nobody will ask for it. How many bytes it held."""
        if not task.done():
            task.cancel()
            return 0
        return 0 if task.cancelled() or task.exception() is not None else task.result().size

    async def _close(self) -> None:
        """Nothing goes on in the background."""
        self._is_closed = True
        slot, cancelled = self._head, []
        while slot is not None:
            if slot.task is not None:
                self._drop(slot.task)
                cancelled.append(slot.task)
            slot = slot.next
        await asyncio.gather(*cancelled, return_exceptions=True)


async def _awaited(fetch: Fetch, pi: str) -> Entity:
    return await fetch(pi)
