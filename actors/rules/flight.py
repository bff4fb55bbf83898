"""The tasks in flight, as a value whose changed copy costs what changed and not what flies."""

import math
from collections.abc import Iterator, Mapping, MutableMapping

from actors.rules.model import Task


class Flight(MutableMapping[str, Task]):
    """Tasks by task_id. A copy shares what it is made from and keeps its own changes beside it.

    A turn of the loop decides on a copy, and the former one stays valid until the commit; with a plain dictionary
    each turn would cost time for every task in flight (a third of an actor's time with 20,000). Changes are
    merged when they are about as costly to copy as everything is, spread over the turns between.
    """

    __slots__ = ("_changes", "_shared", "_size")

    def __init__(self, tasks: "Mapping[str, Task] | None" = None) -> None:
        self._shared: Mapping[str, Task] = {}
        self._changes: dict[str, Task | None] = {}  # None: no longer in flight
        if isinstance(tasks, Flight) and len(tasks._changes) <= 64 + math.isqrt(32 * len(tasks._shared)):
            self._shared, self._changes = tasks._shared, tasks._changes.copy()
        elif tasks is not None:
            self._shared = dict(tasks.items())
        self._size = len(tasks) if tasks is not None else 0

    def get(self, key: str, default: "Task | None" = None) -> "Task | None":  # type: ignore[override]
        """The task, if it is in flight."""
        if key in self._changes:
            found = self._changes[key]
            return default if found is None else found
        return self._shared.get(key, default)

    def __contains__(self, key: object) -> bool:
        if key in self._changes:
            return self._changes[key] is not None
        return key in self._shared

    def __getitem__(self, key: str) -> Task:
        found = self.get(key)
        if found is None:
            raise KeyError(key)
        return found

    def __setitem__(self, key: str, task: Task) -> None:
        self._size += key not in self
        self._changes[key] = task

    def __delitem__(self, key: str) -> None:
        if key not in self:
            raise KeyError(key)
        self._size -= 1
        self._changes[key] = None

    def __iter__(self) -> Iterator[str]:
        yield from (key for key in self._shared if key in self)
        yield from (key for key, task in self._changes.items() if task is not None and key not in self._shared)

    def __len__(self) -> int:
        return self._size

    def __or__(self, other: Mapping[str, object]) -> dict[str, object]:
        return {**self, **other}

    def __repr__(self) -> str:
        return f"Flight({dict(self.items())!r})"
