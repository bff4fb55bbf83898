"""Effects of a job, performed: the fleet is told, the receiver is called, the next phase is planned, and what has
expired is removed."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol

from actors import telemetry
from actors.channels.base import Channel
from actors.errors import ArkeError
from actors.phases import all_phases
from actors.planning import plan_phase
from actors.rules import archive
from actors.rules.effects import Announce, Deliver, DestroyMachine, Effect, PlanPhase, ReleaseMachines, Remove
from actors.rules.events import DeliveryEnded, Event, Leased, OutputsRemoved, PhasePlanned, PlanFailed
from actors.rules.model import Job
from actors.store import Store
from worker.errors import WorkerError

PAGE: Final = 1000
AT_ONCE: Final = 10
"""Objects that are removed side by side."""


class Objects(Protocol):
    """What removals need of the object store. Blocking: called on a thread. Raises what object stores do."""

    def list(self, prefix: str, after: str | None = None, limit: int = 1000) -> Any: ...
    def delete(self, key: str) -> None: ...
    def uploads(self, prefix: str) -> Any: ...
    def abort_upload(self, key: str, upload: str) -> None: ...


CallFleet = Callable[[dict[str, Any]], Awaitable[Any]]


class Performer:
    """Does what the rules ask for. Each result is the next event of the job."""

    def __init__(self, *, store: Store, call_fleet: CallFleet, channel: Channel | None, objects: Objects | None = None):
        """`objects` None: no job of this process is ever removed with its outputs."""
        self._store, self._call_fleet, self._channel, self._objects = store, call_fleet, channel, objects
        self._removing: set[str] = set()  # a removal may take longer than the alarm that asks for it again

    async def __call__(self, job: Job, effect: Effect) -> Event | None:
        """Perform one effect. Its result is the next event, if there is one."""
        match effect:
            case Announce(want=want, large=large):
                kind = all_phases()[job.phases[job.phase]].kind
                told = await self._tell_fleet({
                    "op": "demand", "job": job.id, "kind": kind, "want": want, "large": large,
                    "active": job.tasks_in_flight, "weight": job.weight,
                })  # fmt: skip
                return Leased(lease=told.get("lease"))
            case DestroyMachine(machine=machine, task_id=task_id, attempt=attempt):
                await self._tell_fleet(
                    {"op": "destroy", "machine": machine, "job": job.id, "task_id": task_id, "attempt": attempt}
                )
            case ReleaseMachines():
                await self._tell_fleet({"op": "release_job", "job": job.id})
            case Deliver(run=run):
                return await self._deliver(job, run)
            case Remove():
                return await self._remove(job)
            case PlanPhase(run=run, phase=phase):
                return await self._plan(job, run, phase)
            case _:
                raise TypeError(f"no rule how to perform {type(effect).__name__}")
        return None

    async def _tell_fleet(self, request: dict[str, Any]) -> dict[str, Any]:
        """The fleet's answer; empty when it did not answer within the directory's patience.

        A demand is told again by the next alarm. A machine that was not destroyed learns from the answer to its
        next sign of life that its task is no longer wanted.
        """
        try:
            answer: dict[str, Any] = await self._call_fleet(request)
        except (ArkeError, ConnectionError) as error:
            telemetry.warning("fleet.away", op=request["op"], batch=request["job"], why=type(error).__name__)
            return {}
        return answer

    async def _plan(self, job: Job, run: int, phase: int) -> Event:
        """Also a failure is an event, since the rules wait for one: what a phase's own code raises is permanent."""
        try:
            total = await plan_phase(self._store, job, phase)
        except (ArkeError, OSError) as error:
            telemetry.warning("phase.not_planned", batch=job.id, phase=phase, why=type(error).__name__)
            return PlanFailed(run=run, phase=phase, message=str(error))
        except Exception as error:  # noqa: BLE001 - a phase is anybody's code
            telemetry.fault("phase.broken", batch=job.id, phase=phase)
            return PlanFailed(run=run, phase=phase, message=f"its code raised {type(error).__name__}.", permanent=True)
        return PhasePlanned(run=run, phase=phase, tasks_total=total)

    async def _remove(self, job: Job) -> Event | None:
        """The outputs first: while there are any, the rows say so, and the next alarm asks for this again."""
        if self._objects is None:
            raise TypeError("this process removes no outputs")
        if job.id in self._removing:
            return None
        self._removing.add(job.id)
        try:
            if job.kind == "archive":
                await _remove_folder(self._objects, archive.folder(job))
                return OutputsRemoved()
            await self._remove_outputs(job, self._objects.delete)
            await self._store.remove(job.id)
            telemetry.event("job.removed", batch=job.id)
        except (WorkerError, ArkeError, OSError) as error:
            telemetry.warning("job.not_removed", batch=job.id, why=error)
        finally:
            self._removing.discard(job.id)
        return None

    async def _remove_outputs(self, job: Job, delete: Callable[[str], None]) -> None:
        cursor = None
        while True:
            tasks, cursor = await self._store.list_tasks(job.id, limit=PAGE, cursor=cursor)
            await _delete([task.output_r2_key for task in tasks], delete)
            if cursor is None:
                return

    async def _deliver(self, job: Job, run: int) -> Event:
        if self._channel is None:
            return DeliveryEnded(run=run, outcome="refused", message="There is no receiver: WORKER_URL is not set.")
        told = await self._channel.send(job, run)
        telemetry.event("delivery.ended", batch=job.id, run=run, outcome=told.outcome, message=told.message)
        return told


async def _remove_folder(objects: Objects, folder: str) -> None:
    """All that is below it: lists, archives, checkpoints, and uploads that were begun."""
    for key, upload in await asyncio.to_thread(objects.uploads, folder):
        await asyncio.to_thread(objects.abort_upload, key, upload)
    while keys := await asyncio.to_thread(lambda: [one.key for one in objects.list(folder, None, PAGE)]):
        await _delete(keys, objects.delete)


async def _delete(keys: Sequence[str], delete: Callable[[str], None]) -> None:
    for first in range(0, len(keys), AT_ONCE):
        await asyncio.gather(*(asyncio.to_thread(delete, key) for key in keys[first : first + AT_ONCE]))
