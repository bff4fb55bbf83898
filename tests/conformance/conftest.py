"""The corpus on disk, and what becomes of it: every file is converted once, when a test first asks for it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import oracle
from tests.corpus import Entry, entries, file_name
from tests.corpus.outcome import Conversion, Outcome
from worker.errors import WorkerError
from worker.isolation import Converter
from worker.kinds.tiff import Options

TIMEOUT_S = 60.0


@pytest.fixture(scope="session")
def corpus_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The files by the names of their entries."""
    folder = tmp_path_factory.mktemp("corpus")
    files = {entry.name: folder / file_name(entry) for entry in entries()}
    for entry in entries():
        files[entry.name].write_bytes(entry.data)
    return files


@pytest.fixture(scope="session")
def converted(corpus_files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Conversion]:
    """Converts an entry, as sharp does where `strict_sharp` is set. What was done once is remembered."""
    target = tmp_path_factory.mktemp("converted") / "out.jpg"
    converter = Converter(memory_bytes=None, timeout_s=TIMEOUT_S)
    known: dict[tuple[str, bool], Outcome] = {}

    def convert(entry: Entry, *, strict_sharp: bool = False) -> Outcome:
        key = entry.name, strict_sharp
        if key not in known:
            known[key] = _outcome(converter, corpus_files[entry.name], target, Options(strict_sharp=strict_sharp))
        return known[key]

    yield convert
    converter.close()


def _outcome(converter: Converter, source: Path, target: Path, options: Options) -> Outcome:
    try:
        result = converter.convert(source, target, options)
    except WorkerError as error:
        return Outcome(None, b"", error)
    return Outcome(result, target.read_bytes(), None)


@pytest.fixture(scope="session")
def by_sharp(corpus_files: dict[str, Path]) -> dict[str, bytes | str]:
    """What sharp makes of every entry: a JPEG, or the text of its refusal. Skips where sharp is not installed."""
    if not oracle.is_here():
        pytest.skip(oracle.MISSING)
    made = oracle.convert(list(corpus_files.values()))
    return {name: made[path] for name, path in corpus_files.items()}
