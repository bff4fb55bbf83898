"""A finished file, whoever made it, against the schema of its format and the checks that schemas do not make.

Read as a stream: memory does not grow with the file.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from lxml import etree

from worker.errors import BadInput
from worker.kinds.mods import structure, write_dc, write_marc, write_mods
from worker.kinds.mods.options import Format
from worker.kinds.mods.schemas import Schemas
from worker.kinds.mods.writers import WRITERS

MOST_TOLD: Final = 100
ROOTS: Final[dict[str, Format]] = {
    f"{{{write_mods.NS}}}modsCollection": "mods",
    f"{{{write_mods.NS}}}mods": "mods",
    f"{{{write_dc.SRW}}}dcCollection": "dc",
    f"{{{write_dc.NS}}}dc": "dc",
    f"{{{write_marc.NS}}}collection": "marcxml",
    f"{{{write_marc.NS}}}record": "marcxml",
}

WRAPPER_ATTRIBUTES: Final = frozenset(
    {"version", "id", *(f"{{{write_mods.XSI}}}{name}" for name in ("schemaLocation", "noNamespaceSchemaLocation"))}
)


@dataclass
class Report:
    """What was found. `faults`: line and sentence, the first MOST_TOLD; `faulty` counts the records that have any."""

    format: Format
    validated: bool
    records: int = 0
    faulty: int = 0
    faults: list[tuple[int, str]] = field(default_factory=list)

    @property
    def is_valid(self) -> bool:
        return self.records > 0 and not self.faults

    def add(self, line: int, sentences: list[str]) -> None:
        """One record with these faults."""
        self.faulty += bool(sentences)
        room = MOST_TOLD - len(self.faults)
        self.faults += [(line, sentence) for sentence in sentences[:room]]


def validate(path: Path, schemas: Schemas | None) -> Report:
    """Check a file of records; the format is that of its root.

    Raises:
        BadInput: it cannot be read, is not XML, or of none of the formats.
    """
    report: Report | None = None
    ids: set[str] = set()
    try:
        for event, element in _events(path):
            if report is None:
                report = _begin(element, schemas)
            if event == "end" and _is_in_place(element, report.format):
                _look(report, element, schemas, ids)
                _between(report, element)
                _forget(element)
    except etree.XMLSyntaxError as error:
        raise BadInput(f"It is not well-formed XML: {error.msg}") from error
    except OSError as error:
        raise BadInput(f"It cannot be read: {error.strerror}") from error
    if report is None:
        raise BadInput("It is not well-formed XML: it is empty")
    if not report.records:
        report.add(1, ["there is no record in it"])
    return report


def _events(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open("rb") as source:
        yield from etree.iterparse(
            source,
            events=("start", "end"),
            resolve_entities=False,
            no_network=True,
            load_dtd=False,
            huge_tree=True,
            remove_blank_text=True,
        )


def _begin(root: Any, schemas: Schemas | None) -> Report:
    format = ROOTS.get(root.tag)
    if format is None:
        raise BadInput(f"It is neither MODS, oai_dc nor MARCXML: its root is {root.tag[:200]}")
    report = Report(format=format, validated=schemas is not None)
    if root.tag != WRITERS[format].tag and (odd := sorted(set(root.keys()) - WRAPPER_ATTRIBUTES)):
        report.add(root.sourceline or 0, [f"the attribute {odd[0][:200]} is none of a collection"])
    return report


def _between(report: Report, element: Any) -> None:
    """What the wrapper has beside the records; no schema sees the wrapper as a whole."""
    parent, previous = element.getparent(), element.getprevious()
    before = None if parent is None else parent.text if previous is None else previous.tail
    if before is not None and before.strip():
        report.add(element.sourceline or 0, [f"there is text between the records: {before.strip()[:40]!r}"])


def _look(report: Report, element: Any, schemas: Schemas | None, ids: set[str]) -> None:
    line = element.sourceline or 0
    if element.tag != WRITERS[report.format].tag:
        report.add(line, [f"{element.tag[:200]} is no record"])
        return
    report.records += 1
    report.add(line, _faults(report.format, element, schemas, ids))


def _is_in_place(element: Any, format: Format) -> bool:
    """It stands where records do: below the collection, or as the root."""
    parent, record = element.getparent(), WRITERS[format].tag
    if parent is None:
        return bool(element.tag == record)
    return bool(parent.getparent() is None and parent.tag != record)


def _faults(format: Format, element: Any, schemas: Schemas | None, ids: set[str]) -> list[str]:
    if next(element.iter(etree.Entity), None) is not None:
        return ["it has entity references, which are not resolved: write what they stand for"]
    found = structure.faults(format, element)
    if schemas is not None:
        found += schemas.faults(format, element)
    for part in element.iter() if format == "mods" else ():
        name = part.get("ID")
        if name in ids:
            found.append(f"the ID {name} is there before")
        if name is not None:
            ids.add(name)
    return found


def _forget(element: Any) -> None:
    """Let go of a record, and of those before it, which the tree would keep."""
    element.clear()
    parent = element.getparent()
    while parent is not None and element.getprevious() is not None:
        del parent[0]
