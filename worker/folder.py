"""Which TIFFs the named folders hold, and which JPEG each becomes: what `arke convert` knows before it begins.

A JPEG stands beside its TIFF, or, where another folder for the results is named, at the same place below that. Folders
are read to any depth; links to files are followed, links to folders are not, so that no loop can be.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

TIFF_NAME: Final = re.compile(r"\.tiff?$", re.IGNORECASE)
APPLE_DOUBLE: Final = "._"
"""Names that begin so are what macOS leaves beside a file on a foreign disk: no pictures, whatever their ending."""

Key = tuple[str, str]


@dataclass(frozen=True)
class Job:
    """One TIFF and the JPEG that it shall become, as paths that a person recognises."""

    source: Path
    target: Path


@dataclass(frozen=True)
class Problem:
    """A file or folder that cannot be dealt with, and the sentence that says why."""

    path: Path
    sentence: str


@dataclass
class Found:
    """What the sources hold, in the order in which they were named and then of their names."""

    jobs: list[Job] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    links: list[Path] = field(default_factory=list)
    """Links to folders, which were not followed."""


def jpeg_name(name: str) -> str:
    """`.tif` and `.tiff`, in any case, become `.jpg`; another name gets it appended."""
    changed, count = TIFF_NAME.subn(".jpg", name)
    return changed if count else f"{name}.jpg"


def find(sources: Sequence[Path], results: Path | None = None) -> Found:
    """The TIFFs in the folders among `sources`, and every file among them whatever its name. `results` is the folder
    for the JPEGs; where it lies within a source it is not looked into. A file that is met twice counts once."""
    found = Found()
    met: set[tuple[Key, Key]] = set()
    keys = _Keys()
    for source in sources:
        for job in _jobs(source, results, found):
            pair = (keys.of(job.source), keys.of(job.target))
            if pair not in met:
                met.add(pair)
                found.jobs.append(job)
    return found


def conflicts(jobs: Iterable[Job]) -> list[str]:
    """A sentence for each JPEG that two of the TIFFs would become, and for each that would take a TIFF's place."""
    keys = _Keys()
    jobs = list(jobs)
    by_source = {keys.of(job.source): job for job in jobs}
    by_target: dict[Key, Job] = {}
    sentences = []
    for job in jobs:
        key = keys.of(job.target)
        first = by_target.setdefault(key, job)
        if first is not job:
            sentences.append(f"{shown(first.source)} and {shown(job.source)} would both become {shown(job.target)}")
        if key in by_source:
            sentences.append(f"{shown(job.source)} would become {shown(job.target)}, which is to be converted itself")
    return sentences


def shown(path: Path) -> str:
    """A path on one line, whatever its name holds: what cannot be printed stands as an escape."""
    return "".join(_shown(character) for character in str(path))


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    if "\udc80" <= character <= "\udcff":  # a byte that is no UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def _jobs(source: Path, results: Path | None, found: Found) -> Iterator[Job]:
    if not source.is_dir():
        yield Job(source, (results or source.parent) / jpeg_name(source.name))
        return
    for folder, names in _folders(source, results, found):
        place = folder if results is None else results / folder.relative_to(source)
        for name in names:
            if TIFF_NAME.search(name) and not name.startswith(APPLE_DOUBLE):
                yield Job(folder / name, place / jpeg_name(name))


def _folders(source: Path, results: Path | None, found: Found) -> Iterator[tuple[Path, list[str]]]:
    """Each folder below `source` with the sorted names of its files."""

    def refused(error: OSError) -> None:
        found.problems.append(Problem(Path(error.filename), f"The folder cannot be read: {error.strerror}"))

    for text, folders, files in os.walk(source, onerror=refused):
        folder = Path(text)
        found.links += [folder / name for name in sorted(folders) if (folder / name).is_symlink()]
        folders[:] = sorted(name for name in folders if not _is_same(folder / name, results))
        yield folder, sorted(files)


def _is_same(folder: Path, results: Path | None) -> bool:
    return results is not None and results.exists() and folder.samefile(results)


class _Keys:
    """Paths that can be compared: the folder without links and the name. Many files share a folder."""

    def __init__(self) -> None:
        self._folders: dict[Path, str] = {}

    def of(self, path: Path) -> Key:
        folder = path.parent
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder)
        return self._folders[folder], path.name
