"""README.txt and manifest.json: what the archive is, and what is in it. Read as JSON or by people."""

from typing import Any, Final

import msgspec

from worker.kinds.zip.codec import BLOCK_BYTES, DICTIONARY_BYTES, Codec, crc32
from worker.kinds.zip.source import Member

README: Final = "README.txt"
MANIFEST: Final = "manifest.json"
VERSION: Final = 1


class About(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an archive is of. `created_at` is ISO 8601; `part` of `parts` archives, each whole by itself."""

    title: str
    created_at: str
    export_id: str | None = None
    user_id: str | None = None
    export_type: str | None = None
    part: int = 1
    parts: int = 1


def readme(about: About) -> bytes:
    """For people, first in the archive."""
    which = f"\nThis is part {about.part} of {about.parts}. Each part opens by itself.\n" if about.parts > 1 else ""
    told = {"Export": about.export_id, "Of": about.user_id, "Type": about.export_type, "Created": about.created_at}
    facts = "".join(f"{name + ':':9}{value}\n" for name, value in told.items() if value)
    return (
        f"{about.title}\n{'=' * len(about.title)}\n\n{facts}{which}\n"
        f"{MANIFEST} lists every file with its size and checksums (CRC-32, SHA-256), and those that\n"
        "could not be exported, with the reason. Names that no file may have everywhere were changed;\n"
        f"{MANIFEST} has them as they were.\n"
    ).encode()


class Growing:
    """A file that grows while the archive is written: its packed blocks are all that is kept of it."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._rest = bytearray()
        self._before = b""
        self.size = self.crc = 0
        self.packed: list[bytes] = []

    def add(self, text: bytes) -> None:
        """More of it."""
        self.size += len(text)
        self.crc = crc32(text, self.crc)
        self._rest += text
        while len(self._rest) > BLOCK_BYTES:
            self._pack(bytes(self._rest[:BLOCK_BYTES]), is_last=False)
            del self._rest[:BLOCK_BYTES]

    def end(self) -> None:
        """There is no more."""
        self._pack(bytes(self._rest), is_last=True)
        self._rest.clear()

    def _pack(self, block: bytes, *, is_last: bool) -> None:
        self.packed.append(self._codec.deflate(block, self._before, is_last))
        self._before = block[-DICTIONARY_BYTES:]


class Manifest:
    """manifest.json as it grows, a line for each file."""

    def __init__(self, about: About, codec: Codec) -> None:
        self.text = Growing(codec)
        self.missing: list[dict[str, str]] = []
        self.files = self.bytes = 0
        head = {
            "version": VERSION, **msgspec.to_builtins(about),
            "codec": {"name": codec.name, "version": codec.version, "level": codec.level},
        }  # fmt: skip
        self.text.add(_json(head)[:-1] + b',\n"files": [')

    def add(self, member: Member, crc: int, sha256: str) -> None:
        """A file that is in the archive."""
        told = {
            "path": member.path, "filename": _text(member.filename or member.key.rpartition("/")[2]),
            "r2_key": _text(member.key),
            "size": member.size, "crc32": f"{crc:08x}", "sha256": sha256, "product": member.product,
            "category": member.category,
        }  # fmt: skip
        self.text.add((b",\n" if self.files else b"\n") + _json(told))
        self.files += 1
        self.bytes += member.size

    def leave_out(self, member: Member, reason: str) -> None:
        """One that is not."""
        self.missing.append({"r2_key": _text(member.key), "path": member.path, "reason": reason})

    def end(self) -> None:
        """All is in it."""
        summary = {"files": self.files, "bytes": self.bytes, "missing": len(self.missing)}
        missing = b",\n".join(_json(each) for each in self.missing)
        self.text.add(b'\n],\n"missing": [' + missing + b'],\n"summary": ' + _json(summary) + b"}\n")
        self.text.end()


def _text(name: str) -> str:
    """Names on a disk need not be Unicode."""
    return name.encode("utf-8", "backslashreplace").decode()


def _json(value: Any) -> bytes:
    return msgspec.json.encode(value)
