"""Names within an archive that are safe wherever it is unpacked."""

import re
import unicodedata
from typing import Final

MOST_PART_BYTES: Final = 200
"""Of one part of a path: file systems take 255, some tools and encodings add to that."""
MOST_ENDING_BYTES: Final = 20
MOST_BYTES: Final = 1_000
_PORTS: Final = {f"{port}{number}" for port in ("com", "lpt") for number in "123456789¹²³"}
RESERVED: Final = frozenset({"con", "prn", "aux", "nul", "conin$", "conout$"} | _PORTS)
"""Devices of Windows, with any ending."""
EMPTY: Final = "unnamed"
_UNFIT: Final = re.compile('[\x00-\x1f\x7f-\x9f<>:"|?*\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]')
"""Control characters, what Windows has no names with, marks that turn the direction of writing, lone surrogates."""
_DRIVE: Final = re.compile(r"^[A-Za-z]:(?=[/\\]|$)")


def safe(path: str) -> str:
    """The path without '..', roots, drives, backslashes, control characters, reserved and over-long names. Never
    empty, never absolute; the same path always gives the same."""
    text = _DRIVE.sub("", unicodedata.normalize("NFC", _without_surrogates(path)).replace("\\", "/"))
    parts = [_part(part) for part in text.split("/") if part.strip(" .")]
    while len(parts) > 1 and len("/".join(parts).encode()) > MOST_BYTES:
        del parts[0]
    return "/".join(parts) or EMPTY


def _without_surrogates(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _part(part: str) -> str:
    part = _UNFIT.sub("_", part).strip(" ").rstrip(" .")
    stem = part.partition(".")[0].rstrip(" ")
    if stem.casefold() in RESERVED:
        part = f"_{part}"
    return shortened(part, MOST_PART_BYTES) or EMPTY


def shortened(part: str, most_bytes: int) -> str:
    """At most so many bytes of UTF-8, with the ending that it has."""
    if len(part.encode()) <= most_bytes:
        return part
    stem, ending = split_ending(part)
    return stem.encode()[: most_bytes - len(ending.encode())].decode(errors="ignore").rstrip(" .") + ending


def split_ending(part: str) -> tuple[str, str]:
    """Stem, and ending with its dot; what is too long for an ending is none."""
    stem, dot, ending = part.rpartition(".")
    return (stem, dot + ending) if stem and len(ending.encode()) < MOST_ENDING_BYTES else (part, "")


class Names:
    """Gives each file a name of its own within one archive, also where upper and lower case are one."""

    def __init__(self, *files: str) -> None:
        """`files` are there already."""
        self._files = {_folded(name) for name in files}
        self._folders: dict[str, str] = {}  # what each is called: one whose name a file has is called otherwise
        self._next: dict[str, int] = {}

    def give(self, path: str) -> str:
        """The safe name of a path: with " (2)", " (3)", … before its ending where it is there already."""
        *folders, file = safe(path).split("/")
        where = ""
        for folder in folders:
            where = f"{self._folder(where + folder)}/"
        return self._file(where + file)

    def _folder(self, path: str) -> str:
        key = _folded(path)
        if key not in self._folders:
            self._folders[key] = path if key not in self._files else self._free(path)
            self._folders.setdefault(_folded(self._folders[key]), self._folders[key])
        return self._folders[key]

    def _file(self, path: str) -> str:
        key = _folded(path)
        if key in self._files or key in self._folders:
            path = self._free(path)
            key = _folded(path)
        self._files.add(key)
        return path

    def _free(self, path: str) -> str:
        """The first of the numbered ones that nothing has."""
        folder, slash, last = path.rpartition("/")
        stem, ending = split_ending(last)
        key = _folded(path)
        while True:
            number = self._next.get(key, 2)
            self._next[key] = number + 1
            mark = f" ({number}){ending}"
            other = f"{folder}{slash}{shortened(stem, MOST_PART_BYTES - len(mark.encode()))}{mark}"
            if _folded(other) not in self._files and _folded(other) not in self._folders:
                return other


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name.casefold())
