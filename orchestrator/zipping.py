"""Several objects as one ZIP that is written while they are read: no file, one chunk in memory."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Final, NamedTuple
from zipfile import ZIP_DEFLATED

from zipstream import ZipStream

from worker.errors import ObjectMissing
from worker.objects.base import Opened

LEVEL: Final = 6
MISSING: Final = "MISSING.txt"


class Entry(NamedTuple):
    """What is to be in the archive: its name there, and what opens it."""

    name: str
    open: Callable[[], Opened]


async def stream(entries: AsyncIterator[Entry]) -> AsyncIterator[bytes]:
    """The archive. What is not there any more is listed in MISSING.txt, its last file; what breaks off while it is read
    ends the answer, so that nobody takes half an archive for a whole one."""
    archive = ZipStream(compress_type=ZIP_DEFLATED, compress_level=LEVEL)
    missing: list[str] = []
    names: set[str] = set()
    async for entry in entries:
        try:
            opened = await asyncio.to_thread(entry.open)
        except ObjectMissing:
            missing.append(entry.name)
            continue
        try:
            archive.add(opened.chunks, unused(entry.name, names), size=opened.size)
            async for chunk in on_a_thread(archive.all_files()):
                yield chunk
        finally:
            opened.close()
    if missing:
        archive.add("".join(f"{name}\n" for name in missing), MISSING)
    async for chunk in on_a_thread(archive.finalize()):
        yield chunk


async def on_a_thread(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    """The same, each made on a thread."""
    iterator: Iterator[bytes] = iter(chunks)
    while (chunk := await asyncio.to_thread(next, iterator, None)) is not None:
        yield chunk


def unused(name: str, used: set[str]) -> str:
    """The name, or `name (2).xml` where another entry has it; adds it to `used`."""
    stem, dot, ending = name.rpartition(".")
    given, number = name, 1
    while given in used:
        number += 1
        given = f"{stem} ({number}){dot}{ending}" if dot else f"{name} ({number})"
    used.add(given)
    return given
