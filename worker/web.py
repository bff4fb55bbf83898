"""HTTP as the worker needs it: one request, one connection, the URL sent verbatim; files streamed both ways.

http.client is used because it starts in a third of the time of a full client.
"""

import errno
import http.client
import logging
import random
import re
import shutil
import ssl
import time
from collections.abc import Callable
from email.message import Message
from functools import cache
from pathlib import Path
from typing import IO, NamedTuple, TypeVar
from urllib.parse import SplitResult, urlsplit

from worker.errors import BadInput, ObjectMissing, Unavailable, WorkerError

log = logging.getLogger("worker.web")

TIMEOUT_S = 30.0
"""For a connection, and for each wait for bytes."""
MAX_ANSWER_BYTES = 16 * 1024 * 1024
CHUNK_BYTES = 1024 * 1024
TRIES = 5
FIRST_WAIT_S = 0.25
MAX_WAIT_S = 5.0
_EXPLANATION_BYTES = 4096
_EXPLANATION = re.compile(rb"<Message>([^<]{1,200})</Message>")
"""Where S3 servers say why they refuse."""
_TRY_AGAIN = (408, 425, 429)
T = TypeVar("T")


class Interrupted(Unavailable):
    """The network or the server failed on the way: the same request again may succeed at once."""


class Reply(NamedTuple):
    """What a server answered."""

    status: int
    headers: Message
    body: bytes


def send(
    method: str,
    url: str,
    *,
    body: bytes | IO[bytes] | None = None,
    headers: dict[str, str] | None = None,
    timeout_s: float = TIMEOUT_S,
    opened: Callable[[http.client.HTTPConnection], None] | None = None,
) -> Reply:
    """Sends one request; `opened` is told the connection first, so that another thread can end it. Raises Interrupted
    when no answer came, BadInput when the URL is none."""
    parts = _split(url)
    connection = _connect(parts, timeout_s)
    try:
        connection.connect()
        if opened is not None:
            opened(connection)
        connection.request(method, _target(parts), body=body, headers=headers or {})
        response = connection.getresponse()
        return Reply(response.status, response.headers, response.read(MAX_ANSWER_BYTES))
    except (OSError, http.client.HTTPException) as error:
        raise Interrupted(f"{parts.hostname} did not answer: {str(error) or type(error).__name__}") from error
    finally:
        connection.close()


def download(url: str, path: Path) -> tuple[int, str]:
    """Streams what a presigned URL names to `path`; returns (bytes, ETag). Raises ObjectMissing, Unavailable for a
    refusal, Interrupted for what may be tried again."""
    parts = _split(url)
    connection = _connect(parts, TIMEOUT_S)
    try:
        connection.request("GET", _target(parts))
        response = connection.getresponse()
        if response.status != 200:
            raise _problem(response.status, response.read(_EXPLANATION_BYTES))
        with path.open("wb") as file:
            shutil.copyfileobj(response, file, CHUNK_BYTES)
        _check_length(response, path.stat().st_size)
        return path.stat().st_size, (response.getheader("ETag") or "").strip('"')
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise Unavailable("the disk of this machine is full") from error
        raise Interrupted(f"{parts.hostname} did not answer: {str(error) or type(error).__name__}") from error
    finally:
        connection.close()


def upload(url: str, path: Path, content_type: str) -> tuple[int, str]:
    """Puts a file under a presigned URL; returns (bytes, ETag). Raises as `download` does."""
    size = path.stat().st_size
    with path.open("rb") as file:
        headers = {"Content-Type": content_type, "Content-Length": str(size)}
        reply = send("PUT", url, body=file, headers=headers, timeout_s=TIMEOUT_S)
    if reply.status not in (200, 201, 204):
        raise _problem(reply.status, reply.body)
    return size, (reply.headers.get("ETag") or "").strip('"')


def persist(action: Callable[[], T]) -> T:
    """Does it until it is not Interrupted, five times at most, with doubling waits."""
    for number in range(TRIES - 1):
        try:
            return action()
        except Interrupted as error:
            wait_s = random.uniform(0.5, 1.0) * min(MAX_WAIT_S, FIRST_WAIT_S * 2.0**number)
            log.info("[Worker] %s; again in %.1f s", error, wait_s)
            time.sleep(wait_s)
    return action()


def place(url: str) -> str:
    """The part of a URL that may be logged: no query, which can hold a signature, and no user name."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"


def _problem(status: int, body: bytes) -> WorkerError:
    """What an answer that is no success means for an object behind a presigned URL."""
    if status == 404:
        return ObjectMissing()
    found = _EXPLANATION.search(body[:_EXPLANATION_BYTES])
    reason = found[1].decode(errors="replace") if found else http.client.responses.get(status, "")
    if status >= 500 or status in _TRY_AGAIN:
        return Interrupted(f"{status} {reason}".strip())
    hint = "; the presigned URL is not valid, or no longer" if status in (400, 401, 403) else ""
    return Unavailable(f"{status} {reason}".strip() + hint)


def _check_length(response: http.client.HTTPResponse, size: int) -> None:
    expected = response.getheader("Content-Length")
    if expected is not None and int(expected) != size:
        raise Interrupted(f"the connection ended after {size} of {expected} bytes")


def _split(url: str) -> SplitResult:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadInput("a URL of the environment must begin with http:// or https:// and name a host")
    return parts


def _target(parts: SplitResult) -> str:
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _connect(parts: SplitResult, timeout_s: float) -> http.client.HTTPConnection:
    assert parts.hostname is not None
    if parts.scheme == "https":
        return http.client.HTTPSConnection(parts.hostname, parts.port, timeout=timeout_s, context=_tls())
    return http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()
