"""One task of the kind "zip": the files that a list names become one archive in the object store."""

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import msgspec

from worker import space
from worker.errors import BadInput, ObjectMissing, Unavailable
from worker.kinds.base import Context, Outcome
from worker.kinds.zip import state
from worker.kinds.zip.archive import REMOTE_THREADS, Progress, Summary, created_s, write
from worker.kinds.zip.codec import Codec, codec
from worker.kinds.zip.manifest import MANIFEST, README, About, readme
from worker.kinds.zip.multipart import Multipart, Objects, part_bytes, resumable
from worker.kinds.zip.names import safe
from worker.kinds.zip.source import Linked, Member
from worker.kinds.zip.state import Saved
from worker.limits import cores
from worker.objects.base import check_key

log = logging.getLogger("worker.kinds.zip")

CHECKPOINT_BYTES: Final = 1 << 28
FORMAT: Final = 1
"""Of the archives that are made: to be raised with whatever changes a byte of one."""
SAMPLE: Final = bytes(range(256)) * 256 + b"the quick brown fox jumps over the lazy dog. " * 1500


class ArchiveOptions(About, frozen=True, kw_only=True):
    """ARCHIVE_OPTIONS: what the archive is of, and how it is packed. `files` and `bytes` are what the list has."""

    title: str = "Archive"
    level: int = 6
    codec: str = "zlib-ng"
    files: int = 0
    bytes: int = 0


def run(context: Context) -> Outcome:
    """Reads INPUT_R2_KEY, a member as JSON on each line, and writes OUTPUT_R2_KEY. With CHECKPOINT_R2_KEY an attempt
    goes on where the one before was after its last upload part. Raises WorkerError."""
    env, objects = context.env, _objects(context)
    options, packer = _options(env)
    key = check_key(env["OUTPUT_R2_KEY"])
    members = context.folder / "members.jsonl"
    with space.writing():
        listed = objects.get_file(env["INPUT_R2_KEY"], members, context.until())
    about = _about(options)
    made_by = _fingerprint(about, packer, listed.etag, key)
    checkpoint = _Checkpoint(objects, env.get("CHECKPOINT_R2_KEY"))
    saved = checkpoint.load(key, made_by)
    if saved is not None:
        log.info("[Zip] goes on after part %d", len(saved.etags))

    def tell(progress: Progress) -> None:
        context.check_wanted()
        context.tell(msgspec.to_builtins(progress))

    with Multipart(
        objects, key, _metadata(options), checkpoint.saves, made_by=made_by, part=part_bytes(options.bytes), saved=saved
    ) as sink:
        summary = write(
            lambda: _members(members), Linked(objects), sink, about=about, codec=packer,
            threads=cores() if env.get("OBJECTS_DIR") else REMOTE_THREADS, tell=tell, saved=saved,
        )  # fmt: skip
        stored = sink.complete(summary.size)
    checkpoint.remove()
    return Outcome(
        output_r2_key=key,
        output_file_name=key.rpartition("/")[2],
        output_file_size=stored.size,
        performance=_performance(summary),
    )


class _Checkpoint:
    """The object in which an attempt writes how far it is, for the next one."""

    def __init__(self, objects: Objects, key: str | None) -> None:
        self._objects, self._key = objects, check_key(key) if key else None

    def load(self, output: str, made_by: str) -> Saved | None:
        """Where there is one to go on with. One that is of no use is given up, with its upload."""
        if self._key is None:
            return None
        try:
            saved = state.unpacked(self._objects.read(self._key, CHECKPOINT_BYTES))
        except ObjectMissing:
            return None
        except BadInput as error:
            log.warning("[Zip] %s It begins anew.", error)
            for begun, upload in self._objects.uploads(output):
                if begun == output:
                    self._objects.abort_upload(output, upload)
            return None
        if resumable(self._objects, output, saved, made_by):
            return saved
        self._objects.abort_upload(output, saved.upload)
        return None

    @property
    def saves(self) -> Callable[[Saved], None] | None:
        """None without a key."""
        return None if self._key is None else self._save

    def _save(self, saved: Saved) -> None:
        self._objects.put(self._key or "", state.packed(saved), "application/octet-stream")

    def remove(self) -> None:
        if self._key is not None:
            self._objects.delete(self._key)


def _objects(context: Context) -> Objects:
    """The store with uploads in parts; presigned URLs have none."""
    if not hasattr(context.objects, "begin_upload"):
        raise Unavailable("an archive needs the keys of the object store, not presigned URLs")
    found: Any = context.objects
    return found  # type: ignore[no-any-return]


def _options(env: Mapping[str, str]) -> tuple[ArchiveOptions, Codec]:
    try:
        options = msgspec.json.decode(env.get("ARCHIVE_OPTIONS") or "{}", type=ArchiveOptions)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadInput(f"ARCHIVE_OPTIONS is not valid: {error}") from error
    created_s(options.created_at)
    return options, codec(options.codec, options.level)


def _fingerprint(about: About, packer: Codec, list_etag: str, key: str) -> str:
    """Of all that decides about the bytes: where one of it is another, what is uploaded is no part of this archive. How
    the codec packs depends on its library and on the processor, so it packs a sample."""
    sample = packer.deflate(SAMPLE, b"", True)
    told = [FORMAT, readme(about), packer[:3], sample, list_etag, key]
    return hashlib.sha256(msgspec.msgpack.encode(told)).hexdigest()


def _about(options: ArchiveOptions) -> About:
    return About(**{name: getattr(options, name) for name in About.__struct_fields__})


def _metadata(options: ArchiveOptions) -> dict[str, str]:
    told = {
        "export-id": options.export_id, "user-id": options.user_id, "export-type": options.export_type,
        "file-count": options.files, "total-size": options.bytes,
    }  # fmt: skip
    return {name: quote(str(value), safe=" /:@") for name, value in told.items() if value is not None}  # S3 takes ASCII


def _members(path: Path) -> Iterator[Member]:
    seen = {README, MANIFEST}
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                member = msgspec.json.decode(line, type=Member)
            except msgspec.DecodeError as error:
                raise BadInput(f"Line {number} of the list is no member: {error}") from error
            if member.path in seen or safe(member.path) != member.path:
                raise BadInput(f"Line {number} of the list has a path that is not safe, or is there before")
            seen.add(member.path)
            yield member


def _performance(summary: Summary) -> dict[str, Any]:
    told: dict[str, Any] = msgspec.to_builtins(summary)
    return told | {"missing": len(summary.missing), "left_out": summary.missing[:100]}
