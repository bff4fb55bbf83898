"""What a caller may ask of an export, as EXPORT_OPTIONS carries it: the originals' names."""

from typing import Annotated, Final, Literal

import msgspec

Format = Literal["mods", "dc", "marcxml"]
FORMATS: Final[tuple[Format, ...]] = ("mods", "dc", "marcxml")
Mode = Literal["full", "minimal", "skip"]
MODES: Final[tuple[Mode, ...]] = ("full", "minimal", "skip")
MOST_DEPTH: Final = 50
MOST_AT_ONCE: Final = 100


class Options(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=False):
    """`max_depth` counts from the root = 0; `parallel_batch_size` entities are fetched at once."""

    recursive: bool = False
    max_depth: Annotated[int, msgspec.Meta(ge=0, le=MOST_DEPTH)] = 10
    parallel_batch_size: Annotated[int, msgspec.Meta(ge=1, le=MOST_AT_ONCE)] = 10
    include_ocr: bool = True
    cheimarros_mode: Mode = "full"


def unknown(given: object) -> list[str]:
    """The names among the given options that mean nothing."""
    return sorted(given.keys() - set(Options.__struct_encode_fields__)) if isinstance(given, dict) else []
