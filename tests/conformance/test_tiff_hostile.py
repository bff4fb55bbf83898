"""Damaged, absurd and foreign files, through the process that decodes for the worker: each is converted or refused
with one clear sentence, within the limits, and the next one is not disturbed."""

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from PIL import Image

from tests.corpus.mutations import WAYS, Mutant, bombs, halves, mutants, not_tiffs
from worker.errors import BadInput, LimitExceeded, WorkerError
from worker.isolation import Converter
from worker.kinds.tiff import Options
from worker.limits import MB, MemoryGate

SEED = 10
EACH = 42
"""Files for each way of damage: 13 ways, 546 files."""
MEMORY_BYTES = 512 * MB
PICTURES_BYTES = 256 * MB
"""What the memory gate lets pictures take: 34 megapixels."""
GATE = MemoryGate(PICTURES_BYTES)
OVERHEAD_BYTES = 256 * MB
"""What the child has after its start, code and libraries included: the limit does not count it."""
TIMEOUT_S = 60.0
SOAK_FILES = 20_000
PATH = re.compile(r"(?<![\w.])/[\w.-]+/[\w.-]+|\.tiff?\b|\\\\")
UNCLEAR = re.compile(
    r"Traceback|unable to (call|copy)|\w+Error\b|vips_|NoneType|non-int|IFDRational|known route|unknown pixel mode"
    r"|decoder error|source_custom|^[^\w\"]|^\d+:|-\d{4}|[Ss]trip 4294967295|:$"
)
"""What only a programmer understands: names of functions and classes, numbers of errors."""
LONGEST = 300
MORE_PAGES = re.compile(r"pages|SubIFDs")
"""Files that may end too early without harm to the first page."""


@pytest.fixture(scope="module")
def converter() -> Iterator[Converter]:
    """One converter for all files, as in the worker."""
    shared = Converter(memory_bytes=MEMORY_BYTES, timeout_s=TIMEOUT_S)
    yield shared
    shared.close()


def fate(converter: Converter, mutant: Mutant, folder: Path, *, memory: MemoryGate | None = GATE) -> WorkerError | None:
    """Converts the file; the refusal, or None. Fails where a result is no JPEG, or the memory is more than allowed."""
    source, target = folder / "scan.tif", folder / "scan.jpg"
    source.write_bytes(mutant.data)
    try:
        made = converter.convert(source, target, Options(memory=memory))
    except WorkerError as error:
        return error
    finally:
        assert highest_memory() <= MEMORY_BYTES + OVERHEAD_BYTES, mutant.name
    assert sys.platform != "linux" or highest_memory() > 0, "the decoding child was not found"
    with Image.open(target) as picture:
        picture.load()
        assert (picture.format, picture.size) == ("JPEG", (made.width, made.height))
    return None


def highest_memory() -> int:
    """The most that the decoding child has had in memory so far, bytes; 0 where the system does not tell."""
    sizes = [0]
    for child in psutil.Process().children():
        with contextlib.suppress(OSError, psutil.NoSuchProcess):
            if any("worker.isolat" in word for word in child.cmdline()):
                found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{child.pid}/status").read_text())
                sizes.append(int(found[1]) * 1024 if found else 0)
    return max(sizes)


def faults(error: WorkerError, mutant: Mutant, folder: Path) -> list[str]:
    """What is wrong with a refusal: it must be one sentence that a person understands, and name no path."""
    text = str(error)
    found = [
        (not isinstance(error, BadInput | LimitExceeded), f"is a {type(error).__name__}"),
        (not text.strip() or len(text.splitlines()) != 1, "is not one line"),
        (len(text) > LONGEST, "is too long"),
        (str(folder) in text or PATH.search(text) is not None, "names a path"),
        (UNCLEAR.search(text) is not None, "is not clear"),
    ]
    return [f"{mutant.name}: {text!r} {what}" for wrong, what in found if wrong]


def survive(converter: Converter, files: Iterator[Mutant], folder: Path) -> None:
    """Every file is dealt with, and every refusal is a good one."""
    wrong: list[str] = []
    for mutant in files:
        error = fate(converter, mutant, folder)
        wrong += faults(error, mutant, folder) if error else []
    assert wrong == []


def test_there_are_enough() -> None:
    """At least 500 files by mutation, not two the same."""
    files = [mutant.data for way in WAYS for mutant in mutants(SEED, EACH, way)]
    assert len(files) >= 500
    assert len(set(files)) >= 500


def test_same_seed_same_files() -> None:
    """A failure can be had again."""
    assert list(mutants(SEED, 20)) == list(mutants(SEED, 20))


@pytest.mark.parametrize("way", list(WAYS))
def test_damaged_files(converter: Converter, tmp_path: Path, way: str) -> None:
    """Each damaged file is converted, or refused with one clear sentence."""
    survive(converter, mutants(SEED, EACH, way), tmp_path)


def test_cut_files_are_no_success(converter: Converter, tmp_path: Path) -> None:
    """A file of one page that ends too early, anywhere, is refused: what is missing is never made up."""
    cut = [mutant for mutant in mutants(SEED, 4 * EACH, "truncated") if not MORE_PAGES.search(mutant.name)]
    fates = {mutant.name: fate(converter, mutant, tmp_path) for mutant in cut}
    assert [name for name, error in fates.items() if error is None] == []


@pytest.mark.parametrize("mutant", list(not_tiffs()), ids=lambda mutant: mutant.name)
def test_what_is_no_tiff_is_refused(converter: Converter, tmp_path: Path, mutant: Mutant) -> None:
    """Another format under a TIFF's name is refused, not converted."""
    error = fate(converter, mutant, tmp_path)
    assert isinstance(error, BadInput)
    assert faults(error, mutant, tmp_path) == []


@pytest.mark.parametrize("mutant", list(halves()), ids=lambda mutant: mutant.name)
def test_half_a_picture_is_no_success(converter: Converter, tmp_path: Path, mutant: Mutant) -> None:
    """Where the data ends before the picture does, the file is refused."""
    error = fate(converter, mutant, tmp_path)
    assert isinstance(error, BadInput)
    assert faults(error, mutant, tmp_path) == []


@pytest.mark.parametrize("mutant", list(bombs()), ids=lambda mutant: mutant.name)
def test_bombs_do_no_harm(converter: Converter, tmp_path: Path, mutant: Mutant) -> None:
    """Few bytes that ask for very many stay within the limits; the next file is converted as if nothing had been."""
    error = fate(converter, mutant, tmp_path)
    assert error is None or faults(error, mutant, tmp_path) == []
    sound = next(iter(mutants(SEED, 1, "truncated")))
    after = fate(converter, sound, tmp_path)
    assert after is None or isinstance(after, BadInput)


def test_memory_is_bounded_without_the_gate(converter: Converter, tmp_path: Path) -> None:
    """Where a picture takes more than its header lets expect, the process that decodes ends, and nothing else."""
    (bomb,) = (mutant for mutant in bombs() if mutant.name == "zeros by deflate")
    error = fate(converter, bomb, tmp_path, memory=None)
    assert isinstance(error, LimitExceeded)
    assert faults(error, bomb, tmp_path) == []


@pytest.mark.soak
def test_many_more_damaged_files(converter: Converter, tmp_path: Path) -> None:
    """The same for as many as wanted: ARKE_SOAK_FILES of the seed ARKE_SOAK_SEED, else of one that is always new."""
    seed = int(os.environ.get("ARKE_SOAK_SEED") or int.from_bytes(os.urandom(4)))
    survive(converter, mutants(seed, int(os.environ.get("ARKE_SOAK_FILES") or SOAK_FILES)), tmp_path)
