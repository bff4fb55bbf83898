"""The objects whose keys begin with a prefix, as what goes into an archive."""

import asyncio
from typing import Final

from actors.sources.base import Named, Objects

PAGE: Final = 1000


class Below:
    """Their paths begin behind the last slash of the prefix. What is below `own` is left out: it is the archive's."""

    def __init__(self, objects: Objects, prefix: str, own: str) -> None:
        self._objects, self._prefix, self._own = objects, prefix, own
        self._folder = prefix.rfind("/") + 1

    async def page(self, after: str) -> list[Named]:
        """As `Listing.page`."""
        cursor: str | None = after or None
        while True:
            listed = await asyncio.to_thread(lambda start: list(self._objects.list(self._prefix, start, PAGE)), cursor)
            found = [self._named(one.key, one.size) for one in listed if self._is_wanted(one.key, one.size)]
            if found or not listed:
                return found
            cursor = listed[-1].key

    def _is_wanted(self, key: str, size: int) -> bool:
        """Not what consoles make for a folder."""
        return not key.startswith(self._own) and not (key.endswith("/") and size == 0)

    def _named(self, key: str, size: int) -> Named:
        return Named(cursor=key, key=key, path=key[self._folder :], size=size, filename=key.rpartition("/")[2])
