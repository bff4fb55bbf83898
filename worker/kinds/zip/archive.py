"""An archive, written as its files are read: README.txt, the files in their order, manifest.json."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from typing import Any, Final, Protocol

import msgspec

from worker.errors import BadInput
from worker.kinds.zip import container, packing
from worker.kinds.zip.codec import BLOCK_BYTES, Codec, crc32, crc32_combine
from worker.kinds.zip.container import Entry
from worker.kinds.zip.digest import Digest
from worker.kinds.zip.manifest import MANIFEST, README, About, Manifest, readme
from worker.kinds.zip.packing import Begun, Block, LeftOut, Whole
from worker.kinds.zip.source import CHANGED, Member, Reads
from worker.kinds.zip.state import Done, Mark, Saved

WINDOW_BYTES: Final = 24 * 1024 * 1024
"""Of input, that may be read and not yet written: bounds the memory, whatever the sizes of the files."""
FILE_BYTES: Final = 4096
"""What each file takes of the window beside its bytes: millions may be empty."""
REMOTE_THREADS: Final = 64
"""For objects behind a network: each waits for its answer for most of the time."""
_BEGINNING: Final = Mark()


class Sink(Protocol):
    """Where the archive goes."""

    def write(self, data: bytes, /) -> object: ...

    def mark(self, mark: Mark, done: Sequence[Done], unfit: Mapping[str, str], /) -> None:
        """What was written so far can be gone on with from here: `done` are the members behind, and grow."""

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
    tell: Callable[[Progress], None] = lambda progress: None, saved: Saved | None = None,
) -> Summary:  # fmt: skip
    """Write the archive of these members, which are listed anew by each call. `tell` hears how far it is, often, and
    may raise to end it.

    A file that has changed or vanished is left out, with its reason in the manifest. Where a part of it was written,
    the archive is begun again without it.

    `saved`: go on from there; the sink has what is before.

    Raises WorkerError where a file cannot be had at the moment.
    """
    unfit = dict(saved.unfit) if saved is not None else {}
    while True:
        writing = _Writing(store, sink, about, codec, threads, unfit, tell)
        try:
            return writing.run(iter(members()), saved)
        except _StartAgain as again:
            unfit[again.left_out.member.path] = again.left_out.reason
            sink.restart()
            saved = None


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
        self._done: list[Done] = []
        self._large: _Large | None = None
        self._left_out: str | None = None
        self._digests: ThreadPoolExecutor | None = None

    def run(self, members: Iterator[Member], saved: Saved | None) -> Summary:
        if saved is None:
            self._entry(*self._own_entry(README, readme(self._about)))
        with self._hasher(), self._workers() as submit:
            jobs = self._jobs(members) if saved is None else self._jobs_after(members, saved)
            self._mark()
            for made in self._made(submit, jobs):
                self._take(made)
                self._say()
        self._mark()
        self._end()
        return Summary(
            files=self._manifest.files, bytes=self._manifest.bytes, size=self._offset, missing=self._manifest.missing
        )

    def _end(self) -> None:
        self._manifest.end()
        text = self._manifest.text
        self._entry(
            Entry(MANIFEST, container.DEFLATED, created_s(self._about.created_at), self._offset, text.crc, text.size,
                  sum(map(len, text.packed))), *text.packed,
        )  # fmt: skip
        start = self._offset
        self._put(bytes(self._directory))
        self._put(container.end(self._entries, start, len(self._directory)))
        self._say()

    # ---- going on

    def _jobs_after(self, members: Iterator[Member], saved: Saved) -> Iterator[tuple[Any, ...]]:
        """What is left to do behind a mark; what is before it comes into directory and manifest again."""
        mark = saved.mark
        self._register(self._own_entry(README, readme(self._about))[0])
        for done in saved.done[: mark.members]:
            self._repeat(done, next(members))
        self._offset = mark.offset
        if not mark.block:
            return self._jobs(members)
        member = next(members)
        begun = packing.begin(self._store, member, self._codec)
        if isinstance(begun, LeftOut):
            raise _StartAgain(begun)
        if begun.etag != mark.etag:
            raise _StartAgain(LeftOut(member, CHANGED))
        self._large = _Large(self._streamed(begun, mark.begun_at), begun.etag, Digest(self._digests), mark)
        for n in range(mark.block):
            part = packing.raw(self._store, begun, n)
            if isinstance(part, LeftOut):
                raise _StartAgain(part)
            self._large.digest.update(part)
            self._read += len(part)
            self._say()
        blocks = ((2 * BLOCK_BYTES, packing.block, begun, n) for n in range(mark.block, packing.blocks(member)))
        return chain(blocks, self._jobs(members))

    def _repeat(self, done: Done, member: Member) -> None:
        self._done.append(done)
        if done.reason is not None:
            self._manifest.leave_out(member, done.reason)
            return
        entry = Entry(
            member.path, done.method, done.changed_s, done.offset, done.crc, member.size, done.packed_size,
            done.is_streamed,
        )  # fmt: skip
        self._register(entry)
        self._read += member.size
        self._manifest.add(member, done.crc, done.sha256.hex())

    def _mark(self) -> None:
        """Here it can be gone on."""
        large = self._large
        if large is None:
            mark = Mark(offset=self._offset, members=len(self._done))
        else:
            mark = Mark(
                self._offset,
                len(self._done),
                large.blocks,
                large.entry.offset,
                large.crc,
                large.size,
                large.packed,
                large.etag,
            )
        self._sink.mark(mark, self._done, self._unfit)

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

    @contextmanager
    def _hasher(self) -> Iterator[None]:
        """Large files have their digests from it. One thread is this one, for digests too."""
        if self._threads == 1:
            yield
            return
        with ThreadPoolExecutor(1, thread_name_prefix="sha256") as self._digests:
            yield

    def _made(self, submit: Callable[..., Callable[[], Any]], jobs: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """What comes of the jobs, in their order; so many are under way as the window holds."""
        window = WINDOW_BYTES if self._threads > 1 else 0
        ahead: deque[tuple[int, Callable[[], Any]]] = deque()
        weight = 0
        for size, job, *arguments in jobs:
            while ahead and weight + size > window:
                weight -= ahead[0][0]
                yield ahead.popleft()[1]()
            ahead.append((size, submit(job, self._store, *arguments)))
            weight += size
        while ahead:
            yield ahead.popleft()[1]()

    def _jobs(self, members: Iterable[Member]) -> Iterator[tuple[Any, ...]]:
        """How much of the window each takes, what it does, and with what."""
        for group in packing.groups(members):
            if not packing.is_large(group[0]):
                yield sum(member.size + FILE_BYTES for member in group), packing.small, group, self._codec, self._unfit
                continue
            reason = self._unfit.get(group[0].path)
            begun = packing.begin(self._store, group[0], self._codec) if reason is None else LeftOut(group[0], reason)
            if isinstance(begun, LeftOut):
                yield FILE_BYTES, _same, begun
                continue
            for n in range(packing.blocks(begun.member)):
                yield 2 * BLOCK_BYTES, packing.block, begun, n

    # ---- writing

    def _take(self, made: "list[Whole | LeftOut] | Block | LeftOut") -> None:
        for each in made if isinstance(made, list) else (made,):
            if isinstance(each, Whole):
                self._take_whole(each)
            elif isinstance(each, Block):
                self._take_block(each)
            else:
                self._leave_out(each)
            self._mark()

    def _take_whole(self, whole: Whole) -> None:
        member = whole.member
        entry = Entry(member.path, whole.method, whole.changed_s, self._offset, whole.crc, member.size, len(whole.data))
        self._entry(entry, whole.data)
        self._read += member.size
        self._is_in(entry, member, whole.sha256)

    def _take_block(self, block: Block) -> None:
        member = block.begun.member
        if block.n == 0:
            entry = self._streamed(block.begun, self._offset)
            self._large = _Large(entry, block.begun.etag, Digest(self._digests))
            self._put(container.local_header(entry))
        large = self._large
        if large is None:
            return  # it was left out with its first block
        large.add(block)
        self._read += len(block.raw)
        self._put(block.data)
        if large.blocks == packing.blocks(member):
            entry = large.ended()
            self._put(container.descriptor(entry, is_wide=member.size >= container.LARGE))
            self._register(entry)
            self._is_in(entry, member, large.digest.digest())
            self._large = None

    def _streamed(self, begun: Begun, offset: int) -> Entry:
        member = begun.member
        return Entry(member.path, container.DEFLATED, begun.changed_s, offset, size=member.size, is_streamed=True)

    def _is_in(self, entry: Entry, member: Member, sha256: bytes) -> None:
        self._manifest.add(member, entry.crc, sha256.hex())
        self._done.append(
            Done(
                entry.offset, entry.method, entry.changed_s, entry.crc, entry.packed_size, entry.is_streamed, sha256
            )
        )  # fmt: skip

    def _leave_out(self, left_out: LeftOut) -> None:
        member = left_out.member
        if self._large is not None:
            raise _StartAgain(left_out)
        if self._left_out != member.path:  # each of its blocks says so
            self._left_out = member.path
            self._manifest.leave_out(member, left_out.reason)
            self._done.append(Done(reason=left_out.reason))

    def _own_entry(self, name: str, data: bytes) -> tuple[Entry, bytes]:
        packed = self._codec.deflate(data, b"", True)
        changed_s = created_s(self._about.created_at)
        return Entry(name, container.DEFLATED, changed_s, self._offset, crc32(data), len(data), len(packed)), packed

    def _entry(self, entry: Entry, *data: bytes) -> None:
        self._put(container.local_header(entry))
        for piece in data:
            self._put(piece)
        self._register(entry)

    def _register(self, entry: Entry) -> None:
        self._directory += container.directory_entry(entry)
        self._entries += 1

    def _put(self, data: bytes) -> None:
        self._sink.write(data)
        self._offset += len(data)

    def _say(self) -> None:
        self._tell(Progress(self._manifest.files, len(self._manifest.missing), self._read, self._offset))


class _Large:
    """The large file that is being written: the sums of its blocks so far."""

    def __init__(self, entry: Entry, etag: str, digest: Digest, mark: Mark = _BEGINNING) -> None:
        self.entry, self.etag, self.digest = entry, etag, digest
        self.blocks, self.crc, self.size, self.packed = mark.block, mark.crc, mark.size, mark.packed_size

    def add(self, block: Block) -> None:
        self.digest.update(block.raw)
        self.crc = crc32_combine(self.crc, block.crc, len(block.raw))
        self.size += len(block.raw)
        self.packed += len(block.data)
        self.blocks += 1

    def ended(self) -> Entry:
        return self.entry._replace(crc=self.crc, size=self.size, packed_size=self.packed)


def _same(store: Reads, left_out: LeftOut) -> LeftOut:
    return left_out


def created_s(created_at: str) -> float:
    """Seconds since 1970 UTC, of a time in ISO 8601. Raises BadInput."""
    try:
        moment = datetime.fromisoformat(created_at)
    except ValueError as error:
        raise BadInput("created_at must be a time in ISO 8601, such as 2026-01-02T03:04:05Z") from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
