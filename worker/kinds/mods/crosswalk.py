"""From an entity to a record: what is said of it, whatever the format. The mapping is in docs/reference/metadata.md."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from worker.kinds.mods import dates, languages, text
from worker.kinds.mods.entity import Entity
from worker.kinds.mods.graph import Graph
from worker.kinds.mods.ledger import Ledger
from worker.kinds.mods.options import Options
from worker.kinds.mods.record import Language, Name, NameType, Note, Position, Record, Related, Subject

PINAX: Final = "pinax.json"
DESCRIPTION: Final = "description.md"
GRAPH: Final = "cheimarros.json"
REF: Final = ".ref.json"
PLACEHOLDER: Final = "PLACEHOLDER"
TYPES: Final = frozenset(
    {"Collection", "Dataset", "Event", "Image", "InteractiveResource", "MovingImage", "PhysicalObject", "Service",
     "Software", "Sound", "StillImage", "Text"}
)  # fmt: skip
"""DCMI's."""
RIGHTS: Final = re.compile(r"https?://(?:www\.)?(?:rightsstatements\.org|creativecommons\.org)/\S+")
_MEDIA_TYPE: Final = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,127}/[A-Za-z0-9!#$&^_.+-]{1,127}")
_SCANS: Final = frozenset({"image/tiff", "image/tif"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Sites:
    """Where the things are that records link to."""

    arke_url: str = "https://arke.institute"
    ipfs_gateway: str = "https://ipfs.arke.institute"

    def entity(self, pi: str) -> str:
        """The page of an entity."""
        return f"{self.arke_url}/{pi}"

    def content(self, cid: str) -> str:
        """What has this CID."""
        return f"{self.ipfs_gateway}/ipfs/{cid}"


def record_of(
    entity: Entity,
    *,
    position: Position | None,
    parent_title: str | None,
    options: Options,
    sites: Sites,
    ledger: Ledger,
) -> Record:
    """The record of an entity. `parent_title`: of the parent, where that is part of the export."""
    return _Crosswalk(entity, position, parent_title, options, sites, ledger).record()


class _Crosswalk:
    """One entity on its way."""

    def __init__(
        self, entity: Entity, position: Position | None, parent_title: str | None, options: Options, sites: Sites,
        ledger: Ledger,
    ) -> None:  # fmt: skip
        self._entity, self._manifest = entity, entity.manifest
        self._pinax: Mapping[str, Any] = entity.pinax or {}
        self._position, self._parent_title = position, parent_title
        self._options, self._sites, self._ledger = options, sites, ledger
        self._graph = Graph(None if options.cheimarros_mode == "skip" else entity.graph, ledger)

    def record(self) -> Record:
        manifest, pi = self._manifest, self._manifest.pi
        title = self._text("title")
        is_incomplete = self._entity.pinax is None
        institution = self._text("institution")
        files = tuple(self._files())
        media_types = tuple(dict.fromkeys(file.media_type for file in files if file.media_type))
        created = self._text("created")
        abstract, summary = self._abstract()
        rights = self._text("rights")
        url, unfit_url = self._url()
        created_at, changed_at = self._times()
        return Record(
            pi=pi,
            xml_id=f"entity-{pi}",
            title=title or (f"[Incomplete Record: {pi}]" if is_incomplete else f"[Untitled: {pi}]"),
            is_incomplete=is_incomplete,
            names=tuple(self._names(institution)),
            institution=institution,
            type=self._type(),
            date=dates.date_of(created) if created else None,
            language=self._language(),
            abstract=abstract,
            summary=summary,
            subjects=self._subjects(),
            rights=rights,
            rights_uri=self._rights_uri(rights),
            source=self._text("source"),
            local_id=self._text("id"),
            url=url,
            unfit_url=unfit_url,
            manifest_cid=manifest.manifest_cid,
            manifest_url=self._sites.content(manifest.manifest_cid) if manifest.manifest_cid else None,
            version=manifest.ver,
            notes=tuple(self._notes(is_incomplete)),
            media_types=media_types,
            is_reformatted=not _SCANS.isdisjoint(media_types),
            related=(*self._host(), *files, *self._children(), *self._others()),
            created_at=created_at,
            changed_at=changed_at,
            position=self._position,
        )

    def _text(self, field: str) -> str | None:
        return text.clean(self._pinax.get(field), self._ledger)

    def _texts(self, field: str) -> tuple[str, ...]:
        return text.texts(self._pinax.get(field), self._ledger)

    def _names(self, institution: str | None) -> Iterator[Name]:
        """Who made it, then who has it. A type is given on evidence only: the graph's, or the institution's name."""
        known: dict[str, NameType] = self._graph.name_types()
        for creator in self._texts("creator"):
            is_institution = institution is not None and creator.casefold() == institution.casefold()
            yield Name(text=creator, type="corporate" if is_institution else known.get(creator.casefold()))
        if institution is not None:
            yield Name(text=institution, type="corporate", role="repository")

    def _type(self) -> str | None:
        given = self._text("type")
        if given is None or given in TYPES:
            return given
        self._ledger.changed("types left out that are none of DCMI's")
        return None

    def _language(self) -> Language | None:
        given = self._text("language")
        return languages.language_of(given) if given else None

    def _abstract(self) -> tuple[str | None, str | None]:
        """description.md, else the pinax's; the other one where both are there and differ."""
        long, short = text.clean(self._entity.description, self._ledger), self._text("description")
        return (long, short if short != long else None) if long else (short, None)

    def _subjects(self) -> tuple[Subject, ...]:
        own = [Subject(kind="topic", text=subject) for subject in self._texts("subjects")]
        places = [Subject(kind="geographic", text=place) for place in self._texts("place")]
        graph = self._graph.subjects(all_types=self._options.cheimarros_mode == "full")
        told = {(subject.kind, subject.text) for subject in (*own, *places)}
        return (*own, *places, *(subject for subject in graph if (subject.kind, subject.text) not in told))

    def _rights_uri(self, rights: str | None) -> str | None:
        found = RIGHTS.search(rights) if rights else None
        return text.uri(found[0].rstrip(").,;:]>\"'")) if found else None

    def _url(self) -> tuple[str | None, str | None]:
        """The address of the object in context, and what was given instead of one."""
        given = self._text("access_url")
        if given is None or given == PLACEHOLDER:
            return self._sites.entity(self._manifest.pi), None
        url = text.uri(given)
        if url is None:
            self._ledger.changed("access_url written as an identifier only: it is no URI")
            return self._sites.entity(self._manifest.pi), given
        if url != given:
            self._ledger.changed("access_url percent-encoded")
        return url, None

    def _times(self) -> tuple[str | None, str | None]:
        """When the entity was made, and when changed: `ts` is the time of its version."""
        manifest = self._manifest
        created = manifest.created_at or (manifest.ts if manifest.ver == 1 else None)
        changed = manifest.ts if manifest.ver != 1 else None
        return _timestamp(created), _timestamp(changed)

    def _notes(self, is_incomplete: bool) -> Iterator[Note]:
        manifest = self._manifest
        if is_incomplete:
            yield Note(
                type="metadata-status",
                text="Incomplete record: the entity has no usable pinax.json (descriptive metadata).",
                admin=True,
            )
        if manifest.ver is not None and manifest.manifest_cid:
            yield Note(type="version", text=f"Version {manifest.ver}, manifest {manifest.manifest_cid}", admin=True)
        if self._options.cheimarros_mode == "full":
            yield from self._graph.notes()
        if others := list(self._other_names()):
            yield Note(type="component-inventory", text=f"Other components: {', '.join(others)}", admin=True)

    # ---- what it is related to

    def _host(self) -> Iterator[Related]:
        if parent := self._manifest.parent:
            yield Related(what="host", title=self._parent_title, pi=parent, url=self._sites.entity(parent))

    def _children(self) -> Iterator[Related]:
        for child in self._manifest.children:
            if pi := text.clean(child, self._ledger):
                yield Related(what="child", pi=pi, url=text.uri(self._sites.entity(pi)))

    def _files(self) -> Iterator[Related]:
        for component, ref in self._entity.refs:
            name = text.clean(ref.get("filename"), self._ledger)
            url = text.clean(ref.get("url"), self._ledger)
            address = text.uri(url) if url else None
            if url and address is None:
                self._ledger.changed("addresses of files left out that are no URI")
            media_type = text.clean(ref.get("type"), self._ledger)
            if media_type and not _MEDIA_TYPE.fullmatch(media_type):
                self._ledger.changed("media types left out that are none")
                media_type = None
            ocr = text.clean(ref.get("ocr"), self._ledger) if self._options.include_ocr else None
            yield Related(
                what="file",
                label=name or text.clean(component.removesuffix(REF), self._ledger),
                url=address,
                cid=text.clean(ref.get("ipfs_cid"), self._ledger),
                media_type=media_type,
                size=text.whole_number(ref.get("size")),
                ocr=text.pieces(ocr) if ocr else (),
            )

    def _others(self) -> Iterator[Related]:
        for component in self._other_components():
            if label := text.clean(component, self._ledger):
                cid = self._manifest.components[component]
                yield Related(what="component", label=label, cid=cid, url=self._sites.content(cid))

    def _other_names(self) -> Iterator[str]:
        return (name for each in self._other_components() if (name := text.clean(each, self._ledger)))

    def _other_components(self) -> list[str]:
        return [name for name in self._manifest.components if not is_of_record(name)]


def is_of_record(component: str) -> bool:
    """Whether a component is read for the record; the others are only named."""
    return component in (PINAX, DESCRIPTION, GRAPH) or component.endswith(REF)


def _timestamp(value: str | None) -> str | None:
    return value if value is not None and dates.is_w3cdtf(value) else None
