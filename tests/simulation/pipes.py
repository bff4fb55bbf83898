"""Sockets in memory, for the real `actors.wire`: what is sent arrives a moment later, in order, or never."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from tests.simulation.chance import Chance
from tests.simulation.loop import Process, VirtualLoop, current
from tests.simulation.transcript import Frame

LATE_S = 20.0
STOPPED_S = 40.0


class Pipe(asyncio.Transport):
    """One end of a connection. `other` is the other end's."""

    def __init__(self, network: "Network", owner: Process, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self.network, self.owner, self.protocol = network, owner, protocol
        self.other: Pipe
        self.is_client = False
        self.is_open = True
        self._last = 0.0

    def write(self, data: Any) -> None:
        """Called by the protocol. Whatever goes wrong with a frame is drawn here."""
        if not self.owner.is_alive or not self.is_open or not self.other.is_open:
            return
        chance, network = self.network.chance, self.network
        if chance.hits("frame.lost"):
            network.trace("the connection to", self.other.owner.name, "breaks under", Frame(data))
            self._break()
            return
        if self.is_client and chance.hits("kill.before"):
            network.trace("is killed before", self.other.owner.name, "has", Frame(data))
            self.owner.kill()
            return
        delay = network.latency()
        if chance.hits("frame.late"):
            delay += LATE_S * chance.stream("late").random()
            network.trace(f"to {self.other.owner.name}, late by {delay:.1f} s:", Frame(data))
        victim = None if self.is_client else self.other.owner
        if victim is not None and chance.hits("kill.after"):
            network.trace("is killed before it has the answer of", self.owner.name, Frame(data), who=victim.name)
            network.loop.call_later(delay, victim.kill)
            return
        self._last = max(self._last, network.loop.time() + delay)  # a connection keeps its order
        network.loop.call_at(self._last, self.other.take, bytes(data), context=self.other.owner.context)

    def take(self, data: bytes) -> None:
        """What the other end has sent arrives."""
        if self.is_open:
            self.protocol.data_received(data)

    def is_closing(self) -> bool:
        """As every transport has it."""
        return not self.is_open

    def close(self) -> None:
        """This end is closed; the other learns it after what was sent."""
        if self.is_open:
            self.is_open = False
            self.network.loop.call_soon(self.protocol.connection_lost, None, context=self.owner.context)
            self.other.hear_of_end(self._last)

    def hear_of_end(self, not_before: float = 0.0) -> None:
        """The other end is gone, or the connection is broken."""
        when = max(not_before, self.network.loop.time() + self.network.latency())
        self.network.loop.call_at(when, self._lost, context=self.owner.context)

    def _break(self) -> None:
        for end in (self, self.other):
            end.hear_of_end()

    def _lost(self) -> None:
        if self.is_open:
            self.is_open = False
            self.protocol.connection_lost(ConnectionResetError("the connection broke"))


class Network:
    """Who listens where, and the connections."""

    def __init__(self, loop: VirtualLoop, chance: Chance, trace: Callable[..., None]) -> None:
        self.loop, self.chance, self.trace = loop, chance, trace
        self._listening: dict[str, tuple[Process, Callable[[], asyncio.Protocol]]] = {}
        self._latency = chance.stream("latency")
        loop.create_unix_connection = self.connect  # type: ignore[method-assign, assignment]

    def latency(self) -> float:
        """Seconds: a fraction of a millisecond mostly, now and then much more."""
        drawn = self._latency.random()
        return 0.0002 + 0.001 * drawn if drawn < 0.97 else 0.2 * (drawn - 0.96)

    def listen(self, owner: Process, path: Path, protocol: Callable[[], asyncio.Protocol]) -> None:
        """From now on, in place of whoever did."""
        self._listening[str(path)] = (owner, protocol)

    def stop_listening(self, owner: Process, path: Path) -> None:
        """Unless another process listens there meanwhile."""
        if self._listening.get(str(path), (None,))[0] is owner:
            del self._listening[str(path)]

    def is_listening(self, owner: Process, path: Path) -> bool:
        """Whether who connects there comes to this process."""
        return self._listening.get(str(path), (None,))[0] is owner

    async def connect(self, factory: Callable[[], asyncio.Protocol], path: str) -> Any:
        """`create_unix_connection` of the loop."""
        caller = current()
        owner, serve = self._listening.get(path, (None, None))
        if caller is None or owner is None or serve is None or not owner.is_alive:
            raise ConnectionRefusedError(f"nobody listens at {Path(path).name}")
        mine, theirs = Pipe(self, caller, factory()), Pipe(self, owner, serve())
        mine.other, theirs.other = theirs, mine
        mine.is_client = True
        for end in (mine, theirs):
            end.owner.at_end.append(end.other.hear_of_end)
            end.protocol.connection_made(cast(asyncio.BaseTransport, end))
        return mine, mine.protocol
