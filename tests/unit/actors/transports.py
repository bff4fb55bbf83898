"""What the wire runs over: a unix socket, or TCP between nodes, plain or with certificates."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, Protocol

from actors import wire
from actors.network import Address, Network, TcpServer, Tls
from orchestrator.serve import free_ports
from tests.stand_ins import authority

KINDS: Final = ("unix", "tcp", "tls")
SECRET: Final = "a secret of sixteen characters"
ACTOR: Final = "batch:a"

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Transport(Protocol):
    """Where one actor listens, or nobody."""

    where: Path | wire.Way
    servers: list[wire.Served]

    async def serve(self, handler: wire.Handler) -> wire.Served:
        """Listen there."""

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection on which anything can be said."""


class Unix:
    """On one host."""

    def __init__(self, folder: Path) -> None:
        self.where = folder / "a.sock"
        self.servers: list[wire.Served] = []

    async def serve(self, handler: wire.Handler) -> wire.Served:
        self.servers.append(await wire.serve(self.where, handler))
        return self.servers[-1]

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(self.where)


class Tcp:
    """Between nodes, after the handshake."""

    def __init__(self, tls: Tls | None = None) -> None:
        (port,) = free_ports(1)
        self.network = Network([SECRET], tls=tls, ports=range(port, port + 1))
        self.where = self.network.way(ACTOR, Address("127.0.0.1", port))
        self.servers: list[wire.Served] = []

    async def serve(self, handler: wire.Handler) -> TcpServer:
        server = await self.network.listen("127.0.0.1", ACTOR, handler)
        self.servers.append(server)
        return server

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        made: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Future()

        async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            made.set_result((reader, writer))

        await self.where.connect(lambda: streams(take))
        return await made


async def misbehave(at: Transport, talk: Talk) -> wire.Served:
    """Listen there, and say on each accepted connection what `talk` says."""

    async def never(requests: list[object]) -> list[object]:
        raise AssertionError(requests)

    server = await at.serve(never)
    server.protocol = lambda _: streams(talk)  # type: ignore[method-assign]
    return server


async def ended(*servers: wire.Served) -> None:
    """All their connections have ended, on both sides. With TLS that takes a few messages."""
    async with asyncio.timeout(10):
        while any(server.connections or getattr(server, "greeting", ()) for server in servers):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    for _ in range(20):
        await asyncio.sleep(0.0005)  # the last ones are on their way to the other side


def streams(talk: Talk) -> asyncio.StreamReaderProtocol:
    """A connection for `talk`."""
    return asyncio.StreamReaderProtocol(asyncio.StreamReader(), talk)


def certificates(folder: Path, *addresses: str) -> tuple[Path, Path, Path]:
    """An authority, and a certificate by it for these addresses: certificate, key, authority."""
    made = folder / "tls"
    authority.sign(authority.make(folder / "ca"), made, *(addresses or ("127.0.0.1",)))
    return made / "tls.crt", made / "tls.key", made / "ca.crt"
