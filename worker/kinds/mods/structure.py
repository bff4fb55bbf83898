"""What the schemas do not check, though readers rely on it: docs/reference/metadata.md names it. Always on.

XPath does the looking: to go through the elements one by one would take longer than all else that a record needs.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from lxml import etree

from worker.kinds.mods import dates, write_dc, write_marc, write_mods
from worker.kinds.mods.options import Format

_NAMESPACES: Final = {"m": write_mods.NS, "dc": write_dc.DC, "marc": write_marc.NS}
_LEADER: Final = re.compile(r".{9}a.{14}", re.DOTALL)
MOST_TEXT_BYTES: Final = 10_000_000
"""Above that libxml2's readers refuse a text."""
_BLANKS: Final = " \t\n\r"


def _xpath(expression: str) -> Any:
    return etree.XPath(expression, namespaces=_NAMESPACES, smart_strings=False)


_EMPTY: Final = _xpath("descendant-or-self::*[not(node())]")
_EMPTY_ATTRIBUTE: Final = _xpath("boolean(descendant-or-self::*/@*[. = ''])")
_TEXTS: Final = _xpath("descendant::text()")
_LENGTH: Final = _xpath("string-length(.)")
_MARC_TEXTS: Final = _xpath("marc:datafield/*/text()")  # in the fields with a fixed length blanks mean something
_MODS_TITLE: Final = _xpath("boolean(m:titleInfo/m:title)")
_MODS_DATES: Final = _xpath("m:originInfo/*[@keyDate] | */*[@encoding] ")
_MODS_PRIMARY: Final = _xpath("count(m:location/m:url[@usage])")
_DC_TITLE: Final = _xpath("boolean(dc:title)")
_MARC_TAGS: Final = _xpath("marc:controlfield/@tag | marc:datafield/@tag")
_MARC_FIXED: Final = _xpath("string(marc:controlfield[@tag='008'])")
_MARC_LEADER: Final = _xpath("string(marc:leader)")
_MARC_SUBJECTS: Final = _xpath(
    "boolean(marc:datafield[@tag >= 600 and @tag <= 651 and"
    " (@ind2 = ' ' or @ind2 = '7' and not(marc:subfield/@code = '2'))])"
)


def faults(format: Format, element: Any) -> list[str]:
    """What is wrong with the element of a record, as sentences; none: nothing."""
    return [*_emptiness(element), *_sizes(element), *_CHECKS[format](element)]


def _emptiness(element: Any) -> Iterator[str]:
    for part in _EMPTY(element):
        yield f"{part.tag.rpartition('}')[2]} is empty"
    if _EMPTY_ATTRIBUTE(element):
        yield "an attribute is empty"


def _sizes(element: Any) -> Iterator[str]:
    if _LENGTH(element) * 4 < MOST_TEXT_BYTES:  # a character has four bytes at most
        return
    for text in _TEXTS(element):
        if len(text) > MOST_TEXT_BYTES // 4 and len(text.encode()) >= MOST_TEXT_BYTES:
            yield f"a text has more than {MOST_TEXT_BYTES} bytes"


def _mods(mods: Any) -> Iterator[str]:
    if not _MODS_TITLE(mods):
        yield "there is no title"
    told = _MODS_DATES(mods)
    if sum(date.get("keyDate") == "yes" for date in told) > 1:
        yield "more than one date is the key date"
    for date in told:
        encoding = date.get("encoding")
        if (encoding == "w3cdtf" and not dates.is_w3cdtf(date.text)) or (
            encoding == "edtf" and not dates.is_edtf(date.text)
        ):
            yield f"{date.tag.rpartition('}')[2]} is no date of {encoding}"
    if _MODS_PRIMARY(mods) > 1:
        yield "more than one address is the primary one"


def _dc(dc: Any) -> Iterator[str]:
    if not _DC_TITLE(dc):
        yield "there is no title"


def _marc(record: Any) -> Iterator[str]:
    if not _LEADER.fullmatch(_MARC_LEADER(record)):
        yield "the leader is not one of Unicode MARC"
    tags = [str(tag) for tag in _MARC_TAGS(record)]
    if tags != sorted(tags):
        yield "the tags do not ascend"
    if tags.count("245") != 1:
        yield "there is not exactly one 245"
    if sum(tag.startswith("1") for tag in tags) > 1:
        yield "there is more than one 1XX"
    if len(_MARC_FIXED(record)) != 40:  # the length that MARC 21 gives it
        yield "008 does not have 40 characters"
    if _MARC_SUBJECTS(record):
        yield "the second indicator of a subject does not say whose heading it is"
    for text in _MARC_TEXTS(record):
        if text[0] in _BLANKS or text[-1] in _BLANKS:
            yield f"there are blanks at the ends of a subfield: {text[:40]!r}"


_CHECKS: Final[Mapping[Format, Callable[[Any], Iterator[str]]]] = {"mods": _mods, "dc": _dc, "marcxml": _marc}
