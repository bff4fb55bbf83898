"""How the columns of a foreign catalog hold ids, times and filters, and the way between those and ours. No I/O.

Ours are text, milliseconds since 1970 UTC and dictionaries.
"""

import uuid
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, Final

import msgspec
from sqlalchemy import JSON, BigInteger, DateTime, Integer, String, Uuid
from sqlalchemy.types import TypeEngine

from actors.store.cursors import key_of, wrong

SECONDS_BELOW: Final = 10**11
"""A smaller number of a time counts seconds: as milliseconds it would be of before 1973."""

LATEST_MS: Final = 253_402_300_799_999
"""The end of the year 9999."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)
_INTEGERS: Final = range(-(2**63), 2**63)


class NoTimeError(Exception):
    """A column of times holds something else."""


class Ids(Enum):
    """What a column of ids holds."""

    TEXT = "text"
    INTEGER = "integer"
    UUID = "uuid"


class Times(Enum):
    """What a column of times holds."""

    INTEGER = "integer"  # milliseconds, or seconds where the table's other times are
    SECONDS = "seconds"  # an integer that is too small for milliseconds
    TEXT = "text"  # ISO 8601 in UTC
    ZONED = "zoned"
    NAIVE = "naive"  # UTC


NUMBERS: Final = (Times.INTEGER, Times.SECONDS)


def ids_of(kind: TypeEngine[Any]) -> Ids | None:
    """What a column of this type holds as an id; None: no id."""
    for type_, ids in ((Integer, Ids.INTEGER), (Uuid, Ids.UUID), (String, Ids.TEXT)):
        if isinstance(kind, type_):
            return ids
    return None


def times_of(kind: TypeEngine[Any], *, is_sqlite: bool) -> Times | None:
    """What a column of this type holds as a time; None: no time. SQLite has no times: its DATETIME is text."""
    if isinstance(kind, Integer):
        return Times.INTEGER if is_sqlite or isinstance(kind, BigInteger) else Times.SECONDS
    if isinstance(kind, DateTime):
        return Times.TEXT if is_sqlite else Times.ZONED if kind.timezone else Times.NAIVE
    return Times.TEXT if isinstance(kind, String) else None


def is_filter(kind: TypeEngine[Any]) -> bool:
    """Whether a column of this type can hold a dictionary."""
    return isinstance(kind, JSON | String)


def to_id(text: str, ids: Ids) -> str | int | uuid.UUID:
    """The column's value of an id. Raises ValueError for one that the column cannot hold."""
    if ids is Ids.UUID:
        return uuid.UUID(text)
    if ids is Ids.TEXT:
        if text != told(text):
            raise ValueError("no text of a database")
        return text
    number = int(text)
    if number not in _INTEGERS or str(number) != text:
        raise ValueError("no integer of a database")
    return number


def to_time(ms: int | None, times: Times, example: Any) -> str | int | datetime | None:
    """The column's value of a time, in the form of `example`: a time of such a column, or None."""
    if ms is None:
        return None
    former = _number(example)
    if times in NUMBERS or (times is Times.TEXT and former is not None):
        in_seconds = times is Times.SECONDS or (former is not None and former < SECONDS_BELOW)
        number = ms // 1000 if in_seconds else ms
        return str(number) if isinstance(example, str) else number
    moment = _EPOCH + ms * _MS
    if times is Times.TEXT:
        with_space = isinstance(example, str) and example[10:11] == " "  # as SQLite's CURRENT_TIMESTAMP writes it
        text = moment.replace(tzinfo=None).isoformat(" " if with_space else "T", "milliseconds")
        return text if with_space else f"{text}Z"
    return moment if times is Times.ZONED else moment.replace(tzinfo=None)


def ms_of(value: Any) -> int | None:
    """The time that a value of such a column is. Raises NoTimeError for what is none."""
    if value is None:
        return None
    number = _number(value)
    if number is not None:
        ms = int(number * 1000) if number < SECONDS_BELOW else int(number)
        if not 0 <= ms <= LATEST_MS:
            raise NoTimeError
        return ms
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    except (TypeError, ValueError) as error:
        raise NoTimeError from error
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // _MS


def _number(value: Any) -> int | float | None:
    """The number that a time is counted by; SQLite makes digits of it where the column is one of texts."""
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    return value if isinstance(value, int | float) else None


def told(text: str, most: int | None = None) -> str:
    """The text as every database can hold it, in a column of at most `most` characters."""
    return text.replace("\0", "?").encode(errors="replace").decode()[:most]


def to_filter(params: dict[str, Any], kind: TypeEngine[Any]) -> Any:
    """The column's value of a dictionary."""
    return params if isinstance(kind, JSON) else msgspec.json.encode(params).decode()


def filter_of(value: Any) -> dict[str, Any]:
    """The dictionary that a value of such a column is; empty for NULL and what is none."""
    if isinstance(value, str | bytes):
        try:
            value = msgspec.json.decode(value)
        except msgspec.DecodeError:
            return {}
    return value if isinstance(value, dict) else {}


def place_of(created_at: Any, row_id: Any) -> tuple[int, str, str]:
    """The key of a cursor: the value as the column holds it, since rounded it would not be the row's."""
    if isinstance(created_at, int):
        return 1, str(created_at), str(row_id)
    return 0, created_at.isoformat() if isinstance(created_at, datetime) else str(created_at), str(row_id)


def read_place(cursor: str, times: Times, ids: Ids) -> tuple[Any, Any]:
    """The values inside a cursor. Raises InvalidInput for one of another list."""
    is_number, text, row_id = key_of(cursor, (int, str, str))
    try:
        return _time_at(text, times, is_number=is_number == 1), to_id(row_id, ids)
    except ValueError as error:
        raise wrong() from error


def _time_at(text: str, times: Times, *, is_number: bool) -> Any:
    if times is not Times.TEXT and is_number is not (times in NUMBERS):
        raise ValueError("a time of another column")
    if times not in (Times.ZONED, Times.NAIVE):
        return to_id(text, Ids.INTEGER if is_number else Ids.TEXT)
    moment = datetime.fromisoformat(text)
    if (moment.tzinfo is None) is (times is Times.ZONED):
        raise ValueError("a time of another column")
    return moment
