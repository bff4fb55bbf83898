"""A record between crosswalk and writers: what is to be said of one entity, in no format's words yet.

Every text in it is clean (`text.clean`) and not empty; a missing value is None or an empty tuple.
"""

from typing import Literal

import msgspec

NameType = Literal["personal", "corporate"]
SubjectKind = Literal["topic", "geographic", "temporal", "personal", "corporate"]


class Name(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A creator or the institution. `type` None: nothing says whether it is a person or a body."""

    text: str
    type: NameType | None = None
    role: Literal["creator", "repository"] = "creator"


class Subject(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One concept."""

    kind: SubjectKind
    text: str


class Date(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """As given. `encoding` None: free text."""

    text: str
    encoding: Literal["w3cdtf", "edtf"] | None = None


class Language(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """As given, and its code of ISO 639-2/B and its script of ISO 15924, where there are such."""

    text: str
    code: str | None = None
    script: str | None = None


class Note(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """`type` is MODS's note/@type. `admin`: it is about the record, not the thing, and stays out of Dublin Core."""

    type: str
    text: str
    admin: bool = False


class Related(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The parent, a child, a file or another component. `label` is for people; `size` in bytes; `ocr` is cut into
    pieces that every reader takes."""

    what: Literal["host", "child", "file", "component"]
    title: str | None = None
    label: str | None = None
    pi: str | None = None
    url: str | None = None
    cid: str | None = None
    media_type: str | None = None
    size: int | None = None
    ocr: tuple[str, ...] = ()


class Position(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Where in the tree of this export: `depth` 0 is the root; `path` are the PIs from the root down to this one."""

    depth: int
    path: tuple[str, ...]

    @property
    def parent(self) -> str | None:
        """The one above it in this export."""
        return self.path[-2] if len(self.path) > 1 else None


class Record(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One entity. `url` and all other URLs are valid xs:anyURI; times are ISO 8601 as given and checked.

    `xml_id` is unique in the file. `is_incomplete`: there was no pinax that could be used; `title` then says so.
    `type` is a DCMI type.
    """

    pi: str
    xml_id: str
    title: str
    is_incomplete: bool = False
    names: tuple[Name, ...] = ()
    institution: str | None = None
    type: str | None = None
    date: Date | None = None
    language: Language | None = None
    abstract: str | None = None
    summary: str | None = None  # pinax.description where description.md says something else
    subjects: tuple[Subject, ...] = ()
    rights: str | None = None
    rights_uri: str | None = None  # of rightsstatements.org or Creative Commons
    source: str | None = None
    local_id: str | None = None  # pinax.id
    url: str | None = None  # of the object in context
    unfit_url: str | None = None  # an access_url that is no URI: an identifier only
    manifest_cid: str | None = None
    manifest_url: str | None = None
    version: int | None = None
    notes: tuple[Note, ...] = ()
    media_types: tuple[str, ...] = ()  # of the files, each once, in their order
    is_reformatted: bool = False  # a TIFF scan is among the files: digitalOrigin "reformatted digital"
    related: tuple[Related, ...] = ()
    created_at: str | None = None
    changed_at: str | None = None
    position: Position | None = None  # None: a single record, not a collection
