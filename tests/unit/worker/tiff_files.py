"""Small TIFFs of known samples for unit tests, and the pixel that comes out of a conversion."""

from pathlib import Path

from PIL import Image

from tests.corpus.writer import Page, Tag, write
from worker.kinds.tiff import Converted, Options, convert

SIDE = 64


def tiff(path: Path, samples: bytes, *, photometric: int, bits: int = 8, channels: int = 1, **tags: Tag) -> Path:
    """Writes one strip of SIDE × SIDE pixels that all have the `samples`; `tags` are named like t338."""
    return strip(path, samples * SIDE * SIDE, photometric=photometric, bits=bits, channels=channels, **tags)


def strip(path: Path, data: bytes, *, photometric: int, bits: int = 8, channels: int = 1, **tags: Tag) -> Path:
    """Writes one strip with all its bytes."""
    fixed = {
        256: Tag("I", [SIDE]), 257: Tag("I", [SIDE]), 258: Tag("H", [bits] * channels), 259: Tag("H", [1]),
        262: Tag("H", [photometric]), 277: Tag("H", [channels]), 278: Tag("I", [SIDE]), 284: Tag("H", [1]),
    }  # fmt: skip
    more = {int(name[1:]): tag for name, tag in tags.items()}
    path.write_bytes(write([Page(fixed | more, [data])]))
    return path


def middle(source: Path, **options: object) -> tuple[tuple[int, ...], Converted]:
    """The pixel in the middle of what `source` becomes, and the result."""
    target = source.with_suffix(".jpg")
    result = convert(source, target, Options(**options))  # type: ignore[arg-type]
    with Image.open(target) as picture:
        pixel = picture.getpixel((SIDE // 2, SIDE // 2))
    assert isinstance(pixel, tuple)
    return pixel, result


def near(pixel: tuple[int, ...], right: tuple[int, ...], within: int = 4) -> bool:
    """Whether a pixel is the right one, within what JPEG loses."""
    return all(abs(one - other) <= within for one, other in zip(pixel, right, strict=True))
