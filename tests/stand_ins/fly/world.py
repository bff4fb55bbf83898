"""What all machines share: settings, draws, faults, the journal, and the way out to the orchestrator."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

import aiohttp
from yarl import URL

from tests.stand_ins.fly.chance import Chance
from tests.stand_ins.fly.faults import Faults
from tests.stand_ins.fly.journal import Journal
from tests.stand_ins.fly.settings import Settings


class Unreachable(Exception):
    """No answer came."""


class Http:
    """Posts for all simulated machines, from one pool of connections: a thousand machines cost a thousand tasks, no
    thousand clients."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def post(
        self, url: str, body: bytes, *, timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Status and body of the answer; the URL is sent verbatim. Raises Unreachable."""
        if self._session is None:
            # uvicorn ends idle connections after 5 s: these are given up before
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=3)
            self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        sent = {"Content-Type": "application/json", **(headers or {})}
        for is_last in (False, True):
            try:
                async with self._session.post(
                    URL(url, encoded=True), data=body, headers=sent, timeout=aiohttp.ClientTimeout(total=timeout_s)
                ) as answer:
                    return answer.status, await answer.read()
            except aiohttp.ServerDisconnectedError as error:  # mostly an idle connection that ended meanwhile
                if is_last:
                    raise Unreachable(str(error)) from error
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                raise Unreachable(f"{type(error).__name__}: {error}") from error
        raise AssertionError

    async def close(self) -> None:
        """End all connections."""
        if self._session is not None:
            await self._session.close()


@dataclass(frozen=True)
class World:
    """Handed to each machine's program."""

    settings: Settings
    chance: Chance
    faults: Faults
    journal: Journal
    http: Http


async def forever() -> NoReturn:
    """Until cancelled."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError
