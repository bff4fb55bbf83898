"""Where a job lives, and how to reach it: find, activate, call; what to do when an actor dies under a call.

The hot way is a unix socket per actor, in a cluster an address that it tells; Ray is asked only to create an actor, or
to find it after a death. A process that dies under a call is not the caller's problem: the call is repeated for 10 s.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from actors import telemetry
from actors.errors import ArkeError, NotFound, Unavailable
from actors.lines import Lines
from actors.network import Address, Network
from actors.rules.model import Job
from actors.rules.placement import shared_host, standing_host
from actors.rules.states import TERMINAL_JOBS
from actors.store import Store

PATIENCE_S: Final = 10.0
FIRST_PAUSE_S: Final = 0.02
LONGEST_PAUSE_S: Final = 0.5
PLACEMENTS: Final = 20_000
"""Placements remembered by one process; they change only with a new run."""

Ensure = Callable[[str], Awaitable[Address | None]]
"""Make sure that the actor of this name runs; returns when it listens: the address, None for a unix socket. Raises
Unavailable."""


class Directory:
    """One process's way to all actors."""

    def __init__(
        self, *, store: Store, run_dir: Path, ensure: Ensure, max_active: int, small_tasks: int, hosts: int,
        network: Network | None = None,
    ):  # fmt: skip
        """`network`: how actors of other nodes are reached; None where all are on this host."""
        self._store, self._ensure = store, ensure
        self._max_active, self._small_tasks, self._hosts = max_active, small_tasks, hosts
        self._lines = Lines(run_dir, network, self.ensure)
        self._placements: dict[str, str] = {}
        self._ensuring: dict[str, asyncio.Task[None]] = {}
        self._waking: set[asyncio.Task[None]] = set()

    async def call(self, job_id: str, request: dict[str, Any]) -> Any:
        """Have the owner of the job handle `request`; answered after its commit.

        Raises:
            NotFound: no such job.
            Unavailable: no owner answered within 10 s, whether it is gone, is being started, or does not answer. What
                was sent to it may take effect all the same.
            ArkeError: what the owner answered.
        """
        return await self._call_until(lambda: self._place(job_id), request | {"job": job_id}, forget=job_id)

    async def fleet(self, request: dict[str, Any]) -> Any:
        """Have the fleet handle `request`. A claim may wait for `wait_ms`: that is added to the 10 s, and it gets a
        connection of its own. Raises as `call` does, without NotFound of a job.
        """
        if request.get("op") != "claim":
            return await self._call_until(_always("fleet"), request)
        wait_s = request["claim"].get("wait_ms", 0) / 1000
        return await self._call_until(_always("fleet"), request, own_connection=True, patience_s=PATIENCE_S + wait_s)

    async def admit(self, job: Job, now: int) -> bool:
        """Give a queued job its place, if there is one free. It is woken in the background: the place is on disk,
        so that whoever created the job need not wait for a process to start, and `wake` repeats what fails.
        """
        placement = await self._store.admit(
            job.id, max_active=self._max_active, small_tasks=self._small_tasks, shared_hosts=self._hosts, now=now
        )
        if placement is None:
            return False
        self._remember(job.id, placement)
        self.wake(job.id)
        return True

    def wake(self, job_id: str) -> None:
        """Activate a job without waiting for it."""
        waking = asyncio.get_running_loop().create_task(self._wake(job_id))
        self._waking.add(waking)
        waking.add_done_callback(self._waking.discard)

    async def _wake(self, job_id: str) -> None:
        try:
            await self.call(job_id, {"op": "activate"})
        except (ArkeError, OSError) as error:
            telemetry.event("job.not_woken", batch=job_id, why=type(error).__name__)

    async def ensure(self, actor: str) -> None:
        """Make sure that an actor runs, once however many ask at the same time."""
        running = self._ensuring.get(actor)
        if running is None:
            running = asyncio.get_running_loop().create_task(self._ensure_once(actor))
            self._ensuring[actor] = running
            running.add_done_callback(lambda ended: self._ensured(actor, ended))
        await asyncio.shield(running)

    async def _place(self, job_id: str) -> str:
        known = self._placements.get(job_id)
        if known is not None:
            return known
        job = await self._store.job(job_id)
        if job is None:
            raise NotFound(f"No batch has the id {job_id}.")
        if job.kind != "batch":
            return standing_host(job.kind, job_id)  # also when it is over: it is removed there, with its files
        if job.placement is None or job.state in TERMINAL_JOBS:
            # Waiting, or over: what little there is to do for it needs no actor of its own.
            return shared_host(job_id, self._hosts)
        self._remember(job_id, job.placement)
        return job.placement

    def _remember(self, job_id: str, placement: str) -> None:
        if len(self._placements) >= PLACEMENTS:
            self._placements.clear()
        self._placements[job_id] = placement

    async def _call_until(
        self,
        where: Callable[[], Awaitable[str]],
        request: dict[str, Any],
        *,
        forget: str | None = None,
        own_connection: bool = False,
        patience_s: float | None = None,
    ) -> Any:
        """Send until it is answered. An answer that does not come within the patience is not waited for: the other
        side may live and be stopped, or hang."""
        time_s = asyncio.get_running_loop().time
        deadline, pause = time_s() + (patience_s or PATIENCE_S), FIRST_PAUSE_S
        while True:
            try:
                async with asyncio.timeout(deadline - time_s()):
                    return await self._try_once(where, request, forget, own_connection)
            except (ConnectionError, Unavailable, TimeoutError) as error:
                self._placements.pop(forget or "", None)
                if time_s() + pause > deadline:
                    raise Unavailable(retry_after_s=1) from error
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_S)

    async def _try_once(
        self, where: Callable[[], Awaitable[str]], request: dict[str, Any], forget: str | None, own_connection: bool
    ) -> Any:
        actor = await where()
        try:
            return await self._lines.call(actor, request, own_connection=own_connection)
        except ConnectionError:
            self._placements.pop(forget or "", None)
            if await where() == actor:  # by its row it still lives there: it died, or sleeps
                await self.ensure(actor)
            raise
        except Unavailable:
            self._lines.doubt(actor)  # one that was overtaken may say so for ever: is it still the one?
            raise

    def _ensured(self, actor: str, ended: "asyncio.Task[None]") -> None:
        self._ensuring.pop(actor, None)
        if not ended.cancelled():
            ended.exception()  # whoever still waits is told; perhaps nobody does

    async def _ensure_once(self, actor: str) -> None:
        try:
            self._lines.told(actor, await self._ensure(actor))
        except ArkeError:
            raise
        except Exception as error:  # whatever Ray says of an actor that is dying or starting: ask again
            raise Unavailable(retry_after_s=1) from error


def _always(actor: str) -> Callable[[], Awaitable[str]]:
    async def where() -> str:
        return actor

    return where
