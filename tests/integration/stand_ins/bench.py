"""What tests of the Machines API's stand-in use: one in their own loop, whose durations are nothing unless the test
says so, and environments of tasks."""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

import httpx

from tests.stand_ins.fly import FlyStandIn, Settings, always
from tests.stand_ins.orchestrator import StandIn

NOTHING = always(0.0)
WITHIN_S = 20.0
QUICK: Mapping[str, Any] = dict.fromkeys(
    ("pull", "boot", "suspend", "update", "destroy", "work", "cpu", "late"), NOTHING
)


class Fly:
    """The API and its client. Limits are off unless the test wants them."""

    def __init__(self, rates: Mapping[str, float], **settings: Any) -> None:
        self.settings = Settings(**{"limits": False, **QUICK, **settings})
        self.inside = FlyStandIn(self.settings, rates)
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=self.inside.asgi),
            base_url="http://fly/v1/apps/",
            headers={"Authorization": f"Bearer {self.settings.token}"},
        )

    async def close(self) -> None:
        await self.http.aclose()
        await self.inside.close()

    async def create(
        self, name: str = "m", *, app: str = "arke-tiff-worker", env: Mapping[str, str] | None = None, **more: Any
    ) -> httpx.Response:
        """Ask for a machine; what does not belong to the body goes to its configuration."""
        body = {key: more.pop(key) for key in ("region", "skip_launch", "lease_ttl") if key in more}
        config = {"image": "registry.fly.io/worker:1", "env": dict(env or {}), "restart": {"policy": "no"}, **more}
        return await self.http.post(f"{app}/machines", json={"name": name, "config": config, **body})

    async def created(self, name: str = "m", **more: Any) -> dict[str, Any]:
        """A machine as its creation answered it."""
        answer = await self.create(name, **more)
        assert answer.status_code == 200, answer.text
        made: dict[str, Any] = answer.json()
        return made

    async def ask(self, verb: str, machine: Mapping[str, Any], path: str = "", **more: Any) -> httpx.Response:
        """A request about a machine."""
        return await self.http.request(verb, f"arke-tiff-worker/machines/{machine['id']}{path}", **more)

    async def show(self, machine: Mapping[str, Any]) -> dict[str, Any]:
        """The machine now."""
        shown: dict[str, Any] = (await self.ask("GET", machine)).json()
        return shown

    async def reach(self, machine: Mapping[str, Any], state: str) -> dict[str, Any]:
        """The machine once it is in this state."""
        async with asyncio.timeout(WITHIN_S):
            found = self.inside.fleet.machine("arke-tiff-worker", machine["id"])
            await found.until(lambda found: found.state == state)
            return found.as_json()

    async def until(self, **wanted: Any) -> dict[str, Any]:
        """The first entry of the journal with these values."""
        async with asyncio.timeout(WITHIN_S):
            return await self.inside.journal.until(**wanted)

    def told(self, **wanted: Any) -> list[dict[str, Any]]:
        """The entries of the journal with these values."""
        return self.inside.journal.find(**wanted)


class Flies:
    """Makes them."""

    def __init__(self, stack: contextlib.AsyncExitStack) -> None:
        self._stack = stack

    def __call__(self, rates: Mapping[str, float] | None = None, **settings: Any) -> Fly:
        fly = Fly(rates or {}, **settings)
        self._stack.push_async_callback(fly.close)
        return fly


def task(orchestrator: StandIn, name: str, attempt: int = 1) -> dict[str, str]:
    """The environment of a task as the orchestrator makes it."""
    return {
        "TASK_ID": name,
        "BATCH_ID": "b",
        "INPUT_R2_KEY": f"in/{name}.tif",
        "CALLBACK_URL": f"{orchestrator.url}/callback/b/{name}?run=1&attempt={attempt}&sig=a%2Fb",
    }


def ours(orchestrator: StandIn, **more: str) -> dict[str, str]:
    """The environment of a machine that asks for more work."""
    return {
        "CLAIM_URL": f"{orchestrator.url}/machines/claim",
        "MACHINE_NAME": "m",
        "MACHINE_TOKEN": "secret",
        "WORKER_IDLE_S": "0.05",
        "WORKER_CONCURRENCY": "1",
        **more,
    }


def sent(orchestrator: StandIn) -> list[tuple[str, str]]:
    """Task and status of each callback, in order."""
    return [(body["task_id"], body["status"]) for body in orchestrator.callbacks()]
