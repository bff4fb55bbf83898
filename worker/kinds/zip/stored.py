"""The objects below a prefix, or of a list of keys, as what goes into an archive."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from worker.errors import ObjectMissing
from worker.kinds.zip.names import Names
from worker.kinds.zip.source import Member
from worker.objects.base import ObjectInfo, ObjectStore, check_key

PAGE: Final = 1000
AT_ONCE: Final = 10
"""HEADs side by side."""


def below(objects: ObjectStore, prefix: str, names: Names) -> list[Member]:
    """All whose keys begin with the prefix, in the order of their keys' bytes. Their paths begin behind the last slash
    of the prefix. Raises what the store does."""
    folder = len(prefix.rpartition("/")[0]) + 1 if "/" in prefix else 0
    listed = (info for info in _listed(objects, prefix) if not info[0].endswith("/") or info[1])
    found = sorted(listed, key=lambda info: info[0].encode())  # without what consoles make for a folder
    return [Member(key=key, path=names.give(key[folder:]), size=size, etag=etag) for key, size, etag in found]


def _listed(objects: ObjectStore, prefix: str) -> Iterator[tuple[str, int, str]]:
    after: str | None = None
    while True:
        page = objects.list(prefix, after, PAGE)
        yield from page
        if len(page) < PAGE:
            return
        after = page[-1].key


def named(objects: ObjectStore, keys: Iterable[str], names: Names) -> list[Member]:
    """Those of these keys, each once, in the order given. One that has no object is a member that cannot be read, so
    that it is told of. Raises BadInput for a key that cannot be one."""
    asked = [check_key(key) for key in dict.fromkeys(keys)]

    def look(key: str) -> ObjectInfo:
        try:
            return objects.head(key)
        except ObjectMissing:
            return ObjectInfo(key, 0, "")

    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(look, asked))
    return [Member(key=key, path=names.give(key), size=size, etag=etag) for key, size, etag in found]
