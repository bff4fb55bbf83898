"""One process's connections to actors, by name: on one host to their sockets, in a cluster to the addresses they tell.

An address is what an actor said when it was last asked. It is forgotten as soon as its connection ends, or nobody
answers there, or another one. A node that is gone ends no connection: who waits long there has Ray asked where the
actor is now, and what waits at a former address is sent again.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from actors import wire
from actors.errors import ArkeError
from actors.network import Address, Network

SILENCE_S: Final = 3.0
LOOK_S: Final = 1.0

Ask = Callable[[str], Awaitable[None]]
"""Make sure that an actor runs, and `Lines.told` of its address. Raises ArkeError or OSError."""


class Lines:
    """The connections. `network` is None where all actors are on this host."""

    def __init__(self, run_dir: Path, network: Network | None, ask: Ask) -> None:
        self._run_dir, self._network, self._ask = run_dir, network, ask
        self._addresses: dict[str, Address] = {}
        self._clients: dict[str, wire.Client] = {}
        self._polls: dict[wire.Client, str] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._asked_at: dict[str, float] = {}
        self._watching: asyncio.Task[None] | None = None

    async def call(self, actor: str, request: dict[str, Any], *, own_connection: bool = False) -> Any:
        """As `wire.Client.call`; also WireDown while nobody has told where the actor is. `own_connection`: for what
        waits long."""
        client = self._poll(actor) if own_connection else self._clients.get(actor) or self._connect(actor)
        at = self._addresses.get(actor)
        try:
            return await client.call(request)
        except ConnectionError:
            self._forget(actor, client, at)
            raise
        finally:
            if own_connection:
                self._polls.pop(client, None)
                await client.close()

    def told(self, actor: str, address: Address | None) -> None:
        """An actor has said where it listens. Whatever waits for it elsewhere waits no more."""
        if address is None or self._addresses.get(actor) == address:
            return
        self._addresses[actor] = address
        former = [self._clients.pop(actor, None), *(poll for poll, whose in self._polls.items() if whose == actor)]
        for client in former:
            if client is not None:
                client.give_up("it listens elsewhere now")

    def doubt(self, actor: str) -> None:
        """Have it asked where the actor is, unless that was done just now."""
        now = asyncio.get_running_loop().time()
        if self._network is None or actor in self._asking or now - self._asked_at.get(actor, -SILENCE_S) < SILENCE_S:
            return
        self._asked_at[actor] = now
        asking = asyncio.get_running_loop().create_task(self._look_again(actor))
        self._asking[actor] = asking
        asking.add_done_callback(lambda _: self._asking.pop(actor, None))

    async def close(self) -> None:
        """End all connections."""
        for client in [*self._clients.values(), *self._polls]:
            await client.close()

    def _poll(self, actor: str) -> wire.Client:
        client = wire.Client(self._way(actor))
        self._polls[client] = actor
        return client

    def _connect(self, actor: str) -> wire.Client:
        at = self._addresses.get(actor)
        client = self._clients[actor] = wire.Client(self._way(actor), on_end=lambda: self._forget(actor, client, at))
        return client

    def _way(self, actor: str) -> Path | wire.Way:
        if self._network is None:
            return wire.socket_path(self._run_dir, actor)
        address = self._addresses.get(actor)
        if address is None:
            raise wire.WireDown(f"{actor}: nobody has said where it is")
        if self._watching is None or self._watching.done():
            self._watching = asyncio.get_running_loop().create_task(self._watch())
        return self._network.way(actor, address)

    def _forget(self, actor: str, client: wire.Client, at: Address | None) -> None:
        if self._clients.get(actor) is client:
            del self._clients[actor]
        if at is not None and self._addresses.get(actor) == at:
            del self._addresses[actor]

    async def _watch(self) -> None:
        """While there are connections, ask for those who are waited for and say nothing."""
        while self._clients or self._polls:
            await asyncio.sleep(LOOK_S)
            waited = [(client, actor) for actor, client in self._clients.items()]
            for client, actor in [*waited, *self._polls.items()]:
                if client.silent_s > SILENCE_S:
                    self.doubt(actor)

    async def _look_again(self, actor: str) -> None:
        try:
            await self._ask(actor)
        except (ArkeError, OSError):
            return  # it cannot be asked either: those who wait go on waiting, until their patience is over
