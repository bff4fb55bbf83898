"""HTTP/1.1 for many small objects: a request and its whole answer, on connections that are kept.

Of the processor a ranged GET of 10 KB takes 2.6 ms by boto3, and 0.18 to 0.30 by `parts` on top of this, with signing
and all (64 threads at 20 ms, on a machine with other work). To send and to receive alone takes 0.7 by urllib3 and 0.26
to 0.37 by http.client: they spend it under the GIL, so no second core helps.
"""

import io
import socket
import time
import weakref
from collections import deque
from collections.abc import Iterator
from typing import Final, NamedTuple, cast
from urllib.parse import SplitResult

from worker import urls, web
from worker.objects.signing import host

CONNECT_S: Final = 10.0
WAIT_S: Final = 60.0
"""For each wait for bytes."""
IDLE_S: Final = 20.0
"""A connection that was not used for so long is not used again: what is between may have forgotten it silently."""
BUFFER_BYTES: Final = 16 * 1024
"""A head and a small object are read at once."""
MAX_LINE_BYTES: Final = 64 * 1024
MAX_HEADERS: Final = 100
_NO_BODY: Final = (204, 304)


class Answer(NamedTuple):
    """What a server answered: names of headers in lower case, of several with one name the last."""

    status: int
    headers: dict[str, str]
    body: bytes


class _NotHttp(ValueError):
    """What came is no answer in HTTP/1."""


class _Connection:
    """One connection, and when it was used last (monotonic seconds)."""

    def __init__(self, opened: socket.socket) -> None:
        self.socket = opened
        self.reader = cast("io.BufferedReader", opened.makefile("rb", BUFFER_BYTES))
        self.used_s = 0.0

    def close(self) -> None:
        self.reader.close()
        self.socket.close()


class Connections:
    """To one server, for any number of threads: each request has a connection of its own, and leaves it to the next.
    They are closed with `close`, or when nobody holds this any more."""

    def __init__(self, origin: str, who: str) -> None:
        """`who`: what errors call the server. Raises BadInput where `origin` is no HTTP address."""
        parts = urls.split(origin)
        self._who, self._host, self._server = who, host(parts), parts
        self._idle: deque[_Connection] = deque()
        self.close = weakref.finalize(self, _close_all, self._idle)

    def ask(self, method: str, target: str, headers: str = "", *, most: int) -> Answer:
        """Send a request that may be sent twice. `headers`: more of them, each ended by CR LF. Of the body `most` bytes
        are read. Raises Interrupted where no whole answer came."""
        request = f"{method} {target} HTTP/1.1\r\nHost: {self._host}\r\n{headers}\r\n".encode("latin-1")
        try:
            kept = self._kept()
            if kept is not None:
                try:
                    return self._ask(kept, request, most)
                except TimeoutError:
                    raise
                except OSError:
                    """A server may close at any time what is not in use: a new one will do."""
            return self._ask(_Connection(_connected(self._server)), request, most)
        except OSError as error:
            raise web.Interrupted(f"{self._who} did not answer: {type(error).__name__}") from error
        except ValueError as error:
            raise web.Interrupted(f"{self._who} did not answer: what it sent is not HTTP") from error

    def _kept(self) -> _Connection | None:
        """The one that was used last, so that those not needed grow old."""
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # another thread was faster
                return None
            if time.monotonic() - connection.used_s < IDLE_S:
                return connection
            connection.close()
        return None

    def _ask(self, connection: _Connection, request: bytes, most: int) -> Answer:
        is_kept = False
        try:
            connection.socket.sendall(request)
            answer, is_kept = _answer(connection.reader, request.startswith(b"HEAD"), most)
        finally:
            if is_kept:
                connection.used_s = time.monotonic()
                self._idle.append(connection)
            else:
                connection.close()
        return answer


def _close_all(idle: "deque[_Connection]") -> None:
    while idle:
        idle.pop().close()


def _connected(server: SplitResult) -> socket.socket:
    is_secure = server.scheme == "https"
    name = server.hostname or ""
    opened = socket.create_connection((name, server.port or (443 if is_secure else 80)), CONNECT_S)
    try:
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wrapped = web.tls().wrap_socket(opened, server_hostname=name) if is_secure else opened
        wrapped.settimeout(WAIT_S)
    except BaseException:
        opened.close()
        raise
    return wrapped


def _answer(reader: io.BufferedReader, is_head: bool, most: int) -> tuple[Answer, bool]:
    """And whether the connection may be used again."""
    status = 100
    while status < 200:  # "100 Continue" and "103 Early Hints" come before the answer
        version, status, headers = _head(reader)
    keeps = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
    if is_head or status in _NO_BODY:
        return Answer(status, headers, b""), keeps
    if "transfer-encoding" in headers:
        body, is_whole = _chunked(reader, most)
    elif "content-length" in headers:
        length = _number(headers["content-length"])
        body, is_whole = _exactly(reader, min(length, most)), length <= most
    else:  # it ends with the connection
        body, is_whole = reader.read(most), False
    return Answer(status, headers, body), keeps and is_whole


def _head(reader: io.BufferedReader) -> tuple[str, int, dict[str, str]]:
    """Version, status and headers, which mostly are in the buffer as a whole."""
    end = reader.peek().find(b"\r\n\r\n")
    head = reader.read(end + 4) if end >= 0 else b"".join(_lines(reader))
    first, *lines = head.decode("latin-1").replace("\r\n", "\n").split("\n")
    version, _, status = first.partition(" ")
    if not version.startswith("HTTP/1."):
        raise _NotHttp
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            headers[name.lower()] = value.strip()
        elif line:
            raise _NotHttp
    return version, _number(status[:3]), headers


def _lines(reader: io.BufferedReader) -> Iterator[bytes]:
    """Up to the empty one."""
    for _ in range(MAX_HEADERS):
        line = _line(reader)
        yield line
        if line in (b"\r\n", b"\n"):
            return
    raise _NotHttp


def _line(reader: io.BufferedReader) -> bytes:
    line = reader.readline(MAX_LINE_BYTES)
    if not line.endswith(b"\n"):
        if len(line) == MAX_LINE_BYTES:
            raise _NotHttp
        raise ConnectionError
    return line


def _chunked(reader: io.BufferedReader, most: int) -> tuple[bytes, bool]:
    """A body in pieces, each with its length; and whether all of it is read."""
    body = bytearray()
    while size := _number(_line(reader).partition(b";")[0].strip().decode("latin-1"), 16):
        body += _exactly(reader, min(size, most - len(body)))
        if len(body) == most:
            return bytes(body), False
        _line(reader)
    while _line(reader).strip():
        """More headers: nobody asks for them."""
    return bytes(body), True


def _exactly(reader: io.BufferedReader, length: int) -> bytes:
    body = reader.read(length)
    if len(body) < length:
        raise ConnectionError
    return body


def _number(text: str, base: int = 10) -> int:
    if not text.isalnum():  # `int` takes signs, spaces and underscores
        raise _NotHttp
    return int(text, base)
