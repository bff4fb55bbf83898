"""libvips as this program uses it: prepared once, its warnings heard, its errors made one sentence.

pyvips is imported when first needed, so that a download can begin before it.
"""

import logging
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

_NOISE: Final = re.compile(r"^(unable to (call|load|copy)|[a-z0-9_]*: ?(load|read|write) error$|error in tile)")
"""Lines that say only that something failed, or which function it was in."""
_PREFIX: Final = re.compile(
    r"^([a-z0-9_]*2vips|[Vv]ips[A-Za-z0-9_]*|VIPS|image|source( input)?|source_custom|[a-z]+(load|save)\w*|\d+):( |$)"
)
"""Names of functions and numbers of strips before the sentence."""
_NO_SCANLINE: Final = f" at scanline {2**32 - 1}"
"""What libtiff says of a strip that it reads as a whole."""
MAX_SENTENCE: Final = 300
MAX_HEARD: Final = 100
"""Different warnings that `listening` keeps; a list of this length may lack some."""
_NOT_WRITTEN: Final = re.compile(r"unable to (open for write|write to target)|wbuffer_write: write failed")
"""What libvips says when it cannot write what it encodes. "write error" alone is also said where decoding failed."""

_preparing = threading.Lock()
_prepared = threading.Event()


def load() -> Any:
    """The module pyvips, prepared once: one thread an image (mozjpeg keeps one core busy anyway), no cache of results,
    no loader that libvips itself does not trust with foreign files, and warnings for `listening` only."""
    with _preparing:
        os.environ.setdefault("VIPS_CONCURRENCY", "1")
        import pyvips

        if not _prepared.is_set():
            _prepared.set()
            pyvips.cache_set_max(0)
            pyvips.block_untrusted_set(True)
            pyvips.logger.propagate = False
            pyvips.logger.setLevel(logging.WARNING)
            pyvips.logger.addHandler(_Ears())
        return pyvips


@contextmanager
def listening() -> Iterator[list[str]]:
    """The list to which the decoder's warnings are added meanwhile. They carry no name: with several conversions at
    once in one process those of the others are in it too."""
    heard: list[str] = []
    _listeners.append(heard)
    try:
        yield heard
    finally:
        _listeners[:] = [other for other in _listeners if other is not heard]


def told(error: Exception | str, heard: list[str], source: Path, target: Path | None = None) -> list[str]:
    """What the decoder said about the file `source`, and the encoder about `target`: sentences without paths and
    without what says nothing."""
    names = _names(source, "the file") | (_names(target, "the JPEG") if target is not None else {})
    lines = (_clean(line, names) for line in [*str(error).splitlines(), *heard])
    return list(dict.fromkeys(line for line in lines if line and not _NOISE.match(line)))


def is_not_written(error: Exception | str) -> bool:
    """Whether libvips failed because it could not write the file that it encodes."""
    return any(_NOT_WRITTEN.search(line.strip()) for line in str(error).splitlines())


def _names(path: Path, word: str) -> dict[str, str]:
    """What is said instead of a path, the longest form first."""
    return {f'"{path}"': word, str(path): word, path.name: word}


def _clean(line: str, names: dict[str, str]) -> str:
    text = line.strip()
    while text != (shorter := _PREFIX.sub("", text)):
        text = shorter
    if _NOISE.match(line.strip()):
        return ""
    text = text.replace(_NO_SCANLINE, "")
    for name, word in names.items():
        text = text.replace(name, word)
    return text[:MAX_SENTENCE].rstrip(". ")


_listeners: list[list[str]] = []


class _Ears(logging.Handler):
    """Hands each warning to all who listen, once: a flood of one must not hide another."""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        for heard in tuple(_listeners):
            if len(heard) < MAX_HEARD and text not in heard:
                heard.append(text)
