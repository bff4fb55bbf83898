"""All machines of all apps, and what takes each from state to state.

Methods change a machine at once and return; what then takes time goes on in the machine's `life`, a task of its own.
Whoever gives a machine a new life ends the former one first, so that one thing at a time happens to it.
"""

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Coroutine, Iterator
from typing import Any, Final

from tests.stand_ins.fly import bodies
from tests.stand_ins.fly.bodies import CreateMachine, UpdateMachine
from tests.stand_ins.fly.chance import Chance
from tests.stand_ins.fly.errors import Refusal, machine_not_found
from tests.stand_ins.fly.faults import START, Faults
from tests.stand_ins.fly.journal import Journal, task_of
from tests.stand_ins.fly.machine import KILLED, Exit, Machine, Program, iso
from tests.stand_ins.fly.process import WorkerProcess
from tests.stand_ins.fly.processor import Cores, Processor
from tests.stand_ins.fly.settings import Settings
from tests.stand_ins.fly.simulated import SimulatedWorker
from tests.stand_ins.fly.world import Http, World, forever

AT_REST: Final = frozenset({"stopped", "suspended"})
MOST_SUSPENDED_MB: Final = 2048


class Idle:
    """The program of a machine on which nothing runs, though it is started."""

    def __init__(self) -> None:
        self._over: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()

    async def run(self) -> Exit:
        return await self._over

    def interrupt(self, signal: str) -> None:
        """It does not listen."""

    def kill(self) -> None:
        if not self._over.done():
            self._over.set_result(KILLED)


class Fleet:
    """The machines. `close` ends what runs."""

    def __init__(self, settings: Settings, chance: Chance, faults: Faults, journal: Journal) -> None:
        self._settings = settings
        self._chance = chance
        self._journal = journal
        self._faults = faults
        self._http = Http()
        self._world = World(settings, chance, faults, journal, self._http)
        self._apps: dict[str, dict[str, Machine]] = {app: {} for app in settings.apps}
        self._names: dict[tuple[str, str], Machine] = {}
        self._pulls: dict[tuple[str, str, int, str], asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures: list[BaseException] = []

    async def close(self) -> None:
        """End all machines. Raises what went wrong inside the stand-in itself, if anything did."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._http.close()
        if self._failures:
            raise self._failures[0]

    # Finding

    def has_app(self, app: str) -> bool:
        """Whether there is this app."""
        return app in self._apps

    def machine(self, app: str, machine_id: str) -> Machine:
        """A machine, or one that was destroyed not long ago. Raises Refusal 404."""
        machine = self._apps[app].get(machine_id)
        if machine is None or self._is_forgotten(machine):
            raise machine_not_found()
        return machine

    def machines(self, app: str, *, include_deleted: bool = False) -> list[Machine]:
        """The machines of an app, newest first."""
        return [
            machine
            for machine in reversed(self._apps[app].values())
            if machine.state != "destroyed" or (include_deleted and not machine.has_vanished)
        ]

    def everywhere(self) -> Iterator[Machine]:
        """All that ever were."""
        for machines in self._apps.values():
            yield from machines.values()

    def counters(self) -> dict[str, Any]:
        """What the journal counted, and sums over all machines."""
        machines = list(self.everywhere())
        return {
            **dict(sorted(self._journal.counters.items())),
            "machine_seconds": round(sum(machine.machine_seconds() for machine in machines), 3),
            "throttled_ms": round(sum(machine.cores.processor.throttled_s for machine in machines) * 1000),
            "cpu_ms": round(sum(machine.cores.processor.used_s for machine in machines) * 1000),
            "states": dict(Counter(machine.state for machine in machines)),
        }

    # What the API does

    def create(self, app: str, body: CreateMachine, config: dict[str, Any]) -> Machine:
        """Make a machine and begin its life. Raises Refusal for a taken name."""
        number = len(self._apps[app]) + 1
        machine_id = self._chance.letters(14, "machine", app, number)
        name = body.name or f"{self._chance.letters(8, 'name', app, number)}-{number}"
        taken = self._names.get((app, name))
        if taken is not None:
            raise Refusal(
                self._settings.name_taken_status,
                f"already_exists: unique machine name violation, machine ID {taken.id} already exists with name "
                f'"{name}"',
            )
        region = body.region or "ord"
        machine = Machine(
            id=machine_id,
            app=app,
            name=name,
            region=region,
            host=int(self._chance.fraction("host", app, number) * self._settings.hosts),
            config=config,
            settings=body.config,
            instance_id=self._version(machine_id, 1),
            cores=Cores(self._processor(body.config)),
            digest=self._digest(body.config.image),
        )
        if body.lease_ttl > 0:
            self.lease(machine, body.lease_ttl)
        machine.happened("launch", "created", "user")
        self._apps[app][machine_id] = self._names[app, name] = machine
        self._note("create", machine, region=region, skip_launch=body.skip_launch or None, **task_of(body.config.env))
        machine.life = self._begin(self._launch(machine, skip_launch=body.skip_launch))
        return machine

    def start(self, machine: Machine) -> str:
        """Start one that is at rest; its state before. Raises Refusal 412 for any other."""
        previous = machine.state
        if previous not in AT_REST and not (previous == "created" and machine.is_prepared):
            raise Refusal(
                412,
                "failed_precondition: machine still active, refusing to start"
                if previous in ("starting", "started", "stopping", "restarting", "suspending")
                else f"failed_precondition: unable to start machine from current state: '{previous}'",
            )
        machine.happened("start", "starting", "user")
        self._end_life(machine)
        self._start(machine)
        machine.life = self._begin(self._run(machine))
        return previous

    def stop(self, machine: Machine, *, signal: str, timeout_s: float) -> None:
        """Ask its program to end, and end it when the time is up. One at rest stays as it is. Raises Refusal 412."""
        if machine.state in ("stopped", "stopping", "created"):
            return
        if machine.state not in ("starting", "started", "suspended"):
            raise Refusal(412, f"failed_precondition: unable to stop machine from current state: '{machine.state}'")
        machine.happened("stop", "stopping", "user")
        self._note("stop", machine)
        machine.is_stop_requested = True
        if machine.state == "started" and machine.program is not None:
            machine.become("stopping")
            self._interrupt(machine, machine.program, signal, timeout_s)
        else:
            self._end_life(machine)
            self._exited(machine, KILLED if machine.state == "starting" else Exit(code=0))
            machine.life = self._begin(self._rest(machine))

    def restart(self, machine: Machine, *, timeout_s: float) -> None:
        """Stop and start. Raises Refusal 412 for one that is not started."""
        if machine.state != "started" or machine.program is None:
            raise Refusal(412, f"failed_precondition: unable to restart machine from current state: '{machine.state}'")
        machine.happened("restart", "restarting", "user")
        machine.become("restarting")
        self._interrupt(machine, machine.program, machine.settings.stop_config.signal, timeout_s)

    def suspend(self, machine: Machine) -> None:
        """Put it to sleep. Its memory is lost: it boots cold, which may happen to any suspended machine."""
        if machine.state != "started":
            raise Refusal(412, f"failed_precondition: unable to suspend machine from current state: '{machine.state}'")
        if machine.settings.guest.memory_mb > MOST_SUSPENDED_MB:
            raise Refusal(412, f"failed_precondition: machines with more than {MOST_SUSPENDED_MB} MB are not suspended")
        machine.happened("suspend", "suspending", "user")
        self._note("suspend", machine)
        former = self._end_life(machine)
        machine.become("suspending")
        machine.life = self._begin(self._suspended(machine, former))

    def update(self, machine: Machine, body: UpdateMachine, config: dict[str, Any]) -> None:
        """A new version of its configuration, which replaces what runs. Raises Refusal."""
        if body.current_version and body.current_version != machine.instance_id:
            raise Refusal(409, "aborted: machine update failed due to concurrent update")
        if machine.state not in ("started", "stopped", "suspended") and not machine.is_prepared:
            raise Refusal(412, f"failed_precondition: unable to update machine from current state: '{machine.state}'")
        new_image = body.config.image != machine.settings.image
        former = self._end_life(machine)
        machine.become("replacing")
        machine.happened("update", "replacing", "user")
        machine.versions += 1
        machine.config, machine.settings = config, body.config
        machine.instance_id = self._version(machine.id, machine.versions)
        machine.digest = self._digest(body.config.image)
        machine.cores = machine.cores.followed_by(self._processor(body.config))
        self._note("update", machine)
        machine.life = self._begin(self._updated(machine, former, new_image=new_image, skip_launch=body.skip_launch))

    def destroy(self, machine: Machine, *, force: bool) -> None:
        """End it for ever; again is no error. Raises Refusal 412 for one that runs, unless forced."""
        if machine.state in ("destroying", "destroyed"):
            return
        if not force and machine.state not in ("stopped", "suspended", "created"):
            raise Refusal(
                412,
                "failed_precondition: unable to destroy machine, not currently stopped, suspended, failed or created",
            )
        machine.happened("destroy", "destroying", "user")
        self._note("destroy", machine, was=machine.state)
        former = self._end_life(machine)
        machine.become("destroying")
        machine.life = self._begin(self._destroyed(machine, former))

    def lease(self, machine: Machine, ttl_s: int) -> None:
        """Give the caller the machine for that time, under a new nonce."""
        machine.lease_nonce, machine.lease_until = secrets.token_hex(6), time.time() + ttl_s

    # A machine's life

    async def _launch(self, machine: Machine, *, skip_launch: bool) -> None:
        await self._pull(machine)
        if not skip_launch:
            self._start(machine)
            await self._run(machine)
            return
        machine.is_prepared = True
        if self._settings.prepared_state == "stopped":
            machine.become("stopped")
        self._note("prepared", machine)

    async def _pull(self, machine: Machine) -> None:
        """The image, unless its host has it; several at once on one host share one pull."""
        image = machine.settings.image
        key = (machine.app, machine.region, machine.host, image)
        if self._settings.pull_always:
            key = (machine.app, machine.region, machine.host, f"{image} {machine.id} {machine.versions}")
        if key not in self._pulls:
            self._note("pull", machine, host=machine.host)
            pulling_s = self._chance.seconds(self._settings.pull, "pull", *key)
            self._pulls[key] = self._begin(_sleep(pulling_s))
        await asyncio.shield(self._pulls[key])

    def _start(self, machine: Machine) -> None:
        machine.become("starting")
        machine.starts += 1
        machine.is_stop_requested = False
        if not self._settings.keep_balance and machine.starts > 1:
            machine.cores = machine.cores.followed_by(self._processor(machine.settings))
        machine.cores.processor.resume(asyncio.get_running_loop().time())

    async def _run(self, machine: Machine) -> None:
        """From `starting` until it has ended, and is not begun again."""
        while True:
            how = await self._once(machine)
            if machine.life is not asyncio.current_task():
                return  # it was given another life while its program ended
            begins_again = machine.state == "restarting" or self._restarts(machine, how)
            self._exited(machine, how, begins_again=begins_again)
            if machine.state == "destroyed" or not begins_again:
                break
            self._start(machine)
        await self._rest(machine)

    async def _once(self, machine: Machine) -> Exit:
        fault = self._faults.first(START, machine.name, machine.starts, region=machine.region)
        if fault is not None:
            self._note("fault", machine, fault=fault, **task_of(machine.settings.env))
        if fault == "never_boots":
            await forever()
        await asyncio.sleep(self._chance.seconds(self._settings.boot, "boot", machine.name, machine.starts))
        machine.become("started")
        machine.happened("start", "started", "flyd")
        self._note("start", machine, starts=machine.starts, **task_of(machine.settings.env))
        program = machine.program = Idle() if fault == "never_runs" else self._program(machine)
        try:
            return await program.run()
        finally:
            if machine.program is program:
                machine.program = None

    def _program(self, machine: Machine) -> Program:
        env = machine.settings.env | {
            "FLY_APP_NAME": machine.app,
            "FLY_MACHINE_ID": machine.id,
            "FLY_REGION": machine.region,
            "FLY_IMAGE_REF": machine.settings.image,
            "FLY_VM_MEMORY_MB": str(machine.settings.guest.memory_mb),
            "FLY_PRIVATE_IP": machine.private_ip,
        }
        if self._settings.machines == "processes":
            return WorkerProcess(machine, env, self._world)
        return SimulatedWorker(machine, env, self._world)

    def _restarts(self, machine: Machine, how: Exit) -> bool:
        """By its restart policy; what somebody asked to stop stays so."""
        if machine.is_stop_requested or how.vanished:
            return False
        machine.failures = machine.failures + 1 if how.code else 0
        restart = machine.settings.restart
        if restart.policy == "on-failure":
            return how.code != 0 and machine.failures <= restart.max_retries
        return restart.policy == "always"

    def _exited(self, machine: Machine, how: Exit, *, begins_again: bool = False) -> None:
        """Write down how a program ended, and leave the machine stopped, destroyed, or about to begin again."""
        machine.cores.processor.advance(asyncio.get_running_loop().time())
        if how.vanished:
            machine.become("destroyed")
            machine.has_vanished = True
            self._forget(machine)
            self._note("vanish", machine)
            return
        machine.happened("exit", "stopped", "flyd", _exit_event(machine, how, begins_again=begins_again))
        if not begins_again:
            machine.become("stopped")
        self._note("exit", machine, code=how.code, oom_killed=how.oom_killed, requested_stop=machine.is_stop_requested)

    async def _rest(self, machine: Machine) -> None:
        """With auto_destroy, a machine that has ended is destroyed soon after; it is seen stopped before that."""
        if machine.state == "stopped" and machine.settings.auto_destroy:
            await asyncio.sleep(self._chance.seconds(self._settings.destroy, "auto_destroy", machine.name))
            machine.become("destroying")
            machine.happened("destroy", "destroying", "flyd")
            await self._destroyed(machine)

    async def _destroyed(self, machine: Machine, former: asyncio.Task[None] | None = None) -> None:
        await _over(former)
        await asyncio.sleep(self._chance.seconds(self._settings.destroy, "destroy", machine.name))
        machine.become("destroyed")
        machine.happened("destroy", "destroyed", "flyd")
        self._forget(machine)
        self._note("destroyed", machine)

    async def _suspended(self, machine: Machine, former: asyncio.Task[None] | None) -> None:
        await _over(former)
        await asyncio.sleep(self._chance.seconds(self._settings.suspend, "suspend", machine.name, machine.starts))
        machine.become("suspended")
        machine.happened("suspend", "suspended", "flyd")

    async def _updated(
        self, machine: Machine, former: asyncio.Task[None] | None, *, new_image: bool, skip_launch: bool
    ) -> None:
        await _over(former)
        if new_image:
            await self._pull(machine)
        await asyncio.sleep(self._chance.seconds(self._settings.update, "update", machine.name, machine.versions))
        if skip_launch:
            machine.become("stopped")
        else:
            self._start(machine)
            await self._run(machine)

    # Bits

    def _interrupt(self, machine: Machine, program: Program, signal: str, timeout_s: float) -> None:
        program.interrupt(signal or machine.settings.stop_config.signal)

        def kill() -> None:
            if machine.program is program:
                program.kill()

        asyncio.get_running_loop().call_later(timeout_s, kill)

    def _forget(self, machine: Machine) -> None:
        machine.destroyed_at = time.monotonic()
        if self._names.get((machine.app, machine.name)) is machine:
            del self._names[machine.app, machine.name]

    def _is_forgotten(self, machine: Machine) -> bool:
        return machine.destroyed_at is not None and (
            machine.has_vanished or time.monotonic() - machine.destroyed_at > self._settings.remember_s
        )

    def _end_life(self, machine: Machine) -> asyncio.Task[None] | None:
        """Ends what happens to it; the next life waits for that, so that no program outlives its machine."""
        former, machine.life = machine.life, None
        if former is not None:
            former.cancel()
        return former

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        failure = None if task.cancelled() else task.exception()
        if failure is not None:
            self._failures.append(failure)
            self._journal.note("bug", why=repr(failure))

    def _note(self, what: str, machine: Machine, **known: Any) -> None:
        self._journal.note(what, app=machine.app, machine=machine.name, id=machine.id, **known)

    def _processor(self, config: bodies.Config) -> Processor:
        return Processor(
            shared=config.guest.cpu_kind == "shared",
            cpus=config.guest.cpus,
            now=asyncio.get_running_loop().time(),
            quota=self._settings.cpu_quota,
            burst_s=self._settings.cpu_burst_s,
            most_s=self._settings.cpu_most_s,
        )

    def _version(self, machine_id: str, number: int) -> str:
        return f"01{self._chance.letters(24, 'version', machine_id, number).upper()}"

    def _digest(self, image: str) -> str:
        return f"sha256:{self._chance.letters(32, image, 1)}{self._chance.letters(32, image, 2)}"


def _exit_event(machine: Machine, how: Exit, *, begins_again: bool) -> dict[str, Any]:
    return {
        "exit_event": {
            "exit_code": how.code,
            "guest_exit_code": 0,
            "guest_signal": -1,
            "signal": how.signal,
            "oom_killed": how.oom_killed,
            "requested_stop": machine.is_stop_requested,
            "restarting": begins_again,
            "exited_at": iso(time.time()),
        },
        "restart_count": machine.failures,
    }


async def _over(former: asyncio.Task[None] | None) -> None:
    if former is not None:
        await asyncio.wait({former})


async def _sleep(seconds: float) -> None:
    await asyncio.sleep(seconds)
