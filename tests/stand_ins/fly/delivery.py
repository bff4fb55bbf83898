"""How a worker gets a request through (worker/callback.py): again and again, until it is answered or time is up."""

import asyncio
import json
import time
from typing import Any, Final

from tests.stand_ins.fly.chance import Chance
from tests.stand_ins.fly.world import Http, Unreachable
from worker.callback import is_ours

FIRST_WAIT_S: Final = 0.2
MOST_WAIT_S: Final = 5.0


class Retired(Exception):
    """The orchestrator answered 410."""


class Undelivered(Exception):
    """A report or claim did not get through, or was refused."""


class Refused(Undelivered):
    """It was answered, with a refusal."""


class Delivery:
    """The requests of one machine, which is `who`."""

    def __init__(self, http: Http, chance: Chance, who: str) -> None:
        self._http = http
        self._chance = chance
        self._who = who

    async def persist(
        self, url: str, body: bytes, headers: dict[str, str], timeout_s: float, give_up_s: float
    ) -> tuple[int, bytes]:
        """Status and body of the first answer that is not to be asked for again. Raises Undelivered."""
        deadline, tries = time.monotonic() + give_up_s, 0
        while True:
            status, answer = 0, b""
            try:
                status, answer = await self._http.post(url, body, timeout_s=timeout_s, headers=headers)
                if not _is_for_later(status, answer):
                    return status, answer
                problem = f"answered {status}"
            except Unreachable as error:
                problem = str(error)
            wait_s = min(MOST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(tries, 10))
            wait_s *= 0.5 + self._chance.fraction("backoff", self._who, tries, status) / 2
            if time.monotonic() + wait_s > deadline:
                raise Undelivered(f"{problem}, after {tries + 1} tries")
            tries += 1
            await asyncio.sleep(wait_s)


def _is_for_later(status: int, answer: bytes) -> bool:
    return status >= 500 or status in (408, 429) or (status == 404 and not is_ours(answer))


def read(answer: bytes) -> dict[str, Any]:
    """An answer as an object; what is none is an empty one, as the workers see it."""
    try:
        value = json.loads(answer)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
