"""Texts of the archive made fit for XML, and for every reader of it."""

import re
import unicodedata
from typing import Any, Final

from worker.kinds.mods.ledger import Ledger

PIECE_BYTES: Final = 1_000_000
"""Well below the 10,000,000 bytes above which libxml2's readers refuse a text."""
_UNFIT: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_UNFIT_BYTES: Final = bytes({*range(0x20)} - {*b"\t\n\r"})
_LAST_OF_PLANE: Final = "\uffff".encode()[:2]  # and some that are fit
_NOT_IN_URI: Final = re.compile(r"[^A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%\u00a0-\ud7ff\uf900-\ufdcf\ufdf0-\uffef]")
_PLAIN_URI: Final = re.compile(r"https?://[A-Za-z0-9.-]+(?::\d{1,5})?(?:/[A-Za-z0-9._~/-]*)?")
_STRAY_PERCENT: Final = re.compile("%(?![0-9A-Fa-f]{2})")
_URI: Final = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*):"
    r"(?://(?P<authority>(?:[^/?#\[\]@]*@)?(?:\[[0-9A-Fa-f:.]+\]|[^/?#\[\]@:]*)(?::\d{0,5})?)(?=[/?#]|$))?"
    r"(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?(?:#(?P<fragment>.*))?",
    re.DOTALL,
)


def clean(text: object, ledger: Ledger) -> str | None:
    """A text of the archive: in NFC, without what XML cannot hold (counted), its ends stripped. None where there is
    none, or where it is of another type (counted)."""
    if not isinstance(text, str):
        if text is not None:
            ledger.changed("values of a wrong type left out")
        return None
    if text.isascii() and text.isprintable():
        return text.strip() or None
    if not _is_fit(text):
        text, removed = _UNFIT.subn("", text)
        if removed:
            ledger.changed("characters removed that XML cannot hold", removed)
    if not (text.isascii() or unicodedata.is_normalized("NFC", text)):
        text = unicodedata.normalize("NFC", text)
    return text.strip() or None


def _is_fit(text: str) -> bool:
    """As `_UNFIT` finds it, five times as fast for a page of text."""
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        return False
    return len(encoded.translate(None, _UNFIT_BYTES)) == len(encoded) and _LAST_OF_PLANE not in encoded


def texts(value: object, ledger: Ledger) -> tuple[str, ...]:
    """A text or a list of them, each once, in their order."""
    values = value if isinstance(value, list) else [value]
    found = (clean(each, ledger) for each in values)
    return tuple(dict.fromkeys(text for text in found if text is not None))


def pieces(text: str, most_bytes: int = PIECE_BYTES) -> tuple[str, ...]:
    """The text in pieces of at most so many bytes of UTF-8, cut at line ends where there are such. Joined by a line end
    where one was, they are the text; empty pieces are left out."""
    if len(text) <= most_bytes // 4 or len(text.encode()) <= most_bytes:
        return (text,)
    found: list[str] = []
    start = 0
    while start < len(text):
        end = _end(text, start, most_bytes)
        if end < len(text) and (line := text.rfind("\n", start + 1, end)) > start:
            found.append(text[start:line])
            start = line + 1
        else:
            found.append(text[start:end])
            start = end
    return tuple(piece for piece in found if piece.strip())


def _end(text: str, start: int, most_bytes: int) -> int:
    """Where a piece that begins at `start` ends at the latest."""
    end = min(len(text), start + most_bytes)
    while (over := len(text[start:end].encode()) - most_bytes) > 0:
        end -= max(1, over // 4)
    return end


def uri(text: str) -> str | None:
    """The text as an absolute URI that is a valid xs:anyURI (RFC 3986): what it must not hold is percent-encoded. None
    where that does not help."""
    if _PLAIN_URI.fullmatch(text):
        return text
    encoded = _STRAY_PERCENT.sub("%25", _NOT_IN_URI.sub(_percent, text.strip()))
    found = _URI.fullmatch(encoded)
    if found is None:
        return None
    authority = found["authority"] and found["authority"].removesuffix(":")  # an empty port is the usual one
    path = found["path"].replace("[", "%5B").replace("]", "%5D")
    if authority is None and (not path or path.startswith("//")):
        return None
    if authority == "" and found["scheme"].lower() in ("http", "https"):
        return None
    if authority and not authority.rpartition("@")[2].partition(":")[0]:
        return None  # a port or a user of no host
    return _joined(found, authority, path)


def _joined(found: "re.Match[str]", authority: str | None, path: str) -> str:
    authority = "" if authority is None else f"//{authority}"
    query = "" if found["query"] is None else f"?{_without_brackets(found['query'])}"
    fragment = "" if found["fragment"] is None else f"#{_without_brackets(found['fragment']).replace('#', '%23')}"
    return f"{found['scheme']}:{authority}{path}{query}{fragment}"


def _without_brackets(text: str) -> str:
    return text.replace("[", "%5B").replace("]", "%5D")


def _percent(found: "re.Match[str]") -> str:
    return "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8", "replace"))


def whole_number(value: Any) -> int | None:
    """A number of bytes, as JSON may give it."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 0 <= value < 2**63 and value == int(value) else None
