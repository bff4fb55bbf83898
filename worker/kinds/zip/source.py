"""What goes into an archive, and reading it. An object must be the one that was verified: the same size and ETag."""

from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

import msgspec

from worker.errors import BadInput, ObjectMissing
from worker.objects.base import Part
from worker.objects.parts import Links

CHANGED: Final = "it has changed since it was verified"
MISSING: Final = "it is not there"


class Member(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One file: the key of its object, the path that it gets in the archive, and what was found when it was verified:
    the size in bytes and the ETag, empty where the store had none to tell. `url`: where its bytes are read instead of
    by its key, presigned: a secret, which nothing that is written or shown has."""

    key: str
    path: str
    size: int
    etag: str = ""
    filename: str = ""
    product: str | None = None
    category: str | None = None
    url: str = ""

    def __repr__(self) -> str:
        return f"Member(key={self.key!r}, path={self.path!r}, size={self.size})"


class Reads(Protocol):
    """The part of an object store that is used. Raises what `ObjectStore` does."""

    def read_part(self, key: str, start: int, length: int) -> Part: ...


class Linked:
    """A store of whose members some bring a URL."""

    def __init__(self, objects: Reads) -> None:
        self.read_part, self.read_link = objects.read_part, Links().read_part


class Unfit(Exception):
    """The file cannot be in the archive, and another try does not help: why, as a sentence."""


def read(store: Reads, member: Member, start: int, length: int, *, etag: str | None = None) -> Part:
    """Exactly these bytes of the object. `etag`: of an earlier part of it, where that is known.

    Raises:
        Unfit: it is another object now, or none.
        WorkerError: it cannot be had at the moment.
    """
    try:
        part = _read(store, member)(start, max(1, length))
    except ObjectMissing as error:
        raise Unfit(MISSING) from error
    except BadInput as error:  # a key that S3 takes and we do not
        raise Unfit(str(error)) from error
    known = etag or member.etag
    if part.size != member.size or (known and part.etag and part.etag != known):
        raise Unfit(CHANGED)
    if len(part.body) != min(length, member.size - start):
        raise Unfit("it ends before its end")
    return part


def _read(store: Reads, member: Member) -> Callable[[int, int], Part]:
    if not member.url:
        return partial(store.read_part, member.key)
    if not isinstance(store, Linked):
        raise Unfit("it has a URL, and none is read here")
    return partial(store.read_link, member.url)
