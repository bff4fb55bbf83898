"""HTTP for many small objects: a request and its whole answer, on connections that are kept.

http.client, as all of `worker.web`: of the processor a ranged GET of 10 KB takes a fraction of what boto3 and urllib3
take, and they spend it under the GIL, so that no second core helps.
"""

import http.client
import time
import weakref
from collections import deque
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import SplitResult

from worker import urls, web
from worker.objects.signing import host

CONNECT_S: Final = 10.0
WAIT_S: Final = 60.0
"""For each wait for bytes."""
IDLE_S: Final = 20.0
"""A connection that was not used for so long is not used again: what is between may have forgotten it silently."""


class Answer(NamedTuple):
    """What a server answered: names of headers in lower case, of several with one name the last."""

    status: int
    headers: dict[str, str]
    body: bytes


class _Kept(NamedTuple):
    """A connection, and when it was used last (monotonic seconds)."""

    connection: http.client.HTTPConnection
    used_s: float


class Connections:
    """To one server, for any number of threads: each request has a connection of its own, and leaves it to the next.
    They are closed with `close`, or when nobody holds this any more."""

    def __init__(self, origin: str, who: str) -> None:
        """`who`: what errors call the server. Raises BadInput where `origin` is no HTTP address."""
        parts = urls.split(origin)
        self._who, self._host, self._server = who, host(parts), parts
        self._idle: deque[_Kept] = deque()
        self.close = weakref.finalize(self, _close_all, self._idle)

    def ask(self, method: str, target: str, headers: Mapping[str, str], *, most: int) -> Answer:
        """Send a request that may be sent twice. Of the body `most` bytes are read. Raises Interrupted where no answer
        came."""
        try:
            return self._ask_twice(method, target, {"Host": self._host, **headers}, most)
        except OSError as error:
            told = type(error).__name__
        except http.client.HTTPException:
            told = "what it sent is not HTTP"
        # Outside, so that it does not come from one whose text is what the server sent: that may repeat the request.
        raise web.Interrupted(f"{self._who} did not answer: {told}")

    def _ask_twice(self, method: str, target: str, headers: Mapping[str, str], most: int) -> Answer:
        kept = self._kept()
        if kept is not None:
            try:
                return self._ask(kept, method, target, headers, most)
            except TimeoutError:
                raise
            except OSError:
                """A server may close at any time what is not in use: a new one will do."""
        return self._ask(_connected(self._server), method, target, headers, most)

    def _kept(self) -> http.client.HTTPConnection | None:
        """The one that was used last, so that those not needed grow old."""
        while self._idle:
            try:
                connection, used_s = self._idle.pop()
            except IndexError:  # another thread was faster
                return None
            if time.monotonic() - used_s < IDLE_S:
                return connection
            connection.close()
        return None

    def _ask(
        self, connection: http.client.HTTPConnection, method: str, target: str, headers: Mapping[str, str], most: int
    ) -> Answer:
        is_kept = False
        try:
            connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders()
            response = connection.getresponse()
            body = response.read(most)
            if len(body) < most and response.length:  # what http.client does not tell where an amount is asked for
                raise ConnectionAbortedError
            answer = Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, body)
            # closed: read to its end; below 200 it is no answer yet, and http.client does not wait for that
            is_kept = response.isclosed() and not response.will_close and response.status >= 200
        finally:
            if is_kept:
                self._idle.append(_Kept(connection, time.monotonic()))
            else:
                connection.close()
        return answer


def _close_all(idle: "deque[_Kept]") -> None:
    while idle:
        idle.pop().connection.close()


def _connected(server: SplitResult) -> http.client.HTTPConnection:
    name = server.hostname or ""
    if server.scheme == "https":
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            name, server.port, timeout=CONNECT_S, context=web.tls()
        )
    else:
        connection = http.client.HTTPConnection(name, server.port, timeout=CONNECT_S)
    connection.connect()
    connection.sock.settimeout(WAIT_S)
    return connection
