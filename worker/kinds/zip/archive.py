"""An archive, written as its files are read: README.txt, the files in their order, manifest.json."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, Protocol

import msgspec

from worker.kinds.zip import container, packing
from worker.kinds.zip.codec import BLOCK_BYTES, Codec, crc32, crc32_combine
from worker.kinds.zip.container import Entry
from worker.kinds.zip.manifest import MANIFEST, README, About, Manifest, readme
from worker.kinds.zip.packing import Block, LeftOut, Whole
from worker.kinds.zip.source import Member, Reads

WINDOW_BYTES: Final = 24 * 1024 * 1024
"""Of input, that may be read and not yet written: bounds the memory, whatever the sizes of the files."""


class Sink(Protocol):
    """Where the archive goes."""

    def write(self, data: bytes, /) -> object: ...

    def restart(self) -> None:
        """Forget all that was written."""


class Progress(msgspec.Struct, frozen=True):
    """So far: files in the archive, files left out, bytes read of them, bytes written."""

    files: int
    missing: int
    bytes: int
    written: int


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What became of it. `missing`: the files left out, each with its key and the reason; sizes in bytes."""

    files: int
    bytes: int
    size: int
    missing: list[dict[str, str]]


class _StartAgain(Exception):
    """A file has become unfit when a part of it was written already."""

    def __init__(self, left_out: LeftOut) -> None:
        self.left_out = left_out


def write(
    members: Callable[[], Iterable[Member]], store: Reads, sink: Sink, *, about: About, codec: Codec, threads: int,
    tell: Callable[[Progress], None] = lambda progress: None,
) -> Summary:  # fmt: skip
    """Write the archive of these members, which are listed anew by each call. `tell` hears how far it is, often, and
    may raise to end it.

    A file that has changed or vanished is left out, with its reason in the manifest. Where a part of it was written,
    the archive is begun again without it.

    Raises WorkerError where a file cannot be had at the moment.
    """
    unfit: dict[str, str] = {}
    while True:
        writing = _Writing(store, sink, about, codec, threads, unfit, tell)
        try:
            return writing.run(members())
        except _StartAgain as again:
            unfit[again.left_out.member.path] = again.left_out.reason
            sink.restart()


class _Writing:
    def __init__(
        self, store: Reads, sink: Sink, about: About, codec: Codec, threads: int, unfit: dict[str, str],
        tell: Callable[[Progress], None],
    ) -> None:  # fmt: skip
        self._store, self._sink, self._about, self._codec = store, sink, about, codec
        self._threads, self._unfit, self._tell = threads, unfit, tell
        self._manifest = Manifest(about, codec)
        self._directory = bytearray()
        self._entries = self._offset = self._read = 0
        self._large: _Large | None = None

    def run(self, members: Iterable[Member]) -> Summary:
        self._add(README, readme(self._about))
        with self._workers() as submit:
            for made in self._made(submit, members):
                self._take(made)
                self._say()
        self._manifest.end()
        text = self._manifest.text
        self._entry(
            Entry(MANIFEST, container.DEFLATED, self._changed_s, self._offset, text.crc, text.size,
                  sum(map(len, text.packed))), *text.packed,
        )  # fmt: skip
        start = self._offset
        self._put(bytes(self._directory))
        self._put(container.end(self._entries, start, len(self._directory)))
        self._say()
        return Summary(
            files=self._manifest.files, bytes=self._manifest.bytes, size=self._offset, missing=self._manifest.missing
        )

    # ---- reading ahead

    @contextmanager
    def _workers(self) -> Iterator[Callable[..., Callable[[], Any]]]:
        """Gives out jobs, each for what waits for its result. One thread is this one: to hand over to another would
        take a third of the time that a small file needs."""
        if self._threads == 1:
            yield partial
            return
        with ThreadPoolExecutor(self._threads, thread_name_prefix="zip") as pool:
            try:
                yield lambda job, *arguments: pool.submit(job, *arguments).result
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _made(self, submit: Callable[..., Callable[[], Any]], members: Iterable[Member]) -> Iterator[Any]:
        """What comes of the jobs, in their order; so many are under way as the window holds."""
        window = WINDOW_BYTES if self._threads > 1 else 0
        ahead: deque[tuple[int, Callable[[], Any]]] = deque()
        weight = 0
        for size, job, *arguments in self._jobs(members):
            while ahead and weight + size > window:
                weight -= ahead[0][0]
                yield ahead.popleft()[1]()
            ahead.append((size, submit(job, self._store, *arguments)))
            weight += size
        while ahead:
            yield ahead.popleft()[1]()

    def _jobs(self, members: Iterable[Member]) -> Iterator[tuple[Any, ...]]:
        """How much of the window each takes, what it does, and with what."""
        for group in packing.groups(self._fit(members)):
            if not packing.is_large(group[0]):
                yield sum(member.size for member in group), packing.small, group, self._codec
                continue
            begun = packing.begin(self._store, group[0], self._codec)
            if isinstance(begun, LeftOut):
                yield 0, _same, begun
                continue
            for n in range(packing.blocks(begun.member)):
                yield 2 * BLOCK_BYTES, packing.block, begun, n

    def _fit(self, members: Iterable[Member]) -> Iterator[Member]:
        for member in members:
            if (reason := self._unfit.get(member.path)) is not None:
                self._manifest.leave_out(member, reason)
            else:
                yield member

    # ---- writing

    def _take(self, made: "list[Whole | LeftOut] | Block | LeftOut") -> None:
        for each in made if isinstance(made, list) else (made,):
            if isinstance(each, Whole):
                self._read += each.member.size
                entry = Entry(
                    each.member.path, each.method, each.changed_s, self._offset, each.crc, each.member.size,
                    len(each.data),
                )  # fmt: skip
                self._entry(entry, each.data)
                self._manifest.add(each.member, each.crc, each.sha256)
            elif isinstance(each, Block):
                self._take_block(each)
            else:
                self._leave_out(each)

    def _take_block(self, block: Block) -> None:
        member = block.begun.member
        if block.n == 0:
            entry = Entry(
                member.path, container.DEFLATED, block.begun.changed_s, self._offset, size=member.size,
                is_streamed=True,
            )  # fmt: skip
            self._large = _Large(entry)
            self._put(container.local_header(entry))
        large = self._large
        if large is None or large.entry.name != member.path:
            return  # it was left out with its first block
        large.add(block)
        self._read += len(block.raw)
        self._put(block.data)
        if block.n == packing.blocks(member) - 1:
            entry = large.ended()
            self._put(container.descriptor(entry, is_wide=member.size >= container.LARGE))
            self._directory += container.directory_entry(entry)
            self._entries += 1
            self._manifest.add(member, entry.crc, large.digest.hexdigest())
            self._large = None

    def _leave_out(self, left_out: LeftOut) -> None:
        member = left_out.member
        if self._large is not None and self._large.entry.name == member.path:
            raise _StartAgain(left_out)
        if not any(each["path"] == member.path for each in self._manifest.missing[-1:]):  # each of its blocks says so
            self._manifest.leave_out(member, left_out.reason)

    def _add(self, name: str, data: bytes) -> None:
        packed = self._codec.deflate(data, b"", True)
        self._entry(
            Entry(name, container.DEFLATED, self._changed_s, self._offset, crc32(data), len(data), len(packed)), packed
        )

    def _entry(self, entry: Entry, *data: bytes) -> None:
        self._put(container.local_header(entry))
        for piece in data:
            self._put(piece)
        self._directory += container.directory_entry(entry)
        self._entries += 1

    def _put(self, data: bytes) -> None:
        self._sink.write(data)
        self._offset += len(data)

    def _say(self) -> None:
        self._tell(Progress(self._manifest.files, len(self._manifest.missing), self._read, self._offset))

    @property
    def _changed_s(self) -> float:
        return created_s(self._about.created_at)


class _Large:
    """The large file that is being written."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.digest = hashlib.sha256()
        self._crc = self._size = self._packed = 0

    def add(self, block: Block) -> None:
        self.digest.update(block.raw)
        self._crc = crc32_combine(self._crc, block.crc, len(block.raw))
        self._size += len(block.raw)
        self._packed += len(block.data)

    def ended(self) -> Entry:
        return self.entry._replace(crc=self._crc, size=self._size, packed_size=self._packed)


def _same(store: Reads, left_out: LeftOut) -> LeftOut:
    return left_out


def created_s(created_at: str) -> float:
    """Seconds since 1970 UTC, of a time in ISO 8601."""
    from datetime import UTC, datetime

    moment = datetime.fromisoformat(created_at)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
