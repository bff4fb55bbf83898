"""MARCXML: a record as MARC 21 (bibliographic), fields in ascending order of their tags.

Whitespace counts inside leader, control fields and subfields: nothing here is ever laid out.
"""

from collections.abc import Iterator
from operator import itemgetter
from typing import Final

from worker.kinds.mods import dates
from worker.kinds.mods.record import Name, Record, Related, Subject
from worker.kinds.mods.text import pieces
from worker.kinds.mods.write_mods import XSI
from worker.kinds.mods.xml import escaped

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


Field = tuple[str, str]
"""A data field: its tag, and its markup."""


def markup(record: Record) -> str:
    """The record as `marc:record`."""
    controls = "".join(
        f'<marc:controlfield tag="{tag}">{escaped(text)}</marc:controlfield>' for tag, text in _control_fields(record)
    )
    fields = sorted(_fields(record), key=itemgetter(0))  # stable: the order within a tag stays
    data = "".join([text for _, text in fields])
    return f"{_BEGIN}<marc:leader>{_leader(record)}</marc:leader>{controls}{data}</marc:record>\n"


def _field(tag: str, indicators: str, subfields: Subfields) -> Field:
    """Subfields without a text are left out, and the field without any."""
    told = ""
    for code, text in subfields:
        if text:
            told += f'<marc:subfield code="{code}">{escaped(text)}</marc:subfield>'
    if not told:
        return tag, ""
    return (
        tag,
        f'<marc:datafield tag="{tag}" ind1="{indicators[0]}" ind2="{indicators[1]}">{told}</marc:datafield>',
    )


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
    yield _field("040", "  ", (("a", SOURCE), ("b", "eng")))
    if record.language is not None:
        if record.language.code:
            yield _field("041", "0 ", (("a", record.language.code),))
        else:
            yield _field("546", "  ", (("a", record.language.text),))
    yield from _coded_dates(record)
    yield from _names(record)
    has_main = any(name.role == "creator" for name in record.names) and record.names[0].type is not None
    yield _field("245", f"{int(has_main)}0", (("a", record.title),))
    if record.date is not None:
        yield _field("264", " 0", (("c", record.date.text),))
    for note in record.notes:
        for piece in pieces(note.text, FIELD_BYTES):
            yield _field("500", "  ", (("a", piece.strip()),))
    for told in (record.abstract, record.summary):
        for piece in pieces(told or "", FIELD_BYTES):
            yield _field("520", "  ", (("a", piece.strip()),))  # no blanks at the ends of a subfield
    yield _field("540", "  ", (("a", record.rights), ("u", record.rights_uri)))
    for subject in record.subjects:
        yield _subject(subject)
    yield _field("655", " 7", (("a", record.type), ("2", "dct" if record.type else None)))
    for related in record.related:
        yield from _related(related)
    yield _field("786", "08", (("n", record.source),))
    yield _field("852", "  ", (("a", record.institution),))
    yield _field("856", "40", (("u", record.url),))
    yield _field("856", "42", (("u", record.manifest_url),))


def _numbers(record: Record) -> Iterator[Field]:
    if record.local_id:
        yield _field("024", "7 ", (("a", record.local_id), ("2", "local")))
    yield _field("024", "8 ", (("a", record.pi),))
    uri = record.url
    yield _field("024", "7 ", (("a", uri), ("2", "uri" if uri else None)))
    yield _field("024", "8 ", (("a", record.unfit_url),))
    yield _field("024", "8 ", (("a", record.manifest_cid),))


def _coded_dates(record: Record) -> Iterator[Field]:
    """As EDTF, of which W3CDTF is a part: with its doubts, and both ends of an interval that are told."""
    if record.date is not None and record.date.encoding is not None:
        first, _, last = record.date.text.partition("/")
        told = [None if end == ".." else end for end in (first, last)]
        yield _field("046", "  ", (("k", told[0]), ("l", told[1]), ("2", "edtf")))


def _names(record: Record) -> Iterator[Field]:
    """The first creator is the main entry, if it is known what it is; 1XX cannot be repeated."""
    for n, name in enumerate(record.names):
        yield _field(*_name_tag(name, is_first=n == 0), _name_subfields(name))


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
    return _field(tag, f"{first}4", (("a", subject.text),))


def _related(related: Related) -> Iterator[Field]:
    if related.what == "component":
        return
    tag = "773" if related.what == "host" else "774"
    yield _field(tag, "08", (("t", related.title or related.label), ("o", related.url or related.pi or related.cid)))
