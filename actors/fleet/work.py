"""What batches want, and taking it from them."""

from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final

import msgspec

from actors import telemetry
from actors.errors import ArkeError, Unavailable
from actors.fleet.activity import Activity
from actors.fleet.rows import FleetStore
from actors.rules import fleet as rules
from actors.rules.fleet import Demand

HOST_PAUSE_MS: Final = 1_000

CallHost = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]


class Work:
    """The wishes of the jobs, each as it was last told or learned."""

    def __init__(self, store: FleetStore, call_host: CallHost, activity: Activity, slots: int) -> None:
        """`slots`: how many tasks all machines can have at once."""
        self._store, self._call_host, self._activity, self._slots = store, call_host, activity, slots
        self.demands: dict[str, Demand] = {}
        self.last_job: str | None = None
        """That was asked or served last: the next one comes first now, once this one has had its turns."""
        self._turns = 0

    # ---- what is wanted

    def wish(self, job: str, kind: str, want: int, active: int, large: int = 0, weight: int = 1) -> dict[str, Any]:
        """Replaces what this job wanted. The answer's `lease`: how many tasks it may hold at once while others wait."""
        former = self.demands.get(job)
        if want <= 0:
            self.demands.pop(job, None)
            return {"lease": None}
        self.demands[job] = Demand(
            job=job, kind=kind, want=want, large=max(0, large), active=max(0, active),
            weight=max(1, weight),
            taking=former.taking if former else 0,
            not_before=former.not_before if former else 0,
            version=former.version + 1 if former else 0,
        )  # fmt: skip
        self._activity.notify()
        small = want + active <= max(1, self._slots // len(self.demands))
        if small or not any(d.want > 0 for d in self.demands.values() if d.job != job):
            return {"lease": None}
        return {"lease": rules.leases(self.demands, self._slots)[job]}

    def has_turn(self, job: str) -> None:
        """It is asked, or a machine is made for it."""
        self._turns = self._turns + 1 if job == self.last_job else 1
        self.last_job = job

    @property
    def _again(self) -> bool:
        """Whether the one that was last has more turns."""
        demand = self.demands.get(self.last_job or "")
        return demand is not None and self._turns % demand.weight != 0

    def forget(self, job: str) -> None:
        """It wants nothing any more."""
        self.demands.pop(job, None)

    async def forget_jobs_that_are_over(self) -> None:
        """What the end of a job asked of the fleet may have been lost."""
        versions = {job: demand.version for job, demand in self.demands.items()}
        if not versions:
            return
        over = versions.keys() - await self._store.open_jobs(sorted(versions))
        for job in sorted(over & self.demands.keys()):
            if self.demands[job].version == versions[job]:
                del self.demands[job]

    def unmet(self, kinds: Collection[str]) -> list[int]:
        """How many tasks of each job any machine can ask for now, and none does; without jobs that have none."""
        now = self._activity.now()
        demands = [d for d in self.demands.values() if d.not_before <= now and d.kind in kinds]
        return [d.unmet_by_any for d in demands if d.unmet_by_any]

    @property
    def kinds(self) -> set[str]:
        """Of work that somebody wants done."""
        return {demand.kind for demand in self.demands.values()}

    def in_turn(self, kinds: Collection[str]) -> list[str]:
        """The jobs that have something of these kinds for any machine, in the order in which they are asked."""
        return rules.in_turn(
            self.demands, kinds=kinds, after=self.last_job, now=self._activity.now(), by_any=True,
            again=self._again,
        )  # fmt: skip

    def pause(self, most: int) -> int:
        """How long nothing can change by itself: until a host that did not answer is asked again."""
        now = self._activity.now()
        return min((d.not_before - now for d in self.demands.values() if d.unmet and d.not_before > now), default=most)

    def adjust(
        self, job: str, *, taking: int = 0, taken: int = 0, left: tuple[int, int, int] | None = None,
        not_before: int | None = None,
    ) -> None:  # fmt: skip
        """Change a wish that may have been replaced or forgotten meanwhile. `left`: of a version, what is wanted and
        how much of that is large."""
        demand = self.demands.get(job)
        if demand is None:
            return
        is_newer = left is not None and left[0] == demand.version
        want, large = (left[1], left[2]) if left is not None and is_newer else (demand.want, demand.large)
        self.demands[job] = msgspec.structs.replace(
            demand,
            want=max(0, want - taken),
            large=large,
            active=demand.active + taken,
            taking=max(0, demand.taking + taking),
            not_before=demand.not_before if not_before is None else not_before,
        )

    # ---- taking it

    async def take(self, job: str, machine: str, claim: str, free: int, kind: str) -> list[dict[str, Any]] | None:
        """Ask a job for work. Empty: it has none now, or is over. None: no answer, it may have assigned some."""
        demand = self.demands.get(job)
        version = demand.version if demand else None
        reserved = min(free, max(1, demand.unmet)) if demand else 0
        self.adjust(job, taking=reserved)
        request = {"op": "take", "job": job, "machine": machine, "claim": claim, "free": free, "kind": kind}
        taken = 0
        try:
            answer = await self._call_host(job, request)
            tasks: list[dict[str, Any]] = answer["tasks"]
            taken = len(tasks)
            left = answer.get("want", None if tasks else 0)
            if left is not None and version is not None:
                self.adjust(job, left=(version, left + taken, int(answer.get("large", 0))))
            return tasks
        except (Unavailable, OSError) as failure:
            telemetry.event("fleet.batch_did_not_answer", batch=job, why=failure)
            self.adjust(job, not_before=self._activity.now() + HOST_PAUSE_MS)
            return None
        except ArkeError as refusal:
            telemetry.event("fleet.batch_gives_no_work", batch=job, why=refusal.code)
            self.demands.pop(job, None)
            return []
        finally:
            self.adjust(job, taking=-reserved, taken=taken)

    async def give_back(self, job: str, tasks: list[dict[str, Any]]) -> None:
        """Release assignments that no worker has heard of: who is told of the end of their machine was settled before.

        A batch that stays silent for longer than its front is patient with it has their deadlines.
        """
        for task in tasks:
            body = {"task_id": task["task_id"], "status": "released"}
            report = {"op": "callback", "job": job, "run": task["run"], "attempt": task["attempt"], "body": body}
            try:
                await self._call_host(job, report)
            except (ArkeError, OSError) as failure:
                telemetry.warning("fleet.not_given_back", task=task["task_id"], why=failure)
