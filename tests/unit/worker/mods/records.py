"""Entities and records to write, made by hand, and the official schemas."""

import os
from pathlib import Path
from typing import Any

import pytest

from worker.kinds.mods.crosswalk import Sites, record_of
from worker.kinds.mods.entity import Entity, manifest_of
from worker.kinds.mods.ledger import Ledger
from worker.kinds.mods.options import Options
from worker.kinds.mods.record import Position, Record
from worker.kinds.mods.schemas import Schemas

PI = "01K8W0AG70YQWM0ESYWV3FY5SR"
PARENT = "01K75HQQXNTDG7BBP7PS9AWYAN"
CHILD = "01K75HQQZKGZY0ZGEHFWJVY4H5"
PINAX: dict[str, Any] = {
    "id": PI, "title": "Form A-3", "type": "Text", "creator": "Ada Lovelace", "institution": "National Archives",
    "created": "1927-06-01", "language": "en", "subjects": ["Banking"], "description": "Short.", "source": "PINAX",
    "access_url": f"https://arke.institute/{PI}", "rights": "PUBLIC DOMAIN", "place": "Indiana",
}  # fmt: skip
MANIFEST: dict[str, Any] = {
    "pi": PI, "ver": 2, "ts": "2025-10-09T22:33:45.746Z", "created_at": "2025-01-02T03:04:05Z",
    "manifest_cid": "bafymanifest", "components": {}, "children_pi": [CHILD], "parent_pi": PARENT,
}  # fmt: skip


def schemas() -> Schemas:
    """The official ones. Skips where they are not."""
    folder = os.environ.get("ARKE_TEST_DATA")
    if folder is None:
        pytest.skip("needs shared/data/schemas; set ARKE_TEST_DATA to its folder `data`")
    return Schemas(Path(folder) / "schemas")


def entity(pinax: Any = PINAX, **parts: Any) -> Entity:
    """An entity; `components` and other fields of the manifest by their names, else parts of the entity."""
    manifest = MANIFEST | {name: parts.pop(name) for name in list(parts) if name in MANIFEST}
    return Entity(manifest=manifest_of(manifest, PI), pinax=pinax, **parts)


def record(
    of: Entity | None = None, *, parent_title: str | None = None, ledger: Ledger | None = None,
    depth: int | None = None, **options: Any,
) -> Record:  # fmt: skip
    """What the crosswalk makes of it."""
    path = (PARENT, PI) if depth else (PI,)
    return record_of(
        of or entity(), position=None if depth is None else Position(depth=depth, path=path), parent_title=parent_title,
        options=Options(**options), sites=Sites(), ledger=ledger or Ledger(),
    )  # fmt: skip


def full() -> Record:
    """One in which nothing is missing."""
    graph = {
        "entities": {
            "ada": {"type": "person", "label": "Ada Lovelace", "properties": {"born": 1815, "met": [
                {"type": "entity_ref", "code": "society"}, {"type": "entity_ref", "code": "marshall_street"}]}},
            "society": {"type": "organization", "label": "Analytical Society"},
            "here": {"type": "place", "label": "Here"}, "idea": {"type": "concept", "label": "Idea"},
            "day": {"type": "date", "label": "1864"}, "storm": {"type": "event", "label": "Storm"},
        },
        "relations": [{"source": "ada", "target": "society", "type": "MEMBER_OF"}],
    }  # fmt: skip
    ref = {
        "url": "https://cdn.arke.institute/asset/M2K9", "ipfs_cid": "bafkref", "type": "image/tiff", "size": 245678,
        "filename": 'Smith & "Sons".tif', "ocr": "Annual Report\r\n]]> <2024>",
    }  # fmt: skip
    pinax = PINAX | {
        "language": "zh-Hant", "created": "1910/1920", "rights": "https://creativecommons.org/licenses/by/4.0/",
        "creator": ["Ada Lovelace", "National Archives", "Somebody"], "type": "Collection",
    }  # fmt: skip
    components = {"pinax.json": "a", "description.md": "b", "p1.ref.json": "c", "notes.txt": "bafknotes"}
    made = entity(pinax, description="Long.", graph=graph, refs=(("p1.ref.json", ref),), components=components)
    return record(made, parent_title="The parent", depth=1)


HOSTILE = "\x00 & < > \" ' ]]> \u202e \U0001f469\u200d\U0001f469 \ud800 \ufffe e\u0301 \r\n\t %zz"


def hostile() -> Record:
    """Every text that can be hostile is."""
    pinax = dict.fromkeys(PINAX, HOSTILE) | {"subjects": [HOSTILE, HOSTILE], "place": [HOSTILE]}
    graph = {
        "entities": {HOSTILE: {"type": "person", "label": HOSTILE, "properties": {HOSTILE: HOSTILE}}},
        "relations": [{"source": HOSTILE, "target": "nobody", "type": HOSTILE}],
    }
    ref = {"url": HOSTILE, "ipfs_cid": HOSTILE, "type": HOSTILE, "size": HOSTILE, "filename": HOSTILE, "ocr": HOSTILE}
    made = entity(
        pinax, description=HOSTILE, graph=graph, refs=((f"{HOSTILE}.ref.json", ref),), children_pi=[HOSTILE, CHILD],
        components={HOSTILE: "bafk"}, ts=HOSTILE, created_at=HOSTILE,
    )  # fmt: skip
    return record(made, parent_title="x", depth=1)


def incomplete() -> Record:
    """Without a pinax."""
    return record(entity(None))


RECORDS = {"plain": record, "full": full, "hostile": hostile, "incomplete": incomplete}
