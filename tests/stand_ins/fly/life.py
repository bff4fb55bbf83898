"""What takes a machine from state to state, in a task of its own: its life.

Whoever gives a machine a new life ends the former one first, so that one thing at a time happens to it.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from tests.stand_ins.fly.bodies import Config
from tests.stand_ins.fly.faults import START
from tests.stand_ins.fly.journal import task_of
from tests.stand_ins.fly.machine import KILLED, Exit, Machine, Program, iso
from tests.stand_ins.fly.process import WorkerProcess
from tests.stand_ins.fly.processor import Processor
from tests.stand_ins.fly.simulated import SimulatedWorker
from tests.stand_ins.fly.world import World, forever


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


class Lives:
    """The lives of all machines. `ended` is told of each machine that is no more."""

    def __init__(self, world: World, *, ended: Callable[[Machine], None]) -> None:
        self._world = world
        self._settings = world.settings
        self._chance = world.chance
        self._faults = world.faults
        self._journal = world.journal
        self._forget = ended
        self._pulls: dict[tuple[str, str, int, str], asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures: list[BaseException] = []

    async def close(self) -> None:
        """End them all. Raises what went wrong inside the stand-in itself, if anything did."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._world.http.close()
        if self._failures:
            raise self._failures[0]

    async def launch(self, machine: Machine, *, skip_launch: bool) -> None:
        """From its creation on."""
        await self._pull(machine)
        if not skip_launch:
            self.start(machine)
            await self.run(machine)
            return
        machine.is_prepared = True
        if self._settings.prepared_state == "stopped":
            machine.become("stopped")
        self.note("prepared", machine)

    async def _pull(self, machine: Machine) -> None:
        """The image, unless its host has it; several at once on one host share one pull."""
        image = machine.settings.image
        key = (machine.app, machine.region, machine.host, image)
        if self._settings.pull_always:
            key = (machine.app, machine.region, machine.host, f"{image} {machine.id} {machine.versions}")
        if key not in self._pulls:
            self.note("pull", machine, host=machine.host)
            pulling_s = self._chance.seconds(self._settings.pull, "pull", *key)
            self._pulls[key] = self.begin(_sleep(pulling_s))
        await asyncio.shield(self._pulls[key])

    def start(self, machine: Machine) -> None:
        """It is about to boot; `run` does the rest."""
        machine.become("starting")
        machine.starts += 1
        machine.is_stop_requested = False
        if not self._settings.keep_balance and machine.starts > 1:
            machine.cores = machine.cores.followed_by(self.processor(machine.settings))
        machine.cores.processor.resume(asyncio.get_running_loop().time())

    async def run(self, machine: Machine) -> None:
        """From `starting` until it has ended, and is not begun again."""
        while True:
            how = await self._once(machine)
            if machine.life is not asyncio.current_task():
                return  # it was given another life while its program ended
            begins_again = machine.state == "restarting" or self._restarts(machine, how)
            self.exited(machine, how, begins_again=begins_again)
            if machine.state == "destroyed" or not begins_again:
                break
            self.start(machine)
        await self.rest(machine)

    async def _once(self, machine: Machine) -> Exit:
        fault = self._faults.first(START, machine.name, machine.starts, region=machine.region)
        if fault is not None:
            self.note("fault", machine, fault=fault, **task_of(machine.settings.env))
        if fault == "never_boots":
            await forever()
        await asyncio.sleep(self._chance.seconds(self._settings.boot, "boot", machine.name, machine.starts))
        machine.become("started")
        machine.happened("start", "started", "flyd")
        self.note("start", machine, starts=machine.starts, **task_of(machine.settings.env))
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

    def exited(self, machine: Machine, how: Exit, *, begins_again: bool = False) -> None:
        """Write down how a program ended, and leave the machine stopped, destroyed, or about to begin again."""
        machine.cores.processor.advance(asyncio.get_running_loop().time())
        if how.vanished:
            machine.become("destroyed")
            machine.has_vanished = True
            self._forget(machine)
            self.note("vanish", machine)
            return
        machine.happened("exit", "stopped", "flyd", _exit_event(machine, how, begins_again=begins_again))
        if not begins_again:
            machine.become("stopped")
        self.note("exit", machine, code=how.code, oom_killed=how.oom_killed, requested_stop=machine.is_stop_requested)

    async def rest(self, machine: Machine) -> None:
        """With auto_destroy, a machine that has ended is destroyed soon after; it is seen stopped before that."""
        if machine.state == "stopped" and machine.settings.auto_destroy:
            await asyncio.sleep(self._chance.seconds(self._settings.destroy, "auto_destroy", machine.name))
            machine.become("destroying")
            machine.happened("destroy", "destroying", "flyd")
            await self.destroyed(machine)

    async def destroyed(self, machine: Machine, former: asyncio.Task[None] | None = None) -> None:
        """Until it is no more."""
        await _over(former)
        await asyncio.sleep(self._chance.seconds(self._settings.destroy, "destroy", machine.name))
        machine.become("destroyed")
        machine.happened("destroy", "destroyed", "flyd")
        self._forget(machine)
        self.note("destroyed", machine)

    async def suspended(self, machine: Machine, former: asyncio.Task[None] | None) -> None:
        """Until it sleeps."""
        await _over(former)
        await asyncio.sleep(self._chance.seconds(self._settings.suspend, "suspend", machine.name, machine.starts))
        machine.become("suspended")
        machine.happened("suspend", "suspended", "flyd")

    async def updated(
        self, machine: Machine, former: asyncio.Task[None] | None, *, new_image: bool, skip_launch: bool
    ) -> None:
        """Until its new version runs, or is ready to be started."""
        await _over(former)
        if new_image:
            await self._pull(machine)
        await asyncio.sleep(self._chance.seconds(self._settings.update, "update", machine.name, machine.versions))
        if skip_launch:
            machine.become("stopped")
        else:
            self.start(machine)
            await self.run(machine)

    def interrupt(self, machine: Machine, program: Program, signal: str, timeout_s: float) -> None:
        """Ask its program to end; end it when the time is up."""
        program.interrupt(signal or machine.settings.stop_config.signal)

        def kill() -> None:
            if machine.program is program:
                program.kill()

        asyncio.get_running_loop().call_later(timeout_s, kill)

    def end(self, machine: Machine) -> asyncio.Task[None] | None:
        """Ends what happens to it; the next life waits for that, so that no program outlives its machine."""
        former, machine.life = machine.life, None
        if former is not None:
            former.cancel()
        return former

    def begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """What from now on happens to a machine. A failure in it is a bug of the stand-in, told by `close`."""
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

    def note(self, what: str, machine: Machine, **known: Any) -> None:
        """An entry of the journal about a machine."""
        self._journal.note(what, app=machine.app, machine=machine.name, id=machine.id, **known)

    def processor(self, config: Config) -> Processor:
        """What a machine of this size has, new."""
        return Processor(
            shared=config.guest.cpu_kind == "shared",
            cpus=config.guest.cpus,
            now=asyncio.get_running_loop().time(),
            quota=self._settings.cpu_quota,
            burst_s=self._settings.cpu_burst_s,
            most_s=self._settings.cpu_most_s,
        )


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
