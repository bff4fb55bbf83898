"""MARCXML: a record as MARC 21 (bibliographic), fields in ascending order of their tags.

Whitespace counts inside leader, control fields and subfields: nothing here is ever laid out.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from worker.kinds.mods import dates
from worker.kinds.mods.record import Name, Record, Related, Subject
from worker.kinds.mods.text import pieces
from worker.kinds.mods.write_mods import XSI
from worker.kinds.mods.xml import branch, escaped

NS: Final = "http://www.loc.gov/MARC21/slim"
SCHEMA: Final = "http://www.loc.gov/standards/marcxml/schema/MARC21slim.xsd"
SOURCE: Final = "Arke Institute"
FIELD_BYTES: Final = 9_000
"""Binary MARC holds 9,999 bytes in a field: longer texts are spread over several."""
TYPES: Final = {
    "Text": "a", "Collection": "p", "Image": "k", "StillImage": "k", "MovingImage": "g", "Sound": "i",
    "Dataset": "m", "InteractiveResource": "m", "Software": "m", "PhysicalObject": "r", "Event": "a", "Service": "a",
}  # fmt: skip
"""Leader/06 by DCMI type."""
BEGIN: Final = f'<marc:collection xmlns:marc="{NS}" xmlns:xsi="{XSI}" xsi:schemaLocation="{NS} {SCHEMA}">\n'
END: Final = "</marc:collection>\n"
_BEGIN: Final = f'<marc:record xmlns:marc="{NS}" type="Bibliographic">'

Subfields = tuple[tuple[str, str | None], ...]


class Field(NamedTuple):
    """A data field; subfields without a text are left out, and the field without any."""

    tag: str
    indicators: str
    subfields: Subfields


def markup(record: Record) -> str:
    """The record as `marc:record`."""
    controls = "".join(
        f'<marc:controlfield tag="{tag}">{escaped(text)}</marc:controlfield>' for tag, text in _control_fields(record)
    )
    fields = sorted(_fields(record), key=_tag)  # stable: the order within a tag stays
    return (
        f"{_BEGIN}<marc:leader>{_leader(record)}</marc:leader>{controls}{''.join(map(_field, fields))}</marc:record>\n"
    )


def _tag(field: Field) -> str:
    return field.tag


def _field(field: Field) -> str:
    """Nothing where no subfield has a text."""
    told = "".join(
        f'<marc:subfield code="{code}">{escaped(text)}</marc:subfield>' for code, text in field.subfields if text
    )
    first, second = field.indicators[0], field.indicators[1]
    return branch("marc:datafield", told, f' tag="{field.tag}" ind1="{first}" ind2="{second}"')


def _leader(record: Record) -> str:
    level = "c" if record.type == "Collection" else "m"
    return f"     n{TYPES.get(record.type or '', 'a')}{level} a22     uu 4500"


def _control_fields(record: Record) -> Iterator[tuple[str, str]]:
    yield "001", record.pi
    yield "003", SOURCE
    changed = record.changed_at or record.created_at
    if changed is not None and dates.is_timestamp(changed):
        yield "005", f"{dates.in_utc(changed):%Y%m%d%H%M%S}.0"
    yield "008", _fixed_length_data(record)


def _fixed_length_data(record: Record) -> str:
    """Field 008, 40 characters."""
    entered = (record.created_at or record.changed_at or "")[2:10].replace("-", "")
    kind, first, last = _dates(record)
    language = record.language.code if record.language is not None and record.language.code else "und"
    return f"{entered:|<6}{kind}{first}{last}xx {'|' * 17}{language}|d"


def _dates(record: Record) -> tuple[str, str, str]:
    """Type of date and two years, 008/06-14."""
    years = dates.years_of(record.date) if record.date is not None else None
    if years is None or (years.first is None and years.last is None):
        return "n", "uuuu", "uuuu"
    first, last = _year(years.first), _year(years.last)
    if "u" in first and "u" in last:
        return "n", "uuuu", "uuuu"
    if years.first == years.last and not years.is_uncertain:
        return "s", first, "    "
    if years.is_uncertain:
        return "q", first, last
    return "i" if record.type == "Collection" else "m", first, last


def _year(year: int | None) -> str:
    return f"{year:04}" if year is not None and 1 <= year <= 9999 else "uuuu"


def _fields(record: Record) -> Iterator[Field]:
    yield from _numbers(record)
    yield Field("040", "  ", (("a", SOURCE), ("b", "eng")))
    if record.language is not None:
        if record.language.code:
            yield Field("041", "0 ", (("a", record.language.code),))
        else:
            yield Field("546", "  ", (("a", record.language.text),))
    yield from _coded_dates(record)
    yield from _names(record)
    has_main = any(name.role == "creator" for name in record.names) and record.names[0].type is not None
    yield Field("245", f"{int(has_main)}0", (("a", record.title),))
    if record.date is not None:
        yield Field("264", " 0", (("c", record.date.text),))
    for note in record.notes:
        for piece in pieces(note.text, FIELD_BYTES):
            yield Field("500", "  ", (("a", piece.strip()),))
    for told in (record.abstract, record.summary):
        for piece in pieces(told or "", FIELD_BYTES):
            yield Field("520", "  ", (("a", piece.strip()),))  # no blanks at the ends of a subfield
    yield Field("540", "  ", (("a", record.rights), ("u", record.rights_uri)))
    for subject in record.subjects:
        yield _subject(subject)
    yield Field("655", " 7", (("a", record.type), ("2", "dct" if record.type else None)))
    for related in record.related:
        yield from _related(related)
    yield Field("786", "08", (("n", record.source),))
    yield Field("852", "  ", (("a", record.institution),))
    yield Field("856", "40", (("u", record.url),))
    yield Field("856", "42", (("u", record.manifest_url),))


def _numbers(record: Record) -> Iterator[Field]:
    if record.local_id:
        yield Field("024", "7 ", (("a", record.local_id), ("2", "local")))
    yield Field("024", "8 ", (("a", record.pi),))
    uri = record.url
    yield Field("024", "7 ", (("a", uri), ("2", "uri" if uri else None)))
    yield Field("024", "8 ", (("a", record.unfit_url),))
    yield Field("024", "8 ", (("a", record.manifest_cid),))


def _coded_dates(record: Record) -> Iterator[Field]:
    """As EDTF, of which W3CDTF is a part: with its doubts, and both ends of an interval that are told."""
    if record.date is not None and record.date.encoding is not None:
        first, _, last = record.date.text.partition("/")
        told = [None if end == ".." else end for end in (first, last)]
        yield Field("046", "  ", (("k", told[0]), ("l", told[1]), ("2", "edtf")))


def _names(record: Record) -> Iterator[Field]:
    """The first creator is the main entry, if it is known what it is; 1XX cannot be repeated."""
    for n, name in enumerate(record.names):
        yield Field(*_name_tag(name, is_first=n == 0), _name_subfields(name))


def _name_tag(name: Name, *, is_first: bool) -> tuple[str, str]:
    if name.type is None:
        return "720", "  "
    tag = "00" if name.type == "personal" else "10"
    indicators = "1 " if name.type == "personal" else "2 "
    return ("1" if is_first and name.role == "creator" else "7") + tag, indicators


def _name_subfields(name: Name) -> Subfields:
    code = {"creator": "cre", "repository": "rps"}[name.role]
    return (("a", name.text), ("e", name.role), ("4", code))


def _subject(subject: Subject) -> Field:
    """Second indicator 4: the source of the heading is not told."""
    tag, first = {
        "topic": ("650", " "),
        "geographic": ("651", " "),
        "temporal": ("648", " "),
        "personal": ("600", "1"),
        "corporate": ("610", "2"),
    }[subject.kind]
    return Field(tag, f"{first}4", (("a", subject.text),))


def _related(related: Related) -> Iterator[Field]:
    if related.what == "component":
        return
    tag = "773" if related.what == "host" else "774"
    yield Field(tag, "08", (("t", related.title or related.label), ("o", related.url or related.pi or related.cid)))
