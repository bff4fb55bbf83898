"""The whole of it, put together: `FlyStandIn` inside a test, `serving` behind a socket, `launched` as a process."""

import asyncio
import contextlib
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path

import uvicorn

from tests.stand_ins.fly.api import Api
from tests.stand_ins.fly.chance import Chance
from tests.stand_ins.fly.faults import Faults
from tests.stand_ins.fly.fleet import Fleet
from tests.stand_ins.fly.journal import Entry, Journal
from tests.stand_ins.fly.settings import Settings

ROOT = Path(__file__).resolve().parents[3]


class FlyStandIn:
    """Make it inside a running event loop; `asgi` is the application. `close` ends all machines."""

    def __init__(
        self,
        settings: Settings | None = None,
        rates: Mapping[str, float] | None = None,
        told: Callable[[Entry], None] | None = None,
    ) -> None:
        self.settings = settings or Settings()
        chance = Chance(self.settings.seed)
        self.journal = Journal(told)
        self.faults = Faults(chance, rates)
        self.fleet = Fleet(self.settings, chance, self.faults, self.journal)
        self.asgi = Api(self.settings, self.fleet, chance, self.faults, self.journal).asgi

    async def close(self) -> None:
        """End all machines. Raises what went wrong inside."""
        await self.fleet.close()


@contextlib.asynccontextmanager
async def serving(stand_in: FlyStandIn, port: int = 0) -> AsyncIterator[str]:
    """Serve on 127.0.0.1 while inside; gives what FLY_API_URL must be."""
    # Only where the protocol is named does asyncio set TCP_NODELAY; else each answer takes 40 ms.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        server = uvicorn.Server(
            uvicorn.Config(
                stand_in.asgi, log_level="warning", access_log=False, backlog=4096, timeout_graceful_shutdown=1,
                lifespan="off",
            )
        )  # fmt: skip
        server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]  # they are the caller's
        running = asyncio.create_task(server.serve([listening]))
        listening.listen(4096)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        finally:
            await stand_in.close()
            server.should_exit = True
            await running


@contextlib.contextmanager
def launched(arguments: Sequence[str] = ()) -> Iterator[str]:
    """Run it as a process of its own while inside; gives what FLY_API_URL must be."""
    command = (sys.executable, "-m", "tests.stand_ins.fly", "--port", "0", *arguments)
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            words = process.stdout.readline().split()
            assert words, "the stand-in did not begin; see its standard error"
            yield words[-1].removeprefix("FLY_API_URL=")
        finally:
            process.terminate()
