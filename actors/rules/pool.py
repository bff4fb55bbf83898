"""The pool: machines that are made ahead of their work, and wait stopped. Pure.

An *edition* names all that such a machine is made of, image and configuration; one of an older edition is replaced.
"""

from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from actors.rules.model import Machine
from actors.rules.states import MachineState


class Wanted(NamedTuple):
    """The pool of one kind: how many machines, and of which edition."""

    size: int
    edition: str


def ready(rows: Iterable[Machine], wanted: Mapping[str, Wanted], without: Collection[str]) -> dict[str, deque[Machine]]:
    """Those that can be started, by kind; first the one that has been stopped for longest: where a processor's
    allowance grows while it rests, it has most."""
    found: dict[str, deque[Machine]] = {}
    for row in sorted(rows, key=lambda row: (row.seen_at or 0, row.id)):
        if row.state is MachineState.READY and row.id not in without and is_current(row, wanted):
            found.setdefault(row.kind, deque()).append(row)
    return found


def missing(rows: Iterable[Machine], wanted: Mapping[str, Wanted], ending: Collection[str]) -> Counter[str]:
    """How many each pool lacks, by kind. One that works comes back, so it is not missing."""
    known = _in_edition(rows, wanted, ending)
    lack = {kind: pool.size - known[kind] for kind, pool in wanted.items()}
    return Counter({kind: count for kind, count in lack.items() if count > 0})


def superfluous(rows: Iterable[Machine], wanted: Mapping[str, Wanted], ending: Collection[str]) -> list[Machine]:
    """Those that wait in vain: of an older edition, or more than the pool shall have."""
    rows = list(rows)
    known = _in_edition(rows, wanted, ending)
    over = []
    for row in rows:
        if row.state is not MachineState.READY or row.id in ending:
            continue
        if not is_current(row, wanted):
            over.append(row)
        elif known[row.kind] > wanted[row.kind].size:
            known[row.kind] -= 1
            over.append(row)
    return over


def is_current(row: Machine, wanted: Mapping[str, Wanted]) -> bool:
    """Whether it is of the pool as it shall be."""
    pool = wanted.get(row.kind)
    return pool is not None and pool.size > 0 and row.pool == pool.edition


def _in_edition(rows: Iterable[Machine], wanted: Mapping[str, Wanted], ending: Collection[str]) -> Counter[str]:
    return Counter(row.kind for row in rows if row.id not in ending and is_current(row, wanted))
