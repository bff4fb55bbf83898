"""Finding machines: by id, by name, all of a service; and asking until there is an answer."""

import asyncio
import random
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Final, TypeVar

from actors import telemetry
from actors.machines.base import MachineStatus, ProviderUnavailable, gone
from actors.machines.fly import shown
from actors.machines.fly.answers import REPEATED, Answer, Verdict
from actors.machines.fly.api import Api, Patience
from actors.machines.fly.bodies import SERVICE, by_name
from actors.machines.fly.shown import Shown

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
ABSENT_S: Final = 15.0
"""How long an app that was not there is not asked for again."""
STUCK_S: Final = 300.0
"""Fly calls a machine stuck that is being destroyed for longer: its host is lost, and it with it."""
NAMES_REMEMBERED: Final = 50_000
REMEMBERED: Final = 10_000
TOKEN_REFUSED: Final = "The Fly token is not accepted: set FLY_API_TOKEN."


K = TypeVar("K")
V = TypeVar("V")


class TokenRefused(ProviderUnavailable):
    """Nothing is known, and nothing will be until there is another token."""


class Looking:
    """Asks the API. What it remembers are hints that save questions (invariant 8): a new process asks."""

    def __init__(self, api: Api, apps: tuple[str, ...], service: str, rng: random.Random) -> None:
        self.api = api
        self.apps = apps
        self._rng = rng
        self._ours = {f"metadata.{SERVICE}": service}
        self._present: set[str] = set()
        self._absent_until: dict[str, float] = {}
        self._app_of: OrderedDict[str, str | None] = OrderedDict()
        self._destroyed_since: OrderedDict[str, float] = OrderedDict()

    def patience(self, seconds: float) -> Patience:
        """For one question of the fleet."""
        return Patience(seconds, self._rng)

    # ---- apps

    def present(self, apps: tuple[str, ...]) -> tuple[str, ...]:
        """Those that are there, as far as this process knows."""
        now = asyncio.get_running_loop().time()
        return tuple(app for app in apps if self._absent_until.get(app, 0.0) <= now)

    def note_absent(self, app: str) -> None:
        """There is no such app; for a while it is not asked for. Told once. One that was there has machines, which are
        not believed to be gone by one answer."""
        if app in self._present:
            return
        if app not in self._absent_until:
            telemetry.warning("fleet.app_missing", app=app, mend="create it, or take it out of FLY_APP_NAMES")
        self._absent_until[app] = asyncio.get_running_loop().time() + ABSENT_S

    # ---- names

    def app_of(self, name: str) -> str | None:
        """The app in which a machine of this name is or may be, as far as this process knows."""
        return self._app_of.get(name)

    def note(self, name: str, app: str | None) -> None:
        """There is or may be a machine of this name in the app; None: in none."""
        _put(self._app_of, name, app, NAMES_REMEMBERED)

    async def find(self, which: str, patience: Patience) -> list[tuple[str, str]]:
        """App and machine of this id or name. Of a name that is known to be nowhere nobody is asked."""
        app, slash, machine = which.partition("/")
        if slash:
            return [(app, machine)]
        if not NAME.fullmatch(which) or self._app_of.get(which, "") is None:
            return []
        known = self._app_of.get(which)
        query = self._ours | by_name(which) | {"summary": "true"}
        return [
            (app, found.id) for app, found in await self._in(self.apps if known is None else (known,), query, patience)
        ]

    async def named(self, name: str, app: str, patience: Patience) -> Shown | None:
        """The machine of this name in the app, whose service ever it is."""
        return next(iter(await self._list(app, by_name(name), patience)), None)

    # ---- machines

    async def everywhere(self, patience: Patience) -> list[tuple[str, Shown]]:
        """All machines of this service with their apps, without configuration and events."""
        return await self._in(self.apps, self._ours | {"summary": "true"}, patience)

    async def all_statuses(self, patience: Patience) -> list[MachineStatus]:
        """Of all machines of this service. How one ended is in no list."""
        statuses = [self.status(app, found) for app, found in await self.everywhere(patience)]
        return [status for status in statuses if status.state != "gone"]

    async def get(self, app: str, machine: str, patience: Patience) -> Shown | None:
        """The machine, or None when there is none."""
        answer = await self.ask("get", app, machine, patience=patience)
        if answer.verdict is Verdict.MISSING:
            return None
        found = shown.machine(answer.body)
        if found is None:
            raise ProviderUnavailable("Fly.io sent a machine that is none.")
        return found

    def status(self, app: str, found: Shown) -> MachineStatus:
        """As the fleet sees it; one that is being destroyed for too long is gone."""
        status = found.status(app)
        return gone(status.provider_id) if found.state == "destroying" and self.is_stuck(status.provider_id) else status

    def is_stuck(self, provider_id: str) -> bool:
        """Of a machine that is being destroyed: whether this process has seen that for too long."""
        now = asyncio.get_running_loop().time()
        since = self._destroyed_since.get(provider_id, now)
        _put(self._destroyed_since, provider_id, since, REMEMBERED)
        return now - since >= STUCK_S

    async def _in(self, apps: Iterable[str], query: Mapping[str, str], patience: Patience) -> list[tuple[str, Shown]]:
        apps = tuple(apps)
        lists = await asyncio.gather(*(self._list(app, query, patience) for app in apps))
        return [(app, found) for app, some in zip(apps, lists, strict=True) for found in some]

    async def _list(self, app: str, query: Mapping[str, str], patience: Patience) -> list[Shown]:
        if not self.present((app,)):
            return []
        answer = await self.ask("list", app, patience=patience, query=query)
        if answer.verdict is Verdict.NO_APP:
            if app in self._present:  # it was there: its machines are not believed to be gone by this alone
                raise unavailable(answer)
            self.note_absent(app)
            return []
        self._present.add(app)
        found = shown.machines(answer.body)
        if found is None:
            raise ProviderUnavailable("Fly.io sent a list that is none.")
        return [machine for machine in found if shown.STATES.get(machine.state or "") != "gone"]

    # ---- asking

    async def ask(
        self, action: str, app: str, machine: str | None = None, *, patience: Patience,
        query: Mapping[str, str] | None = None,
    ) -> Answer:  # fmt: skip
        """Ask for what may be asked for twice, until it is done or the machine missing. Raises ProviderUnavailable."""
        patience = patience.anew()
        while True:
            answer = await self.api.ask(action, app, machine, patience=patience, query=query)
            if answer.verdict in (Verdict.DONE, Verdict.MISSING, Verdict.NO_APP):
                return answer
            if answer.verdict not in REPEATED or not await patience.again(answer.retry_after_s):
                raise unavailable(answer)


def unavailable(answer: Answer) -> ProviderUnavailable:
    """Nothing is known by this answer."""
    if answer.verdict is Verdict.TOKEN:
        return TokenRefused(TOKEN_REFUSED)
    return ProviderUnavailable(f"Fly.io does not do it: {answer.message}")


def _put(hints: OrderedDict[K, V], key: K, value: V, most: int) -> None:
    hints[key] = value
    hints.move_to_end(key)
    while len(hints) > most:
        hints.popitem(last=False)
