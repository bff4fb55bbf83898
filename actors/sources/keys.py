"""The keys that a caller has listed, as what goes into an archive. They are kept in an object until it is made."""

import asyncio
from collections.abc import Sequence
from typing import Final

import msgspec

from actors.errors import InvalidInput
from actors.sources.base import Named, Objects
from worker import errors as worker_errors

PAGE: Final = 1000
MOST_BYTES: Final = 1 << 30
OBJECT: Final = "keys.json"
"""In the folder of the archive."""


def encoded(keys: Sequence[str]) -> bytes:
    """What the object holds."""
    return msgspec.json.encode(keys)


class Keys:
    """In the order of the list. The whole list is in memory: it came in one request."""

    def __init__(self, objects: Objects, key: str) -> None:
        self._objects, self._key = objects, key
        self._keys: list[str] | None = None

    async def page(self, after: str) -> list[Named]:
        """As `Listing.page`. Raises InvalidInput where the list is not there any more."""
        if self._keys is None:
            self._keys = await asyncio.to_thread(self._read)
        first = int(after or 0)
        return [
            Named(cursor=str(n), key=key, path=key, size=0, filename=key.rpartition("/")[2])
            for n, key in enumerate(self._keys[first : first + PAGE], start=first + 1)
        ]

    def _read(self) -> list[str]:
        try:
            return msgspec.json.decode(self._objects.read(self._key, MOST_BYTES), type=list[str])
        except (worker_errors.ObjectMissing, msgspec.DecodeError) as error:
            raise InvalidInput("The list of keys is not there any more. Start the export again.") from error
