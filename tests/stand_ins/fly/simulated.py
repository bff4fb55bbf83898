"""A machine's program that behaves as our worker does (worker/loop.py) and uses next to nothing for it.

It takes its first task from its environment or by a claim, lets its time pass, uses the machine's processors, calls
back, takes what the answer brings or claims, and ends when it is idle, spent or retired. Without CLAIM_URL it is a
worker of the originals: one task, one callback, no signs of life. Nothing is downloaded, converted or uploaded.
"""

import asyncio
import json
import time
import uuid
from collections.abc import Mapping
from typing import Any, Final

from tests.stand_ins.fly.delivery import Delivery, Refused, Retired, Undelivered, read
from tests.stand_ins.fly.faults import TASK
from tests.stand_ins.fly.journal import task_of
from tests.stand_ins.fly.machine import KILLED, OUT_OF_MEMORY, VANISHED, Exit, Machine
from tests.stand_ins.fly.reports import Reports, outcome
from tests.stand_ins.fly.world import World, forever
from worker.contract import MAX_CLAIM_WAIT_MS
from worker.settings import (
    TASK_VARIABLES,
    InvalidSetting,
    WorkerSettings,
    missing_task_variables,
    task_environment,
)

FATAL: Final[Mapping[str, Exit]] = {"dies": Exit(code=1), "oom": OUT_OF_MEMORY, "vanishes": VANISHED}
CLAIM_RETRY_S: Final = 120.0

Environment = dict[str, str]


class SimulatedWorker:
    """One run of the program."""

    def __init__(self, machine: Machine, env: Environment, world: World) -> None:
        self._machine = machine
        self._env = env
        self._world = world
        self._delivery = Delivery(world.http, world.chance, machine.name)
        self._main: asyncio.Task[Exit] | None = None
        self._fatal: Exit | None = None
        self._open: set[asyncio.Future[int]] = set()
        self._asking: set[asyncio.Future[tuple[int, bytes]]] = set()
        self._in_hand: list[dict[str, Any]] = []
        """Tasks from when they were taken until they are reported."""
        self._stop = asyncio.Event()
        self._is_frozen = False
        self._is_retired = False
        self._has_trouble = False
        self._begun = self._idle_since = time.monotonic()
        self._begun_tasks = self._done_tasks = self._failed_tasks = 0
        self._used_before_s = machine.cores.used_s()
        self._throttled_s = machine.cores.processor.throttled_s
        self._settings = WorkerSettings()
        self._reports = self._reports_with(self._settings)

    async def run(self) -> Exit:
        self._main = asyncio.ensure_future(self._work())
        try:
            return await self._main
        except asyncio.CancelledError:
            if self._fatal is None:
                raise
            return self._fatal
        finally:
            for known in self._in_hand:  # whatever ended the machine, and whichever of its tasks was the reason
                self._note("lost", **known)

    def interrupt(self, signal: str) -> None:
        """A worker of ours gives its tasks back; one of the originals ends."""
        if self._is_frozen:
            return
        if not self._settings.claim_url:
            self._end(Exit(code=130, signal=2))
        self._stop.set()
        for performing in self._open:
            performing.cancel()
        for asking in self._asking:
            asking.cancel()

    def kill(self) -> None:
        self._end(KILLED)

    def _end(self, how: Exit) -> None:
        self._fatal = how
        if self._main is not None:
            self._main.cancel()

    async def _work(self) -> Exit:
        try:
            self._settings = WorkerSettings.load(self._env)
        except InvalidSetting as error:
            return self._refuse(str(error))
        self._reports = self._reports_with(self._settings)
        missing = missing_task_variables(self._env)
        by_claim = bool(self._settings.claim_url) and len(missing) == len(TASK_VARIABLES)
        if missing and not by_claim:
            return self._refuse(f"Missing required environment variables: {', '.join(missing)}")
        first = None if by_claim else self._env
        self._begun_tasks = 0 if by_claim else 1
        slots = self._settings.concurrency if self._settings.claim_url else 1
        async with asyncio.TaskGroup() as group:
            group.create_task(self._slot(first))
            for _ in range(slots - 1):
                group.create_task(self._slot(None))
        only_task_failed = self._begun_tasks == 1 and self._failed_tasks == 1
        return Exit(code=1 if self._has_trouble or only_task_failed else 0)

    def _reports_with(self, settings: WorkerSettings) -> Reports:
        return Reports(self._world.http, self._delivery, settings, self._note)

    def _refuse(self, why: str) -> Exit:
        self._note("refused_to_run", why=why)
        return Exit(code=1)

    def _note(self, what: str, **known: Any) -> None:
        self._world.journal.note(what, app=self._machine.app, machine=self._machine.name, **known)

    # One thread of the worker

    async def _slot(self, task: Environment | None) -> None:
        by = "env"
        try:
            while task is not None or not self._stop.is_set():
                if task is None:
                    task, by = await self._claim(), "claim"
                if task is None:
                    return
                task, by = await self._do(task, by), "next"
                if task is None and not self._settings.claim_url:
                    return
        except Retired:
            self._is_retired = True
            self._note("retired")
        except Undelivered as error:
            self._has_trouble = True
            self._note("undelivered", why=str(error))

    async def _do(self, env: Environment, by: str) -> Environment | None:
        """Runs one task and reports it; the next one, if the answer brought one. Raises Undelivered."""
        if missing_task_variables(env):
            raise Undelivered(f"the orchestrator sent a task without {', '.join(missing_task_variables(env))}")
        known = task_of(env)
        self._note("task", **known, by=by)
        self._in_hand.append(known)
        try:
            following = await self._perform_and_report(env, known)
        except Undelivered:
            self._in_hand.remove(known)
            self._note("unreported", **known)
            raise
        self._in_hand.remove(known)
        self._idle_since = time.monotonic()
        return following

    async def _perform_and_report(self, env: Environment, known: dict[str, Any]) -> Environment | None:
        if self._stop.is_set():  # it came with an answer that was on its way when the stop did
            await self._give_back(env)
            return None
        fault = self._fault(known)
        performing = asyncio.ensure_future(self._perform(known, fault))
        self._open.add(performing)
        try:
            await self._watch(performing, env, gives_signs=fault != "freezes")
        finally:
            performing.cancel()
            self._open.discard(performing)
        self._done_tasks += 1
        if not performing.cancelled():
            return await self._report(env, known, fault, cpu_ms=performing.result())
        if self._stop.is_set():
            await self._give_back(env)
            return None
        self._note("unwanted", **known)
        return None

    async def _give_back(self, env: Environment) -> None:
        await self._hang_if_frozen()
        await self._reports.send(env, {"status": "released"}, give_up_s=4.0)

    def _fault(self, known: Mapping[str, Any]) -> str | None:
        cured_mb = self._world.settings.oom_cured_mb
        is_cured = cured_mb is not None and self._machine.settings.guest.memory_mb >= cured_mb
        names = [name for name in TASK if name != "oom" or not is_cured]
        return self._world.faults.first(names, *self._subject(known), region=self._machine.region)

    def _subject(self, known: Mapping[str, Any]) -> tuple[object, ...]:
        """What draws depend on: the attempt, whichever machine makes it; the machine only where no attempt is known."""
        if "attempt" in known:
            return known["task"], known.get("run"), known["attempt"]
        return known["task"], self._machine.name, self._machine.starts, self._begun_tasks

    async def _perform(self, known: Mapping[str, Any], fault: str | None) -> int:
        """Lets a task's time pass; the processor milliseconds that it used."""
        chance, settings = self._world.chance, self._world.settings
        subject = self._subject(known)
        work_s = chance.seconds(settings.work, "work", *subject)
        cpu_s = min(work_s, chance.seconds(settings.cpu, "cpu", *subject))
        around_s = (work_s - cpu_s) / 2
        await asyncio.sleep(around_s)
        if fault == "runs_forever" or fault == "freezes":
            self._strike(fault, known)
            self._is_frozen = self._is_frozen or fault == "freezes"
            await forever()
        if fault is not None and fault in FATAL:
            await self._machine.cores.work(cpu_s / 2)
            self._strike(fault, known)
            self._end(FATAL[fault])
            await forever()
        await self._machine.cores.work(cpu_s)
        await asyncio.sleep(around_s)
        return round(cpu_s * 1000)

    def _strike(self, fault: str, known: Mapping[str, Any]) -> None:
        self._note("fault", fault=fault, **known)

    async def _watch(self, performing: asyncio.Future[int], env: Environment, *, gives_signs: bool) -> None:
        """Until the task is over; with signs of life, and ended where an answer says that it is no longer wanted."""
        every_s = self._settings.heartbeat_s if self._settings.claim_url and gives_signs else None
        while not (await asyncio.wait({performing}, timeout=every_s))[0]:
            if not self._is_frozen and await self._reports.is_unwanted(env):
                performing.cancel()

    async def _report(
        self, env: Environment, known: Mapping[str, Any], fault: str | None, *, cpu_ms: int
    ) -> Environment | None:
        if fault == "callback_late":
            self._strike(fault, known)
            await asyncio.sleep(self._world.chance.seconds(self._world.settings.late, "late", *self._subject(known)))
        if fault == "callback_garbage":
            self._strike(fault, known)
            fraction = self._world.chance.fraction("garbage", *self._subject(known))
            await self._reports.send_garbage(env, fraction)
            return None
        await self._hang_if_frozen()
        takes_next = self._reserve()
        told = outcome(env, fault, cpu_ms) | ({"accepts_next": True} if takes_next else {})
        if self._settings.claim_url and (throttled_ms := self._throttled_ms()):
            told["throttled_ms"] = throttled_ms
        if told["status"] == "error":
            self._strike(str(fault), known)
            self._failed_tasks += 1
        try:
            if fault == "callback_twice":
                answer = await self._reports.send_twice(env, told, lambda: self._strike("callback_twice", known))
            else:
                answer = await self._reports.send(env, told)
        except Refused as error:
            self._note("refused", **known, why=str(error))
            self._has_trouble = self._has_trouble or not self._settings.claim_url
            answer = {}
        following = answer.get("next") if takes_next else None
        if takes_next and not following:
            self._begun_tasks -= 1
        return task_environment(self._env, following) if following else None

    def _throttled_ms(self) -> int:
        """Since the last report."""
        total_s, former_s = self._machine.cores.processor.throttled_s, self._throttled_s
        self._throttled_s = total_s
        return round((total_s - former_s) * 1000)

    async def _hang_if_frozen(self) -> None:
        if self._is_frozen:
            await forever()

    # More work

    def _reserve(self) -> bool:
        """Whether this machine takes one more task; counts it."""
        if self._stop.is_set() or not self._settings.claim_url or self._is_spent():
            return False
        self._begun_tasks += 1
        return True

    def _is_spent(self) -> bool:
        settings, age_s = self._settings, time.monotonic() - self._begun
        if self._is_retired or self._begun_tasks >= settings.max_tasks or age_s >= settings.max_age_s:
            return True
        return not settings.allowance.has_room(
            used_s=self._machine.cores.used_s() - self._used_before_s, age_s=age_s, taken=self._begun_tasks,
            done=self._done_tasks,
        )  # fmt: skip

    async def _claim(self) -> Environment | None:
        """Asks until there is a task, or the whole machine was idle for long enough. Raises Retired, Undelivered."""
        while not self._stop.is_set() and self._reserve():
            tasks = await self._ask()
            if tasks:
                return task_environment(self._env, tasks[0])
            self._begun_tasks -= 1
            if not self._in_hand and time.monotonic() - self._idle_since >= self._settings.idle_s:
                return None
        return None

    async def _ask(self) -> list[Environment]:
        await self._hang_if_frozen()
        settings, asked = self._settings, time.monotonic()
        left_s = settings.idle_s if self._in_hand else max(0.0, self._idle_since + settings.idle_s - asked)
        wait_s = min(left_s, MAX_CLAIM_WAIT_MS / 1000)
        claim = {
            "machine": settings.machine_name,
            "claim": uuid.uuid4().hex,
            "kinds": list(settings.kinds),
            "free": 1,
            "wait_ms": round(wait_s * 1000),
        }
        headers = {"Authorization": f"Bearer {settings.machine_token}"} if settings.machine_token else {}
        asking = asyncio.ensure_future(
            self._delivery.persist(
                settings.claim_url or "",
                json.dumps(claim).encode(),
                headers,
                wait_s + 10,
                max(CLAIM_RETRY_S, settings.idle_s),
            )
        )
        self._asking.add(asking)
        try:
            status, answer = await asking
        except asyncio.CancelledError:
            if not self._stop.is_set() or self._fatal is not None:
                raise
            return []
        finally:
            asking.cancel()
            self._asking.discard(asking)
        self._note("claim", status=status)
        if status == 410:
            raise Retired
        if status == 204:
            if time.monotonic() - asked < wait_s / 2:
                await asyncio.sleep(0.25)
            return []
        if status >= 300:
            raise Refused(f"the claim was answered {status}")
        tasks: list[Environment] = read(answer).get("tasks") or []
        return tasks
