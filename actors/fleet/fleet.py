"""One activation of the fleet: its parts put together, its loop, and the requests that it answers."""

import asyncio
import random
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from actors import telemetry
from actors.errors import Fenced, InvalidInput, ProviderAway, Unavailable
from actors.fleet.activity import Activity, Wait, restarting, wait_real
from actors.fleet.claims import Claims
from actors.fleet.endings import Endings
from actors.fleet.making import Making
from actors.fleet.pace import Pace
from actors.fleet.pool import Pool
from actors.fleet.refusals import Refusals
from actors.fleet.rows import SINGLETON, FleetStore, Rows
from actors.fleet.watching import Watching
from actors.fleet.work import CallHost, Work
from actors.machines.base import Pooling, Provider, ProviderUnavailable
from actors.rules import fleet as rules
from actors.rules.model import Machine
from worker.contract import Claim, Environment

TICK_MS: Final = 1_000
SWEEP_MS: Final = 10_000

__all__ = ["SINGLETON", "SWEEP_MS", "TICK_MS", "Fleet", "FleetStore"]


class Fleet:
    """One activation of the fleet. `start`, then `handle`; when `stopped` is set its process must end."""

    def __init__(
        self,
        store: FleetStore,
        provider: Provider,
        *,
        call_host: CallHost,
        base_env: Callable[[str, str], Environment],
        now: Callable[[], int],
        max_machines: int,
        concurrency: int = 1,
        wait: Wait = wait_real,
        rng: random.Random | None = None,
        pool: Mapping[str, int] | None = None,
        most_of: Mapping[str, int] | None = None,
        price_of: Callable[[str, int | None], int | None] = lambda kind, memory_mb: None,
        sweep_ms: int = SWEEP_MS,
        tick_ms: int = TICK_MS,
    ):
        """`base_env(machine id, kind)` is the environment of every task on it; `concurrency` tasks run at once on one;
        `pool` is how many machines of each kind wait stopped, where the provider can have such; `most_of` how
        many of each kind run at once, within `max_machines`; `price_of(kind, memory)` is
        what a running one costs, in 10^-9 dollars a second, where that is known."""
        most = max_machines if provider.capacity is None else min(max_machines, provider.capacity)
        self._tick_ms = tick_ms
        self._ticking = False
        self._activity = Activity(now, wait)
        self._rows = Rows(store, self._activity)
        self._work = Work(store, call_host, self._activity, most * concurrency)
        self._endings = Endings(store, provider, call_host, self._rows, self._activity, concurrency)
        self._claims = Claims(self._work, self._rows, self._endings, self._activity, concurrency)
        pace, rng = Pace(provider), rng or random.Random()
        self._pool: Pool | None = None
        if isinstance(provider, Pooling):
            self._pool = Pool(
                provider, base_env, price_of, pool or {}, self._claims, self._rows, self._endings,
                Refusals(self._activity, rng), pace, self._activity,
            )  # fmt: skip
        self._making = Making(
            provider, base_env, price_of, self._work, self._claims, self._rows, self._endings,
            Refusals(self._activity, rng), pace, self._activity, most=most, most_of=most_of or {}, pool=self._pool,
        )  # fmt: skip
        self._watching = Watching(
            store, provider, self._claims, self._rows, self._endings, self._activity, sweep_ms
        )  # fmt: skip

    @property
    def stopped(self) -> asyncio.Event:
        """Set when this activation has lost, is broken or was closed."""
        return self._activity.stopped

    @property
    def epoch(self) -> int:
        """Of this activation (invariant 2)."""
        return self._rows.epoch

    # ---- life

    async def start(self) -> None:
        """Become the one fleet, take over what the former one left, begin to work."""
        await self._rows.take_over()
        for row in list(self._rows.by_id.values()):
            self._activity.background(self._take_over(row))
        self._activity.background(self._loop())

    async def close(self) -> None:
        """Stop without touching a machine: the next activation goes on."""
        await self._activity.close()

    async def _take_over(self, row: Machine) -> None:
        what = rules.after_restart(row)
        if what == "give_back":
            self._endings.end(row.id, "unmade", "The fleet started again before the machine was made.")
        elif what == "destroy":
            self._endings.end(row.id, "gone", row.reason or "The machine was destroyed.", may_run=True)
        elif what == "inspect":
            await self._making.look_for(row)
        elif self._pool is not None:
            await self._pool.take_over(row)

    async def _loop(self) -> None:
        next_tick = 0
        while not self.stopped.is_set():
            changed = self._activity.changed
            if self._activity.now() >= next_tick:
                self._activity.background(self._tick())
                next_tick = self._activity.now() + self._tick_ms
            self._making.fill()
            await self._activity.wait(changed, next_tick - self._activity.now())

    async def _tick(self) -> None:
        """Compare what the provider has with the rows; go on with what could not be finished."""
        if self._ticking:
            return  # the provider is slow
        self._ticking = True
        try:
            await self._look_after()
        finally:
            self._ticking = False

    async def _look_after(self) -> None:
        if any(d.unmet for d in self._work.demands.values()):
            self._activity.notify()  # back-offs may be over
        self._endings.go_on()
        try:
            await self._work.forget_jobs_that_are_over()
        except (Unavailable, OSError) as failure:
            telemetry.event("fleet.work_not_known", why=failure)
        if self._pool is not None:
            self._pool.trim()
        await self._watching.look()

    # ---- requests

    async def handle(self, requests: list[Any]) -> list[Any]:
        """The handler for `actors.wire.serve`: one value or exception per request, in order."""
        return await asyncio.gather(*(self._one(request) for request in requests), return_exceptions=True)

    async def _one(self, request: dict[str, Any]) -> Any:
        if self.stopped.is_set():
            raise restarting()
        try:
            return await self._answer(request)
        except Fenced:
            self._activity.stop()
            raise restarting() from None
        except asyncio.CancelledError:
            if self.stopped.is_set():
                raise restarting() from None
            raise
        except (ProviderUnavailable, OSError) as failure:
            raise ProviderAway(str(failure) or None, retry_after_s=5) from None

    async def _answer(self, request: dict[str, Any]) -> Any:
        match request.get("op"):
            case "demand":
                return self._work.wish(
                    request["job"], request["kind"], int(request["want"]), int(request["active"]),
                    int(request.get("large", 0)), int(request.get("weight", 1)),
                )  # fmt: skip
            case "claim":
                claim = msgspec.convert(request["claim"], Claim)
                return await self._claims.answer(claim, internal=bool(request["internal"]))
            case "destroy":
                await self._endings.destroy_if_still_at(
                    request["machine"], request["job"], request["task_id"], int(request["attempt"])
                )
                return {}
            case "release_job":
                return await self._release(request["job"])
            case "list":
                return [msgspec.to_builtins(row) for row in self._rows.by_id.values()]
            case "pool":
                return {} if self._pool is None else self._pool.shown()
            case "sweep":
                return await self._watching.sweep(dry_run=bool(request.get("dry_run")))
            case other:
                raise InvalidInput(f"The fleet knows no operation {other!r}.", field="op")

    async def _release(self, job: str) -> dict[str, Any]:
        """The job is over: its wishes are forgotten and its machines destroyed. Asked too late, when a new run of it
        has begun, this ends nothing: what works for that run is not what was meant.
        """
        if await self._endings.is_over(job):
            self._work.forget(job)
            await self._endings.destroy_all_of(job)
        return {}
