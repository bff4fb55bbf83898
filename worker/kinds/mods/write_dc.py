"""Dublin Core: oai_dc, the fifteen elements, by the Library of Congress's rules from MODS.

There is no official wrapper for many records. That of LoC's SRU responses is used, `srw_dc:dcCollection`, in which each
record is an `oai_dc:dc` that is valid by itself.
"""

from collections.abc import Iterator
from typing import Final

from worker.kinds.mods.record import Record, Related, Subject
from worker.kinds.mods.write_mods import XSI
from worker.kinds.mods.xml import leaf

NS: Final = "http://www.openarchives.org/OAI/2.0/oai_dc/"
DC: Final = "http://purl.org/dc/elements/1.1/"
SRW: Final = "info:srw/schema/1/dc-schema"
SCHEMA: Final = "http://www.openarchives.org/OAI/2.0/oai_dc.xsd"
BEGIN: Final = (
    f'<srw_dc:dcCollection xmlns:srw_dc="{SRW}" xmlns:oai_dc="{NS}" xmlns:dc="{DC}" xmlns:xsi="{XSI}" '
    f'xsi:schemaLocation="{NS} {SCHEMA}">\n'
)
END: Final = "</srw_dc:dcCollection>\n"
_BEGIN: Final = f'<oai_dc:dc xmlns:oai_dc="{NS}" xmlns:dc="{DC}">'
_COVERAGE: Final = frozenset({"geographic", "temporal"})


def markup(record: Record) -> str:
    """The record as `oai_dc:dc`."""
    told = dict.fromkeys(_statements(record))  # each once: parts of the graph may say what the pinax says
    return f"{_BEGIN}{''.join(leaf(f'dc:{name}', text) for name, text in told)}</oai_dc:dc>\n"


def _statements(record: Record) -> Iterator[tuple[str, str | None]]:
    """Element and text. What is said about the record (administrative notes, versions, OCR) stays out."""
    yield "title", record.title
    for name in record.names:
        yield "creator" if name.role == "creator" else "contributor", name.text
    for subject in record.subjects:
        yield _subject(subject), subject.text
    yield "description", record.abstract
    yield "description", record.summary
    if record.date is not None:
        yield "date", record.date.text
    yield "type", record.type
    for media_type in record.media_types:
        yield "format", media_type
    yield "identifier", record.url
    yield "identifier", record.unfit_url
    yield "identifier", record.pi
    yield "identifier", record.local_id
    yield "source", record.source
    if record.language is not None:
        yield "language", record.language.text
    for related in record.related:
        yield "relation", _relation(related)
    yield "rights", record.rights


def _subject(subject: Subject) -> str:
    return "coverage" if subject.kind in _COVERAGE else "subject"


def _relation(related: Related) -> str | None:
    return None if related.what == "component" else related.url or related.pi or related.cid
