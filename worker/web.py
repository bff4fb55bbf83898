"""HTTP as the worker needs it: one request, one connection, the URL sent verbatim; files streamed both ways.

http.client is used because it starts in a third of the time of a full client.
"""

import http.client
import shutil
import ssl
from collections.abc import Callable
from email.message import Message
from functools import cache
from pathlib import Path
from typing import IO, NamedTuple
from urllib.parse import SplitResult, urlsplit

from worker.errors import BadInput, ObjectMissing, Unavailable

TIMEOUT_S = 30.0
MAX_ANSWER_BYTES = 16 * 1024 * 1024
CHUNK_BYTES = 1024 * 1024


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
    """Sends one request; `opened` is told the connection first, so that another thread can end it. Raises Unavailable
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
        raise Unavailable(f"{parts.hostname} did not answer: {str(error) or type(error).__name__}") from error
    finally:
        connection.close()


def download(url: str, path: Path) -> tuple[int, str]:
    """Streams what a presigned URL names to `path`; returns (bytes, ETag). Raises ObjectMissing or Unavailable."""
    parts = _split(url)
    connection = _connect(parts, TIMEOUT_S)
    try:
        connection.request("GET", _target(parts))
        response = connection.getresponse()
        _check_object(response.status, response.reason)
        with path.open("wb") as file:
            shutil.copyfileobj(response, file, CHUNK_BYTES)
        _check_length(response, path.stat().st_size)
        return path.stat().st_size, (response.getheader("ETag") or "").strip('"')
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(f"{parts.hostname} did not answer: {str(error) or type(error).__name__}") from error
    finally:
        connection.close()


def upload(url: str, path: Path, content_type: str) -> tuple[int, str]:
    """Puts a file under a presigned URL; returns (bytes, ETag). Raises ObjectMissing or Unavailable."""
    size = path.stat().st_size
    with path.open("rb") as file:
        reply = send("PUT", url, body=file, headers={"Content-Type": content_type, "Content-Length": str(size)})
    _check_object(reply.status, http.client.responses.get(reply.status, ""))
    return size, (reply.headers.get("ETag") or "").strip('"')


def place(url: str) -> str:
    """The part of a URL that may be logged: no query, which can hold a signature, and no user name."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"


def _check_object(status: int, reason: str) -> None:
    if status == 404:
        raise ObjectMissing()
    if status not in (200, 201, 204):
        raise Unavailable(f"{status} {reason}".strip())


def _check_length(response: http.client.HTTPResponse, size: int) -> None:
    expected = response.getheader("Content-Length")
    if expected is not None and int(expected) != size:
        raise Unavailable(f"the connection ended after {size} of {expected} bytes")


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
