"""Lists of requests over a unix socket: the two hot hops, front → actor and actor → store.

A frame is 4 bytes of length (big endian) and a msgpack list. A client has one list in flight; what
gathers meanwhile goes with the next, so that the more there is to do, the less each request costs.
A reply is `{"ok": value}` or `{"error": {"code", "message", "field", "retry_after_s"}}`.
"""

import asyncio
import hashlib
import logging
import os
import re
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from actors.errors import BY_CODE, ArkeError, TooLarge, Unavailable

MAX_FRAME_BYTES: Final = 64 * 1024 * 1024
MAX_PATH_BYTES: Final = 96  # macOS allows 103; the draft name below is at most 4 longer
MAX_LIST: Final = 4096  # requests of one frame: bounds the group that a handler sees

_HEADER: Final = struct.Struct(">I")
_READ_LIMIT: Final = 1024 * 1024
_PLAIN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

_log = logging.getLogger(__name__)

Handler = Callable[[list[Any]], Awaitable[list[Any]]]
"""Takes a list of requests, returns as many values in the same order; an exception in a place is its answer."""


class WireDown(ConnectionError):
    """The other side is not there, or went away before it answered: the request may have taken effect or not."""


class FrameTooLarge(ValueError):
    """A frame announces more than MAX_FRAME_BYTES: this is not our protocol."""


def socket_path(run_dir: Path, actor_name: str) -> Path:
    """Where the actor of this name listens. Names that are long or not plain become a digest."""
    plain = actor_name.replace(":", "_")
    path = run_dir / f"{plain}.sock"
    if _PLAIN.fullmatch(plain) and len(os.fsencode(path)) <= MAX_PATH_BYTES:
        return path
    return run_dir / f"{hashlib.sha256(actor_name.encode()).hexdigest()[:20]}.sock"


async def serve(path: Path, handler: Handler) -> asyncio.Server:
    """Listen at `path`; a file that an earlier process left there is replaced without a gap.

    One list at a time of each connection; lists of different connections run side by side.
    """

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                requests = msgspec.msgpack.decode(await _read_frame(reader), type=list[Any])
                _write_frame(writer, _encode_replies(await _handle(handler, requests)))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            _log.debug("connection at %s ended", path.name)
        except (FrameTooLarge, msgspec.MsgspecError):
            _log.warning("connection at %s sent what is not a list of requests", path.name)
        finally:
            writer.close()

    return await asyncio.start_unix_server(connected, sock=_bind(path), limit=_READ_LIMIT)


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
    except ArkeError as error:
        return [error] * len(requests)
    except Exception as error:  # noqa: BLE001 - logged, and answered without detail
        _log.exception("a list of %d requests failed", len(requests))
        return [ArkeError(_internal(error))] * len(requests)
    if len(values) != len(requests):
        _log.error("handler answered %d of %d requests", len(values), len(requests))
        return [ArkeError("Internal error.")] * len(requests)
    return values


def _encode_replies(values: list[Any]) -> bytes:
    replies = [_encode_reply(value) for value in values]
    if sum(len(bytes(reply)) for reply in replies) > MAX_FRAME_BYTES - 16:
        replies = [_encode_reply(TooLarge("The answer is too large. Ask for less at once."))] * len(values)
    return msgspec.msgpack.encode(replies)


def _encode_reply(value: Any) -> msgspec.Raw:
    try:
        return msgspec.Raw(msgspec.msgpack.encode(_reply(value)))
    except (TypeError, ValueError, OverflowError):
        _log.exception("a value of type %s cannot be sent", type(value).__name__)
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
    if isinstance(value, BaseException):
        _log.error("a request failed", exc_info=value)
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


async def _read_frame(reader: asyncio.StreamReader) -> bytes:
    (length,) = _HEADER.unpack(await reader.readexactly(_HEADER.size))
    if length > MAX_FRAME_BYTES:
        raise FrameTooLarge(f"{length} bytes")
    return await reader.readexactly(length)


def _write_frame(writer: asyncio.StreamWriter, body: bytes) -> None:
    writer.write(_HEADER.pack(len(body)))
    writer.write(body)


class Client:
    """One connection to one actor. Use a second one (or `call_once`) for what waits long, such as a claim:
    it holds up the list it is in.

    Nothing is sent again here: after WireDown the caller knows whether its request can be repeated.
    """

    def __init__(self, path: Path, *, max_waiting: int = 10_000) -> None:
        self._path = path
        self._max_waiting = max_waiting
        self._waiting: deque[tuple[msgspec.Raw, asyncio.Future[Any]]] = deque()
        self._in_flight: list[tuple[msgspec.Raw, asyncio.Future[Any]]] = []
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._sender: asyncio.Task[None] | None = None
        self._closed = False

    async def call(self, request: dict[str, Any]) -> Any:
        """The answer to `request`.

        Raises the ArkeError that the handler answered, Unavailable above `max_waiting`, TooLarge for a
        request that no frame holds, WireDown when the connection failed.
        """
        if self._closed:
            raise WireDown("the client is closed")
        if len(self._waiting) >= self._max_waiting:
            raise Unavailable(retry_after_s=1)
        encoded = msgspec.Raw(msgspec.msgpack.encode(request))
        if len(bytes(encoded)) > MAX_FRAME_BYTES - 16:
            raise TooLarge("The request is too large. Send less at once.")
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((encoded, answer))
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send_all())
        return unwrap(await answer)

    async def close(self) -> None:
        """Close the connection; pending calls raise WireDown."""
        self._closed = True
        sender, self._sender = self._sender, None
        if sender is not None:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
        self._fail("the client was closed")

    async def _send_all(self) -> None:
        try:
            while self._waiting:
                self._in_flight = self._take()
                if self._in_flight:
                    await self._exchange()
        except (OSError, asyncio.IncompleteReadError, FrameTooLarge, msgspec.MsgspecError) as error:
            self._fail(str(error) or type(error).__name__)

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

    async def _exchange(self) -> None:
        reader, writer = await self._connect()
        _write_frame(writer, msgspec.msgpack.encode([encoded for encoded, _ in self._in_flight]))
        await writer.drain()
        replies = msgspec.msgpack.decode(await _read_frame(reader), type=list[dict[str, Any]])
        if len(replies) != len(self._in_flight):
            raise WireDown("the answers do not match the requests")
        answered, self._in_flight = self._in_flight, []
        for (_, answer), reply in zip(answered, replies, strict=True):
            if not answer.done():
                answer.set_result(reply)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is not None and self._streams[0].at_eof():
            self._disconnect()
        if self._streams is None:
            self._streams = await asyncio.open_unix_connection(os.fspath(self._path), limit=_READ_LIMIT)
        return self._streams

    def _disconnect(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    def _fail(self, why: str) -> None:
        self._disconnect()
        pending, self._in_flight = [*self._in_flight, *self._waiting], []
        self._waiting.clear()
        for _, answer in pending:
            if not answer.done():
                answer.set_exception(WireDown(f"{self._path.name}: {why}"))


async def call_once(path: Path, request: dict[str, Any]) -> Any:
    """One request on a connection of its own: for long polls. Raises as `Client.call` does."""
    client = Client(path)
    try:
        return await client.call(request)
    finally:
        await client.close()
