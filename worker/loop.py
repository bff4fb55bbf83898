"""The life of one machine: take a task, run it, report, take the next, exit when spent.

Tasks come from the environment, from `next` in the answer to a callback, or from CLAIM_URL. WORKER_CONCURRENCY threads
run one task each; the thread that called `run` watches over them: it sends signs of life for long tasks, ends those
that are no longer wanted, and gives all back as `released` when `stop` is set. No signals are handled here, so that
`run` works in any thread of any process.

Conversions happen in processes of their own (`worker.isolation`), WORKER_CONVERSIONS at once: what the other tasks
download or upload meanwhile costs these nothing.
"""

import contextlib
import http.client
import logging
import random
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec

from worker import callback, kinds, objects, scratch, urls
from worker.contract import MAX_CLAIM_WAIT_MS, Callback, CallbackAnswer, CallbackStatus, Claim, Environment
from worker.errors import BadInput, Cancelled, Refused, Retired, Unavailable, Undelivered, WorkerError, sentence
from worker.isolation import Converters
from worker.kinds.base import Context, Outcome
from worker.limits import MemoryGate, base_bytes, memory_for_pictures
from worker.settings import TASK_VARIABLES, InvalidSetting, WorkerSettings, missing_task_variables, task_environment
from worker.throttling import Throttling

log = logging.getLogger("worker.loop")

LOOK_EVERY_S = 0.5
PROGRESS_EVERY_S = 5.0
"""How often a long task says how far it is, at most; else signs of life are WORKER_HEARTBEAT_S apart."""
END_WITHIN_S = 5.0
"""How long threads may take to end once their tasks were given back."""
CLAIM_RETRY_S = 120.0
"""How long an orchestrator may be away: longer than its restart takes."""


def run(env: Mapping[str, str], *, stop: threading.Event, is_whole_process: bool = False) -> int:
    """Runs tasks until there are no more, the machine is spent, or `stop` is set. Returns the exit code: 1 when the
    environment is not valid, the only task failed, or a report did not get through; else 0.

    `is_whole_process`: what the process used before counts as the machine's."""
    try:
        settings, by_claim = _checked(env)
    except (InvalidSetting, WorkerError) as error:
        return _refused_to_start(env, str(error), stop)
    scratch.sweep()
    cpu_begun_s = 0.0 if is_whole_process else time.process_time()
    return _Machine(env, settings, stop, cpu_begun_s).run(first=None if by_claim else dict(env))


def _checked(env: Mapping[str, str]) -> tuple[WorkerSettings, bool]:
    """The settings, and whether the first task is to be claimed. Raises InvalidSetting or WorkerError for a machine
    that could not report, or would fail every task: one that claims brings its own way to the objects, unless it is
    told that the tasks do."""
    settings = WorkerSettings.load(env)
    missing = missing_task_variables(env)
    by_claim = settings.claim_url is not None and len(missing) == len(TASK_VARIABLES)
    if settings.claim_url is not None:
        urls.split(settings.claim_url, "CLAIM_URL")
    if missing and not by_claim:
        raise InvalidSetting(f"Missing required environment variables: {', '.join(missing)}")
    if not by_claim:
        urls.split(env["CALLBACK_URL"], "CALLBACK_URL")
    elif not settings.presigned:
        objects.check({name: value for name, value in env.items() if name not in ("INPUT_URL", "OUTPUT_URL")})
    return settings, by_claim


def _refused_to_start(env: Mapping[str, str], fault: str, stop: threading.Event) -> int:
    """Says why on the terminal and, where the environment holds a task, in its callback: another machine may do it.
    Returns the exit code."""
    sys.stderr.write(f"{fault}\n")
    if missing_task_variables(env) or not urls.is_valid(env["CALLBACK_URL"]):
        return 1
    report = Callback(task_id=env["TASK_ID"], batch_id=env["BATCH_ID"], status="error", error=fault)
    try:
        callback.deliver(env["CALLBACK_URL"], report, give_up_s=WorkerSettings.callback_s, stop=stop)
    except Undelivered as error:
        log.error("[Worker] %s", error)
    return 1


@dataclass
class _Open:
    """A task in progress. Whoever settles it first (result, give-back, no longer wanted) is the one who reports."""

    env: Environment
    begun: float
    cancelled: threading.Event = field(default_factory=threading.Event)
    spoken: float = 0.0
    is_speaking: bool = False
    progress: dict[str, Any] | None = None
    """How far it is, where that has not been said yet."""
    _settled: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def settle(self) -> bool:
        """True for the first caller only."""
        with self._lock:
            first, self._settled = not self._settled, True
            return first

    def tell(self, progress: dict[str, Any]) -> None:
        """How far it is: goes with the next sign of life."""
        self.progress = progress

    @property
    def is_settled(self) -> bool:
        return self._settled

    def say(self, status: CallbackStatus, **more: object) -> Callback:
        """A callback about this task."""
        return Callback(task_id=self.env["TASK_ID"], batch_id=self.env["BATCH_ID"], status=status, **more)  # type: ignore[arg-type]


class _Machine:
    """The state of one run, shared by its threads under one lock."""

    def __init__(
        self, env: Mapping[str, str], settings: WorkerSettings, stop: threading.Event, cpu_begun_s: float
    ) -> None:
        self._env = env
        self._settings = settings
        self._stop = stop
        memory_bytes = memory_for_pictures(settings.memory_mb, settings.conversions)
        self._memory = MemoryGate(memory_bytes, base_bytes=base_bytes(settings.conversions))
        self._converters = Converters(settings.conversions, memory_bytes=memory_bytes, timeout_s=settings.task_max_s)
        self._begun = time.monotonic()
        self._cpu_begun_s = cpu_begun_s
        self._throttling = Throttling(env)
        self._lock = threading.Lock()
        self._tasks: list[_Open] = []
        self._idle_since = self._begun
        self._begun_tasks = 0
        self._done_tasks = 0  # of those begun: whose work is over, reported or not
        self._failed_tasks = 0
        self._trouble = False
        self._retired = threading.Event()
        self._claims: set[http.client.HTTPConnection] = set()

    def run(self, first: Environment | None) -> int:
        """Starts the threads and watches over them until they end; what they started ends with them."""
        try:
            return self._run(first)
        finally:
            self._converters.close()

    def _run(self, first: Environment | None) -> int:
        slots = self._settings.concurrency if self._settings.claim_url else 1
        if first is not None:
            self._begun_tasks = 1
        firsts = [first] + [None] * (slots - 1)
        threads = [
            threading.Thread(target=self._slot, args=(task,), name=f"slot-{number}", daemon=True)
            for number, task in enumerate(firsts)
        ]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads) and not self._stop.is_set():
            self._signs_of_life()
            self._wait(threads)
        if self._stop.is_set():
            self._end_claims()
            self._give_back()
        deadline = time.monotonic() + END_WITHIN_S
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return self._exit_code()

    def _wait(self, threads: list[threading.Thread]) -> None:
        """Until a thread ends, a sign of life is due or, within half a second, `stop` is set."""
        alive = next((thread for thread in threads if thread.is_alive()), None)
        if alive is not None:
            alive.join(min(LOOK_EVERY_S, self._settings.heartbeat_s / 2))

    def _exit_code(self) -> int:
        only_task_failed = self._begun_tasks == 1 and self._failed_tasks == 1
        return 1 if self._trouble or only_task_failed else 0

    # One thread

    def _slot(self, task: Environment | None) -> None:
        """Runs tasks one after the other until there is none or the machine is spent."""
        try:
            # A task in hand is taken up also when stopping, so that it is given back.
            while task is not None or not self._stop.is_set():
                task = task if task is not None else self._claim()
                if task is None:
                    return
                task = self._do(task)
                if not self._settings.claim_url and task is None:
                    return
        except Retired as error:
            log.info("[Worker] %s", error)
            self._retired.set()
        except Undelivered as error:
            log.error("[Worker] %s", error)
            self._trouble = True
        except Exception:
            log.exception("[Worker] a thread of the worker failed")
            self._trouble = True

    def _do(self, env: Environment) -> Environment | None:
        """Runs one task and reports it; returns the next one, if the answer brought one. Raises Undelivered."""
        with self._in_progress(env) as task:
            if self._stop.is_set():
                # It came with an answer that was on its way when the stop did.
                if task.settle():
                    self._release(task)
                return None
            report = self._report(task)
            with self._lock:
                self._done_tasks += 1
                throttled_ms = self._throttling.since_last_ms()
            if report is not None and throttled_ms is not None:
                report = msgspec.structs.replace(report, throttled_ms=throttled_ms)
            if report is None or not task.settle():
                return None
            takes_next = self._reserve()
            try:
                answer = self._deliver(task, report, takes_next)
            except Refused as error:
                log.error("[Worker] %s", error)
                self._trouble = self._trouble or not self._settings.claim_url
                answer = CallbackAnswer(ok=False)
            if takes_next and answer.next is None:
                self._unreserve()
            return task_environment(self._env, answer.next) if takes_next and answer.next is not None else None

    def _report(self, task: _Open) -> Callback | None:
        """The result as a callback; None when the task was given back or is no longer wanted."""
        cpu_begun = time.thread_time()
        try:
            outcome = self._perform(task)
        except Cancelled:
            return None
        except Exception as error:
            if not isinstance(error, WorkerError):
                log.exception("[Worker] task %s failed unexpectedly", task.env.get("TASK_ID"))
            with self._lock:
                self._failed_tasks += 1
            log.warning("[Worker] task %s failed: %s", task.env.get("TASK_ID"), sentence(error))
            retryable = error.retryable if isinstance(error, WorkerError) else True
            return task.say("error", error=sentence(error), retryable=retryable)
        return task.say(
            "success",
            output_r2_key=outcome.output_r2_key,
            output_file_name=outcome.output_file_name,
            output_file_size=outcome.output_file_size,
            performance=outcome.performance,
            pages=outcome.pages,
            notes=outcome.notes,
            cpu_ms=round((time.thread_time() - cpu_begun) * 1000) + outcome.cpu_ms,
        )

    def _perform(self, task: _Open) -> Outcome:
        perform = kinds.find(task.env.get("KIND") or "tiff")
        store = objects.from_environment(task.env)
        with scratch.folder() as folder:
            return perform(
                Context(
                    env=task.env,
                    objects=store,
                    folder=folder,
                    memory=self._memory,
                    converters=self._converters,
                    cancelled=task.cancelled,
                    transfer_s=self._settings.task_max_s,
                    tell=task.tell,
                )
            )

    def _deliver(self, task: _Open, report: Callback, takes_next: bool) -> CallbackAnswer:
        if takes_next:
            report = msgspec.structs.replace(report, accepts_next=True)
        return callback.deliver(task.env["CALLBACK_URL"], report, give_up_s=self._settings.callback_s, stop=self._stop)

    @contextmanager
    def _in_progress(self, env: Environment) -> Iterator[_Open]:
        missing = missing_task_variables(env)
        if missing:
            raise Undelivered(f"the orchestrator sent a task without {', '.join(missing)}")
        if not urls.is_valid(env["CALLBACK_URL"]):
            raise Undelivered("the orchestrator sent a task whose CALLBACK_URL is not a valid URL")
        task = _Open(env, begun=time.monotonic())
        with self._lock:
            self._tasks.append(task)
        try:
            yield task
        finally:
            with self._lock:
                self._tasks.remove(task)
                self._idle_since = time.monotonic()

    # More work

    def _reserve(self) -> bool:
        """Whether this machine takes one more task; counts it."""
        with self._lock:
            if self._stop.is_set() or not self._settings.claim_url or self._is_spent():
                return False
            self._begun_tasks += 1
            return True

    def _unreserve(self) -> None:
        with self._lock:
            self._begun_tasks -= 1

    def _is_spent(self) -> bool:
        settings, age_s = self._settings, time.monotonic() - self._begun
        if self._retired.is_set() or self._begun_tasks >= settings.max_tasks or age_s >= settings.max_age_s:
            return True
        used_s = time.process_time() - self._cpu_begun_s + self._converters.cpu_s
        return not settings.allowance.has_room(
            used_s=used_s, age_s=age_s, taken=self._begun_tasks, done=self._done_tasks
        )

    def _claim(self) -> Environment | None:
        """Asks for a task until there is one, or the whole machine was idle for WORKER_IDLE_S. Raises Retired or
        Undelivered."""
        url = self._settings.claim_url
        while url is not None and not self._stop.is_set():
            if not self._reserve():
                return None
            tasks = self._ask(url)
            if tasks:
                return task_environment(self._env, tasks[0])
            self._unreserve()
            if self._was_idle():
                return None
        return None

    def _ask(self, url: str) -> tuple[Environment, ...]:
        asked = time.monotonic()
        wait_s = min(self._idle_left_s(), MAX_CLAIM_WAIT_MS / 1000)
        request = Claim(
            machine=self._settings.machine_name,
            claim=uuid.uuid4().hex,
            kinds=self._settings.kinds,
            free=1,
            wait_ms=round(wait_s * 1000),
        )
        give_up_s = max(CLAIM_RETRY_S, self._settings.idle_s)
        mine: list[http.client.HTTPConnection] = []

        def opened(connection: http.client.HTTPConnection) -> None:
            mine.append(connection)
            with self._lock:
                self._claims.add(connection)
            if self._stop.is_set():
                raise Unavailable("this machine stops")

        try:
            tasks = callback.claim(
                url, request, self._settings.machine_token, give_up_s=give_up_s, stop=self._stop, opened=opened
            )
        except Undelivered:
            if self._stop.is_set():
                return ()
            raise
        finally:
            with self._lock:
                self._claims.difference_update(mine)
        if not tasks and time.monotonic() - asked < wait_s / 2:
            # An empty answer before its time: do not ask in a tight loop.
            self._stop.wait(random.uniform(0.25, 0.5))
        return tasks

    def _idle_left_s(self) -> float:
        """How long a claim may wait: no longer than this machine stays without work, which costs as much as work."""
        with self._lock:
            if self._tasks:
                return self._settings.idle_s
            return max(0.0, self._idle_since + self._settings.idle_s - time.monotonic())

    def _was_idle(self) -> bool:
        with self._lock:
            return not self._tasks and time.monotonic() - self._idle_since >= self._settings.idle_s

    def _end_claims(self) -> None:
        """Hangs up on claims that wait for work, so that a machine without work stops at once."""
        with self._lock:
            for connection in self._claims:
                if connection.sock is not None:
                    with contextlib.suppress(OSError):
                        connection.sock.shutdown(socket.SHUT_RDWR)

    # Watching over tasks in progress

    def _open_tasks(self) -> list[_Open]:
        with self._lock:
            return list(self._tasks)

    def _signs_of_life(self) -> None:
        """Says "running" for each task that has run for a while, in threads of their own: one that gets no answer must
        keep back neither the others nor a stop. A task whose last sign is under way gives no further one."""
        for task in self._open_tasks():
            now = time.monotonic()
            every_s = self._settings.heartbeat_s
            if task.progress is not None:
                every_s = min(every_s, PROGRESS_EVERY_S)
            if task.is_settled or task.is_speaking or now - max(task.begun, task.spoken) < every_s:
                continue
            task.spoken, task.is_speaking = now, True
            threading.Thread(target=self._sign_of_life, args=(task,), name="sign-of-life", daemon=True).start()

    def _sign_of_life(self, task: _Open) -> None:
        """One; ends the task where the answer says that it is no longer wanted."""
        progress, task.progress = task.progress, None
        try:
            unwanted = callback.heartbeat(task.env["CALLBACK_URL"], task.say("running", performance=progress))
        except BadInput as error:
            log.warning("[Worker] sign of life of %s: %s", task.env["TASK_ID"], error)
            return
        finally:
            task.is_speaking = False
        if unwanted and task.settle():
            log.info("[Worker] task %s is no longer wanted", task.env["TASK_ID"])
            task.cancelled.set()

    def _give_back(self) -> None:
        """Reports every open task as `released`, all at once, and ends them."""
        threads = [
            threading.Thread(target=self._release, args=(task,), daemon=True)
            for task in self._open_tasks()
            if task.settle()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(callback.STOP_GRACE_S + END_WITHIN_S)

    def _release(self, task: _Open) -> None:
        task.cancelled.set()
        try:
            callback.deliver(
                task.env["CALLBACK_URL"], task.say("released"), give_up_s=callback.STOP_GRACE_S, stop=self._stop
            )
            log.info("[Worker] task %s was given back", task.env["TASK_ID"])
        except (Undelivered, WorkerError) as error:
            log.error("[Worker] task %s could not be given back: %s", task.env["TASK_ID"], error)
            self._trouble = True
