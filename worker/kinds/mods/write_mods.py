"""MODS 3.8: a record as markup, in the Library of Congress's own order of its children."""

from typing import Final

from worker.kinds.mods.record import Date, Language, Name, Note, Position, Record, Related, Subject
from worker.kinds.mods.xml import attribute, branch, escaped, leaf

NS: Final = "http://www.loc.gov/mods/v3"
XSI: Final = "http://www.w3.org/2001/XMLSchema-instance"
SCHEMA: Final = "http://www.loc.gov/standards/mods/v3/mods-3-8.xsd"
BEGIN: Final = f'<modsCollection xmlns="{NS}" xmlns:xsi="{XSI}" xsi:schemaLocation="{NS} {SCHEMA}">\n'
END: Final = "</modsCollection>\n"
TYPE_OF_RESOURCE: Final = {
    "Text": "text",
    "Image": "still image",
    "StillImage": "still image",
    "MovingImage": "moving image",
    "Sound": "sound recording",
    "Dataset": "software, multimedia",
    "InteractiveResource": "software, multimedia",
    "Software": "software, multimedia",
    "Collection": "mixed material",
    "PhysicalObject": "three dimensional object",
    "Event": "text",
    "Service": "text",
}
_TYPE: Final = {None: "", "personal": ' type="personal"', "corporate": ' type="corporate"'}
_ROLE: Final = {
    role: f'<role><roleTerm type="text" authority="marcrelator">{role}</roleTerm>'
    f'<roleTerm type="code" authority="marcrelator">{code}</roleTerm></role>'
    for role, code in (("creator", "cre"), ("repository", "rps"))
}
_ENCODING: Final = {None: "", "w3cdtf": ' encoding="w3cdtf"', "edtf": ' encoding="edtf"'}
_W3CDTF: Final = _ENCODING["w3cdtf"]
_ORIGIN: Final = (
    "<recordOrigin>Made by Arke Orchestrator from the entity's pinax, description, graph and files.</recordOrigin>"
    '<languageOfCataloging><languageTerm type="code" authority="iso639-2b">eng</languageTerm></languageOfCataloging>'
    "<descriptionStandard>local</descriptionStandard>"
)


def markup(record: Record) -> str:
    """The record as `mods`."""
    return "".join((
        f'<mods xmlns="{NS}" version="3.8" ID="{record.xml_id}">',
        branch("titleInfo", leaf("title", record.title), ' type="alternative"' if record.is_incomplete else ""),
        *map(_name, record.names),
        _type(record.type),
        _origin(record.date),
        _language(record.language),
        _physical(record),
        leaf("abstract", record.abstract),
        leaf("note", record.summary, ' type="summary"'),
        leaf("note", record.source, ' type="source"'),
        *map(_note, record.notes),
        *map(_subject, record.subjects),
        *map(_related, record.related),
        leaf("identifier", record.local_id, ' type="local"'),
        leaf("identifier", record.pi, ' type="arke-pi"'),
        leaf("identifier", record.unfit_url or record.url, ' type="uri"'),
        _location(record),
        _access(record),
        _record_info(record),
        "" if record.position is None else _tree_position(record.position),
        "</mods>\n",
    ))  # fmt: skip


def _name(name: Name) -> str:
    return f"<name{_TYPE[name.type]}>{leaf('namePart', name.text)}{_ROLE[name.role]}</name>"


def _type(kind: str | None) -> str:
    if kind is None:
        return ""
    collection = ' collection="yes"' if kind == "Collection" else ""
    return leaf("typeOfResource", TYPE_OF_RESOURCE[kind], collection) + leaf("genre", kind, ' authority="dct"')


def _origin(date: Date | None) -> str:
    if date is None:
        return ""
    created = leaf("dateCreated", date.text, f' keyDate="yes"{_ENCODING[date.encoding]}')
    return branch("originInfo", created, ' eventType="production"')


def _language(language: Language | None) -> str:
    if language is None:
        return ""
    if language.code is None:
        return branch("language", leaf("languageTerm", language.text, ' type="text"'))
    code = leaf("languageTerm", language.code, ' type="code" authority="iso639-2b"')
    return branch("language", code + leaf("scriptTerm", language.script, ' type="code" authority="iso15924"'))


def _physical(record: Record) -> str:
    media_types = "".join(leaf("internetMediaType", each) for each in record.media_types)
    digital = leaf("digitalOrigin", "reformatted digital" if record.is_reformatted else None)
    return branch("physicalDescription", media_types + digital)


def _note(note: Note) -> str:
    return leaf("note", note.text, f' type="{note.type}"')


def _subject(subject: Subject) -> str:
    if subject.kind in ("personal", "corporate"):
        return f"<subject><name{_TYPE[subject.kind]}>{leaf('namePart', subject.text)}</name></subject>"
    return branch("subject", leaf(subject.kind, subject.text))


def _related(related: Related) -> str:
    kind = ' type="host"' if related.what == "host" else ' type="constituent"'
    is_page = related.what in ("host", "child")
    size = None if related.size is None else f"{related.size} bytes"
    inside = "".join((
        branch("titleInfo", leaf("title", related.title)),
        branch("physicalDescription", leaf("internetMediaType", related.media_type) + leaf("extent", size)),
        *(leaf("note", piece, ' type="ocr"') for piece in related.ocr),
        leaf("identifier", related.pi, ' type="arke-pi"'),
        "" if is_page else leaf("identifier", related.url, ' type="uri"'),
        leaf("identifier", related.cid, ' type="ipfs-cid"'),
        branch("location", leaf("url", related.url)) if is_page else "",
    ))  # fmt: skip
    return branch("relatedItem", inside, kind + attribute("displayLabel", related.label))


def _location(record: Record) -> str:
    return branch(
        "location",
        leaf("physicalLocation", record.institution)
        + leaf("url", record.url, ' usage="primary display" access="object in context"')
        + leaf("url", record.manifest_url, ' displayLabel="IPFS manifest"'),
    )


def _access(record: Record) -> str:
    attributes = ' type="use and reproduction"'
    if record.rights_uri is not None:
        authority = "cc" if "creativecommons.org" in record.rights_uri else "rightsstatements"
        attributes += f' authority="{authority}"' + attribute("valueURI", record.rights_uri)
    return leaf("accessCondition", record.rights, attributes)


def _record_info(record: Record) -> str:
    inside = (
        "<recordContentSource>Arke Institute</recordContentSource>"
        + leaf("recordCreationDate", record.created_at, _W3CDTF)
        + leaf("recordChangeDate", record.changed_at, _W3CDTF)
        + leaf("recordIdentifier", record.pi, ' source="arke-pi"')
    )
    return f"<recordInfo>{inside}{_ORIGIN}</recordInfo>"


def _tree_position(position: Position) -> str:
    """As the originals have it, so that a tree can be built again from the file: the last child of the record."""
    path = "/".join(("", "root", *position.path[1:]))
    told = escaped(f"depth: {position.depth}, parent: {position.parent or 'none'}, path: {path}")
    return f'<note type="hierarchy" displayLabel="Tree Position">{told}</note>'
