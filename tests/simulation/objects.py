"""The object store of a run, as the service and its workers see it."""

import zlib
from collections.abc import Callable
from typing import Final, NamedTuple

from tests.simulation.chance import Chance
from tests.simulation.loop import Later
from worker.errors import ObjectMissing, Unavailable

PAGE: Final = 7
"""Most keys of a page, so that there are several."""
LATE_S: Final = 4.0


class Listed(NamedTuple):
    """One object, of a listing or looked at."""

    key: str
    size: int
    etag: str


class SimObjects:
    """Keys, bytes, and uploads that were begun. What the service asks of it may fail or take a while; what workers and
    people do with it happens at once."""

    def __init__(self, chance: Chance, now_s: Callable[[], float]) -> None:
        self.objects: dict[str, bytes] = {}
        self.begun: dict[tuple[str, str], float] = {}
        """Uploads, by key and id: since when."""
        self.written_at: dict[str, float] = {}
        self.is_fickle = False
        """Whether reads and lists fail too: only where there are archives."""
        self.aborts: Callable[[str, float], None] = lambda *_: None
        """Told of each upload that is given up."""
        self._chance, self._now_s = chance, now_s
        self._late = chance.stream("objects")
        self._uploads = 0

    # ---- as the service has it

    def delete(self, key: str) -> None:
        """Nothing, where there is none."""
        if self._chance.hits("objects.fail"):
            raise OSError("the object store is away")
        self.objects.pop(key, None)

    def read(self, key: str, limit: int) -> bytes:
        """The bytes of one."""
        self._may_fail()
        if key not in self.objects:
            raise ObjectMissing
        return self.objects[key][:limit]

    def head(self, key: str) -> Listed:
        """Size and ETag."""
        self._may_fail()
        if key not in self.objects:
            raise ObjectMissing
        return self.info(key)

    def put(self, key: str, body: bytes, content_type: str) -> Listed:
        """Store it."""
        self._may_fail()
        self.store(key, body)
        return self.info(key)

    def list(self, prefix: str, after: str | None = None, limit: int = 1000) -> list[Listed]:
        """A page of keys."""
        self._may_fail()
        keys = sorted(key for key in self.objects if key.startswith(prefix) and key > (after or ""))
        return [self.info(key) for key in keys[: min(limit, PAGE)]]

    def uploads(self, prefix: str) -> "list[tuple[str, str]]":
        """Those that were begun."""
        self._may_fail()
        return sorted(begun for begun in self.begun if begun[0].startswith(prefix))

    def abort_upload(self, key: str, upload: str) -> None:
        """Nothing, where there is none."""
        self._may_fail()
        begun_s = self.begun.pop((key, upload), None)
        if begun_s is not None:
            self.aborts(key, begun_s)

    def info(self, key: str) -> Listed:
        """Of one that is there."""
        body = self.objects[key]
        return Listed(key, len(body), f"{zlib.crc32(body):08x}")

    def _may_fail(self) -> None:
        """What comes late is done whether or not somebody still waits for it."""
        if not self.is_fickle:
            return
        if self._chance.hits("objects.fail"):
            raise Unavailable("the object store is away")
        if self._chance.hits("objects.late"):
            raise Later(LATE_S * self._late.random())

    # ---- as workers and people have it

    def store(self, key: str, body: bytes) -> None:
        """Put an object where it belongs."""
        self.objects[key] = body
        self.written_at[key] = self._now_s()

    def begin(self, key: str) -> str:
        """The id of a new upload."""
        self._uploads += 1
        upload = f"u{self._uploads}"
        self.begun[(key, upload)] = self._now_s()
        return upload
