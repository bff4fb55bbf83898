"""Lists of requests over a connection: the two hot hops, front → actor and actor → store.

On one host the connection is a unix socket; between the nodes of a cluster it is made by `actors.network`.

A frame is 4 bytes of length (big endian) and a msgpack list. A client has one list in flight; what
gathers meanwhile goes with the next, so that the more there is to do, the less each request costs.
A reply is `{"ok": value}` or `{"error": {"code", "message", "field", "retry_after_s"}}`.
"""

import asyncio
import contextlib
import hashlib
import os
import re
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar, cast

import msgspec

from actors import telemetry
from actors.errors import BY_CODE, ArkeError, TooLarge, Unavailable

MAX_FRAME_BYTES: Final = 64 * 1024 * 1024
MAX_PATH_BYTES: Final = 96  # macOS allows 103; the draft name below is at most 4 longer
MAX_LIST: Final = 4096  # requests of one frame: bounds the group that a handler sees

_HEADER: Final = struct.Struct(">I")
_PLAIN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

Handler = Callable[[list[Any]], Awaitable[list[Any]]]
"""Takes a list of requests, returns as many values in the same order; an exception in a place is its answer."""


class WireDown(ConnectionError):
    """The other side is not there, or went away before it answered: the request may have taken effect or not."""


class Refused(WireDown):
    """Somebody is there, but not for us, or not the one that was meant. The request has not taken effect."""


class FrameTooLarge(ValueError):
    """A frame announces more than MAX_FRAME_BYTES: this is not our protocol."""


def socket_path(run_dir: Path, actor_name: str) -> Path:
    """Where the actor of this name listens. Names that are long or not plain become a digest."""
    plain = actor_name.replace(":", "_")
    path = run_dir / f"{plain}.sock"
    if _PLAIN.fullmatch(plain) and len(os.fsencode(path)) <= MAX_PATH_BYTES:
        return path
    return run_dir / f"{hashlib.sha256(actor_name.encode()).hexdigest()[:20]}.sock"


P = TypeVar("P", bound=asyncio.Protocol)


class Way(Protocol):
    """How a client comes to one actor."""

    @property
    def name(self) -> str:
        """For messages."""

    async def connect(self, protocol: Callable[[], P]) -> P:
        """A new connection, which the other side has accepted. Raises Refused, or another OSError: nobody is there."""


class UnixWay:
    """The way to what listens at a path."""

    def __init__(self, path: Path) -> None:
        self._path, self.name = path, path.name

    async def connect(self, protocol: Callable[[], P]) -> P:
        """As `Way.connect`; whoever may open the file is accepted."""
        loop = asyncio.get_running_loop()
        _, made = await loop.create_unix_connection(protocol, os.fspath(self._path))
        return made


class Served:
    """What listens under a name, and its connections."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.connections: set[_Caller] = set()
        self.listening: asyncio.Server | None = None

    def protocol(self, handler: Handler) -> asyncio.Protocol:
        """What speaks on a new connection."""
        return _Caller(self, self.name, handler)

    def close(self) -> None:
        """Listen no more, and end the connections: each after the answers that it still has to get."""
        if self.listening is not None:
            self.listening.close()
        for connection in list(self.connections):
            connection.end()

    async def end(self, *, within_s: float) -> None:
        """`close`, and wait until the last answer was sent, or this time is over."""
        self.close()
        deadline = asyncio.get_running_loop().time() + within_s
        while self.connections and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110  (once in its life)
            await asyncio.sleep(0.02)


class Server(Served):
    """What listens at a path, and its connections."""

    def __init__(self, path: Path) -> None:
        super().__init__(path.name)
        self.path = path
        self._file: int | None = None

    async def listen(self, handler: Handler) -> None:
        """Listen from now on. Raises OSError when the path cannot be had."""
        listener = _bind(self.path)
        self._file = self.path.stat().st_ino
        self.listening = await asyncio.get_running_loop().create_unix_server(
            lambda: self.protocol(handler), sock=listener
        )

    def is_in_place(self) -> bool:
        """Whether who connects to the path comes here; also once it listens no more. A process that was slow to start
        may have taken the place of a later one, and somebody may have cleaned the folder up."""
        try:
            return self._file is None or self.path.stat().st_ino == self._file
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """As `Served.close`. The file goes too, unless another process listens at the path meanwhile."""
        with contextlib.suppress(FileNotFoundError):
            if self._file is not None and self.path.stat().st_ino == self._file:
                self.path.unlink()
        self._file = None
        super().close()


async def serve(path: Path, handler: Handler) -> Server:
    """Listen at `path`; a file that an earlier process left there is replaced without a gap.

    One list at a time of each connection; lists of different connections run side by side.
    """
    server = Server(path)
    await server.listen(handler)
    return server


class _Frames(asyncio.Protocol):
    """One end of a connection. A protocol, not streams: these cost a task switch or two for every frame."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's are of no class of asyncio

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        self._buffer += data
        self._go_on()

    def _go_on(self) -> None:
        raise NotImplementedError

    def _frame(self) -> bytes | None:
        """The next whole frame, if it is there. Raises FrameTooLarge as soon as its length is known."""
        if len(self._buffer) < _HEADER.size:
            return None
        (length,) = _HEADER.unpack_from(self._buffer)
        if length > MAX_FRAME_BYTES:
            raise FrameTooLarge(f"{length} bytes")
        end = _HEADER.size + length
        if len(self._buffer) < end:
            return None
        body = bytes(memoryview(self._buffer)[_HEADER.size : end])
        del self._buffer[:end]
        return body

    def send(self, body: bytes) -> None:
        """Send one frame. After the end of the connection it goes nowhere."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(_HEADER.pack(len(body)) + body)

    def close(self) -> None:
        """End the connection, after what was sent."""
        if self._transport is not None:
            self._transport.close()


class _Caller(_Frames):
    """A caller's connection: a list, its answers, the next list."""

    def __init__(self, server: Served, name: str, handler: Handler) -> None:
        super().__init__()
        self._server, self._name, self._handler = server, name, handler
        self._answering: asyncio.Task[None] | None = None
        self._ending = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        super().connection_made(transport)
        self._server.connections.add(self)

    def end(self) -> None:
        """Close the connection, now or after the answers to what is being handled."""
        self._ending = True
        if self._answering is None:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop. What is being handled goes on: it may be half done."""
        self._server.connections.discard(self)
        telemetry.detail("wire.connection_ended", at=self._name)

    def _go_on(self) -> None:
        if self._answering is not None or self._ending:
            return
        try:
            body = self._frame()
            if body is not None:
                requests = msgspec.msgpack.decode(body, type=list[Any])
                self._answering = asyncio.get_running_loop().create_task(self._answer(requests))
        except (FrameTooLarge, msgspec.MsgspecError):
            telemetry.warning("wire.not_a_list_of_requests", at=self._name)
            self.close()

    async def _answer(self, requests: list[Any]) -> None:
        try:
            self.send(_encode_replies(await _handle(self._handler, requests)))
        except BaseException:  # cancelled at the end of the loop: without an answer the caller must not wait
            self.close()
            raise
        self._answering = None
        if self._ending:
            self.close()
        self._go_on()


def _bind(path: Path) -> socket.socket:
    """A socket that only this user may connect to, in place of whatever was at `path`."""
    draft = path.with_suffix(f".{os.getpid()}")
    draft.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(os.fspath(draft))
        draft.chmod(0o600)
        listener.listen(512)
        draft.replace(path)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


async def _handle(handler: Handler, requests: list[Any]) -> list[Any]:
    """The handler's values; what it raises as a whole is the answer to each request."""
    try:
        values = await handler(requests)
    except (ArkeError, ConnectionError) as error:
        return [error] * len(requests)
    except Exception as error:  # noqa: BLE001 - logged, and answered without detail
        telemetry.fault("wire.list_failed", requests=len(requests))
        return [ArkeError(_internal(error))] * len(requests)
    if len(values) != len(requests):
        telemetry.warning("wire.answers_missing", answered=len(values), requests=len(requests))
        return [ArkeError("Internal error.")] * len(requests)
    return values


def _encode_replies(values: list[Any]) -> bytes:
    replies = [_reply(value) for value in values]  # each once: what went wrong is logged
    try:
        body = msgspec.msgpack.encode(replies)
    except (TypeError, ValueError, OverflowError):  # one of them cannot be sent: find out which
        body = msgspec.msgpack.encode([_encode_reply(reply) for reply in replies])
    if len(body) > MAX_FRAME_BYTES:
        refusal = TooLarge("The answer is too large. Ask for less at once.")
        return msgspec.msgpack.encode([_reply(refusal)] * len(values))
    return body


def _encode_reply(reply: dict[str, Any]) -> msgspec.Raw:
    try:
        return msgspec.Raw(msgspec.msgpack.encode(reply))
    except (TypeError, ValueError, OverflowError):
        telemetry.fault("wire.cannot_be_sent", type=type(reply.get("ok")).__name__)
        return msgspec.Raw(msgspec.msgpack.encode(_reply(ArkeError("Internal error."))))


def _reply(value: Any) -> dict[str, Any]:
    if isinstance(value, ArkeError):
        return {
            "error": {
                "code": value.code,
                "message": value.message,
                "field": value.field,
                "retry_after_s": value.retry_after_s,
            }
        }
    if isinstance(value, ConnectionError):  # what the handler needs has died: it starts again, and nobody is to blame
        telemetry.warning("wire.needed_part_away", why=type(value).__name__)
        return _reply(Unavailable(retry_after_s=1))
    if isinstance(value, BaseException):
        telemetry.fault("wire.request_failed", raised=value)
        return {"error": {"code": "error", "message": _internal(value), "field": None, "retry_after_s": None}}
    return {"ok": value}


def _internal(_error: BaseException) -> str:
    """No detail leaves the process: it is in the log."""
    return "Internal error."


def unwrap(reply: dict[str, Any]) -> Any:
    """The value of a reply.

    Raises the class of `actors.errors` that its code names; ArkeError itself for any other code.
    """
    if "error" not in reply:
        return reply["ok"]
    error = reply["error"]
    kind = BY_CODE.get(error["code"], ArkeError)
    raise kind(error["message"], field=error["field"], retry_after_s=error["retry_after_s"])


class _Link(_Frames):
    """A client's connection: hands on each frame, and that it has ended."""

    def __init__(self, received: "Callable[[_Link, bytes], None]", ended: "Callable[[_Link, str], None]") -> None:
        super().__init__()
        self._received, self._ended = received, ended
        self.over: str | None = None
        """Why it has ended, for who was not yet there to be told."""

    def eof_received(self) -> None:
        """Called by the loop, which then closes the connection: known now, a step before it is closed."""
        self._end("the connection has ended")

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        self._end(str(exc) if exc else "the connection has ended")

    def _end(self, why: str) -> None:
        self.over = self.over or why
        self._ended(self, why)

    def _go_on(self) -> None:
        try:
            while (body := self._frame()) is not None:
                self._received(self, body)
        except (FrameTooLarge, msgspec.MsgspecError, WireDown) as error:
            self.close()
            self._end(str(error) or type(error).__name__)


class Client:
    """One connection to one actor. Use a second one (or `call_once`) for what waits long, such as a claim:
    it holds up the list it is in.

    Nothing is sent again here: after WireDown the caller knows whether its request can be repeated. `on_end` is
    called when the connection has ended while nobody waited for an answer.
    """

    def __init__(
        self, where: Path | Way, *, max_waiting: int = 10_000, on_end: Callable[[], None] | None = None
    ) -> None:
        self._way: Way = UnixWay(where) if isinstance(where, Path) else where
        self._on_end = on_end
        self._max_waiting = max_waiting
        self._waiting: deque[tuple[msgspec.Raw, asyncio.Future[Any]]] = deque()
        self._in_flight: list[tuple[msgspec.Raw, asyncio.Future[Any]]] = []
        self._link: _Link | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._busy = False  # a list is out, or about to be sent
        self._since = 0.0
        self._soon: asyncio.Handle | None = None
        self._closed = False

    async def call(self, request: dict[str, Any]) -> Any:
        """The answer to `request`.

        Raises the ArkeError that the handler answered, Unavailable above `max_waiting`, TooLarge for a
        request that no frame holds, WireDown when the connection failed, Refused when the other side wants none.
        """
        if self._closed:
            raise WireDown("the client is closed")
        if len(self._waiting) >= self._max_waiting:
            self._waiting = deque(waiting for waiting in self._waiting if not waiting[1].done())  # others gave up
        if len(self._waiting) >= self._max_waiting:
            raise Unavailable(retry_after_s=1)
        encoded = msgspec.Raw(msgspec.msgpack.encode(request))
        if len(bytes(encoded)) > MAX_FRAME_BYTES - 16:
            raise TooLarge("The request is too large. Send less at once.")
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((encoded, answer))
        if not self._busy:
            self._busy = True
            self._soon = asyncio.get_running_loop().call_soon(self._send_next)  # with what else is called in this turn
        return unwrap(await answer)

    @property
    def silent_s(self) -> float:
        """How long an answer, or a connection, has been waited for. 0: for none."""
        return asyncio.get_running_loop().time() - self._since if self._busy else 0.0

    async def close(self) -> None:
        """Close the connection; pending calls raise WireDown."""
        self._closed = True
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)
        self._fail("the client was closed")

    def give_up(self, why: str) -> None:
        """End the connection; pending calls raise WireDown. The next call makes a new one."""
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.cancel()
        self._fail(why)

    def _send_next(self) -> None:
        """Send what has gathered. Only while busy."""
        if self._closed:
            return
        self._since = asyncio.get_running_loop().time()
        if self._link is None:
            self._connecting = asyncio.get_running_loop().create_task(self._connect())
            return
        self._in_flight = self._take()
        if self._in_flight:
            self._link.send(msgspec.msgpack.encode([encoded for encoded, _ in self._in_flight]))
        else:
            self._busy = False

    async def _connect(self) -> None:
        try:
            link = await self._way.connect(lambda: _Link(self._received, self._ended))
        except OSError as error:
            self._connecting = None
            self._fail(str(error) or type(error).__name__, Refused if isinstance(error, Refused) else WireDown)
            return
        self._connecting = None
        if link.over is not None:  # between the connection and this turn
            self._fail(link.over)
            return
        self._link = link
        self._send_next()

    def _received(self, link: _Link, body: bytes) -> None:
        """The answers to the list that was out; what has gathered meanwhile goes at once."""
        if link is not self._link:
            return  # its list was given up
        replies = msgspec.msgpack.decode(body, type=list[dict[str, Any]])
        if len(replies) != len(self._in_flight):
            raise WireDown("the answers do not match the requests")
        answered, self._in_flight = self._in_flight, []
        for (_, answer), reply in zip(answered, replies, strict=True):
            if not answer.done():
                answer.set_result(reply)
        self._send_next()

    def _ended(self, link: _Link, why: str) -> None:
        """A connection is gone. If nothing was out on it, the next call makes a new one unnoticed."""
        if link is not self._link:
            return
        self._link = None
        if self._busy:
            self._fail(why)
        elif self._on_end is not None:
            self._on_end()

    def _take(self) -> list[tuple[msgspec.Raw, asyncio.Future[Any]]]:
        """What has gathered, as much as one frame holds. Calls that were given up meanwhile are left out."""
        taken: list[tuple[msgspec.Raw, asyncio.Future[Any]]] = []
        size = 16
        while self._waiting and len(taken) < MAX_LIST:
            encoded, answer = self._waiting[0]
            size += len(bytes(encoded))
            if size > MAX_FRAME_BYTES:
                break
            self._waiting.popleft()
            if not answer.done():
                taken.append((encoded, answer))
        return taken

    def _fail(self, why: str, kind: type[WireDown] = WireDown) -> None:
        link, self._link, self._busy = self._link, None, False
        if self._soon is not None:
            self._soon.cancel()  # two at once would send two lists, and mix up their answers
        if link is not None:
            link.close()
        pending, self._in_flight = [*self._in_flight, *self._waiting], []
        self._waiting.clear()
        for _, answer in pending:
            if not answer.done():
                answer.set_exception(kind(f"{self._way.name}: {why}"))


async def call_once(where: Path | Way, request: dict[str, Any]) -> Any:
    """One request on a connection of its own: for long polls. Raises as `Client.call` does."""
    client = Client(where)
    try:
        return await client.call(request)
    finally:
        await client.close()
