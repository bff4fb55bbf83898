"""URLs as the environment gives them: checked, in the form in which they are sent, and shown without their secrets.

A query can hold a signature. No message, logged or reported, holds more of a URL than `place` gives.
"""

import re
from typing import Final
from urllib.parse import SplitResult, quote, unquote, urlsplit

from worker.errors import BadInput

_NO_CHARACTER: Final = re.compile("[\x00-\x20\x7f\ud800-\udfff]")
_AS_IT_IS: Final = "".join(map(chr, range(0x21, 0x7F)))
"""What is sent verbatim, '%' included, since a signature covers it. Others are sent as browsers do: UTF-8, with '%'."""
_SECRET_CHARS: Final = 8
"""A value of a query that is at least so long may be a secret."""


def split(url: str, name: str = "a URL of the task") -> SplitResult:
    """The parts of an HTTP address, path and query in ASCII, without fragment. Raises BadInput, which calls it `name`
    and does not show it."""
    try:
        parts = _parts(url)
    except ValueError:  # its text, and the traceback, would show the URL
        raise BadInput(f"{name} is not a valid URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadInput(f"{name} is not a valid URL: it must begin with http:// or https:// and name a host")
    return parts


def is_valid(url: str) -> bool:
    """Whether `split` takes it."""
    try:
        split(url)
    except BadInput:
        return False
    return True


def place(url: str) -> str:
    """The part of a URL that may be shown: no query and no user name."""
    try:
        parts = split(url)
    except BadInput as error:
        return f"({error})"
    return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"


def target(parts: SplitResult) -> str:
    """What a request names: path and query."""
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def without_secrets(text: str, query: str) -> str:
    """What a server answered, without what it repeats of the query that it was sent."""
    for pair in query.split("&"):
        value = pair.partition("=")[2] or pair
        for secret in (value, unquote(value)):
            if len(secret) >= _SECRET_CHARS:
                text = text.replace(secret, "…")
    return text


def _parts(url: str) -> SplitResult:
    """Raises ValueError (of which UnicodeError is one)."""
    if _NO_CHARACTER.search(url):
        raise ValueError("control characters, spaces or bytes that are no text")
    parts = urlsplit(url)
    (parts.hostname or "").encode("idna")
    if parts.port == 0:
        raise ValueError("port 0")
    return parts._replace(path=quote(parts.path, _AS_IT_IS), query=quote(parts.query, _AS_IT_IS), fragment="")
