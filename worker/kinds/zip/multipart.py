"""An archive on its way into an object: in parts of one size, uploaded while the next are made, with a checkpoint after
each, so that whoever goes on loses the parts that are under way at most."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, NamedTuple, Protocol

from worker.errors import ObjectMissing, Unavailable
from worker.kinds.zip.state import Done, Mark, Saved
from worker.objects.base import ObjectInfo, ObjectStore
from worker.objects.uploads import MOST_PARTS, Uploaded, Uploads

PART_BYTES: Final = 16 * 1024 * 1024
AT_ONCE: Final = 2
"""Parts that are uploaded while the next one grows: with it three times PART_BYTES in memory."""
CONTENT_TYPE: Final = "application/zip"
GONE: Final = "the upload of the archive is not there any more: another try begins it anew"

Save = Callable[[Saved], None]


class Objects(ObjectStore, Uploads, Protocol):
    """A store that takes uploads in parts."""


def part_bytes(expected: int) -> int:
    """Of an archive of about that size: as many parts as a store takes, with room for a mistake."""
    part = PART_BYTES
    while expected > part * MOST_PARTS // 2:
        part *= 2
    return part


class _Cut(NamedTuple):
    """A part under way, and the last mark before its end."""

    uploading: "Future[Uploaded]"
    mark: Mark


class Multipart:
    """A sink. Use it as a context: what is left open then is for the next to go on, or given up where nobody can."""

    def __init__(
        self, objects: Objects, key: str, metadata: Mapping[str, str], save: Save | None, *, made_by: str, part: int,
        saved: Saved | None,
    ) -> None:  # fmt: skip
        """`save` None: there are no checkpoints. `saved`: of an upload that is there (`resumable`)."""
        self._objects, self._key, self._metadata, self._save = objects, key, metadata, save
        self._made_by = made_by
        self._part = saved.part_bytes if saved is not None else part
        self._upload = saved.upload if saved is not None else None
        self._etags = list(saved.etags) if saved is not None else []
        self._skip = len(self._etags) * self._part - saved.mark.offset if saved is not None else 0
        self._buffer = bytearray()
        self._cuts: deque[_Cut] = deque()
        self._numbered = len(self._etags)
        self._mark = Mark()
        self._done: Sequence[Done] = ()
        self._unfit: Mapping[str, str] = {}
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="upload")

    def __enter__(self) -> "Multipart":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        if self._save is None:
            self.give_up()

    # ---- as a sink

    def mark(self, mark: Mark, done: Sequence[Done], unfit: Mapping[str, str]) -> None:
        """As `Sink.mark`."""
        self._mark, self._done, self._unfit = mark, done, unfit

    def write(self, data: bytes) -> None:
        """As `Sink.write`. Raises what an upload of before has failed with."""
        if self._skip:
            skipped = min(self._skip, len(data))
            self._skip -= skipped
            data = data[skipped:]
        while len(self._buffer) + len(data) >= self._part:
            room = self._part - len(self._buffer)
            self._buffer += data[:room]
            data = data[room:]
            self._flush()
        self._buffer += data

    def restart(self) -> None:
        """As `Sink.restart`: the upload is given up, and another one begun."""
        self._wait(0)
        self.give_up()
        self._buffer.clear()
        self._etags.clear()
        self._skip = self._numbered = 0

    # ---- uploading

    def _flush(self) -> None:
        """What has grown is a part, without a copy of it."""
        part, self._buffer = self._buffer, bytearray()
        self._send(part)

    def _send(self, body: bytes | bytearray) -> None:
        self._wait(AT_ONCE - 1)
        if self._upload is None:
            self._upload = self._objects.begin_upload(self._key, CONTENT_TYPE, self._metadata)
            self._checkpoint(Mark())  # so that it is found, whatever happens
        self._numbered += 1
        put = self._pool.submit(self._objects.put_part, self._key, self._upload, self._numbered, body)
        self._cuts.append(_Cut(put, self._mark))

    def _wait(self, most: int) -> None:
        """Until no more parts than that are under way. After each, in their order, there is a checkpoint."""
        while len(self._cuts) > most:
            cut = self._cuts.popleft()
            try:
                self._etags.append(cut.uploading.result().etag)
            except ObjectMissing as error:
                raise Unavailable(GONE) from error
            self._checkpoint(cut.mark)

    def _checkpoint(self, mark: Mark) -> None:
        if self._save is not None:
            self._save(
                Saved(
                    made_by=self._made_by, upload=self._upload or "", part_bytes=self._part, etags=list(self._etags),
                    mark=mark, done=list(self._done[: mark.members]), unfit=dict(self._unfit),
                )
            )  # fmt: skip

    def complete(self, size: int) -> ObjectInfo:
        """All `size` bytes are written: make the object. A lost answer is no reason to fail: it may be there."""
        if self._buffer or not self._numbered:
            self._flush()
        self._wait(0)
        try:
            made = self._objects.complete_upload(self._key, self._upload or "", self._etags)
        except ObjectMissing as error:
            made = self._found(size, error)
        self._upload = None
        return made

    def _found(self, size: int, error: ObjectMissing) -> ObjectInfo:
        try:
            made = self._objects.head(self._key)
        except ObjectMissing:
            raise Unavailable(GONE) from error
        if made.size != size:
            raise Unavailable(GONE) from error
        return made

    def give_up(self) -> None:
        """Nothing of it stays."""
        if self._upload is not None:
            self._objects.abort_upload(self._key, self._upload)
            self._upload = None


def resumable(objects: Objects, key: str, saved: Saved, made_by: str) -> bool:
    """Whether a checkpoint can be gone on with: it is of the same archive, and its parts are there."""
    if saved.made_by != made_by or not saved.etags:
        return False
    try:
        there = objects.parts(key, saved.upload)
    except ObjectMissing:
        return False
    wanted = {number: Uploaded(saved.part_bytes, etag) for number, etag in enumerate(saved.etags, start=1)}
    return all(there.get(number) == part for number, part in wanted.items())
