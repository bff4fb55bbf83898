"""Machines of Fly.io as a provider. An id is "app/id of the machine".

A machine never destroys itself (`auto_destroy` is off): its name stays taken while its end is not known to the fleet,
so no attempt runs twice (invariant 3), and how it ended can be read. The fleet destroys what has exited.
"""

import random
from collections.abc import Mapping
from typing import Final, Literal

import httpx

from actors import telemetry
from actors.machines.base import MachineSpec, MachineStatus, ProviderUnavailable, gone
from actors.machines.fly import shown
from actors.machines.fly.answers import REPEATED, Verdict
from actors.machines.fly.api import REQUEST_S, Api, Patience
from actors.machines.fly.bodies import edition
from actors.machines.fly.looking import Looking, unavailable
from actors.machines.fly.making import Maker, refusal
from actors.machines.fly.options import FlyOptions

ANSWER_S: Final = 30.0
END_S: Final = 40.0
AWAITED: Final = {"running": "started", "exited": "stopped", "gone": "destroyed"}
"""For a state of the fleet, the one that the API waits for."""

Statuses = list[MachineStatus]


class FlyMachines:
    """The machines of one service in its apps. Every call ends within a bound, whatever the API does."""

    name = "fly"
    capacity = None

    def __init__(
        self, options: FlyOptions, *, rng: random.Random | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ):  # fmt: skip
        self._options = options
        self._api = Api(options.api_url, options.token, creations_per_s=options.creations_per_s, transport=transport)
        self._looking = Looking(self._api, options.all_apps, options.service, rng or random.Random())
        self._making = Maker(self._looking, options)

    async def close(self) -> None:
        """Close the connections; no machine is touched."""
        await self._api.close()

    async def spawn(self, spec: MachineSpec) -> str:
        """As `Provider.spawn`."""
        return await self._making.make(spec, launch=True)

    async def inspect(self, which: str) -> MachineStatus:
        """As `Provider.inspect`."""
        patience = self._looking.patience(ANSWER_S)
        for app, machine in await self._looking.find(which, patience):
            found = await self._looking.get(app, machine, patience)
            if found is not None and (status := self._looking.status(app, found)).state != "gone":
                return status
        return gone(which)

    async def list(self) -> Statuses:
        """As `Provider.list`, without how a machine has ended: `inspect` tells that."""
        return await self._looking.all_statuses(self._looking.patience(ANSWER_S))

    async def destroy(self, which: str) -> None:
        """As `Provider.destroy`."""
        patience = self._looking.patience(END_S)
        for app, machine in await self._looking.find(which, patience):
            answer = await self._looking.ask("destroy", app, machine, patience=patience, query={"force": "true"})
            if answer.verdict is not Verdict.MISSING:
                await self._until_gone(app, machine, patience)

    async def _until_gone(self, app: str, machine: str, patience: Patience) -> None:
        while not self._looking.is_stuck(f"{app}/{machine}"):
            if await self._has_reached(app, machine, {"state": "destroyed"}, patience, patience.left_s):
                return
            if not await patience.again():
                raise ProviderUnavailable("Fly.io has not destroyed the machine yet.")
        telemetry.warning("fleet.machine_stuck", machine=machine, app=app, state="destroying")

    async def _has_reached(
        self, app: str, machine: str, query: dict[str, str], patience: Patience, within_s: float
    ) -> bool:
        """One long poll of the API; true also when the machine is missing, since then it reaches nothing more."""
        seconds = max(1, min(int(within_s), int(REQUEST_S)))
        answer = await self._api.ask(
            "wait", app, machine, patience=patience, query=query | {"timeout": str(seconds)}, extra_s=seconds
        )
        if answer.verdict not in REPEATED and answer.verdict not in (Verdict.DONE, Verdict.MISSING):
            raise unavailable(answer)
        return answer.verdict not in REPEATED

    # ---- for a pool

    async def prepare(self, spec: MachineSpec) -> str:
        """As `Pooling.prepare`."""
        return await self._making.make(spec, launch=False)

    def edition(self, kind: str) -> str:
        """As `Pooling.edition`."""
        return edition(kind, self._options)

    def grants(self, kind: str, within_s: float, beside: Mapping[str, int]) -> int:
        """As `Pooling.grants`. Each app has its own rate; kinds that share one share its turns."""
        apps = self._options.apps_for(kind)
        before = sum(n for other, n in beside.items() if not set(apps).isdisjoint(self._options.apps_for(other)))
        return self._api.grants("create", self._looking.present(apps), within_s) - before

    async def start(self, which: str) -> MachineStatus:
        """As `Pooling.start`."""
        patience = self._looking.patience(ANSWER_S)
        for app, machine in await self._looking.find(which, patience):
            return await self._start(app, machine, patience)
        return gone(which)

    async def _start(self, app: str, machine: str, patience: Patience) -> MachineStatus:
        """What is started already was started by a request whose answer was lost."""
        while True:
            answer = await self._api.ask("start", app, machine, patience=patience)
            if answer.verdict in (Verdict.TOKEN, Verdict.REFUSED, Verdict.FULL):
                raise refusal(answer)
            if answer.verdict is not Verdict.LATER:
                found = await self._looking.get(app, machine, patience)
                status = gone(f"{app}/{machine}") if found is None else self._looking.status(app, found)
                if found is None or status.state == "gone":
                    return status
                if answer.verdict is Verdict.DONE or found.state in shown.AT_WORK:
                    return status
            if not await patience.again(answer.retry_after_s):
                raise unavailable(answer) if answer.verdict is Verdict.UNSURE else refusal(answer)

    async def stop(self, which: str) -> None:
        """As `Pooling.stop`. How long it may take for that is in its configuration."""
        patience = self._looking.patience(ANSWER_S)
        for app, machine in await self._looking.find(which, patience):
            await self._stop(app, machine, patience)

    async def _stop(self, app: str, machine: str, patience: Patience) -> None:
        while True:
            answer = await self._api.ask("stop", app, machine, patience=patience, body={"signal": "SIGTERM"})
            if answer.verdict in (Verdict.DONE, Verdict.MISSING):
                return
            if answer.verdict is Verdict.STATE:
                found = await self._looking.get(app, machine, patience)
                if found is None or found.state in shown.AT_REST:
                    return
            elif answer.verdict not in REPEATED:
                raise unavailable(answer)
            if not await patience.again(answer.retry_after_s):
                raise unavailable(answer)

    async def wait(self, which: str, state: Literal["running", "exited", "gone"], *, within_s: float) -> MachineStatus:
        """As `Pooling.wait`; "running": its program runs, it was not only asked for."""
        patience = self._looking.patience(within_s + ANSWER_S)
        for app, machine in await self._looking.find(which, patience):
            return await self._wait(app, machine, state, patience)
        return gone(which)

    async def _wait(
        self, app: str, machine: str, state: Literal["running", "exited", "gone"], patience: Patience
    ) -> MachineStatus:
        while True:
            found = await self._looking.get(app, machine, patience)
            status = gone(f"{app}/{machine}") if found is None else self._looking.status(app, found)
            if (
                found is None
                or found.state == AWAITED[state]
                or (status.state in (state, "gone") and state != "running")
            ):
                return status
            left_s = patience.left_s - ANSWER_S
            if left_s <= 0 or status.state == "gone" or (state == "running" and status.state == "exited"):
                return status
            query = {"state": AWAITED[state]}
            if found.instance_id:
                query["instance_id"] = found.instance_id
            if not await self._has_reached(app, machine, query, patience, left_s) and not await patience.again():
                return status
