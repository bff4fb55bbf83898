"""Which catalog ZIP exports read: the service's own, or one that belongs to somebody else."""

from actors.store.catalog_rows import Catalog, CatalogExport, CatalogFile, Selection
from actors.store.client import Store


class OwnCatalog:
    """The catalog that the store keeps (`Store.add_storage_files` fills it)."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def files(self, selection: Selection, after: str | None, limit: int) -> list[CatalogFile]:
        """See `Catalog.files`."""
        return await self._store.storage_files(selection, after, limit)

    async def export(self, export_id: str) -> CatalogExport | None:
        """The row of an export."""
        return await self._store.storage_export(export_id)

    async def exports(
        self, user_id: str, *, limit: int = 50, cursor: str | None = None
    ) -> tuple[list[CatalogExport], str | None]:
        """See `Catalog.exports`."""
        return await self._store.storage_exports(user_id, limit=limit, cursor=cursor)

    async def put_export(self, row: CatalogExport) -> None:
        """See `Catalog.put_export`."""
        await self._store.put_export(row)

    async def close(self) -> None:
        """The store is its opener's to close."""


def open_catalog(url: str | None, store: Store) -> Catalog:
    """The catalog at a database URL, or the store's own without one. Nothing is connected to before the first use.

    Raises CannotStart for a URL that cannot be one of a catalog.
    """
    if not url:
        return OwnCatalog(store)
    from actors.store.foreign_catalog import ForeignCatalog  # SQL, which most processes do without

    return ForeignCatalog(url)
