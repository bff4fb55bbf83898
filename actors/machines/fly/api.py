"""Requests to the Machines API: each waits for its turn, is sent once, and is judged. Whether it is sent again is
decided by who asked, with `Patience`."""

import asyncio
import random
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import quote

import httpx
import msgspec

from actors import telemetry
from actors.machines.fly.answers import Answer, Verdict, judge
from actors.machines.fly.limits import Buckets, pause_s
from worker.pools import Pools

CONNECT_S: Final = 5.0
REQUEST_S: Final = 20.0
TRIES: Final = 8
POOLS: Final = 16
CONNECTIONS: Final = 12
"""Of one pool."""
SECRET_CHARS: Final = 8
"""A shorter token, or part of one ("Bearer", "fm2"), is no secret: to hide it would garble what is said."""
NO_TURN: Final = "its rate limit leaves no turn in time"
PATHS: Final[Mapping[str, tuple[str, str]]] = {
    "create": ("POST", ""),
    "list": ("GET", ""),
    "get": ("GET", "/{id}"),
    "wait": ("GET", "/{id}/wait"),
    "start": ("POST", "/{id}/start"),
    "stop": ("POST", "/{id}/stop"),
    "destroy": ("DELETE", "/{id}"),
}


class Patience:
    """How long one question may take altogether, its turns and repetitions included, and how often it is repeated."""

    def __init__(self, seconds: float, rng: random.Random) -> None:
        self._loop = asyncio.get_running_loop()
        self._until = self._loop.time() + seconds
        self._tries = 0
        self._rng = rng

    def anew(self) -> "Patience":
        """For one of several questions that share the time: its repetitions are its own."""
        return Patience(self.left_s, self._rng)

    @property
    def left_s(self) -> float:
        """Seconds."""
        return self._until - self._loop.time()

    async def again(self, retry_after_s: float | None = None) -> bool:
        """Wait before the next try; False, at once, when there is none."""
        self._tries += 1
        wait_s = pause_s(self._tries, self._rng, retry_after_s)
        if self._tries >= TRIES or wait_s >= self.left_s:
            return False
        await asyncio.sleep(wait_s)
        return True


class Api:
    """The connections with their token, and the buckets of all apps. The token is nowhere but in the headers of the
    clients, which httpx does not show."""

    def __init__(
        self, base_url: str, token: str, *, creations_per_s: int = 1, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._secrets = [part for part in (token, *re.split("[ ,_]", token)) if len(part) >= SECRET_CHARS]
        self._pools = Pools(
            {"Authorization": authorization(token)}, httpx.Timeout(REQUEST_S, connect=CONNECT_S), transport,
            pools=POOLS, connections=CONNECTIONS,
        )  # fmt: skip
        self._buckets = Buckets(creations_per_s=creations_per_s)

    async def close(self) -> None:
        """Close the connections."""
        await self._pools.close()

    def grants(self, action: str, apps: Iterable[str], within_s: float) -> int:
        """How often that can be done within the time, in all these apps."""
        now = asyncio.get_running_loop().time()
        return sum(self._buckets.grants((action, app), now, within_s) for app in apps)

    def soonest(self, action: str, apps: Iterable[str]) -> str:
        """The app in which that can be done first."""
        return self._buckets.soonest([(action, app) for app in apps], asyncio.get_running_loop().time())[1]

    async def ask(
        self, action: str, app: str, machine: str | None = None, *, patience: Patience,
        query: Mapping[str, str] | None = None, body: Any = None, secrets: Iterable[str] = (), extra_s: float = 0.0,
    ) -> Answer:  # fmt: skip
        """Wait for the turn, and ask once. `extra_s`: how long the API itself may take on our behalf.

        The answer is LATER, and nothing was sent, where the turn does not come while there is patience.
        """
        clock = asyncio.get_running_loop()
        key = (action, machine or app)
        if (wait_s := self._buckets.wait_s(key, clock.time())) >= patience.left_s:
            return Answer(verdict=Verdict.LATER, message=NO_TURN, retry_after_s=wait_s)
        self._buckets.take(key, clock.time())
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        answer = await self._send(
            action, app, machine, query, body, within_s=max(1.0, min(REQUEST_S, patience.left_s)) + extra_s,
            secrets=(*self._secrets, *secrets),
        )  # fmt: skip
        if answer.is_limited:
            self._buckets.close(key, clock.time(), answer.retry_after_s or 1.0)
            telemetry.detail("fleet.fly_limited", action=action, app=app, seconds=answer.retry_after_s)
        return answer

    async def _send(
        self, action: str, app: str, machine: str | None, query: Mapping[str, str] | None, body: Any, *,
        within_s: float, secrets: Iterable[str],
    ) -> Answer:  # fmt: skip
        verb, path = PATHS[action]
        where = f"/apps/{quote(app, safe='')}/machines" + path.format(id=quote(machine or "", safe=""))
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            with self._pools.client() as client:
                async with asyncio.timeout(within_s):
                    got = await client.request(
                        verb, self._base_url + where, params=query, headers=headers,
                        content=None if body is None else msgspec.json.encode(body), timeout=_time_out(within_s),
                    )  # fmt: skip
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout):
            return Answer(verdict=Verdict.LATER, message="its API cannot be reached")
        except (httpx.HTTPError, TimeoutError) as failure:
            return Answer(verdict=Verdict.UNSURE, message=f"its API did not answer ({type(failure).__name__})")
        return judge(
            action, got.status_code, got.content, retry_after=got.headers.get("Retry-After"), secrets=secrets
        )  # fmt: skip


def authorization(token: str) -> str:
    """The header: a token that begins with its scheme has it already."""
    return token if token.startswith(("FlyV1 ", "Bearer ")) else f"Bearer {token}"


def _time_out(seconds: float) -> httpx.Timeout:
    return httpx.Timeout(seconds, connect=min(CONNECT_S, seconds))
