"""What the parts of one activation share: time, waiting, and what runs in the background."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Final

from actors import telemetry
from actors.errors import Fenced, Unavailable
from actors.rules.fleet import backoff_ms

AGAIN_MOST_MS: Final = 10_000
"""The longest pause between two tries: what is away for long is not knocked at, and is found when it is back."""

Wait = Callable[[asyncio.Event, int], Awaitable[bool]]


async def wait_real(event: asyncio.Event, milliseconds: int) -> bool:
    """Wait for the event at most that long; whether it happened. A simulation hands in its own."""
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), max(0, milliseconds) / 1000)
    return event.is_set()


def time_s() -> float:
    """Of this process: it moves on evenly, whatever becomes of the wall clock."""
    return asyncio.get_running_loop().time()


def restarting() -> Unavailable:
    """The answer of an activation that has ended."""
    return Unavailable("The fleet is starting again. Send the same request again.", retry_after_s=1)


class Activity:
    """When `stopped` is set, nothing is begun any more."""

    def __init__(self, now: Callable[[], int], wait: Wait) -> None:
        self.now = now
        self.wait = wait
        self.stopped = asyncio.Event()
        self.changed = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()

    def notify(self) -> None:
        """Something changed: the loop and waiting claims look again."""
        self.changed.set()
        self.changed = asyncio.Event()

    async def pause(self, milliseconds: int) -> None:
        """Before the same is tried again."""
        await self.wait(asyncio.Event(), milliseconds)

    def background(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin something that nobody waits for. Where it fails the activation ends."""
        task = asyncio.create_task(self._guarded(work))
        task.add_done_callback(lambda _: work.close())  # cancelled before its first step it was never awaited
        self.keep(task)

    def keep(self, task: "asyncio.Task[Any]") -> None:
        """Let it end with the activation."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Fenced:
            telemetry.warning("fleet.fenced")
            self.stop()
        except Exception:  # noqa: BLE001 - logged; Ray starts the fleet again
            telemetry.fault("fleet.step_failed")
            self.stop()

    def stop(self) -> None:
        """An activation that is fenced or broken performs nothing more; its process ends and the next reconciles."""
        self.stopped.set()
        self.notify()

    async def close(self) -> None:
        """Stop, and wait for what was begun to be cancelled."""
        self.stopped.set()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Again:
    """The tries of one thing, further and further apart. Why one failed is told when that is new."""

    def __init__(self, activity: Activity, event: str, **about: Any) -> None:
        self._activity, self._event, self._about = activity, event, about
        self._tries = 0
        self._told: str | None = None
        self.not_before = 0
        """When the next try is due."""

    def failed(self, failure: Exception) -> int:
        """One try: how long to wait before the next, in ms."""
        self._tries += 1
        if str(failure) != self._told:
            telemetry.warning(self._event, **self._about, why=failure)
        self._told = str(failure)
        pause_ms = min(AGAIN_MOST_MS, backoff_ms(self._tries, 0.0))
        self.not_before = self._activity.now() + pause_ms
        return pause_ms

    async def later(self, failure: Exception) -> None:
        """The same, and wait."""
        await self._activity.pause(self.failed(failure))
