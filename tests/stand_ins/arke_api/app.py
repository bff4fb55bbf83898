"""The stand-in over HTTP: latency, failures that heal, and what was asked, counted."""

import asyncio
import contextlib
import json
import random
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import Receive, Scope, Send

from tests.stand_ins.arke_api.archive import Archive

ROOT = Path(__file__).resolve().parents[3]


class ArkeStandIn:
    """`asgi` is the application. `latency_s` is before each answer; a share `fault_rate` of requests is answered 503,
    but no address more than `most_faults` times in a row, so that they heal. `statuses` fixes the answer of an address
    (its last part) for ever."""

    def __init__(
        self, archive: Archive, *, latency_s: float = 0.0, fault_rate: float = 0.0, most_faults: int = 3, seed: int = 1
    ) -> None:
        self.archive = archive
        self.latency_s, self.fault_rate, self.most_faults = latency_s, fault_rate, most_faults
        self.statuses: dict[str, int] = {}
        self.asked: Counter[str] = Counter()
        self.in_flight = 0
        self.most_in_flight = 0
        self._faults: Counter[str] = Counter()
        self._rng = random.Random(seed)

    async def asgi(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            if self.latency_s:
                await asyncio.sleep(self.latency_s)
            status, body, headers = self._answer(scope["path"])
        finally:
            self.in_flight -= 1
        raw = [(b"content-length", str(len(body)).encode()), *headers]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": body})

    def _answer(self, path: str) -> tuple[int, bytes, list[tuple[bytes, bytes]]]:
        kind, _, name = path.lstrip("/").partition("/")
        self.asked[kind] += 1
        if name in self.statuses:
            return self.statuses[name], b'{"error": "made to fail"}', []
        if self._rng.random() < self.fault_rate and self._faults[name] < self.most_faults:
            self._faults[name] += 1
            return 503, b'{"error": "busy"}', []
        if kind == "entities" and (entity := self.archive.entity(name)) is not None:
            return 200, json.dumps(entity).encode(), [(b"content-type", b"application/json")]
        if kind == "ipfs" and (body := self.archive.component(name)) is not None:
            return 200, body, [(b"content-type", b"application/octet-stream")]
        return 404, b'{"error": "NOT_FOUND"}', []


@contextlib.asynccontextmanager
async def serving(stand_in: ArkeStandIn, port: int = 0) -> AsyncIterator[str]:
    """Serve on 127.0.0.1 while inside; gives what ARKE_API_URL and IPFS_GATEWAY must be."""
    # Only where the protocol is named does asyncio set TCP_NODELAY; else each answer takes 40 ms.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        server = uvicorn.Server(
            uvicorn.Config(
                stand_in.asgi, log_level="warning", access_log=False, backlog=4096, lifespan="off", interface="asgi3",
                timeout_graceful_shutdown=1,
            )
        )  # fmt: skip
        server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]  # they are the caller's
        running = asyncio.create_task(server.serve([listening]))
        listening.listen(4096)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await running


@contextlib.contextmanager
def launched(arguments: Sequence[str] = ()) -> Iterator[str]:
    """Run it as a process of its own while inside; gives its address."""
    command: tuple[Any, ...] = (sys.executable, "-m", "tests.stand_ins.arke_api", "--port", "0", *arguments)
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            words = process.stdout.readline().split()
            assert words, "the stand-in did not begin; see its standard error"
            yield words[-1].removeprefix("ARKE_API_URL=")
        finally:
            process.terminate()
