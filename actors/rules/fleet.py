"""Who may have a machine next, and which machines are nobody's. Pure: the fleet hands in what it knows and the time.

Times are milliseconds since 1970 UTC. Kinds are kinds of work ("tiff").
"""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from heapq import heapify, heapreplace
from typing import Final, Literal, NamedTuple

import msgspec

from actors.rules.model import Machine, Task
from actors.rules.states import MACHINE_MOVES, MachineState

BACKOFF_FIRST_MS: Final = 1_000
BACKOFF_MOST_MS: Final = 30_000


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """What one job wants: up to `want` more of its tasks taken, beside the `active` ones."""

    job: str
    kind: str
    want: int
    large: int = 0  # of those wanted: they need a machine that is made for them
    active: int = 0
    weight: int = 1  # its share beside others', and how many turns it has in a row
    taking: int = 0  # asked of the job and not answered yet
    not_before: int = 0  # its host did not answer: asked again then
    version: int = 0  # counts announcements, so that an older answer does not overrule a newer wish

    @property
    def unmet(self) -> int:
        """Tasks that nobody is fetching yet."""
        return max(0, self.want - self.taking)

    @property
    def unmet_by_any(self) -> int:
        """Those of them that any machine may take."""
        return max(0, self.want - self.large - self.taking)


class Place(NamedTuple):
    """One machine to be made: for which job, of which kind."""

    job: str
    kind: str


class Found(NamedTuple):
    """A machine as a provider knows it."""

    provider_id: str
    name: str


def in_turn(
    demands: Mapping[str, Demand], *, kinds: Collection[str], after: str | None, now: int, by_any: bool = False,
    again: bool = False,
) -> list[str]:  # fmt: skip
    """The jobs with unmet demand in the order in which they are asked: round-robin, beginning behind `after`, or with
    it where it has a turn `again`. `by_any`: demand that any machine meets, not only one that is made for it.
    """
    open_jobs = sorted(
        d.job
        for d in demands.values()
        if (d.unmet_by_any if by_any else d.unmet) and d.kind in kinds and d.not_before <= now
    )
    split = (bisect_left if again else bisect_right)(open_jobs, after) if after is not None else 0
    return open_jobs[split:] + open_jobs[:split]


def to_spawn(
    demands: Mapping[str, Demand],
    *,
    alive: int,
    most: int,
    waiting: Mapping[str, int],
    kinds: Collection[str],
    after: str | None,
    now: int,
    by_any: bool = False,
    alive_of: Mapping[str, int] = {},
    most_of: Mapping[str, int] = {},
) -> list[Place]:
    """The machines to make now, in each round as many for a job as its weight; with `by_any` those to start, which take
    what any machine may.

    `alive` of `most` machines exist; `alive_of` and `most_of` say the same by kind. `waiting` counts by kind what
    machines that ask for work could take at once: those are cheaper than a new one and go first. Of other kinds than
    `kinds` there are none to be had now.
    """
    free = most - alive
    if free <= 0:
        return []
    left = {d.job: d.unmet_by_any if by_any else d.unmet for d in demands.values()}
    spare = dict(waiting)
    for job in in_turn(demands, kinds={d.kind for d in demands.values()}, after=after, now=now):
        kind = demands[job].kind
        served = min(left[job], demands[job].unmet_by_any, spare.get(kind, 0))
        left[job] -= served
        spare[kind] = spare.get(kind, 0) - served
    free_of = {kind: max(0, bound - alive_of.get(kind, 0)) for kind, bound in most_of.items()}
    places: list[Place] = []
    order = in_turn(demands, kinds=kinds, after=after, now=now)
    while free > len(places):
        begun = len(places)
        for job in order:
            kind = demands[job].kind
            count = min(demands[job].weight, left[job], free - len(places), free_of.get(kind, free))
            left[job] -= count
            if kind in free_of:
                free_of[kind] -= count
            places += [Place(job, kind)] * count
        if len(places) == begun:
            break
    return places


ClaimKey = tuple[str, str]
"""A claim by its machine and its own id."""


class Waiting(NamedTuple):
    """A claim that waits: how many tasks the machine could take by it."""

    machine: str
    kinds: tuple[str, ...]
    free: int


def deal(claims: Mapping[ClaimKey, Waiting], tasks: int) -> dict[ClaimKey, int]:
    """How many of `tasks` tasks each claim may take now; one that has no share is not in the answer.

    They are dealt one by one, each to the machine that has most places left, which has the fewest tasks in hand; of
    several to the one that has waited longest. So a small batch is not given to one machine while another idles.
    """
    if sum(claim.free for claim in claims.values()) <= tasks:
        return {key: claim.free for key, claim in claims.items()}
    of_machine: dict[str, deque[tuple[ClaimKey, int]]] = {}
    for key, claim in claims.items():
        of_machine.setdefault(claim.machine, deque()).append((key, claim.free))
    heap = [(-sum(free for _, free in held), turn, held) for turn, held in enumerate(of_machine.values())]
    heapify(heap)
    shares: dict[ClaimKey, int] = {}
    for _ in range(tasks):
        places, turn, held = heap[0]
        key, free = held.popleft()
        shares[key] = shares.get(key, 0) + 1
        if free > 1:
            held.appendleft((key, free - 1))
        heapreplace(heap, (places + 1, turn, held))
    return shares


def leases(demands: Mapping[str, Demand], slots: int) -> dict[str, int]:
    """How many tasks each job may hold at once, by weight; what one does not need goes to the others; at least 1.

    `slots` is what the fleet can run; if more runs (people's own workers), that is what is shared out.
    """
    need = {d.job: d.want + d.active for d in demands.values()}
    left = max(slots, sum(d.active for d in demands.values()))
    weights = {d.job: d.weight for d in demands.values()}
    unshared = sum(weights.values())
    shares: dict[str, int] = {}
    for job in sorted(need, key=lambda job: (need[job] / weights[job], job)):
        shares[job] = max(1, min(need[job], left * weights[job] // unshared))
        left, unshared = max(0, left - shares[job]), unshared - weights[job]
    return shares


def backoff_ms(refusals: int, jitter: float) -> int:
    """How long to spawn nothing after the n-th refusal in a row: 1 s doubling to 30 s; `jitter` in 0..1 takes up to
    half of it away, so that fleets do not knock in step."""
    full = min(BACKOFF_MOST_MS, BACKOFF_FIRST_MS * 2 ** min(max(refusals, 1) - 1, 10))
    return int(full * (1 - jitter / 2))


def may_move(machine: Machine, to: MachineState) -> bool:
    """Whether the table of states permits it."""
    return to in MACHINE_MOVES[machine.state]


def after_restart(machine: Machine) -> Literal["give_back", "inspect", "destroy", "keep"]:
    """What to do about a row that an earlier activation of the fleet has left (invariant 3: never blindly repeated).

    PLANNED: a task may have been taken, but nothing was spawned. SPAWNING: the provider may have been asked. What is
    the pool's is left to it.
    """
    if machine.state is MachineState.PLANNED:
        return "give_back"
    if machine.state is MachineState.SPAWNING:
        return "inspect"
    if machine.state is MachineState.DESTROYING:
        return "destroy"
    return "keep"


def orphans(
    machines: Iterable[Machine], listed: Collection[Found], first_seen: Mapping[str, int], *, now: int
) -> dict[str, int]:
    """The provider's machines without a row, and since when each was seen so."""
    rows = list(machines)
    ids = {m.provider_id for m in rows}
    names = {m.name for m in rows}
    nobodys = [f.provider_id for f in listed if f.provider_id not in ids and f.name not in names]
    return {provider_id: first_seen.get(provider_id, now) for provider_id in nobodys}


def overstaying(
    jobs_of: Mapping[str, Collection[str]],
    busy: Collection[str],
    first_seen: Mapping[str, int],
    *,
    now: int,
    patience_ms: int,
) -> tuple[dict[str, int], list[str]]:
    """The machines that have no work and ask for none: (since when each was seen so, those that are to be ended now).

    `jobs_of` are the jobs that each machine may work for: one that has none stands by, and stays. `busy` have a task
    of a job that is not over.
    """
    vain = [machine for machine, jobs in jobs_of.items() if jobs and machine not in busy]
    seen = {machine: first_seen.get(machine, now) for machine in vain}
    return seen, [machine for machine in vain if now - seen[machine] >= patience_ms]


def has_moved_on(held: Iterable[Task], task_id: str, attempt: int, *, concurrency: int) -> bool:
    """Whether a machine that runs `concurrency` tasks at once cannot be at this attempt any more.

    `held` are the assignments that are open on it. A worker takes up work only for a place that is free, so where
    others fill them all, it is through with this one.
    """
    others = [task for task in held if (task.task_id, task.attempt) != (task_id, attempt)]
    return len(others) >= concurrency
