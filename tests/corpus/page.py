"""The reference page about TIFFs, made from the corpus: `python -m tests.corpus.page > docs/reference/tiff.md`.

Every file is converted; what the page says of sharp is what the tests hold against sharp itself.
"""

import sys
import tempfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from tests.corpus import Entry, entries
from worker.errors import WorkerError
from worker.isolation import Converter
from worker.kinds.tiff import Converted, Options

HEAD = """# What becomes of a TIFF

Written by `make docs` from the corpus of the tests ({files} files, `tests/corpus`), which are converted for it. The
tests hold every file against the picture that was put into it, and against sharp 0.35 (`jpeg({{quality: 95, mozjpeg:
true}})`). With `STRICT_SHARP=1` every one of them becomes what sharp makes of it, or is refused as there.

- **Same bytes**: the JPEG is byte for byte sharp's, because sharp's is right (with one doubt, below).
- **Otherwise** the reason stands there, and the result says in its `notes` what was done; or the file is refused, with
  the sentence that is given here.

Where the decoders say nothing, nothing is noticed. Damage inside of JPEG data that can still be decoded passes: in a
tile as long as its end mark is there, because libvips decodes tiles without warnings, and in strips and old-style JPEG
where libjpeg does not notice it. Raw samples without compression hold nothing to check them by.

16-bit and floating-point CIELAB, three channels in one plane, has sharp's bytes, and that is in doubt: libvips takes
its white for D65 there, while all other LAB is taken for D50, as the ICC does and TIFF 6.0 lets expect. Greys
are the same within a few steps of 255; saturated colours differ by up to about 60, by 4 in the mean of a gradient.

The first page of a file is converted; `pages` in the result says how many there are. Pages in SubIFDs are not counted.

| the file holds | files | in these forms | compared with sharp | what the result says |
| --- | --- | --- | --- | --- |
"""
Row = tuple[Entry, str]


def page() -> str:
    """The whole page."""
    rows = sorted(zip(entries(), _said(), strict=True), key=lambda row: row[0].kind.casefold())
    body = [_line(kind, list(found)) for kind, found in groupby(rows, key=lambda row: row[0].kind)]
    return HEAD.format(files=len(entries())) + "\n".join(body) + "\n"


def _said() -> Iterator[str]:
    """Of each file, the notes or the refusal."""
    converter = Converter(memory_bytes=None, timeout_s=60.0)
    with tempfile.TemporaryDirectory() as name:
        source, target = Path(name) / "scan.tif", Path(name) / "scan.jpg"
        for entry in entries():
            source.write_bytes(entry.data)
            try:
                yield _notes(converter.convert(source, target, Options()))
            except WorkerError as error:
                yield f"refused: “{error}”"
    converter.close()


def _notes(made: Converted) -> str:
    return "; ".join(made.notes)


def _line(kind: str, rows: list[Row]) -> str:
    differs = "; ".join(_unique([entry.differs for entry, _ in rows])) or "same bytes"
    said = "; ".join(_unique([said for _, said in rows])[:2])
    return (
        " | ".join(("| " + kind, str(len(rows)), _forms([entry for entry, _ in rows]), differs, said)).rstrip() + " |"
    )


def _unique(texts: list[str]) -> list[str]:
    return [text for text in dict.fromkeys(texts) if text]


def _forms(found: list[Entry]) -> str:
    """The words of the names that are not common to all."""
    words = [entry.name.split(" ") for entry in found]
    common = set(words[0]).intersection(*words) if len(words) > 1 else set()
    forms = sorted({word for name in words for word in name} - common, key=str.casefold)
    return ", ".join(forms)


if __name__ == "__main__":
    sys.stdout.write(page())
