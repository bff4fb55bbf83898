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
    r"^([a-z0-9_]*2vips|[Vv]ips[A-Za-z0-9_]*|VIPS|image|source( input)?|source_custom|[a-z]+(load|save)\w*|\d+): "
)
"""Names of functions and numbers of strips before the sentence."""
_NO_SCANLINE: Final = f" at scanline {2**32 - 1}"
"""What libtiff says of a strip that it reads as a whole."""
MAX_SENTENCE: Final = 300

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


def load_meanwhile() -> None:
    """Loads libvips in a thread of its own, for instance while bytes arrive."""
    if not _prepared.is_set():
        threading.Thread(target=load, name="import-pyvips", daemon=True).start()


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


def told(error: Exception, heard: list[str], source: Path) -> list[str]:
    """What the decoder said about the file `source`: sentences without paths and without what says nothing."""
    lines = (_clean(line, source) for line in [*str(error).splitlines(), *heard])
    return list(dict.fromkeys(line for line in lines if line and not _NOISE.match(line)))


def _clean(line: str, source: Path) -> str:
    text = line.strip()
    while text != (shorter := _PREFIX.sub("", text)):
        text = shorter
    if _NOISE.match(line.strip()):
        return ""
    text = text.replace(_NO_SCANLINE, "")
    for name in (f'"{source}"', str(source), source.name):
        text = text.replace(name, "the file")
    return text[:MAX_SENTENCE].rstrip(". ")


_listeners: list[list[str]] = []


class _Ears(logging.Handler):
    """Hands each warning to all who listen."""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        for heard in tuple(_listeners):
            if len(heard) < 100:
                heard.append(text)
