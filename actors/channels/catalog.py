"""The end of an archive, told to those who look for it: the index of its parts, and its row of the catalog."""

import asyncio
from typing import Any, Protocol

import msgspec

from actors.errors import ArkeError, Conflict, InvalidInput
from actors.rules import archive
from actors.rules.events import DeliveryEnded
from actors.rules.model import Job
from actors.store import Store
from actors.store.catalog_rows import Catalog, row_of
from worker.errors import WorkerError


class Objects(Protocol):
    """What this needs of the object store. Blocking: called on a thread."""

    def put(self, key: str, body: bytes, content_type: str) -> Any: ...


class CatalogChannel:
    """Told again, both are what they were: neither depends on when that is."""

    def __init__(self, store: Store, objects: Objects, catalog: Catalog) -> None:
        self._store, self._objects, self._catalog = store, objects, catalog

    async def send(self, job: Job, run: int) -> DeliveryEnded:
        """Tell once."""
        try:
            now = await self._store.job(job.id)
            if now is None or now.run != run:  # a new run has begun, and will tell its own end
                return DeliveryEnded(run=run, outcome="delivered")
            tasks = await self._store.all_tasks(job.id)
            has_index = archive.result_key(job) == archive.index_key(job)
            if has_index and job.removed_since is None:  # else it would stay, for nobody removes twice
                index = msgspec.json.format(msgspec.json.encode(archive.index(job, tasks)))
                await asyncio.to_thread(self._objects.put, archive.index_key(job), index, "application/json")
            if job.message["source"] == "catalog":
                await self._catalog.put_export(row_of(job, tasks))
        except (InvalidInput, Conflict) as error:
            return DeliveryEnded(run=run, outcome="refused", message=str(error))
        except (ArkeError, WorkerError, OSError) as error:
            return DeliveryEnded(run=run, outcome="retry", message=f"The catalog was not told: {error}")
        return DeliveryEnded(run=run, outcome="delivered")
