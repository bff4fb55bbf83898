"""The final callback: the complete file list, posted to the ingest worker of the originals."""

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from actors.errors import ArkeError
from actors.planning import processed_files
from actors.rules.events import DeliveryEnded
from actors.rules.model import Job
from actors.store import Store

if TYPE_CHECKING:
    import httpx  # imported when the first batch has ended: its 45 ms would delay the first spawn of each batch

SILENCE_S: Final = 50.0
"""How long the receiver may take to connect, to take a piece of the list, or to answer."""
TIMEOUT_S: Final = 540.0
"""Of one request as a whole: below DELIVERY_MOST_MS of the rules, so that it ends before the next is begun."""
PAGE: Final = 1000
KNOWN_FIELDS: Final = frozenset({
    "batch_id", "manifest_r2_key", "r2_prefix", "uploader", "root_path", "parent_pi", "total_files", "total_bytes",
    "uploaded_at", "finalized_at", "metadata", "files", "phases",
})  # fmt: skip
"""Fields of the queue message that this service knows; every other one is passed back beside `files`."""


class FinalCallback:
    """POST {WORKER_URL}/api/batches/{batch_id}/enqueue-processed, streamed page by page from the store."""

    def __init__(self, worker_url: str, store: Store, client: "httpx.AsyncClient | None" = None):
        self._base = worker_url.rstrip("/")
        self._store = store
        self._client = client

    async def send(self, job: Job, run: int) -> DeliveryEnded:
        """Tell the receiver once. The same run always carries the same Idempotency-Key (invariant 6)."""
        import httpx

        self._client = self._client or httpx.AsyncClient(timeout=SILENCE_S)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                response = await self._client.post(
                    f"{self._base}/api/batches/{job.id}/enqueue-processed",
                    headers={"Content-Type": "application/json", "Idempotency-Key": f"{job.id}:{run}"},
                    content=_body(self._store, job),
                )
        except (httpx.HTTPError, ArkeError, OSError) as error:  # TimeoutError is one; ArkeError: of the store
            return DeliveryEnded(
                run=run, outcome="retry", message=f"The receiver was not reached: {type(error).__name__}."
            )
        return read_answer(job, run, response.status_code, response.text[:300])


def read_answer(job: Job, run: int, status: int, text: str) -> DeliveryEnded:
    """What the receiver's answer means (docs/reference/protocol.md, final callback)."""
    message = f"The receiver answered {status}: {text}"
    if 200 <= status < 300:
        return DeliveryEnded(run=run, outcome="delivered")
    if status == 400 and "Invalid batch state: enqueued" in text:
        # It has a list: this one, or that of an earlier run, and then the new one was refused.
        outcome: Literal["refused", "delivered"] = "refused" if job.receiver_may_have_older_list else "delivered"
        return DeliveryEnded(run=run, outcome=outcome, message=message)
    early = status == 400 and "Invalid batch state" in text
    if early or status >= 500 or status in (408, 425, 429):
        return DeliveryEnded(run=run, outcome="retry", message=message)
    return DeliveryEnded(run=run, outcome="refused", message=message)


async def _body(store: Store, job: Job) -> AsyncIterator[bytes]:
    extra: dict[str, Any] = {key: value for key, value in job.message.items() if key not in KNOWN_FIELDS}
    head = msgspec.json.encode(extra)[:-1]
    yield head + (b"," if extra else b"") + b'"files":['
    chunk: list[bytes] = []
    first = True
    async for file in processed_files(store, job):
        chunk.append((b"" if first else b",") + msgspec.json.encode(file))
        first = False
        if len(chunk) >= PAGE:
            yield b"".join(chunk)
            chunk = []
    yield b"".join(chunk) + b"]}"
