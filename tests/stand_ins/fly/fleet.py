"""All machines of all apps: how they are found, and what can be asked of them.

Methods change a machine at once and return; what then takes time goes on in its life (`life`).
"""

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from tests.stand_ins.fly.bodies import CreateMachine, UpdateMachine
from tests.stand_ins.fly.chance import Chance
from tests.stand_ins.fly.errors import Refusal, machine_not_found
from tests.stand_ins.fly.faults import Faults
from tests.stand_ins.fly.journal import Journal, task_of
from tests.stand_ins.fly.life import Lives
from tests.stand_ins.fly.machine import KILLED, Exit, Machine
from tests.stand_ins.fly.processor import Cores
from tests.stand_ins.fly.settings import Settings
from tests.stand_ins.fly.world import Http, World

AT_REST: Final = frozenset({"stopped", "suspended"})
MOST_SUSPENDED_MB: Final = 2048


class Fleet:
    """The machines. `close` ends what runs."""

    def __init__(self, settings: Settings, chance: Chance, faults: Faults, journal: Journal) -> None:
        self._settings = settings
        self._chance = chance
        self._journal = journal
        self._lives = Lives(World(settings, chance, faults, journal, Http()), ended=self._forget)
        self._apps: dict[str, dict[str, Machine]] = {app: {} for app in settings.apps}
        self._names: dict[tuple[str, str], Machine] = {}
        self._leases = 0

    async def close(self) -> None:
        """End all machines. Raises what went wrong inside the stand-in itself, if anything did."""
        await self._lives.close()

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
            cores=Cores(self._lives.processor(body.config)),
            digest=self._digest(body.config.image),
        )
        if body.lease_ttl > 0:
            self.lease(machine, body.lease_ttl)
        machine.happened("launch", "created", "user")
        self._apps[app][machine_id] = self._names[app, name] = machine
        self._lives.note(
            "create", machine, region=region, skip_launch=body.skip_launch or None, **task_of(body.config.env)
        )
        machine.life = self._lives.begin(self._lives.launch(machine, skip_launch=body.skip_launch))
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
        self._lives.end(machine)
        self._lives.start(machine)
        machine.life = self._lives.begin(self._lives.run(machine))
        return previous

    def stop(self, machine: Machine, *, signal: str, timeout_s: float) -> None:
        """Ask its program to end, and end it when the time is up. One at rest stays as it is. Raises Refusal 412."""
        if machine.state in ("stopped", "stopping", "created"):
            return
        if machine.state not in ("starting", "started", "suspended"):
            raise Refusal(412, f"failed_precondition: unable to stop machine from current state: '{machine.state}'")
        machine.happened("stop", "stopping", "user")
        self._lives.note("stop", machine)
        machine.is_stop_requested = True
        if machine.state == "started" and machine.program is not None:
            machine.become("stopping")
            self._lives.interrupt(machine, machine.program, signal, timeout_s)
        else:
            self._lives.end(machine)
            self._lives.exited(machine, KILLED if machine.state == "starting" else Exit(code=0))
            machine.life = self._lives.begin(self._lives.rest(machine))

    def restart(self, machine: Machine, *, timeout_s: float) -> None:
        """Stop and start. Raises Refusal 412 for one that is not started."""
        if machine.state != "started" or machine.program is None:
            raise Refusal(412, f"failed_precondition: unable to restart machine from current state: '{machine.state}'")
        machine.happened("restart", "restarting", "user")
        machine.become("restarting")
        self._lives.interrupt(machine, machine.program, machine.settings.stop_config.signal, timeout_s)

    def suspend(self, machine: Machine) -> None:
        """Put it to sleep. Its memory is lost: it boots cold, which may happen to any suspended machine."""
        if machine.state != "started":
            raise Refusal(412, f"failed_precondition: unable to suspend machine from current state: '{machine.state}'")
        if machine.settings.guest.memory_mb > MOST_SUSPENDED_MB:
            raise Refusal(412, f"failed_precondition: machines with more than {MOST_SUSPENDED_MB} MB are not suspended")
        machine.happened("suspend", "suspending", "user")
        self._lives.note("suspend", machine)
        former = self._lives.end(machine)
        machine.become("suspending")
        machine.life = self._lives.begin(self._lives.suspended(machine, former))

    def update(self, machine: Machine, body: UpdateMachine, config: dict[str, Any]) -> None:
        """A new version of its configuration, which replaces what runs. Raises Refusal."""
        if body.current_version and body.current_version != machine.instance_id:
            raise Refusal(409, "aborted: machine update failed due to concurrent update")
        if machine.state not in ("started", "stopped", "suspended") and not machine.is_prepared:
            raise Refusal(412, f"failed_precondition: unable to update machine from current state: '{machine.state}'")
        new_image = body.config.image != machine.settings.image
        former = self._lives.end(machine)
        machine.become("replacing")
        machine.happened("update", "replacing", "user")
        machine.versions += 1
        machine.config, machine.settings = config, body.config
        machine.instance_id = self._version(machine.id, machine.versions)
        machine.digest = self._digest(body.config.image)
        machine.cores = machine.cores.followed_by(self._lives.processor(body.config))
        self._lives.note("update", machine)
        machine.life = self._lives.begin(
            self._lives.updated(machine, former, new_image=new_image, skip_launch=body.skip_launch)
        )

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
        self._lives.note("destroy", machine, was=machine.state)
        former = self._lives.end(machine)
        machine.become("destroying")
        machine.life = self._lives.begin(self._lives.destroyed(machine, former))

    def lease(self, machine: Machine, ttl_s: int) -> None:
        """Give the caller the machine for that time, under a new nonce."""
        self._leases += 1
        machine.lease_nonce = self._chance.letters(12, "lease", machine.id, self._leases)
        machine.lease_until = time.time() + ttl_s

    # Bits

    def _forget(self, machine: Machine) -> None:
        machine.destroyed_at = time.monotonic()
        if self._names.get((machine.app, machine.name)) is machine:
            del self._names[machine.app, machine.name]

    def _is_forgotten(self, machine: Machine) -> bool:
        return machine.destroyed_at is not None and (
            machine.has_vanished or time.monotonic() - machine.destroyed_at > self._settings.remember_s
        )

    def _version(self, machine_id: str, number: int) -> str:
        return f"01{self._chance.letters(24, 'version', machine_id, number).upper()}"

    def _digest(self, image: str) -> str:
        return f"sha256:{self._chance.letters(32, image, 1)}{self._chance.letters(32, image, 2)}"
