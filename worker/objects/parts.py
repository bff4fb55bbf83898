"""Parts of objects by one ranged GET each, over connections that are kept: from S3 or R2 with keys, or from a URL that
brings its own permission. The answer has the size, the ETag and the time of the object, so no HEAD goes before."""

import re
import time
from email.utils import mktime_tz, parsedate_tz
from typing import Final

from worker import urls, web
from worker.errors import BadInput, ObjectMissing, Unavailable
from worker.objects.base import ALWAYS, ObjectInfo, Part, check_key
from worker.objects.connections import Answer, Connections
from worker.objects.s3_errors import MISSING
from worker.objects.signing import Method, Signer

VALID_S: Final = 900
"""For which a request is: as far as S3 lets a clock go wrong."""
EXPLANATION_BYTES: Final = 4096
MOST_SKIPPED_BYTES: Final = 1 << 20
"""So much is read before a part where a server sends the whole; none of ours does, and it is in memory."""
_CODE: Final = re.compile(rb"<Code>([A-Za-z0-9.]{1,100})</Code>")
_RANGE: Final = re.compile(r"bytes (\d+)-\d+/(\d+)")
_PLAIN: Final = re.compile(r"[!-\"$-~]+")
"""Path and query as they are sent: in ASCII, without a fragment."""
_TRY_AGAIN: Final = (408, 425, 429)
_NO_PERMISSION: Final = (400, 401, 403)
_TIMED_OUT: Final = "RequestTimeout"
"""With status 400: what S3 says of a request that arrived too slowly."""
_WHO: Final = "the object store"


class BeyondEnd(Exception):
    """The object ends before the part that was asked for."""


class Declined(Unavailable):
    """The server answered, and gives nothing: with this status."""

    def __init__(self, status: int, told: str) -> None:
        super().__init__(told)
        self.status = status


class S3Parts:
    """Of the objects in one bucket. Raises as an object store does."""

    def __init__(self, endpoint_url: str, bucket: str, *, access_key_id: str, secret: str, region: str) -> None:
        self._signer = Signer(endpoint_url, bucket, access_key_id=access_key_id, secret=secret, region=region)
        self._connections = Connections(self._signer.origin, _WHO)

    def read_part(self, key: str, start: int, length: int) -> Part:
        """As `ObjectStore.read_part`."""
        check_key(key)
        return web.persist(lambda: self._read_part(key, start, length), ALWAYS)

    def _read_part(self, key: str, start: int, length: int) -> Part:
        try:
            return _part(_ask(self._connections, "GET", self._target("GET", key), start, length), start, length)
        except BeyondEnd:
            return self._head(key)

    def head(self, key: str) -> ObjectInfo:
        """As `ObjectStore.head`."""
        check_key(key)
        found = web.persist(lambda: self._head(key), ALWAYS)
        return ObjectInfo(key, found.size, found.etag)

    def _head(self, key: str) -> Part:
        return _nothing_of(_ask(self._connections, "HEAD", self._target("HEAD", key)))

    def _target(self, method: Method, key: str) -> str:
        return self._signer.target(method, key, int(time.time()), VALID_S)


class Links:
    """Of what presigned URLs name. They are secrets: no error has one."""

    def __init__(self) -> None:
        self._servers: dict[str, Connections] = {}

    def read_part(self, url: str, start: int, length: int) -> Part:
        """As `ObjectStore.read_part`. Raises BadInput where the URL is none, or is not valid any more."""
        server, target = self._place(url)
        try:
            return web.persist(lambda: self._read_part(server, target, start, length), ALWAYS)
        except Declined as error:
            if error.status in _NO_PERMISSION:
                raise BadInput(f"{error}; its URL is not valid, or no longer") from error
            if 300 <= error.status < 400:
                raise BadInput(f"{error}: the server redirects, which is not followed") from error
            raise

    def _read_part(self, server: Connections, target: str, start: int, length: int) -> Part:
        try:
            return _part(_ask(server, "GET", target, start, length), start, length)
        except BeyondEnd:  # such a URL allows no HEAD: of the whole only what stands before it is read
            return _nothing_of(_ask(server, "GET", target))

    def _place(self, url: str) -> tuple[Connections, str]:
        """The server, and what to ask it for. To take a URL apart would take half as long as the rest of a request, so
        one of a server that is known, and without odd characters, is not."""
        end = url.find("/", len("https://"))
        known = self._servers.get(url[:end])
        if known is not None and _PLAIN.fullmatch(url, end):
            return known, url[end:]
        parts = urls.split(url)
        origin = f"{parts.scheme}://{parts.netloc}"
        return self._servers.setdefault(origin, Connections(origin, _WHO)), urls.target(parts)


def _ask(server: Connections, method: str, target: str, start: int = 0, length: int = 0) -> Answer:
    """The answer, where it is a success; `length` 0: for what stands before the body. Raises what another one means:
    where it may be tried again, Interrupted."""
    wanted = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-{start + length - 1}"} if length else {})
    # A server that knows no ranges sends the whole, from its first byte; one that refuses explains itself.
    most = max(min(start, MOST_SKIPPED_BYTES) + length, EXPLANATION_BYTES) if length else 0
    answer = server.ask(method, target, wanted, most=most)
    if answer.status in (200, 206):
        return answer
    if answer.status == 416:
        raise BeyondEnd
    found = _CODE.search(answer.body[:EXPLANATION_BYTES])
    code = found[1].decode() if found else ""
    if code in MISSING or (answer.status == 404 and not code):
        raise ObjectMissing()
    told = f"{_WHO} answered {answer.status} {code}".strip()
    if answer.status >= 500 or answer.status in _TRY_AGAIN or code == _TIMED_OUT:
        raise web.Interrupted(told)
    raise Declined(answer.status, told)


def _part(answer: Answer, start: int, length: int) -> Part:
    if answer.status == 206:
        found = _RANGE.fullmatch(answer.headers.get("content-range", ""))
        if found is None or int(found[1]) != start:
            raise Unavailable(f"{_WHO} sent another part than was asked for")
        body, size = answer.body, int(found[2])
    elif start > MOST_SKIPPED_BYTES:
        raise Unavailable(f"{_WHO} knows no parts of objects: it sent the whole")
    else:
        body, size = answer.body[start : start + length], _size(answer)
    expected = max(0, min(length, size - start))
    if len(body) != expected:
        raise web.Interrupted(f"{_WHO} sent {len(body)} bytes of {expected}")
    return Part(body, size, _etag(answer), _changed_s(answer))


def _nothing_of(answer: Answer) -> Part:
    return Part(b"", _size(answer), _etag(answer), _changed_s(answer))


def _size(answer: Answer) -> int:
    told = answer.headers.get("content-length", "")
    if not told.isdecimal():
        raise Unavailable(f"{_WHO} does not tell the size of the object")
    return int(told)


def _etag(answer: Answer) -> str:
    return answer.headers.get("etag", "").strip('"')


def _changed_s(answer: Answer) -> float:
    moment = parsedate_tz(answer.headers.get("last-modified", ""))
    return float(mktime_tz(moment)) if moment is not None else 0.0
