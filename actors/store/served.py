"""The store as its process serves it to the others: writes to the writer, and reads for those that have no file."""

import asyncio
from pathlib import Path
from typing import Any, Self

import msgspec

from actors.store.file_reads import FileReads
from actors.store.writer import Writer

_encode = msgspec.msgpack.Encoder().encode


class Served:
    """The handler of `actors.wire` in the process that owns the file."""

    def __init__(self, writer: Writer, reads: FileReads) -> None:
        self._writer, self._reads = writer, reads

    @classmethod
    def open(cls, path: Path) -> Self:
        """Owns the file from now on: creates and migrates it."""
        return cls(Writer(path), FileReads(path))

    async def close(self) -> None:
        """Carry out what has gathered, and let go of the file."""
        await self._reads.close()
        self._writer.close()

    async def handle(self, requests: list[dict[str, Any]]) -> list[Any]:
        """Carry out a list. All its writes are of one transaction; a read does not wait for them."""
        writes = [request for request in requests if request["op"] != "read"]
        if len(writes) == len(requests):
            return await self._writer.put(requests)
        read = [self._read(request) for request in requests if request["op"] == "read"]
        written, *found = await asyncio.gather(self._writer.put(writes), *read)
        of_writes, of_reads = iter(written), iter(found)
        return [next(of_reads if request["op"] == "read" else of_writes) for request in requests]

    async def _read(self, request: dict[str, Any]) -> Any:
        try:
            return _encode(await self._reads.ask(request["question"], *request["arguments"]))
        except Exception as error:  # noqa: BLE001 - in its place of the list it is the answer
            return error
