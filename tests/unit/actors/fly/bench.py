"""The provider on a virtual clock, with an API that the test writes itself, at the level of bytes."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar

import httpx

from actors.machines.base import MachineSpec
from actors.machines.fly import FlyMachines, FlyOptions, Size
from tests.simulation.loop import VirtualLoop

T = TypeVar("T")
TOKEN = "fm2_s3cret-of-the-test"
SERVICE = "arke-1"

Handler = Callable[[httpx.Request], httpx.Response | Exception | Awaitable[httpx.Response]]


class Fixed(random.Random):
    """Draws the same part of each range."""

    def __init__(self, part: float = 0.0) -> None:
        super().__init__(0)
        self._part = part

    def uniform(self, a: float, b: float) -> float:
        return a + (b - a) * self._part


def virtually(work: Coroutine[Any, Any, T]) -> T:
    """What it gives; its waits cost nothing."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()


def now() -> float:
    """Seconds of the running clock."""
    return asyncio.get_running_loop().time()


def options(**changes: Any) -> FlyOptions:
    given: dict[str, Any] = {
        "api_url": "http://fly.test/v1",
        "token": TOKEN,
        "apps": ("one",),
        "regions": ("ord", "iad"),
        "image": "registry.fly.io/worker:1",
        "sizes": {"tiff": Size("shared", 2, 1024), "": Size("performance", 1, 2048)},
        "service": SERVICE,
    }
    return FlyOptions(**{**given, **changes})


def spec(name: str = "tiff-a-1", **env: str) -> MachineSpec:
    return MachineSpec(name=name, kind="tiff", env={"TASK_ID": "t", **env})


class Scripted:
    """Answers from a list, in order, the last one again and again; notes each request with its time."""

    def __init__(self, *answers: httpx.Response | Exception | Handler) -> None:
        self._answers = list(answers)
        self.requests: list[httpx.Request] = []
        self.at: list[float] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        self.at.append(now())
        answer: Any = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if callable(answer):
            answer = answer(request)
            if isinstance(answer, Awaitable):
                answer = await answer
        if isinstance(answer, Exception):
            raise answer
        # A response is read once; the last one is given again.
        made: httpx.Response = httpx.Response(answer.status_code, content=answer.content, headers=_kept(answer))
        return made

    @property
    def asked(self) -> list[str]:
        """Method and path of each request, without what all have in common."""
        return [f"{each.method} {each.url.path.removeprefix('/v1/apps/')}" for each in self.requests]

    def body(self, number: int = 0) -> dict[str, Any]:
        """What was sent with a request."""
        sent: dict[str, Any] = json.loads(self.requests[number].content)
        return sent

    def provider(self, *, part: float = 0.0, **changes: Any) -> FlyMachines:
        """One that asks it; its jitter is always this part of what it may be."""
        return FlyMachines(options(**changes), rng=Fixed(part), transport=httpx.MockTransport(self))


def _kept(answer: httpx.Response) -> dict[str, str]:
    return {name: answer.headers[name] for name in ("Retry-After",) if name in answer.headers}


def ok(body: Any = None) -> httpx.Response:
    return httpx.Response(200, json={"ok": True} if body is None else body)


def error(status: int, message: str, **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"error": message}, headers={k.replace("_", "-"): v for k, v in headers.items()})


def machine(
    machine_id: str = "m1", name: str = "tiff-a-1", state: str = "started", *, events: Any = None,
    metadata: Mapping[str, str] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """One as the API shows it."""
    tags = {"arke_service": SERVICE} if metadata is None else dict(metadata)
    return {
        "id": machine_id, "name": name, "state": state, "region": "ord", "instance_id": "01A",
        "config": {"image": "i", "metadata": tags}, "events": events,
    }  # fmt: skip
