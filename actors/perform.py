"""Effects of a job, performed: the fleet is told, the receiver is called, the next phase is planned."""

from collections.abc import Awaitable, Callable
from typing import Any

from actors import telemetry
from actors.channels.final_callback import FinalCallback
from actors.errors import ArkeError
from actors.phases import all_phases
from actors.planning import plan_phase
from actors.rules.effects import Announce, Deliver, DestroyMachine, Effect, PlanPhase, ReleaseMachines
from actors.rules.events import DeliveryEnded, Event, Leased, PhasePlanned, PlanFailed
from actors.rules.model import Job
from actors.store import Store

CallFleet = Callable[[dict[str, Any]], Awaitable[Any]]


class Performer:
    """Does what the rules ask for. Each result is the next event of the job."""

    def __init__(self, *, store: Store, call_fleet: CallFleet, channel: FinalCallback | None):
        self._store, self._call_fleet, self._channel = store, call_fleet, channel

    async def __call__(self, job: Job, effect: Effect) -> Event | None:
        """Perform one effect. Its result is the next event, if there is one."""
        match effect:
            case Announce(want=want):
                kind = all_phases()[job.phases[job.phase]].kind
                told = await self._tell_fleet(
                    {"op": "demand", "job": job.id, "kind": kind, "want": want, "active": job.tasks_in_flight}
                )
                return Leased(lease=told.get("lease"))
            case DestroyMachine(machine=machine, task_id=task_id, attempt=attempt):
                await self._tell_fleet(
                    {"op": "destroy", "machine": machine, "job": job.id, "task_id": task_id, "attempt": attempt}
                )
            case ReleaseMachines():
                await self._tell_fleet({"op": "release_job", "job": job.id})
            case Deliver(run=run):
                return await self._deliver(job, run)
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

    async def _deliver(self, job: Job, run: int) -> Event:
        if self._channel is None:
            return DeliveryEnded(run=run, outcome="refused", message="There is no receiver: WORKER_URL is not set.")
        told = await self._channel.send(job, run)
        telemetry.event("delivery.ended", batch=job.id, run=run, outcome=told.outcome, message=told.message)
        return told
