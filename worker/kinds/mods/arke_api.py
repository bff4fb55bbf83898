"""The Arke API and its IPFS gateway, read only: manifests of entities, and their components.

503 and 409 are repeated, and what else may get better; an answer that is too large is refused while it is read.
"""

import asyncio
import random
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

import httpx
import msgspec

from worker.errors import BadInput, Unavailable, WorkerError
from worker.kinds.mods.entity import Manifest, is_pi, manifest_of
from worker.pools import Pools

API_URL: Final = "https://api.arke.institute"
GATEWAY: Final = "https://ipfs.arke.institute"
TRIES: Final = 8
BASE_S: Final = 0.1
CAP_S: Final = 5.0
MOST_RETRY_AFTER_S: Final = 30.0
TIMEOUT_S: Final = httpx.Timeout(30.0, connect=10.0, pool=None)
WHOLE_S: Final = 600.0
"""One answer altogether, however slowly it comes."""
ERROR_BYTES: Final = 64 * 1024
"""So much of an error is read, so that its connection can be used again."""
MOST_MERGES: Final = 16
MANIFEST_BYTES: Final = 16 * 1024 * 1024
COMPONENT_BYTES: Final = 256 * 1024 * 1024
REPEATED: Final = frozenset({408, 409, 425, 429})
"""And all of 5xx, those of proxies included."""
SERVER_ERROR: Final = 500
POOLS: Final = 64
CONNECTIONS: Final = 4
"""Of one pool: an entity has its manifest or its components under way, and MOST_AT_ONCE of them are read at once."""
HTTP_OK: Final = 200
_REASONS: Final = {404: "Not Found", 410: "Gone", 403: "Forbidden", 401: "Unauthorized"}


class NotThere(BadInput):
    """The API has no such thing, and another try will not find it: "404 Not Found"."""


class Deleted(BadInput):
    """The entity was deleted."""


class Unusable(BadInput):
    """What came is not what was asked for."""


class ArkeApi:
    """One client with its connections. `rng` gives the jitter. Methods raise WorkerError: its subclasses of BadInput
    where another try cannot help, Unavailable where it may."""

    def __init__(
        self, api_url: str = API_URL, gateway: str = GATEWAY, *, rng: random.Random | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:  # fmt: skip
        self._api_url, self._gateway = api_url.rstrip("/"), gateway.rstrip("/")
        self._rng = rng or random.Random()
        self._places = asyncio.Semaphore(POOLS * CONNECTIONS)
        self._pools = Pools(
            {"User-Agent": "arke-orchestrator", "Accept": "application/json, */*"}, TIMEOUT_S, transport,
            pools=POOLS, connections=CONNECTIONS, follow_redirects=True,
        )  # fmt: skip

    async def __aenter__(self) -> "ArkeApi":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pools.close()

    async def manifest(self, pi: str) -> Manifest:
        """The manifest of an entity, or of the one that it was merged into."""
        asked, seen = pi, set[str]()
        while True:
            if not is_pi(asked):
                raise Unusable("it is no entity id")
            raw = _object(await self._get(f"{self._api_url}/entities/{quote(asked, safe='')}", MANIFEST_BYTES))
            if raw.get("status") == "deleted":
                raise Deleted("deleted")
            into = raw.get("merged_into")
            if not raw.get("merged") or not isinstance(into, str):
                return manifest_of(raw, asked)
            seen.add(asked)
            if into in seen or len(seen) > MOST_MERGES:
                raise Unusable("it was merged in a circle, or into what is no entity")
            asked = into

    async def component(self, cid: str) -> bytes:
        """The bytes of a component."""
        return await self._get(f"{self._gateway}/ipfs/{quote(cid, safe='')}", COMPONENT_BYTES)

    async def _get(self, url: str, most_bytes: int) -> bytes:
        tries = 0
        while True:
            tries += 1
            try:
                status, body, retry_after_s = await self._once(url, most_bytes)
            except (httpx.TransportError, TimeoutError) as error:
                fault: WorkerError = Unavailable(f"the archive cannot be reached ({type(error).__name__})")
                status, retry_after_s = 0, None
            except (httpx.TooManyRedirects, httpx.InvalidURL, httpx.DecodingError) as error:
                raise Unusable(f"no answer that can be used: {type(error).__name__}") from error
            else:
                if status == HTTP_OK:
                    return body
                fault = Unavailable(f"{status} {_reason(status)}".strip())
                if status not in REPEATED and status < SERVER_ERROR:
                    raise NotThere(str(fault))
            if tries == TRIES:
                raise fault
            await asyncio.sleep(self._pause_s(tries, retry_after_s))

    def _pause_s(self, tries: int, retry_after_s: float | None) -> float:
        if retry_after_s is not None:
            return min(retry_after_s, MOST_RETRY_AFTER_S) + self._rng.uniform(0, BASE_S)
        return self._rng.uniform(0, min(CAP_S, BASE_S * 2**tries))

    async def _once(self, url: str, most_bytes: int) -> tuple[int, bytes, float | None]:
        """Status, body of a success, and what Retry-After says."""
        async with self._places, asyncio.timeout(WHOLE_S):
            with self._pools.client() as client:
                return await self._streamed(client, url, most_bytes)

    async def _streamed(self, client: httpx.AsyncClient, url: str, most_bytes: int) -> tuple[int, bytes, float | None]:
        async with client.stream("GET", url) as answer:
            if answer.status_code != HTTP_OK:
                if int(answer.headers.get("content-length") or ERROR_BYTES + 1) <= ERROR_BYTES:
                    await answer.aread()
                return answer.status_code, b"", _seconds(answer.headers)
            parts: list[bytes] = []
            size = 0
            async for part in answer.aiter_bytes():
                size += len(part)
                if size > most_bytes:
                    raise Unusable(f"the answer has more than {most_bytes} bytes")
                parts.append(part)
            return answer.status_code, b"".join(parts), None


def decoded(body: bytes) -> dict[str, Any]:
    """The JSON object in a component. Raises Unusable."""
    return _object(body)


def _object(body: bytes) -> dict[str, Any]:
    """Lone surrogates, which JSON can escape and UTF-8 cannot hold, are for `text.clean`: so the fast decoder, which
    refuses them, is only the first that is tried."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value = _leniently(body)
    if not isinstance(value, dict):
        raise Unusable("no JSON object")
    return value


def _leniently(body: bytes) -> Any:
    import json

    try:
        return json.loads(body.decode("utf-8-sig", errors="replace"), strict=False)
    except (ValueError, RecursionError) as error:
        raise Unusable("no valid JSON") from error


def _seconds(headers: Mapping[str, str]) -> float | None:
    told = headers.get("retry-after", "")
    return float(told) if told.isascii() and told.isdigit() else None


def _reason(status: int) -> str:
    return _REASONS.get(status) or httpx.codes.get_reason_phrase(status)
