"""Connections between the nodes of a cluster: TCP, with the handshake of `actors.handshake`, and then `actors.wire`.

An actor listens at the address of its node. Where Ray's own traffic is encrypted (RAY_USE_TLS) this is too, with the
same certificates, which both sides show; otherwise the handshake keeps strangers out, and nothing is hidden from who
sees what is sent.
"""

import asyncio
import errno
import random
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from actors import handshake, telemetry, wire
from actors.handshake import Mismatch, Nonces, NotMeant

GREETING_S: Final = 5.0
MOST_GREETING: Final = 256
"""Connections of one actor that have not yet proved anything: who opens more is turned away."""
REMEMBERED: Final = 200  # kinds of failures, each told once

KEEPALIVE: Final = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 60_000))
"""A node that is gone says nothing: its connections end after a minute."""


class Address(NamedTuple):
    """Where an actor listens."""

    host: str
    port: int


class Tls(NamedTuple):
    """What both sides show each other: the one who listens, and the one who connects."""

    server: ssl.SSLContext
    client: ssl.SSLContext

    @classmethod
    def load(cls, certificate: Path, key: Path, authority: Path) -> "Tls":
        """Raises OSError (ssl.SSLError is one) where a file cannot be used."""
        contexts = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        for context in contexts:
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_cert_chain(certificate, key)
            context.load_verify_locations(authority)
        return cls(*contexts)

    @classmethod
    def of_ray(cls, environ: Mapping[str, str]) -> "Tls | None":
        """As Ray has it; None where it has none. Raises OSError, also for a variable that is missing."""
        if environ.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):
            return None
        names = ("RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT")
        if missing := [name for name in names if not environ.get(name)]:
            raise OSError(errno.EINVAL, f"RAY_USE_TLS is set, and {missing[0]} is not")
        return cls.load(*(Path(environ[name]) for name in names))


class Network:
    """One process's way to actors of other nodes, and theirs to it."""

    def __init__(
        self, secrets: Sequence[str], *, tls: Tls | None = None, ports: range | None = None,
        patience_s: float = GREETING_S,
    ) -> None:  # fmt: skip
        """`secrets`: all that are accepted, the first is ours. `ports`: where actors of this node may listen; None: the
        system chooses. `patience_s`: how long a side may take to prove itself."""
        self._keys = [handshake.key_of(secret) for secret in secrets]
        self._tls, self._ports, self._patience_s = tls, ports, patience_s
        self._told: set[tuple[str, str]] = set()

    async def listen(self, host: str, actor: str, handler: wire.Handler) -> "TcpServer":
        """Listen at an address of this node. Raises OSError where no port is free."""
        listener = _bound(host, self._ports)
        server = TcpServer(actor, Address(*listener.getsockname()[:2]))
        tls: dict[str, Any] = {}
        if self._tls is not None:
            tls = {"ssl": self._tls.server, "ssl_handshake_timeout": self._patience_s}
        server.listening = await asyncio.get_running_loop().create_server(
            lambda: _Door(server, self._keys, handler, self._patience_s, self._tell), sock=listener, **tls
        )
        return server

    def way(self, actor: str, address: Address) -> wire.Way:
        """The way to an actor that listens there."""
        return TcpWay(actor, address, self._keys[0], self._tls, self._patience_s, self._tell)

    def _tell(self, event: str, peer: str, why: str) -> None:
        """Log a failure, each kind of it once for a peer: who tries, tries again and again."""
        if (peer, why) not in self._told and len(self._told) < REMEMBERED:
            self._told.add((peer, why))
            telemetry.warning(event, peer=peer, why=why)


Tell = Callable[[str, str, str], None]


class TcpServer(wire.Served):
    """What listens at an address, and its connections: those that are accepted, and those that are not yet."""

    def __init__(self, actor: str, address: Address) -> None:
        super().__init__(actor)
        self.address = address
        self.greeting: set[_Door] = set()

    def close(self) -> None:
        """As `wire.Served.close`; who is not yet accepted will not be."""
        super().close()
        for door in list(self.greeting):
            door.end()


class TcpWay:
    """The way to one actor at one address."""

    def __init__(
        self, actor: str, address: Address, key: bytes, tls: Tls | None, patience_s: float, tell: Tell
    ) -> None:
        self.name, self._address, self._key = actor, address, key
        self._tls, self._patience_s, self._tell = tls, patience_s, tell

    async def connect(self, protocol: Callable[[], wire.P]) -> wire.P:
        """As `wire.Way.connect`."""
        try:
            async with asyncio.timeout(self._patience_s):
                return await self._connected(protocol)
        except wire.WireDown:
            raise
        except ssl.SSLError as error:
            raise self._refused(f"TLS: {error.reason or type(error).__name__}") from error
        except NotMeant as error:
            raise wire.Refused(str(error)) from error  # an actor has moved and another has its port: nothing is wrong
        except Mismatch as error:
            raise self._refused(str(error)) from error
        except TimeoutError as error:
            raise wire.WireDown("it says nothing") from error

    async def _connected(self, protocol: Callable[[], wire.P]) -> wire.P:
        made = protocol()
        calling = _Calling(self.name, self._key, made)
        try:
            await asyncio.get_running_loop().create_connection(lambda: calling, *self._address, **self._tls_options())
            await calling.accepted
        except BaseException:
            calling.end()
            raise
        return made

    def _tls_options(self) -> dict[str, Any]:
        if self._tls is None:
            return {}
        # The address is in the certificate: one node cannot pass for another.
        return {
            "ssl": self._tls.client,
            "server_hostname": self._address.host,
            "ssl_handshake_timeout": self._patience_s,
        }

    def _refused(self, why: str) -> wire.Refused:
        self._tell("wire.refused", f"{self._address.host}:{self._address.port}", why)
        return wire.Refused(why)


class _Greeter(asyncio.Protocol):
    """A connection until it is accepted. It takes messages of known lengths, and never more than one at a time."""

    def __init__(self) -> None:
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self._nonce = handshake.new_nonce()
        self._expected = handshake.HELLO_BYTES
        self._nonces: Nonces | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        self._buffer += data
        if self._is_over():
            return
        try:
            if len(self._buffer) > self._expected:
                raise Mismatch("it speaks another protocol")
            if len(self._buffer) == self._expected:
                message, self._buffer = self._buffer, b""
                self._heard(message)
        except Mismatch as error:
            self._failed(error)

    def end(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def _is_over(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def _send(self, message: bytes) -> None:
        if self._transport is not None:
            self._transport.write(message)

    def _hand_over(self, protocol: asyncio.Protocol) -> None:
        """From now on the connection is another's."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.set_protocol(protocol)
            protocol.connection_made(transport)

    def _heard(self, message: bytes) -> None:
        raise NotImplementedError

    def _failed(self, error: Mismatch) -> None:
        raise NotImplementedError


class _Door(_Greeter):
    """The side of the actor."""

    def __init__(
        self, server: TcpServer, keys: Sequence[bytes], handler: wire.Handler, patience_s: float, tell: Tell
    ) -> None:
        super().__init__()
        self._server, self._keys, self._handler, self._tell = server, keys, handler, tell
        self._peer = "unknown"
        # From the very beginning: with TLS the loop tells of a connection only when that has succeeded.
        self._patience = asyncio.get_running_loop().call_later(patience_s, self._too_late)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        self._peer = str(peer[0]) if peer else self._peer
        if len(self._server.greeting) >= MOST_GREETING:
            self._failed(Mismatch("too many say nothing"))
        self._server.greeting.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        self._patience.cancel()
        self._server.greeting.discard(self)

    def _heard(self, message: bytes) -> None:
        if self._nonces is None:
            version, nonce = handshake.nonce_of(message)
            self._send(handshake.hello(self._nonce))  # also to another version, which learns ours
            handshake.check_version(version)
            self._nonces, self._expected = Nonces(nonce, self._nonce), handshake.CLAIM_BYTES
            return
        answer, mismatch = handshake.verdict(self._keys, self._server.name, message, self._nonces)
        self._send(answer)
        if mismatch is not None:
            raise mismatch
        self._patience.cancel()
        self._server.greeting.discard(self)
        self._hand_over(self._server.protocol(self._handler))

    def _failed(self, error: Mismatch) -> None:
        if not isinstance(error, NotMeant):
            self._tell("wire.stranger", self._peer, f"{self._server.name}: {error}")
        if self._transport is not None:
            self._transport.close()  # after what was said

    def _too_late(self) -> None:
        self._tell("wire.stranger", self._peer, f"{self._server.name}: it has not proved itself in time")
        self.end()


class _Calling(_Greeter):
    """The side of the caller. `accepted` is done when the connection is that of `then`."""

    def __init__(self, actor: str, key: bytes, then: asyncio.Protocol) -> None:
        super().__init__()
        self._actor, self._key, self._then = actor, key, then
        self.accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        super().connection_made(transport)
        _keep_alive(transport.get_extra_info("socket"))
        self._send(handshake.hello(self._nonce))

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop. With TLS this is how the other side says that it does not like our certificate."""
        if not self.accepted.done():
            is_refusal = isinstance(exc, ssl.SSLError)
            self.accepted.set_exception(exc if exc and is_refusal else wire.WireDown("it went away before it answered"))
            self.accepted.exception()  # whoever waited may have given up

    def _heard(self, message: bytes) -> None:
        if self._nonces is None:
            version, nonce = handshake.nonce_of(message)
            handshake.check_version(version)
            self._nonces, self._expected = Nonces(self._nonce, nonce), handshake.VERDICT_BYTES
            self._send(handshake.claim(self._key, self._actor, self._nonces))
            return
        handshake.check_verdict(self._key, self._actor, message, self._nonces)
        self._hand_over(self._then)
        if not self.accepted.done():
            self.accepted.set_result(None)

    def _failed(self, error: Mismatch) -> None:
        if not self.accepted.done():
            self.accepted.set_exception(error)
            self.accepted.exception()
        self.end()


def _keep_alive(end: socket.socket) -> None:
    """Have it found out when the machine at the other end is gone. What is accepted has the options of its listener."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE:
        if hasattr(socket, name):  # macOS has not all of them
            end.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _bound(host: str, ports: range | None) -> socket.socket:
    """A socket that listens. Raises OSError where no port is free."""
    for port in random.sample(ports, k=len(ports)) if ports else [0]:
        listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            _keep_alive(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the port of one who has just gone
            listener.bind((host, port))
            listener.listen(512)
            listener.setblocking(False)
        except OSError as error:
            listener.close()
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return listener
    raise OSError(errno.EADDRINUSE, f"no port from {ports[0]} to {ports[-1]} is free" if ports else "no port is free")
