"""What the Machines API answers, and what it means. Pure.

| status | of | verdict |
| --- | --- | --- |
| 2xx | | done |
| 429; 5xx with "resource_exhausted" or "rate limit" | | later, and the bucket is closed |
| 408, other 5xx, no answer | | unsure: it may have been done |
| never connected | | later |
| 401 | | token |
| 404 | a machine | missing |
| 412; 409 "could not reserve"; 403 "over the allowed quota" | create, start | full: another region may do |
| 409, 422 that tell that the name exists | create | taken |
| 412 | stop, destroy; start of one that is active | state |
| other 409 | | later: a lease, or another change under way |
| 404 | create, list | no app |
| all else: 400, 403, 422 | | refused |
"""

import re
from collections.abc import Iterable
from enum import Enum
from typing import Final

import msgspec

TAKEN: Final = re.compile(r"already[_ ]exists|unique machine name|name\b.*\b(?:taken|in use|already)", re.IGNORECASE)
FULL: Final = re.compile(r"insufficient|could not reserve|no capacity", re.IGNORECASE)
QUOTA: Final = re.compile(r"over the allowed quota|consider other regions", re.IGNORECASE)
LIMITED: Final = re.compile(r"resource_exhausted|rate limit", re.IGNORECASE)
HIDDEN: Final = re.compile(r"(?:FlyV1|Bearer)\s+\S+|\b(?:fm\d|fo\d)_\S+|(?<=Signature=)\w+|(?<=sig=)\w+")
"""Tokens, and the signatures of a task's URLs: they may come back escaped or in part, so not as they were sent."""
MOST_CHARS: Final = 300
LONGEST_PAUSE_S: Final = 60.0


class Verdict(Enum):
    """What an answer means for who asked."""

    DONE = "done"
    LATER = "later"  # not done; the same may be asked again
    UNSURE = "unsure"  # perhaps done
    FULL = "full"  # not done; there is no place in this region
    TAKEN = "taken"  # a machine has that name
    MISSING = "missing"  # no such machine
    NO_APP = "no app"
    STATE = "state"  # not in the machine's present state
    TOKEN = "token"  # the token is not accepted
    REFUSED = "refused"  # not done, and never will be


REPEATED: Final = frozenset({Verdict.LATER, Verdict.UNSURE})
"""After these, what may be done twice is asked for again."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """`message` is a sentence of the API that may be shown, or ours; `is_limited`: there were too many requests."""

    verdict: Verdict
    message: str = ""
    body: bytes = b""
    retry_after_s: float | None = None
    is_limited: bool = False


def judge(
    action: str, status: int, body: bytes, *, retry_after: str | None = None, secrets: Iterable[str] = ()
) -> Answer:
    """What the answer to an action means. `secrets` are texts that the message must not repeat."""
    if 200 <= status < 300:
        return Answer(verdict=Verdict.DONE, body=body)
    said = _said(body)
    is_limited = status == 429 or (status >= 500 and LIMITED.search(said) is not None)
    return Answer(
        verdict=Verdict.LATER if is_limited else _verdict(action, status, said),
        message=cleaned(said, secrets) or f"status {status}",
        retry_after_s=_seconds(retry_after),
        is_limited=is_limited,
    )


def _verdict(action: str, status: int, said: str) -> Verdict:
    if status == 408 or status >= 500:
        return Verdict.UNSURE
    if status == 401:
        return Verdict.TOKEN
    if status == 404:
        return Verdict.NO_APP if action in ("create", "list") else Verdict.MISSING
    if action in ("create", "start") and _is_full(action, status, said):
        return Verdict.FULL
    if action == "create" and status in (409, 422) and TAKEN.search(said):
        return Verdict.TAKEN
    if status == 412:
        return Verdict.STATE
    return Verdict.LATER if status == 409 else Verdict.REFUSED


def _is_full(action: str, status: int, said: str) -> bool:
    if status == 412 and action == "create":
        return True
    return (status in (409, 412) and FULL.search(said) is not None) or (
        status == 403 and QUOTA.search(said) is not None
    )


def cleaned(said: str, secrets: Iterable[str] = ()) -> str:
    """A text of the API as it may be shown: one line, bounded, without secrets."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        said = said.replace(secret, "***")
    line = " ".join(HIDDEN.sub("***", said).split())
    line = "".join(character if character.isprintable() else "?" for character in line)
    return line if len(line) <= MOST_CHARS else line[: MOST_CHARS - 1] + "…"


def _said(body: bytes) -> str:
    try:
        told = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return body[:4096].decode(errors="replace")
    told = told.get("error") or told.get("message") if isinstance(told, dict) else None
    return told[:4096] if isinstance(told, str) else ""


def _seconds(text: str | None) -> float | None:
    """Retry-After as seconds; its other form, a date, is not used by Fly."""
    if text is None or not re.fullmatch(r"\d{1,6}(?:\.\d{1,6})?", text.strip(), re.ASCII):
        return None
    return min(float(text), LONGEST_PAUSE_S)
