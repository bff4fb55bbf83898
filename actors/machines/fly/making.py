"""Making a machine: region after region, in the app that has a turn first, and never twice.

A name is unique in its app. So where a machine of a name may exist already, it is asked for in that app again: then
the API itself sees to it that there is one (invariant 3).
"""

import asyncio
import re
from collections.abc import Iterable
from typing import Final

from actors import telemetry
from actors.machines.base import MachineSpec, ProviderUnavailable, SpawnRefused
from actors.machines.fly import shown
from actors.machines.fly.answers import Answer, Verdict
from actors.machines.fly.api import Patience
from actors.machines.fly.bodies import SERVICE, creation
from actors.machines.fly.looking import NAME, TOKEN_REFUSED, Looking, TokenRefused
from actors.machines.fly.options import FlyOptions

SPAWN_S: Final = 45.0
"""Less than the time that a machine has to boot: after that its batch has lost patience."""
FULL_S: Final = 30.0
"""How long a region that was full is asked after the others."""
NAMED: Final = re.compile(r"machine ID (\w+)")
SECRET_CHARS: Final = 8
MAY_EXIST: Final = frozenset({Verdict.DONE, Verdict.UNSURE, Verdict.TAKEN})


class Maker:
    """Makes machines. What is full, and which names there are, is remembered as a hint only."""

    def __init__(self, looking: Looking, options: FlyOptions) -> None:
        self._looking = looking
        self._options = options
        self._full_until: dict[str, float] = {}
        self._knows_names = len(options.all_apps) == 1
        self._learning = asyncio.Lock()
        self._digests: dict[str, str] = {}  # of an image, once the registry has told: the whole pool is of that one

    async def make(self, spec: MachineSpec, *, launch: bool) -> str:
        """As `Provider.spawn`; with `launch` false the machine is not started."""
        if not NAME.fullmatch(spec.name):
            raise SpawnRefused("The name of the machine is not one that Fly.io takes.", permanent=True)
        patience = self._looking.patience(SPAWN_S)
        try:
            await self._learn_names(patience)
        except TokenRefused as refused:  # nothing was asked for yet
            raise SpawnRefused(TOKEN_REFUSED, hopeless=True) from refused
        image = self._options.image_for(spec.kind)
        regions, is_unsure = self._regions(), self._looking.app_of(spec.name) is not None
        while True:
            apps = self._looking.present(self._options.apps_for(spec.kind))
            if not apps and not is_unsure:
                raise _no_app(self._options.apps_for(spec.kind))
            app = self._looking.app_of(spec.name) or self._looking.api.soonest(
                "create", apps or self._options.apps_for(spec.kind)
            )
            self._looking.note(spec.name, app)
            digest = None if launch else self._digests.get(image)
            answer = await self._looking.api.ask(
                "create", app, patience=patience, secrets=_secrets(spec),
                body=creation(spec, self._options, regions[0], launch=launch, digest=digest),
            )  # fmt: skip
            made = shown.machine(answer.body) if answer.verdict is Verdict.DONE else None
            if made is not None:
                if made.image_ref is not None and made.image_ref.digest:
                    self._digests.setdefault(image, made.image_ref.digest)
                return f"{app}/{made.id}"
            if answer.verdict in MAY_EXIST:
                is_unsure = True
                if found := await self._adopted(spec.name, app, answer, patience):
                    return found
            elif not is_unsure:
                self._looking.note(spec.name, None)
            if answer.verdict is Verdict.NO_APP and not is_unsure:
                self._looking.note_absent(app)
                if app not in self._looking.present((app,)):
                    continue
            if not await self._goes_on(answer, regions, patience):
                break
        if is_unsure:
            raise ProviderUnavailable(f"Fly.io does not tell whether the machine was made: {answer.message}")
        raise refusal(answer)

    async def _goes_on(self, answer: Answer, regions: list[str], patience: Patience) -> bool:
        """Whether there is another try: at once in the next region, or after a pause."""
        if answer.verdict is Verdict.FULL:
            self._note_full(regions.pop(0), answer)
            return bool(regions)
        if answer.verdict in (Verdict.TOKEN, Verdict.REFUSED, Verdict.STATE):
            return False
        return await patience.again(answer.retry_after_s)

    async def _adopted(self, name: str, app: str, answer: Answer, patience: Patience) -> str | None:
        """The id of the machine that has this name already, if it can be found now. Raises SpawnRefused when it is
        another service's."""
        told = NAMED.search(answer.message)
        known = await self._looking.get(app, told[1], patience) if told else None
        if known is None or known.name != name or self._looking.status(app, known).state == "gone":
            known = await self._looking.named(name, app, patience)
        if known is None:
            return None
        if known.metadata.get(SERVICE) != self._options.service:
            self._looking.note(name, None)
            raise SpawnRefused(
                f"A machine of another service has this name in the Fly app {app}: set FLY_APP_NAME to an app that "
                "only this service uses.", permanent=True,
            )  # fmt: skip
        telemetry.event("fleet.machine_adopted", machine=name, app=app)
        return f"{app}/{known.id}"

    async def _learn_names(self, patience: Patience) -> None:
        """With several apps: in which of them the machines of a former process are. Once."""
        async with self._learning:
            if not self._knows_names:
                for app, found in await self._looking.everywhere(patience):
                    self._looking.note(found.name or found.id, app)
                self._knows_names = True

    def _regions(self) -> list[str]:
        """In the order of the setting, those that were full not long ago last."""
        now = asyncio.get_running_loop().time()
        return sorted(self._options.regions, key=lambda region: self._full_until.get(region, 0.0) > now)

    def _note_full(self, region: str, answer: Answer) -> None:
        now = asyncio.get_running_loop().time()
        if self._full_until.get(region, 0.0) <= now:
            telemetry.warning("fleet.region_full", region=region, why=answer.message)
        self._full_until[region] = now + FULL_S


def _no_app(apps: tuple[str, ...]) -> SpawnRefused:
    what = f"Fly.io has no app {', '.join(apps)}"
    return SpawnRefused(f"{what}: create it, or set FLY_APP_NAMES to one that is there.", hopeless=True)


def refusal(answer: Answer) -> SpawnRefused:
    """Why there is no machine."""
    match answer.verdict:
        case Verdict.TOKEN:
            return SpawnRefused(TOKEN_REFUSED, hopeless=True)
        case Verdict.FULL:
            return SpawnRefused(f"Fly.io has no place for the machine: {answer.message}")
        case Verdict.LATER | Verdict.STATE | Verdict.NO_APP:
            return SpawnRefused(f"Fly.io gives no machine now: {answer.message}")
    return SpawnRefused(f"Fly.io refuses the machine: {answer.message}", permanent=True)


def _secrets(spec: MachineSpec) -> Iterable[str]:
    """What the API could repeat of a body that it refuses."""
    return [value for value in spec.env.values() if len(value) >= SECRET_CHARS]
