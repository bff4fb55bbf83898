"""Machines that ask for work: long polls, and who gets what of the work that there is."""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Collection
from typing import Any, Final, NamedTuple

import msgspec

from actors.errors import InvalidInput, Retired
from actors.fleet.activity import Activity, restarting
from actors.fleet.endings import Endings
from actors.fleet.rows import Rows
from actors.fleet.work import Work
from actors.rules import fleet as rules
from worker.contract import MAX_CLAIM_FREE, MAX_CLAIM_WAIT_MS, Claim, Environment

CLAIMS_REMEMBERED: Final = 10_000
FOLLOWS_MS: Final = 2_000
"""Within which time after its first claim a machine has sent all."""


class Expected(NamedTuple):
    """Places for tasks of a machine that will be asked for."""

    kind: str
    places: int
    until: int | None = None


class Deal(msgspec.Struct, kw_only=True):
    """What each of the claims that waited at a moment may take: dealt once for all, as they may be thousands."""

    of: tuple[Any, ...] = ()  # the moment: what would change the deal
    claims: frozenset[rules.ClaimKey] = frozenset()
    shares: dict[rules.ClaimKey, int] = {}


class Claims:
    """The claims that wait."""

    def __init__(self, work: Work, rows: Rows, endings: Endings, activity: Activity, concurrency: int) -> None:
        self._concurrency = concurrency
        self._work, self._rows, self._endings, self._activity = work, rows, endings, activity
        self.asked_by: set[str] = set()
        """Machines that have asked since somebody has looked (`Watching`): they are not idle for long."""
        self._passed: OrderedDict[rules.ClaimKey, str] = OrderedDict()  # to which job
        self._expected: dict[str, Expected] = {}  # of machines that were started
        self._polls: dict[rules.ClaimKey, asyncio.Task[list[Environment]]] = {}
        self._waiting: dict[rules.ClaimKey, rules.Waiting] = {}  # longest first
        self._dealt = Deal()

    @property
    def asking(self) -> set[str]:
        """The machines that ask at this moment."""
        return {machine for machine, _ in self._polls}

    def places(self) -> Counter[str]:
        """How many tasks the claims that wait could take, by kind, and those of machines that are about to ask."""
        places: Counter[str] = Counter()
        now = self._activity.now()
        for machine, expected in list(self._expected.items()):
            is_there = self._endings.counts_on(machine) or machine in self._rows.under_way
            if is_there and (expected.until is None or now < expected.until):
                places[expected.kind] += expected.places
            else:
                del self._expected[machine]
        for claim in self._waiting.values():
            places.update(dict.fromkeys(claim.kinds, claim.free))
        return places

    def expect(self, machine: str, kind: str) -> None:
        """It is being started, and will ask for work of this kind."""
        self._expected[machine] = Expected(kind, self._concurrency)

    def expect_no_more(self, machine: str) -> None:
        """It asks already, or never will."""
        self._expected.pop(machine, None)

    def _has_asked(self, machine: str, free: int) -> None:
        """A worker asks for each of its places by itself: the others follow, if it has as many."""
        expected = self._expected.pop(machine, None)
        if expected is not None and expected.places > free:
            until = expected.until or self._activity.now() + FOLLOWS_MS
            self._expected[machine] = Expected(expected.kind, expected.places - free, until)

    async def answer(self, claim: Claim, *, internal: bool) -> dict[str, Any]:
        """Long poll. The same claim sent twice at once is one poll; sent again later, the same job is asked first."""
        if not internal and claim.machine in self._rows.by_id:
            raise InvalidInput("This name belongs to a machine of the service. Choose another.", field="machine")
        key = (claim.machine, claim.claim)
        poll = self._polls.get(key)
        if poll is None:
            poll = asyncio.create_task(self._poll(claim, internal))
            self._polls[key] = poll
            poll.add_done_callback(lambda _: self._polls.pop(key, None))
            self._activity.keep(poll)
        tasks = await asyncio.shield(poll)
        self._check(claim.machine, internal)  # it may have been given up since: then the batch is told of its end
        return {"tasks": tasks}

    async def _poll(self, claim: Claim, internal: bool) -> list[Environment]:
        now = self._activity.now
        until = now() + min(max(0, claim.wait_ms), MAX_CLAIM_WAIT_MS)
        free = min(max(1, claim.free), MAX_CLAIM_FREE)
        self.asked_by.add(claim.machine)
        self._has_asked(claim.machine, free)
        key = (claim.machine, claim.claim)
        if (former := self._passed.get(key)) is not None:
            self._check(claim.machine, internal)
            if tasks := await self._take_for(claim, former, free, internal):
                return tasks
        try:
            while True:
                changed = self._activity.changed
                self._check(claim.machine, internal)
                self._waiting.setdefault(key, rules.Waiting(claim.machine, claim.kinds, free))
                if share := self._share(key):
                    del self._waiting[key]
                    if tasks := await self._take_any(claim, share, internal):
                        return tasks
                    self._waiting[key] = rules.Waiting(claim.machine, claim.kinds, free)
                left = until - now()
                if left <= 0:
                    return []
                await self._activity.wait(changed, min(left, self._work.pause(left)))
        finally:
            self._waiting.pop(key, None)
            if self._waiting and self._work.unmet(claim.kinds):
                self._activity.notify()  # what this claim leaves is for the next

    def _check(self, machine: str, internal: bool) -> None:
        if self._activity.stopped.is_set():
            raise restarting()
        if internal and not self._endings.counts_on(machine):
            raise Retired

    def _share(self, key: rules.ClaimKey) -> int:
        """How many tasks this waiting claim may ask for now, others that wait for the same considered."""
        kinds = self._waiting[key].kinds
        unmet = self._work.unmet(kinds)
        if not unmet:
            return 0
        moment = (self._activity.changed, kinds, len(unmet))
        if self._dealt.of != moment or key not in self._dealt.claims:
            self._dealt = self._deal(moment, kinds, sum(unmet))
        return self._dealt.shares.pop(key, 0)

    def _deal(self, moment: tuple[Any, ...], kinds: Collection[str], tasks: int) -> Deal:
        rivals = {k: claim for k, claim in self._waiting.items() if not set(kinds).isdisjoint(claim.kinds)}
        return Deal(of=moment, claims=frozenset(rivals), shares=rules.deal(rivals, tasks))

    async def _take_any(self, claim: Claim, free: int, internal: bool) -> list[Environment]:
        asked: set[str] = set()
        while True:
            job = next((job for job in self._work.in_turn(claim.kinds) if job not in asked), None)
            if job is None:
                return []
            asked.add(job)
            self._work.has_turn(job)
            if tasks := await self._take_for(claim, job, free, internal):
                return tasks

    async def _take_for(self, claim: Claim, job: str, free: int, internal: bool) -> list[Environment]:
        self._remember(claim, job)
        demand = self._work.demands.get(job)
        kind = demand.kind if demand else claim.kinds[0]
        tasks = await self._work.take(job, claim.machine, claim.claim, free, kind)
        if tasks:
            await self._rows.worked_for(claim.machine, job, tasks[0])
        if tasks and internal and not self._endings.counts_on(claim.machine):
            self._activity.background(self._work.give_back(job, tasks))
            raise Retired
        return [task["env"] for task in tasks or ()]

    def _remember(self, claim: Claim, job: str) -> None:
        """Before the job is asked: its answer may get lost. The job itself knows what it gave to this claim."""
        key = (claim.machine, claim.claim)
        self._passed[key] = job
        self._passed.move_to_end(key)
        while len(self._passed) > CLAIMS_REMEMBERED:
            self._passed.popitem(last=False)
