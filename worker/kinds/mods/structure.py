"""What the schemas do not check, though readers rely on it: docs/reference/metadata.md names it. Always on.

Whether anything is empty is seen in the record as libxml2 writes it: to ask each of its elements would take longer
than all else that a record needs. Only where something may be, XPath looks for it.
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
_MARC_LEADER, _MARC_CONTROL, _MARC_DATA, _MARC_SUBFIELD = (
    f"{{{write_marc.NS}}}{name}" for name in ("leader", "controlfield", "datafield", "subfield")
)
_MODS_DATES: Final = [
    f"{{{write_mods.NS}}}{name}"
    for name in (
        "dateIssued", "dateCreated", "dateCaptured", "dateValid", "dateModified", "copyrightDate", "dateOther",
        "recordCreationDate", "recordChangeDate", "date", "temporal",
    )
]  # fmt: skip
"""What may say by which rules it is written."""


def _xpath(expression: str) -> Any:
    return etree.XPath(expression, namespaces=_NAMESPACES, smart_strings=False)


_EMPTY: Final = _xpath("descendant-or-self::*[not(node())]")
_EMPTY_ATTRIBUTE: Final = _xpath("boolean(descendant-or-self::*/@*[. = ''])")
_TEXTS: Final = _xpath("descendant::text()")
_MODS_TITLE: Final = _xpath("boolean(m:titleInfo/m:title[normalize-space()])")
_MODS_PRIMARY: Final = _xpath("count(m:location/m:url[@usage])")
_DC_TITLE: Final = _xpath("boolean(dc:title[normalize-space()])")


def faults(format: Format, element: Any) -> list[str]:
    """What is wrong with the element of a record, as sentences; none: nothing."""
    written = etree.tostring(element, encoding="utf-8", with_tail=False)
    return [*_emptiness(element, written), *_sizes(element, written), *_CHECKS[format](element)]


def _emptiness(element: Any, written: bytes) -> Iterator[str]:
    if b"/>" not in written and b'=""' not in written:  # libxml2 writes both so, and no ">" within a text
        return
    for part in _EMPTY(element):
        yield f"{part.tag.rpartition('}')[2]} is empty"
    if _EMPTY_ATTRIBUTE(element):
        yield "an attribute is empty"


def _sizes(element: Any, written: bytes) -> Iterator[str]:
    if len(written) < MOST_TEXT_BYTES:
        return
    for text in _TEXTS(element):
        if len(text) > MOST_TEXT_BYTES // 4 and len(text.encode()) >= MOST_TEXT_BYTES:
            yield f"a text has more than {MOST_TEXT_BYTES} bytes"


def _mods(mods: Any) -> Iterator[str]:
    if not _MODS_TITLE(mods):
        yield "there is no title"
    told = list(mods.iter(*_MODS_DATES))
    if sum(date.get("keyDate") == "yes" and date.getparent().getparent() is mods for date in told) > 1:
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
    if not _LEADER.fullmatch(record.findtext(_MARC_LEADER) or ""):
        yield "the leader is not one of Unicode MARC"
    fields = [(field.get("tag", ""), field) for field in record.iter(_MARC_CONTROL, _MARC_DATA)]
    tags = [tag for tag, _ in fields]
    if tags != sorted(tags):
        yield "the tags do not ascend"
    if tags.count("245") != 1:
        yield "there is not exactly one 245"
    if sum(tag.startswith("1") for tag in tags) > 1:
        yield "there is more than one 1XX"
    if len(next((field.text or "" for tag, field in fields if tag == "008"), "")) != 40:  # as MARC 21 has it
        yield "008 does not have 40 characters"
    if not all(_tells_whose_heading(field) for tag, field in fields if "600" <= tag <= "651"):
        yield "the second indicator of a subject does not say whose heading it is"
    for subfield in record.iter(_MARC_SUBFIELD):  # in the fields with a fixed length blanks mean something
        text = subfield.text
        if text and (text[0] in _BLANKS or text[-1] in _BLANKS):
            yield f"there are blanks at the ends of a subfield: {text[:40]!r}"


def _tells_whose_heading(subject: Any) -> bool:
    second = subject.get("ind2")
    return second != " " and (second != "7" or any(subfield.get("code") == "2" for subfield in subject))


_CHECKS: Final[Mapping[Format, Callable[[Any], Iterator[str]]]] = {"mods": _mods, "dc": _dc, "marcxml": _marc}
