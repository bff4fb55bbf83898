"""One entity with its components, which are fetched side by side."""

import asyncio
from collections.abc import Mapping
from typing import Any, Final, Protocol

from worker.errors import WorkerError
from worker.kinds.mods.arke_api import decoded
from worker.kinds.mods.crosswalk import DESCRIPTION, GRAPH, PINAX, REF, is_of_record
from worker.kinds.mods.entity import Entity, Manifest
from worker.kinds.mods.ledger import Ledger
from worker.kinds.mods.options import Options


class Archive(Protocol):
    """Where entities are read from (`arke_api.ArkeApi`). Both raise WorkerError."""

    async def manifest(self, pi: str) -> Manifest: ...

    async def component(self, cid: str) -> bytes: ...


COMPONENTS_AT_ONCE: Final = 16
"""Of one entity."""


class NotRead(WorkerError):
    """What an entity cannot do without could not be had. `is_final`: another try cannot help."""

    def __init__(self, what: str, cause: WorkerError) -> None:
        super().__init__(f"Failed to fetch {what}: {cause}")
        self.is_final = not cause.retryable


async def entity(pi: str, archive: Archive, options: Options, ledger: Ledger) -> Entity:
    """The entity. A component that is not there, or cannot be used, is missing from it, and the ledger says so.

    Raises:
        NotRead: its manifest cannot be had, or not at the moment its pinax: that would make a record that says there is
            none.
    """
    try:
        manifest = await archive.manifest(pi)
    except WorkerError as error:
        raise NotRead("manifest", error) from error
    wanted = [name for name in manifest.components if is_of_record(name) and _is_wanted(name, options)]
    places = asyncio.Semaphore(COMPONENTS_AT_ONCE)
    parts = await asyncio.gather(*(_part(manifest, name, archive, ledger, places) for name in wanted))
    found = {name: part for name, (part, _) in zip(wanted, parts, strict=True) if part is not None}
    return Entity(
        manifest=manifest,
        pinax=_object(found.get(PINAX)),
        description=_string(found.get(DESCRIPTION)),
        graph=_object(found.get(GRAPH)),
        refs=tuple((name, part) for name, part in found.items() if name.endswith(REF) and isinstance(part, dict)),
        size=sum(size for _, size in parts),
    )


def _is_wanted(name: str, options: Options) -> bool:
    return name != GRAPH or options.cheimarros_mode != "skip"


async def _part(
    manifest: Manifest, name: str, archive: Archive, ledger: Ledger, places: asyncio.Semaphore
) -> tuple[Mapping[str, Any] | str | None, int]:
    """What a component holds, and its bytes."""
    try:
        async with places:
            body = await archive.component(manifest.components[name])
        return body.decode("utf-8-sig", errors="replace") if name == DESCRIPTION else decoded(body), len(body)
    except WorkerError as error:
        if name == PINAX and error.retryable:
            raise NotRead(PINAX, error) from error
        ledger.warn(f"{_shown(name)}: {error}")
        return None, 0


def _shown(name: str) -> str:
    """In a reason: the names of files would make as many of them as there are files."""
    return f"*{REF}" if name.endswith(REF) else name


def _object(part: Mapping[str, Any] | str | None) -> Mapping[str, Any] | None:
    return part if isinstance(part, dict) else None


def _string(part: Mapping[str, Any] | str | None) -> str | None:
    return part if isinstance(part, str) else None
