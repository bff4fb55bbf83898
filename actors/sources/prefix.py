"""Every object under a prefix, in the order of the keys, in pages with a durable cursor."""

import asyncio
import mimetypes
from typing import Final

from actors.sources.base import Objects, check_key
from worker.contract import FileRef

PAGE: Final = 1000
MANIFEST_NAME: Final = "_manifest.json"


def check(prefix: str) -> None:
    """Refuse a prefix that no key can have.

    Raises:
        InvalidInput: says what is wrong.
    """
    check_key(prefix.removesuffix("/"), "r2_prefix")


async def page(objects: Objects, prefix: str, after: str | None) -> tuple[list[FileRef], str | None]:
    """The next files after the key `after`, and the new cursor; an empty page is the end."""
    cursor = after or None
    while True:
        found = await asyncio.to_thread(lambda start: list(objects.list(prefix, start, PAGE)), cursor)
        if not found:
            return [], cursor
        cursor = found[-1].key
        files = [_file(one.key, one.size) for one in found if not one.key.endswith(("/", f"/{MANIFEST_NAME}"))]
        if files:
            return files, cursor


def _file(key: str, size: int) -> FileRef:
    name = key.rsplit("/", 1)[-1]
    kind, _ = mimetypes.guess_type(name)
    return FileRef(
        r2_key=key,
        logical_path=f"/{key}",
        file_name=name,
        file_size=size,
        content_type=kind or "application/octet-stream",
    )
