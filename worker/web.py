"""HTTP as the worker needs it: one request, one connection, the URL sent verbatim; files streamed both ways.

http.client is used because it starts in a third of the time of a full client.
"""

import http.client
import logging
import random
import re
import ssl
from collections.abc import Callable, Iterator
from email.message import Message
from functools import cache
from pathlib import Path
from typing import IO, NamedTuple, TypeVar
from urllib.parse import SplitResult, urljoin

from worker import space, urls
from worker.errors import BadInput, ObjectMissing, Unavailable, WorkerError, one_line
from worker.until import Reading, Until

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
_REDIRECTED = (301, 302, 303, 307, 308)
MAX_REDIRECTS = 3
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
    body: bytes | IO[bytes] | Reading | None = None,
    headers: dict[str, str] | None = None,
    timeout_s: float = TIMEOUT_S,
    opened: Callable[[http.client.HTTPConnection], None] | None = None,
) -> Reply:
    """Sends one request; `opened` is told the connection first, so that another thread can end it. Raises Interrupted
    when no answer came, BadInput when the URL is none."""
    parts = urls.split(url)
    connection = _connect(parts, timeout_s)
    try:
        connection.connect()
        if opened is not None:
            opened(connection)
        connection.request(method, urls.target(parts), body=body, headers=headers or {})
        response = connection.getresponse()
        return Reply(response.status, response.headers, response.read(MAX_ANSWER_BYTES))
    except (OSError, http.client.HTTPException) as error:
        raise _no_answer(parts, error) from error
    finally:
        connection.close()


def download(url: str, path: Path, until: Until) -> tuple[int, str]:
    """Streams what a presigned URL names to `path`; returns (bytes, ETag). Raises ObjectMissing, Unavailable for a
    refusal or where `path` cannot be written, Interrupted for what may be tried again, BadInput for a redirect that
    cannot be followed, and what `until` does."""
    for _ in range(MAX_REDIRECTS + 1):
        found = _fetch(urls.split(url), path, until)
        if not isinstance(found, str):
            return found
        url = _target_of_redirect(url, found)
    raise BadInput(f"the server redirects more than {MAX_REDIRECTS} times")


def _fetch(parts: SplitResult, path: Path, until: Until) -> tuple[int, str] | str:
    """`download` from one place; or to where that redirects. No header is sent that could be for one host only."""
    connection = _connect(parts, TIMEOUT_S)
    try:
        connection.request("GET", urls.target(parts))
        response = connection.getresponse()
        if response.status in _REDIRECTED:
            return response.getheader("Location") or ""
        if response.status != 200:
            raise _problem(response.status, response.read(_EXPLANATION_BYTES), parts)
        size = space.save(until.each(_parts(response)), path)
        _check_length(response, size)
        return size, (response.getheader("ETag") or "").strip('"')
    except (OSError, http.client.HTTPException) as error:
        raise _no_answer(parts, error) from error
    finally:
        connection.close()


def upload(url: str, path: Path, content_type: str, until: Until) -> tuple[int, str]:
    """Puts a file under a presigned URL; returns (bytes, ETag). Raises as `download` does."""
    size = path.stat().st_size
    with path.open("rb") as file:
        headers = {"Content-Type": content_type, "Content-Length": str(size)}
        reply = send("PUT", url, body=Reading(file, until), headers=headers, timeout_s=TIMEOUT_S)
    if reply.status not in (200, 201, 204):
        raise _problem(reply.status, reply.body, urls.split(url))
    return size, (reply.headers.get("ETag") or "").strip('"')


def persist(action: Callable[[], T], until: Until) -> T:
    """Does it until it is not Interrupted, five times at most, with doubling waits. Raises what `until` does."""
    for number in range(TRIES - 1):
        try:
            return action()
        except Interrupted as error:
            wait_s = random.uniform(0.5, 1.0) * min(MAX_WAIT_S, FIRST_WAIT_S * 2.0**number)
            log.info("[Worker] %s; again in %.1f s", error, wait_s)
            until.pause(wait_s)
    return action()


def _problem(status: int, body: bytes, sent: SplitResult) -> WorkerError:
    """What an answer that is no success means for an object behind a presigned URL."""
    if status == 404:
        return ObjectMissing()
    found = _EXPLANATION.search(body[:_EXPLANATION_BYTES])
    told = found[1].decode(errors="replace") if found else http.client.responses.get(status, "")
    reason = one_line(urls.without_secrets(told, sent.query))
    if status >= 500 or status in _TRY_AGAIN:
        return Interrupted(f"{status} {reason}".strip())
    if status in _REDIRECTED:
        return BadInput(f"{status} {reason}: the server redirects, which an upload does not follow")
    hint = "; the presigned URL is not valid, or no longer" if status in (400, 401, 403) else ""
    return Unavailable(f"{status} {reason}".strip() + hint)


def _parts(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """The body as it arrives: `read` would wait for a whole chunk, however slowly it comes."""
    while part := response.read1(CHUNK_BYTES):
        yield part


def _check_length(response: http.client.HTTPResponse, size: int) -> None:
    expected = response.getheader("Content-Length")
    if expected is not None and expected.isdecimal() and int(expected) != size:
        raise Interrupted(f"the connection ended after {size} of {expected} bytes")


def _no_answer(parts: SplitResult, error: OSError | http.client.HTTPException) -> Interrupted:
    if isinstance(error, OSError | http.client.IncompleteRead):
        told = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    else:  # its text is what the server sent
        told = f"what it sent is not HTTP ({type(error).__name__})"
    return Interrupted(f"{parts.hostname} did not answer: {one_line(told)}")


def _target_of_redirect(url: str, location: str) -> str:
    """Where a redirect leads. Raises BadInput where that is nothing that can be fetched."""
    try:
        target = urljoin(url, location)
    except ValueError:
        target = ""
    urls.split(target if location else "", "the address to which the server redirects")
    return target


def _connect(parts: SplitResult, timeout_s: float) -> http.client.HTTPConnection:
    assert parts.hostname is not None
    if parts.scheme == "https":
        return http.client.HTTPSConnection(parts.hostname, parts.port, timeout=timeout_s, context=tls())
    return http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)


@cache
def tls() -> ssl.SSLContext:
    return ssl.create_default_context()
