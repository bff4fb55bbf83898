"""A host runs the loops of one or many jobs in one process: requests become events, answers become replies."""

import asyncio
import hashlib
import random
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from actors import telemetry
from actors.clock import TimeSource
from actors.durable import Durable, Perform
from actors.errors import BY_CODE, ArkeError, Conflict, InvalidInput, NotFound, Unavailable
from actors.phases import all_phases
from actors.readers import Read, Readers
from actors.rules.effects import Answer, Granted, Policy, Received, Refused
from actors.rules.events import (
    CalledBack,
    Cancelled,
    Downloaded,
    Event,
    MachineLost,
    Redelivered,
    Retried,
    WasReset,
    WorkTaken,
)  # fmt: skip
from actors.rules.model import Job, Task
from actors.rules.states import TERMINAL_JOBS, JobState
from actors.signing import sign_task
from actors.store import Store
from worker.contract import Environment

EVENTS: Final[dict[str, type[Event]]] = {
    "take": WorkTaken,
    "lost": MachineLost,
    "cancel": Cancelled,
    "reset": WasReset,
    "retry": Retried,
    "downloaded": Downloaded,
    "redeliver": Redelivered,
}


class Host:
    """Many jobs, one loop each. A job is activated by the first request that names it.

    `on_idle` is given to the process that one job has for itself: called each time that its last loop has ended.
    """

    def __init__(
        self,
        *,
        name: str,
        store: Store,
        perform: Perform,
        policy: Policy,
        clock: TimeSource,
        rng: random.Random,
        callback_base: str,
        secret: str,
        hibernate_after_ms: int,
        continue_intake: Read | None = None,
        on_idle: Callable[[], None] | None = None,
        with_urls: Callable[[Environment], Environment] | None = None,
        more_env: Environment | None = None,
    ):
        """`with_urls` adds what shall be in no row and no reply but the worker's: it is called for each answer, so the
        same claim or callback again gets new URLs for the same task. `more_env` is in each task's environment: what
        people's own workers cannot know."""
        self._name = name
        self._store, self._perform, self._policy, self._clock, self._rng = store, perform, policy, clock, rng
        self._callback_base, self._secret = callback_base.rstrip("/"), secret
        self._hibernate_after_ms, self._on_idle = hibernate_after_ms, on_idle
        self._with_urls, self._more_env = with_urls, more_env or {}
        self._readers = continue_intake and Readers(read=continue_intake, store=store, clock=clock, policy=policy)
        self._active: dict[str, asyncio.Task[Durable]] = {}
        self._loops: set[asyncio.Task[None]] = set()
        self._is_leaving = False

    def leave(self) -> None:
        """Begin nothing more: the process is about to end. Whoever asks is told to ask again, and finds another."""
        self._is_leaving = True

    @property
    def idle(self) -> bool:
        """Whether nothing runs here."""
        return not self._active and (self._readers is None or self._readers.idle)

    async def handle(self, requests: Sequence[dict[str, Any]]) -> list[Any]:
        """Answer a list of requests in its order; one that is bad fails alone. The handler of `actors.wire`."""
        if self._is_leaving:
            raise Unavailable(retry_after_s=1)
        running = [self._running(request) for request in requests]
        begun = [
            asyncio.ensure_future(self._one(request)) if durable is None else _submitted(durable, request)
            for request, durable in zip(requests, running, strict=True)
        ]
        answers = await asyncio.gather(*begun, return_exceptions=True)
        return [
            answer if durable is None or isinstance(answer, BaseException) else self._answered(durable, answer)
            for durable, answer in zip(running, answers, strict=True)
        ]

    def _running(self, request: dict[str, Any]) -> Durable | None:
        """The loop of the job where it runs already: a request to it costs a future, not a task."""
        task = self._active.get(request["job"])
        if request["op"] == "activate" or task is None or not task.done() or task.cancelled() or task.exception():
            return None
        durable = task.result()
        return None if durable.closed else durable

    def _answered(self, durable: Durable, answer: Answer) -> Any:
        """The reply, or the error that is the reply: one that cannot be made costs no other of the list."""
        try:
            return self._reply(durable.state.job, answer) if durable.state else NotFound()
        except ArkeError as error:
            return error
        except Exception:  # noqa: BLE001 - a phase is anybody's code
            telemetry.fault("job.not_answered", batch=durable.job_id)
            return Unavailable(retry_after_s=1)

    async def _one(self, request: dict[str, Any]) -> Any:
        job_id = request["job"]
        if request["op"] == "activate":
            if not await self._takes_in(job_id):
                await self._durable(job_id)
            return {}
        durable = await self._durable(job_id)
        answer = await durable.submit(_event(request))
        if durable.state is None:
            raise NotFound
        return self._reply(durable.state.job, answer)

    async def _durable(self, job_id: str) -> Durable:
        """The running loop of the job; activated once however many ask at the same time."""
        task = self._active.get(job_id)
        if task is None or (task.done() and not task.cancelled() and not task.exception() and task.result().closed):
            task = asyncio.get_running_loop().create_task(self._activate(job_id))
            self._active[job_id] = task
        try:
            return await asyncio.shield(task)
        except BaseException:
            if task.done() and self._active.get(job_id) is task:
                del self._active[job_id]
            raise

    async def _activate(self, job_id: str) -> Durable:
        await self._check_place(job_id)
        durable = Durable(
            job_id,
            store=self._store,
            perform=self._perform,
            policy=self._policy,
            clock=self._clock,
            rng=self._rng,
            hibernate_after_ms=self._hibernate_after_ms,
            ends_when_over=self._on_idle is not None,
        )
        await durable.activate()
        loop = asyncio.get_running_loop().create_task(self._run(durable))
        self._loops.add(loop)
        loop.add_done_callback(self._loops.discard)
        return durable

    async def _check_place(self, job_id: str) -> None:
        """Refuse a job that lives elsewhere: the caller remembered where an earlier run was, and will look again."""
        row = await self._store.job(job_id)
        if row is not None and row.state not in TERMINAL_JOBS and row.placement not in (None, self._name):
            raise Unavailable(retry_after_s=1)

    async def _run(self, durable: Durable) -> None:
        try:
            await durable.run()
        except Exception:  # noqa: BLE001 - a bug in the rules must not end the other jobs of this host; `wake` tries again
            telemetry.fault("job.loop_failed", batch=durable.job_id)
        finally:
            active = self._active.get(durable.job_id)
            if active is not None and active.done() and not active.exception() and active.result() is durable:
                del self._active[durable.job_id]
            if self.idle and self._on_idle is not None:
                self._on_idle()

    async def _takes_in(self, job_id: str) -> bool:
        """Whether the job still reads its prefix; the reading goes on here, once, from its durable cursor."""
        if self._readers is None:
            return False
        job = await self._store.job(job_id)
        if job is None or job.state is not JobState.RECEIVING or job.source_cursor is None:
            self._readers.forget(job_id)
            return False
        await self._readers.go_on(job)
        return True

    def _reply(self, job: Job, answer: Answer) -> Any:
        match answer:
            case None:
                return {}
            case Refused(code=code, message=message):
                raise BY_CODE.get(code, Conflict)(message)
            case Received(stop=stop, next=task):
                reply: dict[str, Any] = {"ok": True, "received": True}
                if stop:
                    reply["stop"] = True
                if task is not None:
                    reply["next"] = self._environment(job, task)
                return reply
            case Granted(tasks=tasks, want=want, large=large):
                return {"tasks": [self._grant(job, task) for task in tasks], "want": want, "large": large}
        raise TypeError(f"no reply for {type(answer).__name__}")

    def _grant(self, job: Job, task: Task) -> dict[str, Any]:
        return {
            "env": self._environment(job, task),
            "task_id": task.task_id,
            "attempt": task.attempt,
            "run": task.run,
            "name": machine_name(job, task),
            "memory_mb": task.memory_mb,
        }

    def _environment(self, job: Job, task: Task) -> Environment:
        env = task_environment(self._callback_base, self._secret, job, task) | self._more_env
        return self._with_urls(env) if self._with_urls is not None else env


def task_environment(callback_base: str, secret: str, job: Job, task: Task) -> Environment:
    """What a worker needs for this task and attempt; its CALLBACK_URL is signed. It has no URLs of objects."""
    signature = sign_task(secret, job.id, task.task_id, task.run, task.attempt)
    phase = all_phases()[job.phases[task.phase]]
    path = job.id if task.task_id == job.id else f"{job.id}/{task.task_id}"
    return phase.environment(job, task) | {
        "CALLBACK_URL": f"{callback_base}/callback/{path}?run={task.run}&attempt={task.attempt}&sig={signature}"
    }


def machine_name(job: Job, task: Task) -> str:
    """`{kind}-{digest of batch, run, task}-{attempt}`: within every provider's length and alphabet (invariant 3)."""
    digest = hashlib.sha256(f"{job.id}\n{task.run}\n{task.task_id}".encode()).hexdigest()[:20]
    return f"{all_phases()[job.phases[task.phase]].kind}-{digest}-{task.attempt}"


def _submitted(durable: Durable, request: dict[str, Any]) -> "asyncio.Future[Any]":
    try:
        return durable.submit(_event(request))
    except InvalidInput as error:
        refused: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        refused.set_exception(error)
        return refused


def _event(request: dict[str, Any]) -> Event:
    fields = {key: value for key, value in request.items() if key not in ("op", "job")}
    try:
        if request["op"] == "callback":
            body = fields["body"] | {"run": fields["run"], "attempt": fields["attempt"]}
            return msgspec.convert(body, CalledBack, strict=False)
        return msgspec.convert(fields, EVENTS[request["op"]])
    except (KeyError, msgspec.ValidationError) as error:
        raise InvalidInput(f"The request is not one that a job knows: {error}") from error
