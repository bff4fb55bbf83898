"""The shortest history that still fails: fewer tasks, then fewer of the events that happened.

It "still fails" when it breaks the same invariant, by its number (`kind_of`): another sentence about the same one may
be the same fault seen a moment earlier or later, another number is another story.

A history is told by what may happen in it (`Chance(only=…)`), not by what is left out: a shorter run draws less and a
longer one more, and what was never drawn before shall not come in. The result is the shortest that was found, not
the shortest there is.
"""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from tests.simulation.chance import Happened

MOST_RUNS: Final = 400
MOST_S: Final = 60.0

Fails = Callable[[Collection[Happened], int], bool]
"""Whether a run fails in which only these events may happen, and no batch has more tasks than this."""


class Shortest(NamedTuple):
    """What is left. `runs`: how many it took."""

    only: tuple[Happened, ...]
    at_most: int
    runs: int


class _Spent(Exception):
    """No further run may be made."""


def kind_of(sentence: str) -> str:
    """The number of the invariant that a sentence is about, or what stands in its place."""
    return sentence.partition(":")[0]


def shortest(
    events: Sequence[Happened], tasks: int, fails: Fails, *, runs: int = MOST_RUNS, seconds: float = MOST_S,
    clock: Callable[[], float] = time.monotonic,
) -> Shortest:  # fmt: skip
    """From a history that fails, with these events and batches of at most so many tasks. Every result of it fails.

    Ends after so many runs or seconds, or with Ctrl-C, with the best one until then.
    """
    search = _Search(tuple(events), tasks, fails, runs, clock, clock() + seconds)
    with suppress(_Spent, KeyboardInterrupt):
        search.fewer_tasks()
        search.fewer_events()
        search.fewer_tasks()  # what stood in the way of a smaller batch may be gone
    return Shortest(search.only, search.at_most, search.runs)


class _Search:
    """The best so far, and what may still be spent."""

    def __init__(
        self, only: tuple[Happened, ...], at_most: int, fails: Fails, most_runs: int, clock: Callable[[], float],
        until: float,
    ) -> None:  # fmt: skip
        self.only, self.at_most, self.runs = only, at_most, 0
        self._fails, self._most_runs, self._clock, self._until = fails, most_runs, clock, until
        self._known: set[tuple[tuple[Happened, ...], int]] = {(only, at_most)}

    def fewer_tasks(self) -> None:
        """The smallest of a few sizes with which it fails."""
        for size in _sizes(self.at_most):
            if self._take(self.only, size):
                return

    def fewer_events(self) -> None:
        """Without all, without halves, quarters, … single ones; these again until each of them is needed."""
        size = len(self.only)
        while size:
            has_changed = self._without_parts(size)
            if size > 1:
                size = (size + 1) // 2
            elif not has_changed:
                return

    def _without_parts(self, size: int) -> bool:
        has_changed, start = False, 0
        while start < len(self.only):
            if self._take(self.only[:start] + self.only[start + size :], self.at_most):
                has_changed = True
            else:
                start += size
        return has_changed

    def _take(self, only: tuple[Happened, ...], at_most: int) -> bool:
        """Make it the best, if it fails. What was tried before is not tried again."""
        if (only, at_most) in self._known:
            return False
        if self.runs >= self._most_runs or self._clock() > self._until:
            raise _Spent
        self._known.add((only, at_most))
        self.runs += 1
        if not self._fails(only, at_most):
            return False
        self.only, self.at_most = only, at_most
        return True


def _sizes(below: int) -> Iterator[int]:
    """1, 2, 3, 5, 8, …"""
    size, following = 1, 2
    while size < below:
        yield size
        size, following = following, size + following
