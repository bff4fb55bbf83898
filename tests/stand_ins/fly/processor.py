"""The processors of one machine: what a shared one may use, and how slow it gets when that is used up.

Each shared vCPU may run 6.25% of the time and has a balance of 5 s to begin with, which grows by what it does not use
of its share, up to 500 s. Share and balance are the machine's, whichever vCPU uses them, and the balance pays only for
what goes beyond the share. Once it is spent, all that runs has the share alone: a busy machine is 16 times slower. A
performance vCPU always runs.

`Processor` is the arithmetic, without a clock; `Cores` runs it in real time.
"""

import asyncio
import math
from typing import Final

DONE: Final = 1e-6
"""Core-seconds that count as nothing: timers are not exact."""


class Processor:
    """Jobs that each want one vCPU all the time, served in equal parts. Time only moves forward, by `advance`."""

    def __init__(
        self, *, shared: bool, cpus: int, now: float, quota: float = 0.0625, burst_s: float = 5.0, most_s: float = 500.0
    ) -> None:
        self.cpus = cpus
        self.share = quota * cpus if shared else float(cpus)
        """Cores that may be used for ever."""
        self.balance_s = burst_s * cpus if shared else math.inf
        self.most_s = most_s * cpus if shared else math.inf
        self.used_s = 0.0
        self.throttled_s = 0.0
        """Time lost: of each second that jobs ran slowly, the part in which they did not run."""
        self._now = now
        self._jobs: dict[int, float] = {}
        self._numbers = 0

    def add(self, cpu_s: float, now: float) -> int:
        """A job that needs so many core-seconds; its number."""
        self.advance(now)
        self._numbers += 1
        self._jobs[self._numbers] = cpu_s
        return self._numbers

    def remove(self, job: int, now: float) -> None:
        """Forget a job, done or not."""
        self.advance(now)
        self._jobs.pop(job, None)

    def done(self) -> list[int]:
        """The jobs that need nothing more, as of the last `advance`."""
        return [job for job, left in self._jobs.items() if left <= DONE]

    def advance(self, now: float) -> None:
        """Let time pass until `now`."""
        while now > self._now:
            step = min(now - self._now, self._until_change())
            self._pass(step)
            self._now = now if step == now - self._now else self._now + step

    def resume(self, now: float) -> None:
        """The machine was off since the last `advance`: it saved nothing meanwhile."""
        self._now = max(self._now, now)

    def due_s(self) -> float | None:
        """Seconds from the last `advance` until the next job is done; None without a job."""
        if not self._jobs:
            return None
        left, each = self._least(), self._supply() / self._busy()
        if left <= DONE:
            return 0.0
        spent_s = self._until_spent()
        if left <= each * spent_s:
            return left / each
        return spent_s + (left - each * spent_s) * self._busy() / self.share

    def _pass(self, step: float) -> None:
        busy, supply = self._busy(), self._supply()
        for job, left in self._jobs.items():
            if left > DONE:
                self._jobs[job] = max(0.0, left - step * supply / busy)
        self.used_s += step * supply
        demand = min(busy, self.cpus)
        if demand > supply:
            self.throttled_s += step * (1 - supply / demand)
        if math.isfinite(self.balance_s):
            balance_s = self.balance_s + step * (self.share - supply)
            self.balance_s = 0.0 if balance_s < DONE and supply > self.share else min(balance_s, self.most_s)

    def _until_change(self) -> float:
        """At least a microsecond, so that rounding never stops the time."""
        busy = self._busy()
        end_s = self._least() * busy / self._supply() if busy else math.inf
        return max(min(end_s, self._until_spent()), 1e-6)

    def _until_spent(self) -> float:
        draining = self._supply() - self.share
        return self.balance_s / draining if draining > 0 else math.inf

    def _supply(self) -> float:
        """Cores that are being used."""
        demand = float(min(self._busy(), self.cpus))
        return demand if self.balance_s > 0 else min(demand, self.share)

    def _busy(self) -> int:
        return sum(left > DONE for left in self._jobs.values())

    def _least(self) -> float:
        return min((left for left in self._jobs.values() if left > DONE), default=0.0)


class Cores:
    """A `Processor` whose jobs are awaited."""

    def __init__(self, processor: Processor) -> None:
        self.processor = processor
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def followed_by(self, processor: Processor) -> "Cores":
        """Other processors of the same machine; what was used and lost so far stays counted."""
        processor.used_s, processor.throttled_s = self.processor.used_s, self.processor.throttled_s
        return Cores(processor)

    def used_s(self) -> float:
        """Core-seconds used by now."""
        self.processor.advance(asyncio.get_running_loop().time())
        return self.processor.used_s

    async def work(self, cpu_s: float) -> None:
        """Use so many core-seconds, however long that takes."""
        loop = asyncio.get_running_loop()
        job = self.processor.add(cpu_s, loop.time())
        self._waiting[job] = loop.create_future()
        self._look()
        try:
            await self._waiting[job]
        finally:
            del self._waiting[job]
            self.processor.remove(job, loop.time())
            self._look()

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self.processor.advance(loop.time())
        for job in self.processor.done():
            if job in self._waiting and not self._waiting[job].done():
                self._waiting[job].set_result(None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due_s = self.processor.due_s() if any(not future.done() for future in self._waiting.values()) else None
        if due_s is not None:
            self._timer = loop.call_later(due_s, self._look)
