"""Objects on their way to a caller: ranges, conditions, and bodies that are streamed as they are read.

RFC 9110: one range of bytes is served, a list of ranges is answered with the whole, as it allows.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from email.utils import formatdate
from typing import Final, NamedTuple
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from worker.objects.base import Opened

_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.IGNORECASE)

Done = Callable[[], Awaitable[None]]
"""Called when the last byte of a whole object has been handed over."""


class Span(NamedTuple):
    """The bytes from `start` to before `end`."""

    start: int
    end: int


class Unsatisfiable(Exception):
    """The range begins beyond the end."""


def span(header: str | None, size: int) -> Span | None:
    """The one range that is asked for, of an object of `size` bytes; None: all of it. Raises Unsatisfiable."""
    found = _RANGE.fullmatch((header or "").replace(" ", ""))
    if found is None or not any(found.groups()):
        return None
    first, last = found.groups()
    if not first:
        if int(last) == 0 or size == 0:
            raise Unsatisfiable
        return Span(max(0, size - int(last)), size)
    if last and int(last) < int(first):
        return None
    if int(first) >= size:
        raise Unsatisfiable
    return Span(int(first), min(size, int(last) + 1) if last else size)


async def serve(
    request: Request, open_at: Callable[[int], Opened], *, name: str, media_type: str, done: Done | None = None
) -> Response:
    """The answer to GET or HEAD for an object. `open_at` is called on a thread; it raises what object stores do."""
    whole = await asyncio.to_thread(open_at, 0)
    etag = f'"{whole.etag}"'
    headers = {
        "ETag": etag,
        "Last-Modified": formatdate(whole.changed_s, usegmt=True),
        "Accept-Ranges": "bytes",
        "Content-Disposition": disposition(name),
        "Content-Type": media_type,
        "Cache-Control": "private",
        "X-Content-Type-Options": "nosniff",
    }
    asked = request.headers
    if _matches(asked.get("if-none-match"), etag):
        whole.close()
        return Response(None, 304, {name: headers[name] for name in ("ETag", "Last-Modified", "Cache-Control")})
    condition = asked.get("if-range")
    applies = condition is None or condition in (etag, headers["Last-Modified"])
    try:
        part = span(asked.get("range"), whole.size) if applies and request.method == "GET" else None
    except Unsatisfiable:
        whole.close()
        return Response(None, 416, {"Content-Range": f"bytes */{whole.size}"})
    if part is None or part == Span(0, whole.size):
        headers["Content-Length"] = str(whole.size)
        if request.method == "HEAD":
            whole.close()
            return Response(None, 200, headers)
        return StreamingResponse(stream(whole, whole.size, done), 200, headers)
    opened = await asyncio.to_thread(open_at, part.start)
    if opened.etag != whole.etag:  # it was replaced between the two: no part of one is a part of the other
        whole.close()
        opened.close()
        return await serve(request, open_at, name=name, media_type=media_type, done=done)
    whole.close()
    headers["Content-Length"] = str(part.end - part.start)
    headers["Content-Range"] = f"bytes {part.start}-{part.end - 1}/{whole.size}"
    return StreamingResponse(stream(opened, part.end - part.start, None), 206, headers)


async def stream(opened: Opened, size: int, done: Done | None) -> AsyncIterator[bytes]:
    """The next `size` bytes, one chunk in memory. What is after the last one runs when that was taken: an answer that
    breaks off before is none."""
    left = size
    try:
        while left and (chunk := await asyncio.to_thread(next, opened.chunks, b"")):
            part = chunk[:left]
            left -= len(part)
            yield part
    finally:
        opened.close()
    if left:
        raise EOFError(f"the object ended {left} bytes early")
    if done is not None:
        await done()


def disposition(name: str) -> str:
    """Content-Disposition for a file of this name, whatever its characters (RFC 6266)."""
    plain = re.sub(r'[^\x20-\x7e]|["\\]', "_", name)
    more = "" if plain == name else f"; filename*=UTF-8''{quote(name, safe='')}"
    return f'attachment; filename="{plain}"{more}'


def _matches(header: str | None, etag: str) -> bool:
    if header is None:
        return False
    return header.strip() == "*" or etag in (each.strip().removeprefix("W/") for each in header.split(","))
