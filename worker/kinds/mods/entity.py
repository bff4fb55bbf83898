"""What the archive says of one entity, read tolerantly: any field may be missing or of the wrong type."""

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

_PI: Final = re.compile(r"(?:[0-9A-HJKMNP-TV-Z]{26}|II[0-9A-HJKMNP-TV-Z]{24})")


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """One version of an entity. `components`: name to CID, in the order of the names."""

    pi: str
    ver: int | None = None
    ts: str | None = None
    created_at: str | None = None
    manifest_cid: str | None = None
    components: Mapping[str, str]
    children: tuple[str, ...] = ()
    parent: str | None = None


class Entity(msgspec.Struct, frozen=True, kw_only=True):
    """An entity with the components that a record is made of. None: not there, or not usable. `size`: bytes of them."""

    manifest: Manifest
    pinax: Mapping[str, Any] | None = None
    description: str | None = None
    graph: Mapping[str, Any] | None = None  # cheimarros.json
    refs: tuple[tuple[str, Mapping[str, Any]], ...] = ()  # component name and contents of each *.ref.json
    size: int = 0


def is_pi(text: str) -> bool:
    """Whether it can be the id of an entity."""
    return bool(_PI.fullmatch(text))


def manifest_of(raw: Mapping[str, Any], pi: str) -> Manifest:
    """The manifest in an answer of the API, or in the form in which it is stored. `pi`: what was asked for, where it
    does not say."""
    told = raw.get("pi") or raw.get("id")
    components = raw.get("components")
    children = raw.get("children_pi")
    parent = raw.get("parent_pi")
    return Manifest(
        pi=told if isinstance(told, str) and is_pi(told) else pi,
        ver=_number(raw.get("ver")),
        ts=_string(raw.get("ts")),
        created_at=_string(raw.get("created_at")),
        manifest_cid=_cid(raw.get("manifest_cid")),
        components=_components(components) if isinstance(components, dict) else {},
        children=_pis(children) if isinstance(children, list) else (),
        parent=parent if isinstance(parent, str) and is_pi(parent) else None,
    )


def _components(raw: Mapping[Any, Any]) -> dict[str, str]:
    found = ((name, _cid(link)) for name, link in sorted(raw.items()) if isinstance(name, str) and name)
    return {name: cid for name, cid in found if cid is not None}


def _cid(link: object) -> str | None:
    """A CID, also in the form of a stored link: {"/": cid}."""
    cid = link.get("/") if isinstance(link, dict) else link
    return cid if isinstance(cid, str) and re.fullmatch(r"[A-Za-z0-9]{1,128}", cid) else None


def _pis(raw: list[Any]) -> tuple[str, ...]:
    """Each once, in their order. What is no id is kept: it is a child that cannot be had, and is counted as such."""
    return tuple(dict.fromkeys(child for child in raw if isinstance(child, str) and child))


def _string(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31 else None
