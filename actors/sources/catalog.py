"""The files that a user has by the catalog, as what goes into an archive."""

from typing import Final

from actors.sources.base import Named
from actors.store.catalog_rows import Catalog, CatalogFile, Selection

PAGE: Final = 1000


class Catalogued:
    """In the order of their ids, as `{product}/{category}/{filename}`."""

    def __init__(self, catalog: Catalog, selection: Selection) -> None:
        self._catalog, self._selection = catalog, selection

    async def page(self, after: str) -> list[Named]:
        """As `Listing.page`."""
        return [_named(file) for file in await self._catalog.files(self._selection, after or None, PAGE)]


def _named(file: CatalogFile) -> Named:
    name = file.filename or file.r2_key.rpartition("/")[2]
    return Named(
        cursor=file.id,
        key=file.r2_key,
        path="/".join(part for part in (file.product, file.category, name) if part),
        size=file.size_bytes,
        filename=name,
        product=file.product,
        category=file.category,
    )
