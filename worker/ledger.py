"""What earlier runs of `arke convert` have made, so that nothing is made twice and nothing foreign is overwritten.

Each folder with results holds a hidden file of JSON lines, one for each JPEG: its name, size, time and digest, and the
file and options that it was made from. In a folder of its own, so that it is found whichever folder above was named.

A JPEG appears whole or not at all: it is written as a draft beside its place, flushed, entered in the ledger, and then
renamed. Killed before the entry: the draft is thrown away by the next run. Killed after it: the entry describes a file
that is not there, which means nothing. Lines are only ever appended, each with one write and its own newline before it,
so a torn one is skipped and two runs at once do not destroy each other's.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import secrets
import stat
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import msgspec

from worker import space

LEDGER_NAME: Final = ".arke-convert.jsonl"
DRAFT_PREFIX: Final = ".arke-draft-"


class Occupied(Exception):
    """Something stands where the JPEG would go that is not an earlier result of the same file; the text says what."""


class UnusableLedger(Occupied):
    """What stands in the ledger's place is no plain file, or may not be opened; the text says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"{LEDGER_NAME}, in which what was done is kept, cannot be used: {reason}")


@dataclass(frozen=True)
class Stamp:
    """What tells whether a file has changed: size in bytes, time of the last change in nanoseconds."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> Self:
        """Raises OSError."""
        status = path.stat()
        return cls(status.st_size, status.st_mtime_ns)


@dataclass(frozen=True)
class Entry:
    """One JPEG: its name, stamp and SHA-256; the path of its source from the ledger's folder, and the source's stamp
    when it was read; the options."""

    output: str
    made: Stamp
    sha256: str
    source: str
    read: Stamp
    options: dict[str, Any] = field(default_factory=dict)

    def line(self) -> bytes:
        # ASCII: a name that is no UTF-8 has lone surrogates, which JSON can only hold escaped.
        return f"\n{json.dumps(asdict(self))}\n".encode("ascii")

    @classmethod
    def parse(cls, line: bytes) -> Self | None:
        """The entry, or None for what is none: a line that a killed process left half written."""
        try:
            return msgspec.convert(json.loads(line), cls)
        except (ValueError, msgspec.ValidationError):
            return None


class Ledger:
    """The ledger of one folder. Several threads may use it, and other processes may append at the same time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / LEDGER_NAME
        self._entries: dict[str, list[Entry]] = {}
        self._read_bytes = 0
        self._busy = threading.Lock()
        self._swept = False

    def is_done(self, source: Path, target: Path, options: dict[str, Any]) -> bool:
        """Whether `target` is the result of `source` as it is now, with these options. Raises Occupied where it is
        something else than a result of `source`, or the ledger is unusable; OSError where `source` cannot be looked
        at."""
        self._check_usable()
        entry = self.result(source, target)
        return entry is not None and entry.read == Stamp.of(source) and entry.options == options

    def result(self, source: Path, target: Path) -> Entry | None:
        """The entry of an earlier result of `source` that stands at `target`; None where nothing stands there. Raises
        Occupied."""
        if not os.path.lexists(target):
            return None
        entry = self._entry_of(target)
        if entry is None:
            raise Occupied(f"{target.name} is there already and was not made by arke convert, or was changed since")
        if entry.source != self._name_of(source):
            raise Occupied(f"{target.name} is there already and was made from {entry.source}")
        return entry

    @contextlib.contextmanager
    def draft(self) -> Iterator[Path]:
        """An empty file in the folder, to be filled and published; it is gone at the end. Locked, so that another run
        sees that somebody is at work on it. Raises OSError; UnusableLedger, since it could not be published."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._check_usable()
        self._sweep()
        path = self._folder / f"{DRAFT_PREFIX}{secrets.token_hex(8)}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            with contextlib.suppress(OSError):  # a file system without locks: there, no draft is ever swept
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield path
        finally:
            os.close(descriptor)
            path.unlink(missing_ok=True)

    def publish(
        self, draft: Path, source: Path, target: Path, *, read: Stamp, options: dict[str, Any], force: bool
    ) -> None:
        """Makes `draft` the file `target`. Raises Occupied where something foreign came to stand there meanwhile,
        unless `force`; OSError."""
        if not force:
            self.result(source, target)
        _flush(draft)
        entry = Entry(target.name, Stamp.of(draft), _digest(draft), self._name_of(source), read, options)
        self._append(entry)
        draft.replace(target)

    def _append(self, entry: Entry) -> None:
        descriptor = self._open(os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            line = entry.line()
            if os.write(descriptor, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _entry_of(self, target: Path) -> Entry | None:
        """The entry that describes the file `target`: by its stamp, or by its content where a copy changed the time."""
        with self._busy:
            self._refresh()
            entries = self._entries.get(target.name, [])
            if not entries or not target.is_file():
                return None
            stamp = Stamp.of(target)
            by_stamp = [entry for entry in entries if entry.made == stamp]
            if by_stamp:
                return by_stamp[-1]
            same_size = [entry for entry in entries if entry.made.size == stamp.size]
            digest = _digest(target) if same_size else ""
            return next((entry for entry in reversed(same_size) if entry.sha256 == digest), None)

    def _refresh(self) -> None:
        """Reads the lines that were appended since."""
        try:
            with os.fdopen(self._open(os.O_RDONLY), "rb") as file:
                file.seek(self._read_bytes)
                lines = file.read()
        except FileNotFoundError:
            return
        whole = lines[: lines.rfind(b"\n") + 1]
        self._read_bytes += len(whole)
        for line in whole.splitlines():
            if (entry := Entry.parse(line)) is not None:
                self._entries.setdefault(entry.output, []).append(entry)

    def _check_usable(self) -> None:
        """Raises UnusableLedger. A folder that is not there or not open to us is told by what needs it."""
        with contextlib.suppress(OSError):
            os.close(self._open(os.O_RDONLY))

    def _open(self, flags: int) -> int:
        """Never by way of a link: whoever may write to the folder could have other files written to. Nor is a pipe
        waited for. Raises OSError; UnusableLedger where something is there that cannot be opened."""
        try:
            descriptor = os.open(self._path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        except OSError as error:
            if space.is_full(error) or not os.path.lexists(self._path):
                raise
            raise UnusableLedger(_kind_of(self._path) or error.strerror or str(error)) from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise UnusableLedger(_kind_of(self._path) or "it is no regular file")
        return descriptor

    def _name_of(self, source: Path) -> str:
        """Relative, so that folders that are moved together keep their history."""
        folder = os.path.relpath(os.path.realpath(source.parent), os.path.realpath(self._folder))
        return os.path.normpath(os.path.join(folder, source.name))

    def _sweep(self) -> None:
        """Throws away, once, the drafts of runs that were killed."""
        with self._busy:
            if self._swept:
                return
            self._swept = True
            for draft in self._folder.glob(f"{DRAFT_PREFIX}*"):
                _remove_if_abandoned(draft)


class Ledgers:
    """The ledgers of all folders, each opened once. For any number of threads."""

    def __init__(self) -> None:
        self._ledgers: dict[Path, Ledger] = {}
        self._busy = threading.Lock()

    def of(self, target: Path) -> Ledger:
        """The ledger of the folder in which `target` is or will be."""
        with self._busy:
            return self._ledgers.setdefault(target.parent, Ledger(target.parent))


def _remove_if_abandoned(draft: Path) -> None:
    """A draft that somebody works on is locked."""
    with contextlib.suppress(OSError):  # gone, not ours, or on a file system without locks: it stays
        descriptor = os.open(draft, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # a pipe is not waited for
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            draft.unlink()
        finally:
            os.close(descriptor)


def _kind_of(path: Path) -> str | None:
    """What it is, if it is no regular file."""
    if path.is_symlink():
        return "it is a symbolic link, and is not followed"
    if path.is_dir():
        return "it is a folder"
    return None if path.is_file() else "it is no regular file"


def _flush(path: Path) -> None:
    """To disk, so that after a power cut the entry does not describe an empty file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
