"""Bugs that a person could write, to be planted in the real code: the simulation must find each of them.

A mutant is a text that is replaced in the source of one function, or of one assignment at the top of a module. The
text must be there exactly once: when the code has changed, the mutant says so instead of breaking nothing. Functions
get their new code in place, so that whoever has imported them runs it too.
"""

import ast
import importlib
import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FunctionType, ModuleType
from typing import Any, Final, NamedTuple
from unittest.mock import patch


class Edit(NamedTuple):
    """One replacement. `at` is `module:name` or `module:Class.method`."""

    at: str
    former: str
    mutated: str


class Mutant(NamedTuple):
    """One bug. `breaks` says what is wrong then, as a reviewer would."""

    name: str
    breaks: str
    edits: tuple[Edit, ...]

    @contextmanager
    def planted(self) -> Iterator[None]:
        """The code with this bug. Raises LookupError where a text is not there, or not once."""
        with ExitStack() as stack:
            for edit in self.edits:
                stack.enter_context(_edited(edit))
            yield


@contextmanager
def _edited(edit: Edit) -> Iterator[None]:
    module_name, _, path = edit.at.partition(":")
    module = importlib.import_module(module_name)
    mutated = _run(_rewritten(edit, _source_of(module, path)), module)[path.rpartition(".")[2]]
    found = _find(module, path)
    if not isinstance(found, FunctionType):
        with patch.object(module, path, mutated):
            yield
        return
    code, found.__code__ = found.__code__, mutated.__code__
    try:
        yield
    finally:
        found.__code__ = code


def _rewritten(edit: Edit, source: str) -> str:
    count = source.count(edit.former)
    if count != 1:
        raise LookupError(f"{edit.at} has this {count} times, not once: {edit.former!r}")
    return source.replace(edit.former, edit.mutated)


def _source_of(module: ModuleType, path: str) -> str:
    """The statement that defines the name, as the file has it."""
    text = inspect.getsource(module)
    body: list[ast.stmt] = ast.parse(text).body
    for name in path.split("."):
        (node,) = (one for one in body if _defines(one) == name)
        body = getattr(node, "body", [])
    lines = text.splitlines(keepends=True)[node.lineno - 1 : node.end_lineno]
    return "".join(lines)


def _defines(node: ast.stmt) -> str | None:
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return name
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
            return name
    return None


def _run(source: str, module: ModuleType) -> dict[str, Any]:
    """What the source defines when it stands in the module. The module does not change."""
    names = dict(vars(module))
    whole = f"if True:\n{source}" if source[0].isspace() else source  # a method keeps its indentation
    exec(compile(whole, f"<mutant of {module.__name__}>", "exec"), names)
    return names


def _find(module: ModuleType, path: str) -> Any:
    found: Any = module
    for name in path.split("."):
        found = inspect.getattr_static(found, name)
    return found


def _mutant(name: str, breaks: str, at: str, former: str, mutated: str, *more: Edit) -> Mutant:
    return Mutant(name, breaks, (Edit(at, former, mutated), *more))


_TURN: Final = "actors.durable:Durable._turn"
_COMMITS: Final = "        if decision.changed:\n            await self._commit(decision)\n"
_IDLE_STAY: Final = Edit("actors.fleet.watching:Watching.look", "await self._part_from_idle_machines(now)", "pass")
"""What ends such a machine too, half a minute later."""
_NO_TABLE: Final = Edit("actors.rules.task:move", "if status not in TASK_MOVES[task.status]:", "if False:")

OF_THE_LOOP: Final = (
    _mutant(
        "answers_before_commit",
        "A caller has its 200 before the transition is on disk.",
        _TURN,
        _COMMITS,
        "        for one, answer in zip(group, decision.answers[1:], strict=True):\n"
        "            if not one.answer.done():\n"
        "                one.answer.set_result(answer)\n" + _COMMITS,
    ),
    _mutant(
        "effects_before_commit",
        "The receiver and the fleet are told what is not on disk yet.",
        _TURN,
        _COMMITS,
        "        for effect in decision.effects:\n            self._act(effect)\n" + _COMMITS,
    ),
    _mutant(
        "unanswered_commit_is_written",
        "A commit that the store has not answered counts as written.",
        "actors.durable:Durable._commit",
        "        await self._patiently(lambda: self._store.commit(commit))\n",
        "        with contextlib.suppress(ConnectionError, Unavailable):\n"
        "            await self._store.commit(commit)\n",
    ),
    _mutant(
        "fenced_goes_on",
        "An activation that has lost its job answers and acts on.",
        "actors.durable:Durable._commit",
        "        await self._patiently(lambda: self._store.commit(commit))\n",
        "        with contextlib.suppress(Fenced):\n"
        "            await self._patiently(lambda: self._store.commit(commit))\n",
    ),
    _mutant(
        "sleeps_through_its_alarm",
        "The loop waits for requests alone.",
        "actors.durable:Durable._wait",
        "limits = [] if alarm_at is None else [(alarm_at - self._clock.now()) / 1000]",
        "limits: list[float] = []",
    ),
    _mutant(
        "activation_forgets_what_flies",
        "A new activation begins without the tasks in flight.",
        "actors.durable:Durable.activate",
        "Flight({task.task_id: task for task in flying})",
        "Flight()",
    ),
)

OF_THE_STORE: Final = (
    _mutant(
        "no_epoch_check",
        "Any activation may write, also one that was replaced.",
        "actors.store.batches:_TURN",
        '        jobs.c.epoch == bindparam("key_epoch"),\n',
        "",
    ),
    _mutant(
        "alarm_not_written",
        "The alarm is in memory alone, and lost on hibernation.",
        "actors.store.batches:_TURN",
        "TURN_COLUMNS,",
        '[name for name in TURN_COLUMNS if name != "alarm_at"],',
    ),
    _mutant(
        "activation_without_epoch",
        "Two activations of one job have the same epoch.",
        "actors.store.batches:_ACTIVATE",
        ".values(epoch=jobs.c.epoch + 1, seq=0)",
        ".values(seq=0)",
    ),
    _mutant(
        "full_disk_is_success",
        "What the disk has refused is answered like what was written.",
        "actors.store.writer:Writer.execute",
        "return [unavailable(error) for _ in requests]",
        "return [None for _ in requests]",
    ),
    _mutant(
        "full_disk_is_not_rolled_back",
        "A transaction that failed stays open.",
        "actors.store.writer:Writer.execute",
        '            telemetry.fault("store.group_not_written", requests=len(requests))\n'
        "            self._roll_back()\n",
        '            telemetry.fault("store.group_not_written", requests=len(requests))\n',
    ),
    _mutant(
        "fleet_without_fence",
        "A fleet that was replaced writes on.",
        "actors.store.fleet:_TURN",
        '        singletons.c.epoch == bindparam("key_epoch"),\n        singletons.c.seq == bindparam("former_seq"),\n',
        "",
    ),
    _mutant(
        "fleet_without_new_epoch",
        "Two fleets have the same epoch.",
        "actors.store.fleet:_ACTIVATE",
        'set_={"epoch": singletons.c.epoch + 1, "seq": 0}',
        'set_={"seq": 0}',
    ),
    _mutant(
        "created_again_in_the_same_run",
        "A batch that is created again keeps the number of its run.",
        "actors.store.batches:recreate",
        "run=old.run + 1",
        "run=old.run",
    ),
    _mutant(
        "reads_and_writes_mixed_up",
        "A list with reads among its writes is answered in another order.",
        "actors.store.served:Served.handle",
        'return [next(of_reads if request["op"] == "read" else of_writes) for request in requests]',
        "return [*of_writes, *of_reads]",
    ),
)

OF_THE_RULES: Final = (
    _mutant(
        "counts_without_looking",
        "A second callback counts a second time.",
        "actors.rules.batch:_called_back",
        "if task.status in TERMINAL_TASKS:",
        "if False:",
        _NO_TABLE,
        Edit("actors.rules.batch:Draft.put", "if was is None or was.status != task.status:", "if True:"),
    ),
    _mutant(
        "late_success_counts_again",
        "A task that has failed succeeds after all, and is counted as both.",
        "actors.rules.batch:_called_back",
        "if task.status in TERMINAL_TASKS:",
        "if task.status is TaskStatus.COMPLETED:",
        _NO_TABLE,
    ),
    _mutant(
        "no_deadline",
        "A task in flight has no deadline.",
        "actors.rules.task:assign",
        "deadline_at=now + boot_ms + policy.task_timeout_ms",
        "deadline_at=None",
    ),
    _mutant(
        "deadline_not_looked_at",
        "A task whose machine is silent is waited for without end.",
        "actors.rules.batch:_alarm_fired",
        "t.deadline_at <= d.now",
        "t.deadline_at <= 0",
    ),
    _mutant(
        "overdue_machine_lives_on",
        "The machine of a task that is overdue is not destroyed.",
        "actors.rules.batch:_overdue",
        "if task.machine is not None:",
        "if False:",
        _IDLE_STAY,
    ),
    _mutant(
        "stale_attempt_fails_the_new_one",
        "The error of an attempt that was given up ends the present one.",
        "actors.rules.batch:_called_back",
        "is_open = task.status is TaskStatus.PROCESSING and task.attempt == report.attempt",
        "is_open = task.status is TaskStatus.PROCESSING",
    ),
    _mutant(
        "run_not_checked",
        "A callback of the run before counts in the present one.",
        "actors.rules.batch:_called_back",
        "if report.run != d.job.run:",
        "if False:",
    ),
    _mutant(
        "next_anew_for_each_repetition",
        "A callback that is sent again gets another next task.",
        "actors.rules.batch:_called_back",
        'return Received(stop=report.status == "running", next=_given_before(d, report))',
        "return Received(next=_next(d, task, report) if report.accepts_next else None)",
    ),
    _mutant(
        "task_given_twice",
        "A task that was taken stays among those that are ready.",
        "actors.rules.batch:Draft.take",
        "self.ready.pop(place)",
        "self.ready[place]",
    ),
    _mutant(
        "done_stays_ready",
        "A task that an older attempt has completed stays among those that are ready.",
        "actors.rules.batch:Draft.put",
        "if was is not None and was.status is TaskStatus.PENDING and task.status in TERMINAL_TASKS:",
        "if False:",
    ),
    _mutant(
        "claim_answered_anew",
        "A claim that is sent again gets other tasks than before.",
        "actors.rules.batch:_work_taken",
        "t.machine == wish.machine and t.claim == wish.claim",
        "False",
    ),
    _mutant(
        "tries_without_end",
        "A task that always fails is tried for ever.",
        "actors.rules.task:try_again",
        "if task.tries >= policy.max_attempts:",
        "if False:",
    ),
    _mutant(
        "never_tried_again",
        "The first failure of a task is its last.",
        "actors.rules.task:try_again",
        "if task.tries >= policy.max_attempts:",
        "if True:",
    ),
    _mutant(
        "give_back_costs_a_try",
        "A task whose spawn was refused has one try less.",
        "actors.rules.task:give_back",
        "return replace(_back(task, reason, now + wait_ms), tries=max(0, task.tries - 1))",
        "return _back(task, reason, now + wait_ms)",
    ),
    _mutant(
        "done_one_too_early",
        "A batch is done while its last task is at work.",
        "actors.rules.batch:_settle",
        "job.tasks_completed + job.tasks_failed >= job.tasks_total",
        "job.tasks_completed + job.tasks_failed + 1 >= job.tasks_total",
    ),
    _mutant(
        "delivered_once_only",
        "A final callback that fails is given up.",
        "actors.rules.batch:_delivery_ended",
        ">= d.policy.delivery_give_up_ms",
        ">= 0",
    ),
    _mutant(
        "delivery_not_looked_at",
        "A final callback that was lost or has failed is not begun again.",
        "actors.rules.batch:_alarm_fired",
        "if d.job.delivery is Delivery.PENDING and (d.job.delivery_at or 0) <= d.now:",
        "if False:",
    ),
    _mutant(
        "delivered_although_refused",
        "Whatever the receiver answers, it counts as told.",
        "actors.channels.final_callback:read_answer",
        "if 200 <= status < 300:",
        "if 200 <= status < 600:",
    ),
    _mutant(
        "another_key_each_time",
        "Each try of a delivery has a key of its own.",
        "actors.channels.final_callback:FinalCallback.send",
        'f"{job.id}:{run}"',
        "f\"{job.id}:{run}{job.delivery_tries or ''}\"",
    ),
    _mutant(
        "ended_batch_keeps_its_tasks",
        "What was at work when a batch was ended stays so.",
        "actors.rules.batch:_stop",
        "    for task in list(d.in_flight.values()):\n        d.put(tasks.fail(task, error, d.now))\n",
        "",
    ),
    _mutant(
        "no_alarm_without_tasks_in_flight",
        "A batch that waits for a machine has no alarm.",
        "actors.rules.batch:_alarm",
        "    latest = d.now + d.policy.alarm_delay_ms",
        "    if not d.in_flight:\n        return None\n    latest = d.now + d.policy.alarm_delay_ms",
    ),
    _mutant(
        "new_run_keeps_its_counters",
        "A new run counts the failures of the former one.",
        "actors.rules.batch:_retried",
        "        tasks_failed=0,\n",
        "",
    ),
)

OF_THE_FLEET: Final = (
    _mutant(
        "spawn_before_the_intent",
        "The provider is asked before the name of the machine is on disk.",
        "actors.fleet.making:Making._spawn",
        "        row = await self._rows.move(\n            machine, MachineState.SPAWNING,",
        "        import msgspec\n"
        "        row = self._rows.by_id[machine] = msgspec.structs.replace(\n"
        "            self._rows.by_id[machine], state=MachineState.SPAWNING,",
    ),
    _mutant(
        "gone_before_the_batch_is_told",
        "A machine is forgotten before its batch knows that it is lost.",
        "actors.fleet.endings:Endings.bury",
        "            for job in list(ending.tell):\n",
        "            await self._close(row, ending)\n            for job in list(ending.tell):\n",
    ),
    _mutant(
        "lost_machine_not_told",
        "A batch learns that a machine is lost from its deadlines alone.",
        "actors.fleet.endings:Endings._tell",
        "if await self.is_over(job):",
        "if True:",
    ),
    _mutant(
        "orphans_stay",
        "A machine that nobody knows is never destroyed.",
        "actors.fleet.watching:Watching._sweep",
        "if self._swept_at - at >= self._sweep_ms",
        "if False",
    ),
    _mutant(
        "reservation_not_returned",
        "What was asked of a batch stays reserved when it has answered.",
        "actors.fleet.work:Work.take",
        "self.adjust(job, taking=-reserved, taken=taken)",
        "self.adjust(job, taken=taken)",
    ),
    _mutant(
        "restart_forgets_all_rows",
        "A fleet that starts again knows none of the machines of the former one.",
        "actors.fleet.rows:Rows.take_over",
        "await self._store.machines(alive=True)",
        "[]",
    ),
    _mutant(
        "dead_machine_not_noticed",
        "The fleet does not look at what its provider says of its machines.",
        "actors.fleet.watching:Watching._compare",
        'if status is None or status.state != "running"',
        "if False",
        _IDLE_STAY,
    ),
    _mutant(
        "more_machines_than_allowed",
        "MAX_MACHINES bounds what is begun at once, and not what runs.",
        "actors.rules.fleet:to_spawn",
        "free = most - alive",
        "free = most",
    ),
    _mutant(
        "given_up_machine_gets_work",
        "A machine that is written off, and still runs, gets work.",
        "actors.fleet.endings:Endings.counts_on",
        "return row is not None and row.state in COUNTED_ON and machine not in self.of",
        "return True",
    ),
    _mutant(
        "small_machine_gets_large_task",
        "What needs more memory is given to any machine that asks.",
        "actors.rules.batch:Draft._next_for",
        "place = 0 if claim.startswith(tasks.SPAWN) else self.large",
        "place = 0",
    ),
    _mutant(
        "memory_is_not_asked_for",
        "The machine that is made for a large task is as small as the others.",
        "actors.fleet.making:Making._spawn",
        'memory_mb=task.get("memory_mb"))\n            provider_id',
        "memory_mb=None)\n            provider_id",
    ),
    _mutant(
        "given_up_while_it_is_answered",
        "A machine that is given up between a claim's grant and the answer gets the task.",
        "actors.fleet.claims:Claims.answer",
        "self._check(claim.machine, internal)  # it may have been given up since: then the batch is told of its end",
        "pass",
    ),
    _mutant(
        "whom_it_works_for_is_not_written",
        "A machine has found other work, and its former batch alone is told of its end.",
        "actors.fleet.claims:Claims._take_for",
        "await self._rows.worked_for(claim.machine, job, tasks[0])",
        "pass",
    ),
    _mutant(
        "destroyed_before_it_is_written",
        "A machine is destroyed that counts as running for whoever starts again now.",
        "actors.fleet.endings:Endings.destroy",
        "elif await self._rows.move(row.id, MachineState.DESTROYING, of=of, reason=reason) is not None:",
        "else:",
    ),
    _mutant(
        "waits_in_the_pool_and_works",
        "A machine that does not stop is put back into the pool.",
        "actors.fleet.endings:Endings._quiet",
        'ending.back = "stopped" if stopped.state == "exited" else None',
        'ending.back = "stopped"',
    ),
)

OF_THE_WAY: Final = (
    _mutant(
        "token_of_any_machine",
        "Whoever has the token of a machine can ask for work as any other.",
        "orchestrator.auth:require_machine",
        "if verify_machine(engine.secrets, machine, token):",
        "if token:",
    ),
    _mutant(
        "list_without_what_was_made",
        "The final callback names the pages that were sent, and not those that were made of them.",
        "actors.phases.tiff_conversion:files_after",
        "if task.status is not TaskStatus.COMPLETED:",
        "if True:",
    ),
    _mutant(
        "told_again_by_nobody",
        "A redelivery is acknowledged, and nothing is sent.",
        "actors.rules.batch:_redelivered",
        "        _await_delivery(d)\n",
        "        pass\n",
    ),
    _mutant(
        "removed_at_its_end",
        "A batch is removed as soon as it is over.",
        "actors.maintenance.expire:run_once",
        "before = now - retention_days * DAY_MS",
        "before = now",
    ),
    _mutant(
        "signature_not_checked",
        "Anybody can post a callback.",
        "orchestrator.callback_path:_signed",
        'if not verify_task(engine.secrets, batch, task, int(run), int(attempt), given.get("sig", "")):',
        "if False:",
    ),
    _mutant(
        "answers_in_the_wrong_order",
        "The answers of a list go to each other's callers.",
        "actors.wire:Client._received",
        "in zip(answered, replies, strict=True)",
        "in zip(reversed(answered), replies, strict=True)",
    ),
    _mutant(
        "broken_connection_unanswered",
        "Who waits for an answer when the connection breaks waits for ever.",
        "actors.wire:Client._fail",
        "pending, self._in_flight = [*self._in_flight, *self._waiting], []",
        "pending, self._in_flight = [*self._waiting], []",
    ),
    _mutant(
        "wake_never_looks",
        "A batch whose actor has died or hibernates is not woken.",
        "actors.maintenance.wake:run_once",
        "jobs = await store.overdue(now - slack_ms, limit, now + longest_ms + CLOCKS_DIFFER_MS)",
        "jobs: list[Job] = []",
    ),
    _mutant(
        "wake_ignores_far_alarms",
        "An alarm that was set before the clock went back is believed.",
        "actors.maintenance.wake:run_once",
        "now + longest_ms + CLOCKS_DIFFER_MS",
        "now + 365 * 24 * 3_600_000",
    ),
    _mutant(
        "queued_is_forgotten",
        "A batch that found no place at its creation never gets one.",
        "actors.maintenance.admit:run_once",
        "waiting = await store.waiting(limit)",
        "waiting: list[Job] = []",
    ),
)

OF_EXPORTS: Final = (
    _mutant(
        "export_rows_go_before_its_file",
        "Where the object store is away nobody knows any more of the file of an export.",
        "actors.perform:Performer._remove",
        "await self._remove_outputs(job, self._objects.delete)",
        "await self._store.remove(job.id); await self._remove_outputs(job, self._objects.delete)",
    ),
    _mutant(
        "export_is_kept_for_ever",
        "An export that is over has no alarm, and is never removed.",
        "actors.rules.batch:_alarm",
        "(told_at, job.expires_at)",
        "(told_at,)",
    ),
    _mutant(
        "export_is_removed_at_its_end",
        "Who asks for its status a moment later finds nothing.",
        "actors.rules.batch:_until",
        "d.now + wait_ms",
        "d.now",
    ),
    _mutant(
        "ended_export_goes_to_another_host",
        "The host that is woken for it does not know how to remove a file.",
        "actors.directory:Directory._place",
        'if job.kind != "batch":',
        "if False:",
    ),
)

OF_ARCHIVES: Final = (
    _mutant(
        "cursor_before_its_chunk",
        "Where the host dies while a chunk is verified, its files are in no archive.",
        "actors.verifying:Verifying.read",
        "            await self._add(job, (found, cursor), await self._verified(chunk), chunk[-1].cursor)\n",
        "            await self._add(job, (found, cursor), [], chunk[-1].cursor)\n"
        "            await self._add(job, (found, chunk[-1].cursor), await self._verified(chunk), chunk[-1].cursor)\n",
    ),
    _mutant(
        "cancelled_and_untold",
        "The catalog says for ever that an export is in progress, which was cancelled.",
        "actors.rules.batch:_stop",
        "if d.policy.tells_each_end:",
        "if d.policy.tells_each_end and state is not JobState.CANCELLED:",
    ),
    _mutant(
        "failed_intake_is_untold",
        "The catalog says for ever that an export is in progress, whose list could not be read.",
        "actors.rules.receiving:failed",
        "if not policy.tells_each_end:",
        "if True:",
    ),
    _mutant(
        "begun_after_its_end",
        "Who verifies, and is slow, tells the catalog that an export is in progress, which is over.",
        "actors.store.catalog:_PUT_EXPORT",
        "        where=or_(one_of(_put_export.excluded.status, ENDS), not_(one_of(storage_exports.c.status, ENDS))),\n",
        "",
    ),
    _mutant(
        "removed_once",
        "What a worker stores before it learns that its archive was cancelled stays for ever.",
        "actors.rules.batch:_outputs_removed",
        "next((at for at in looks if d.now < at), None)",
        "None",
    ),
    _mutant(
        "last_part_is_not_made",
        "The files of the last part are in no archive.",
        "actors.verifying:Verifying._divided",
        "parts.made)",
        "parts.made[:-1] or parts.made)",
    ),
    _mutant(
        "list_of_the_part_before",
        "A part is made of the files of another one.",
        "actors.verifying:_tasks",
        "input_r2_key=archive.list_key(job, n)",
        "input_r2_key=archive.list_key(job, max(0, n - 1))",
    ),
    _mutant(
        "kept_until_it_is_told",
        "While the catalog is away nothing that has expired is removed.",
        "actors.rules.batch:_alarm",
        "return min((at for at in (told_at, job.expires_at) if at is not None), default=None)",
        "return told_at if told_at is not None else job.expires_at",
    ),
    _mutant(
        "parts_without_index",
        "The catalog names an index that is not there.",
        "actors.channels.catalog:CatalogChannel.send",
        "if has_index and job.removed_since is None:",
        "if False:",
    ),
    _mutant(
        "uploads_of_open_archives_are_given_up",
        "The upload of a worker is taken from it while it writes.",
        "actors.maintenance.uploads:run_once",
        " or not await _is_given_up(store, key)",
        "",
    ),
    _mutant(
        "uploads_are_left",
        "What a worker that died had begun to upload is paid for, for ever.",
        "actors.maintenance.uploads:run_once",
        "await asyncio.to_thread(objects.abort_upload, key, upload)",
        "pass",
        Edit("actors.perform:_remove_folder", "await asyncio.to_thread(objects.abort_upload, key, upload)", "pass"),
    ),
    _mutant(
        "missing_without_count",
        "Nobody learns that some of the files were not there.",
        "actors.verifying:Verifying._add",
        'missing=sum("missing" in _about(file) for file in files)',
        "missing=0",
    ),
)

FOUND: Final = (
    _mutant(
        "index_of_what_is_gone",
        "The end of an archive that has expired meanwhile is told, and with it an index is written that stays.",
        "actors.channels.catalog:CatalogChannel.send",
        "if has_index and job.removed_since is None:",
        "if has_index:",
    ),
    _mutant(
        "lost_answer_is_refused",
        "Where the answer of the store to a new archive is lost, the caller is told that it was started before.",
        "actors.archives:Archives._begin",
        "        found, _ = await self._store.create(job, alone=alone)\n"
        "        if found.body_digest != job.body_digest:",
        "        found, is_new = await self._store.create(job, alone=alone)\n        if not is_new:",
    ),
    _mutant(
        "list_that_cannot_be_kept_is_a_fault",
        "While the object store is away, archives of a list of keys are answered 500.",
        "actors.archives:Archives._keep",
        "except worker_errors.Unavailable as error:",
        "except NotFound as error:",
    ),
    _mutant(
        "ended_with_another_batch",
        "While one machine of an ended batch is written off, another one has found work elsewhere, and ends too.",
        "actors.fleet.rows:Rows.move",
        " or of not in (None, row.job_id)",
        "",
    ),
    _mutant(
        "displaced_and_deaf",
        "A process whose socket was taken by one that was slower to start stays, and nobody can ask it for anything.",
        "actors.assembly:leave_when_displaced",
        "while is_in_place():  # noqa: ASYNC110  (a file, which sends no event)",
        "while True:",
    ),
    _mutant(
        "caller_without_patience",
        "A creation is answered 500 while the process of the store starts again.",
        "actors.store.client:PatientWriteSide.call",
        "if time_s() + PAUSE_S > deadline:\n                    raise Unavailable"
        '("The store is being started again.", retry_after_s=1) from error',
        "raise",
    ),
    _mutant(
        "lost_connection_is_a_fault",
        "A host that cannot reach the store tells its caller of an internal error, which nobody repeats.",
        "actors.wire:_reply",
        "if isinstance(value, ConnectionError):",
        "if False:",
    ),
    _mutant(
        "overtaken_answers_from_memory",
        "An activation that knows an earlier run acknowledges what it does not write: a cancel, a success.",
        _TURN,
        "elif not all(isinstance(event, OWN) for event in events):",
        "elif False:",
    ),
    _mutant(
        "given_and_taken_back",
        "A task is given out though a later event of the same turn has ended it.",
        "actors.rules.batch:decide",
        "answers = tuple(_as_committed(draft, answer) for answer in answers)",
        "pass",
    ),
    _mutant(
        "two_lists_at_once",
        "Calls about a connection that ends are sent by two lists, whose answers go to each other's callers.",
        "actors.wire:Client._fail",
        "self._soon.cancel()",
        "pass",
        Edit("actors.wire:Client._received", "if link is not self._link:", "if False:"),
    ),
    _mutant(
        "trusted_since_the_answer",
        "An activation that was overtaken while the answer to its commit was on its way believes in its epoch.",
        "actors.durable:Durable._commit",
        "self._valid_at = asked_at",
        "self._valid_at = _time_s()",
    ),
    _mutant(
        "late_release_ends_the_next_run",
        "A release of the run before, on its way for long, ends the machines of the next, and nobody is told.",
        "actors.fleet.fleet:Fleet._release",
        "if await self._endings.is_over(job):",
        "if True:",
        Edit(
            "actors.fleet.endings:Endings.destroy", "tell=list(jobs)", "tell=[one for one in jobs if one != row.job_id]"
        ),
    ),
    Mutant(
        "silent_machine_keeps_its_place",
        "A machine that never booted stays when the request to destroy it was lost.",
        (_IDLE_STAY,),
    ),
    _mutant(
        "overtaken_fleet_acts",
        "A fleet that stood still ends the machines of its heir.",
        "actors.fleet.rows:Rows.check_epoch",
        "while (asked_at := time_s()) - self._valid_at > EPOCH_TRUST_MS / 1000:",
        "while False:",
    ),
)
"""What the simulation has found in the engine itself, put back."""

MUTANTS: Final = (
    *OF_THE_LOOP, *OF_THE_STORE, *OF_THE_RULES, *OF_THE_FLEET, *OF_THE_WAY, *OF_EXPORTS, *OF_ARCHIVES, *FOUND
)  # fmt: skip

SEEDS: Final[dict[str, tuple[int, ...]]] = {
    "answers_before_commit": (0,),
    "effects_before_commit": (0,),
    "unanswered_commit_is_written": (10,),
    "fenced_goes_on": (36,),
    "sleeps_through_its_alarm": (6,),
    "activation_forgets_what_flies": (22,),
    "no_epoch_check": (26,),
    "alarm_not_written": (127,),
    "activation_without_epoch": (0,),
    "full_disk_is_success": (7,),
    "full_disk_is_not_rolled_back": (7,),
    "fleet_without_fence": (5,),
    "fleet_without_new_epoch": (1,),
    "created_again_in_the_same_run": (10,),
    "reads_and_writes_mixed_up": (82,),
    "counts_without_looking": (2,),
    "late_success_counts_again": (84,),
    "no_deadline": (0,),
    "deadline_not_looked_at": (6,),
    "overdue_machine_lives_on": (6,),
    "stale_attempt_fails_the_new_one": (352,),
    "run_not_checked": (110,),
    "next_anew_for_each_repetition": (8,),
    "task_given_twice": (0,),
    "done_stays_ready": (196,),
    "claim_answered_anew": (84,),
    "tries_without_end": (81,),
    "never_tried_again": (2,),
    "give_back_costs_a_try": (102,),
    "done_one_too_early": (0,),
    "delivered_once_only": (21,),
    "delivery_not_looked_at": (21,),
    "delivered_although_refused": (21,),
    "another_key_each_time": (21,),
    "ended_batch_keeps_its_tasks": (10,),
    "no_alarm_without_tasks_in_flight": (0,),
    "new_run_keeps_its_counters": (10,),
    "spawn_before_the_intent": (0,),
    "gone_before_the_batch_is_told": (8,),
    "lost_machine_not_told": (8,),
    "orphans_stay": (12,),
    "reservation_not_returned": (10,),
    "restart_forgets_all_rows": (1,),
    "dead_machine_not_noticed": (0,),
    "signature_not_checked": (23,),
    "answers_in_the_wrong_order": (7,),
    "broken_connection_unanswered": (0,),
    "wake_never_looks": (21,),
    "wake_ignores_far_alarms": (22,),
    "queued_is_forgotten": (7,),
    "caller_without_patience": (0,),
    "lost_connection_is_a_fault": (7,),
    "overtaken_answers_from_memory": (213,),
    "given_and_taken_back": (992,),
    "silent_machine_keeps_its_place": (130,),
    "overtaken_fleet_acts": (1860,),
    "late_release_ends_the_next_run": (202154,),
    "more_machines_than_allowed": (0,),
    "given_up_machine_gets_work": (15,),
    "whom_it_works_for_is_not_written": (6,),
    "destroyed_before_it_is_written": (6,),
    "token_of_any_machine": (27, 71),
    "list_without_what_was_made": (0,),
    "told_again_by_nobody": (36,),
    "removed_at_its_end": (22,),
    "ended_with_another_batch": (706,),
    "small_machine_gets_large_task": (10,),
    "memory_is_not_asked_for": (10,),
    "waits_in_the_pool_and_works": (4000,),
    "export_rows_go_before_its_file": (12,),
    "export_is_kept_for_ever": (12,),
    "export_is_removed_at_its_end": (12,),
    "ended_export_goes_to_another_host": (49,),
    "cursor_before_its_chunk": (73,),
    "cancelled_and_untold": (39,),
    "failed_intake_is_untold": (73,),
    "last_part_is_not_made": (66,),
    "list_of_the_part_before": (66,),
    "kept_until_it_is_told": (27,),
    "parts_without_index": (66,),
    "uploads_of_open_archives_are_given_up": (130,),
    "uploads_are_left": (130,),
    "missing_without_count": (290,),
    "list_that_cannot_be_kept_is_a_fault": (443,),
    "lost_answer_is_refused": (1958,),
}
"""The seed that has found each: it is tried first. When what is drawn changes, others are looked for."""

RARE: Final = frozenset({
    "begun_after_its_end", "displaced_and_deaf", "given_and_taken_back", "given_up_while_it_is_answered",
    "index_of_what_is_gone", "late_release_ends_the_next_run", "overtaken_answers_from_memory", "overtaken_fleet_acts",
    "removed_once",
    "trusted_since_the_answer", "two_lists_at_once", "waits_in_the_pool_and_works",
})  # fmt: skip
"""Found once in thousands of seeds: looked for by `make soak`. Each has a test of its own beside the part it is in."""
