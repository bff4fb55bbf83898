"""An event loop whose time is a number, and processes that can be killed or stopped between any two of its steps.

asyncio itself runs on it, tasks, futures, time-outs and all; only the clock, the sockets (`pipes`) and threads are not
real: what is given to a thread runs at once. A step belongs to the process in whose context it was made.
"""

import asyncio
import heapq
import sys
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from enum import Enum
from typing import Any

CURRENT: ContextVar["Process | None"] = ContextVar("CURRENT", default=None)
"""The process that a step belongs to; None: the world outside, which nothing kills."""


class SleepsForever(Exception):
    """Nothing is to be run, now or later: somebody waits for what will never come."""


class GoesRound(Exception):
    """More steps than allowed."""


class Later(Exception):
    """Raised by what is given to a thread, before it has done anything: it takes a while, and is run again then."""

    def __init__(self, by_s: float) -> None:
        super().__init__(by_s)
        self.by_s = by_s


class Mode(Enum):
    """What becomes of the steps of a process."""

    RUNS = "runs"
    STOPPED = "stopped"  # SIGSTOP, or a machine that swaps: its steps are kept, and all run when it goes on
    DEAD = "dead"  # kill -9: they are dropped, and nothing of it runs again, no `finally` either


class Process:
    """Steps that live and die together."""

    def __init__(self, loop: "VirtualLoop", name: str) -> None:
        self.loop, self.name = loop, name
        self.mode = Mode.RUNS
        self.at_end: list[Callable[[], None]] = []
        self._kept: list[asyncio.Handle] = []
        self.context: Context = copy_context()
        self.context.run(CURRENT.set, self)

    @property
    def is_alive(self) -> bool:
        """Also while it is stopped: then others find it, and wait."""
        return self.mode is not Mode.DEAD

    def begin(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Run a coroutine in this process."""
        return self.loop.create_task(work, context=self.context)

    def kill(self) -> None:
        """No further step. Whoever is connected learns it (`at_end`)."""
        if self.mode is Mode.DEAD:
            return
        self.mode = Mode.DEAD
        self._kept.clear()
        for tell in self.at_end:
            tell()

    def stop(self) -> None:
        """Stand still until `go_on`."""
        if self.mode is Mode.RUNS:
            self.mode = Mode.STOPPED

    def go_on(self) -> None:
        """All that was due meanwhile is due now, in its order."""
        if self.mode is Mode.STOPPED:
            self.mode = Mode.RUNS
            kept, self._kept = self._kept, []
            self.loop.run_soon(kept)

    def keep(self, handle: asyncio.Handle) -> None:
        """A step that came while it stood still."""
        self._kept.append(handle)


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs what is ready; when nothing is, it is the time of the next timer. Ties keep their order."""

    def __init__(self) -> None:
        super().__init__()
        self._now_s = 0.0
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._made = 0
        self.steps = 0
        self.most_steps = sys.maxsize
        self.set_exception_handler(lambda *_: None)  # what a kill leaves unfinished is no fault

    def time(self) -> float:
        """Seconds since the begin of the world."""
        return self._now_s

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """As every loop has it."""
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        self._made += 1
        heapq.heappush(self._timers, (when, self._made, timer))
        return timer

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """As every loop has it."""
        return self.call_at(self._now_s + delay, callback, *args, context=context)

    def outside(self, delay_s: float, callback: Callable[..., object], *args: Any) -> None:
        """Have something happen later that is no step of whoever asks for it: it happens whatever becomes of them."""
        self.call_at(self._now_s + delay_s, callback, *args, context=Context())

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> "asyncio.Future[Any]":  # type: ignore[override]
        """Now, and here: a thread would bring back the order that a seed does not know. What says `Later` is done then,
        though perhaps nobody waits for it any more."""
        done: asyncio.Future[Any] = self.create_future()
        self._do(done, lambda: func(*args))
        return done

    def _do(self, done: "asyncio.Future[Any]", work: Callable[[], Any]) -> None:
        try:
            result = work()
        except Later as later:
            self.outside(later.by_s, self._do, done, work)
        except BaseException as error:  # noqa: BLE001 - as a thread's future has it
            if not done.done():
                done.set_exception(error)
        else:
            if not done.done():
                done.set_result(result)

    def run_soon(self, handles: list[asyncio.Handle]) -> None:
        """Put steps that were kept back behind those that are ready."""
        self._ready.extend(handles)  # type: ignore[attr-defined]

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Called by asyncio: it stays in the heap, and is passed over when its time comes."""

    def _run_once(self) -> None:
        """Called by asyncio's `run_forever`."""
        ready = self._ready  # type: ignore[attr-defined]
        if not ready:
            ready.append(self._next_timer())
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            process = handle._context.get(CURRENT)
            if process is not None and process.mode is not Mode.RUNS:
                if process.mode is Mode.STOPPED:
                    process.keep(handle)
                continue
            self.steps += 1
            handle._run()
        if self.steps > self.most_steps:
            raise GoesRound

    def _next_timer(self) -> asyncio.TimerHandle:
        timers = self._timers
        while timers:
            when, _, timer = heapq.heappop(timers)
            if not timer._cancelled:
                self._now_s = max(self._now_s, when)
                return timer
        raise SleepsForever


def current() -> Process | None:
    """The process in which this is called."""
    return CURRENT.get()


async def never() -> None:
    """What the step of a process that has just died waits for."""
    await asyncio.get_running_loop().create_future()
