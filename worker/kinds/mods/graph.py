"""cheimarros.json, the graph of what is spoken of: entities by code, with properties and relations."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from worker.kinds.mods import text
from worker.kinds.mods.ledger import Ledger
from worker.kinds.mods.record import NameType, Note, Subject, SubjectKind

KINDS: Final[Mapping[str, SubjectKind]] = {
    "person": "personal",
    "organization": "corporate",
    "org": "corporate",
    "place": "geographic",
    "location": "geographic",
    "concept": "topic",
    "date": "temporal",
}
"""Types that are subjects in every mode; any other is a topic where everything is told."""
NAMES: Final[Mapping[str, NameType]] = {"person": "personal", "organization": "corporate", "org": "corporate"}
PROPERTY: Final = "cheimarros-property"
RELATION: Final = "cheimarros-relation"
MOST_DEPTH: Final = 8
_DATE_CODE: Final = re.compile(r"date_(\d{4})(?:_(\d{2}))?(?:_(\d{2}))?")


class Graph:
    """One graph, read tolerantly: what is not as it should be is not there."""

    def __init__(self, raw: Mapping[str, Any] | None, ledger: Ledger) -> None:
        given = raw.get("entities") if raw is not None else None
        self._entities: Mapping[str, Any] = given if isinstance(given, dict) else {}
        relations = raw.get("relations") if raw is not None else None
        self._relations: list[Any] = relations if isinstance(relations, list) else []
        self._ledger = ledger
        self._labels: dict[str, str] = {}

    def name_types(self) -> dict[str, NameType]:
        """What the graph says of names: the label, in lower case, to the type of a name."""
        found: dict[str, NameType] = {}
        for code, entity in self._each():
            kind, label = NAMES.get(_type(entity)), self.label(code)
            if kind is not None and label:
                found.setdefault(label.casefold(), kind)
        return found

    def subjects(self, *, all_types: bool) -> tuple[Subject, ...]:
        """One for each entity, in their order; those of other types only with `all_types`."""
        found = []
        for code, entity in self._each():
            kind = KINDS.get(_type(entity)) or ("topic" if all_types else None)
            label = self.label(code)
            if kind is not None and label:
                found.append(Subject(kind=kind, text=label))
        return tuple(dict.fromkeys(found))

    def notes(self) -> Iterator[Note]:
        """Properties, then relations, each as a sentence of its own."""
        for code, entity in self._each():
            properties = entity.get("properties")
            for name, value in properties.items() if isinstance(properties, dict) else ():
                told = ", ".join(self._values(value, 0))
                key = text.clean(name, self._ledger)
                if told and key:
                    yield Note(type=PROPERTY, text=f"{self.label(code)}: {key}: {told}", admin=True)
        for relation in self._relations:
            sentence = self._relation(relation) if isinstance(relation, dict) else None
            if sentence:
                yield Note(type=RELATION, text=sentence, admin=True)

    def label(self, code: str) -> str:
        """Of an entity; of one that is not in the graph what its code tells. Empty where that is nothing."""
        if code not in self._labels:
            entity = self._entities.get(code)
            given = text.clean(entity.get("label"), self._ledger) if isinstance(entity, dict) else None
            self._labels[code] = given or self._from_code(code)
        return self._labels[code]

    def _from_code(self, code: str) -> str:
        date = _DATE_CODE.fullmatch(code)
        if date is not None:
            return "-".join(part for part in date.groups() if part)
        words = (text.clean(code.replace("_", " "), self._ledger) or "").split()
        return " ".join(word[:1].upper() + word[1:] for word in words)

    def _each(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        return ((code, entity) for code, entity in self._entities.items() if isinstance(entity, dict))

    def _relation(self, relation: Mapping[str, Any]) -> str | None:
        source, target = self._end(relation.get("source")), self._end(relation.get("target"))
        kind = text.clean(relation.get("type"), self._ledger)
        if not (source and target and kind):
            return None
        properties = relation.get("properties")
        more = [
            f"{key}: {', '.join(told)}"
            for name, value in (properties.items() if isinstance(properties, dict) else ())
            if (told := self._values(value, 0)) and (key := text.clean(name, self._ledger))
        ]
        return f"{source} {kind} {target}" + (f" ({'; '.join(more)})" if more else "")

    def _end(self, code: object) -> str:
        return self.label(code) if isinstance(code, str) else ""

    def _values(self, value: object, depth: int) -> list[str]:
        """The texts in a value: a text, a number, a reference, or a list of these."""
        if isinstance(value, list):
            return [told for each in value for told in self._values(each, depth + 1)] if depth < MOST_DEPTH else []
        if isinstance(value, dict):
            code = value.get("code") if value.get("type") == "entity_ref" else None
            label = self.label(code) if isinstance(code, str) else ""
            return [label] if label else []
        if isinstance(value, bool):
            return ["true" if value else "false"]
        if isinstance(value, int | float):
            return [str(value)]
        told = text.clean(value, self._ledger)
        return [told] if told else []


def _type(entity: Mapping[str, Any]) -> str:
    kind = entity.get("type")
    return kind.lower() if isinstance(kind, str) else ""
