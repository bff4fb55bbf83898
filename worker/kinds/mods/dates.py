"""Dates as the archive gives them, and what they can be coded as. A wrong code is worse than none: what is not surely a
date stays text.

w3cdtf is W3C's profile of ISO 8601 (a real calendar date, with a zone where there is a time). edtf is ISO 8601-2:2019
levels 0 and 1: intervals, qualifiers, unspecified digits, seasons, years below 1.
"""

import functools
import re
from calendar import monthrange
from datetime import UTC, datetime
from typing import Final, NamedTuple

from worker.kinds.mods.record import Date

_W3C: Final = re.compile(
    r"(?P<year>\d{4})(?:-(?P<month>\d{2})(?:-(?P<day>\d{2})"
    r"(?P<time>T\d{2}:\d{2}(?::\d{2}(?:\.\d{1,9})?)?(?:Z|[+-]\d{2}:\d{2}))?)?)?"
)
_EDTF: Final = re.compile(
    r"(?:(?P<year>-?\d{4}|\d{3}X|\d{2}XX|\dXXX|XXXX)(?:-(?P<month>\d{2}|XX)(?:-(?P<day>\d{2}|XX))?)?|Y(?P<long>-?\d{5,9}))"
    r"(?P<qualifier>[?~%])?"
)
_PLAIN: Final = re.compile(r"\d{4}-(?:0[1-9]|1[0-2])(?:-\d{2})?")
_SEASONS: Final = range(21, 25)


class Years(NamedTuple):
    """The first and the last year of a date, for codes that have years only; None: open or unknown."""

    first: int | None
    last: int | None
    is_uncertain: bool = False


@functools.lru_cache(4096)
def date_of(text: str) -> Date:
    """The date with its encoding, if it has one."""
    if is_w3cdtf(text):
        return Date(text=text, encoding="w3cdtf")
    return Date(text=text, encoding="edtf" if is_edtf(text) else None)


@functools.lru_cache(4096)
def is_w3cdtf(text: str) -> bool:
    """Whether it is a date of W3CDTF that is in the calendar; year 0 is in none."""
    found = _W3C.fullmatch(text) if text.isascii() else None
    if found is None or not _is_in_calendar(int(found["year"]), found["month"], found["day"]):
        return False
    return not found["time"] or is_timestamp(text)


def is_timestamp(text: str) -> bool:
    """Whether it is a date and time with a zone."""
    found = _W3C.fullmatch(text) if text.isascii() else None
    if found is None or not found["time"]:
        return False
    try:
        datetime.fromisoformat(re.sub(r"(\.\d{1,6})\d*", r"\1", text))
    except ValueError:
        return False
    return True


def in_utc(timestamp: str) -> datetime:
    """Of what `is_timestamp` takes."""
    return datetime.fromisoformat(re.sub(r"(\.\d{1,6})\d*", r"\1", timestamp)).astimezone(UTC)


def _is_in_calendar(year: int, month: str | None, day: str | None) -> bool:
    if year < 1 or (month is not None and not 1 <= int(month) <= 12):
        return False
    return day is None or month is None or 1 <= int(day) <= monthrange(year, int(month))[1]


def is_edtf(text: str) -> bool:
    """Whether it is EDTF of level 0 or 1: a date, or an interval of two of which one may be open or unknown."""
    if not text.isascii():
        return False
    first, slash, last = text.partition("/")
    if not slash:
        return _is_edtf_date(text)
    ends = [end for end in (first, last) if end not in ("", "..")]
    if not ends or not all(map(_is_edtf_date, ends)):
        return False
    return len(ends) == 1 or _is_in_order(*ends)


def _is_in_order(first: str, last: str) -> bool:
    """As far as both say; what is not told is no disorder."""
    begin, end = _years_of_date(first), _years_of_date(last)
    if begin.first is None or end.last is None:
        return True
    if begin.first != end.last or not (_PLAIN.fullmatch(first) and _PLAIN.fullmatch(last)):
        return begin.first <= end.last
    length = min(len(first), len(last))
    return first[:length] <= last[:length]


def _is_edtf_date(text: str) -> bool:
    found = _EDTF.fullmatch(text)
    if found is None:
        return False
    if found["long"]:
        return not found["long"].lstrip("-").startswith("0")
    year, month, day = found["year"], found["month"], found["day"]
    if month is None or month == "XX":
        return day is None or day == "XX"
    if int(month) in _SEASONS:
        return day is None
    if not 1 <= int(month) <= 12:
        return False
    if day is None or day == "XX":
        return True
    leap = 4 if "X" in year else abs(int(year)) or 4
    return 1 <= int(day) <= (29 if "X" in year and int(month) == 2 else monthrange(leap, int(month))[1])


def years_of(date: Date) -> Years:
    """The years of a coded date; none of a text."""
    if date.encoding is None:
        return Years(None, None)
    first, slash, last = date.text.partition("/")
    if not slash:
        return _years_of_date(first)
    begin = _years_of_date(first) if first not in ("", "..") else Years(None, None)
    end = _years_of_date(last) if last not in ("", "..") else Years(None, None)
    return Years(begin.first, end.last, begin.is_uncertain or end.is_uncertain)


def _years_of_date(text: str) -> Years:
    found = _EDTF.fullmatch(text.partition("T")[0])
    if found is None:
        return Years(None, None)
    if found["long"]:
        return Years(int(found["long"]), int(found["long"]), bool(found["qualifier"]))
    year = found["year"]
    if year == "XXXX":
        return Years(None, None)
    return Years(int(year.replace("X", "0")), int(year.replace("X", "9")), bool(found["qualifier"]) or "X" in year)
