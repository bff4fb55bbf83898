"""Named events with fields become log lines here, and nowhere else.

The prefixes are those that operators of the originals grep for: [Queue] [DO] [TiffConversion] [Callback] [HTTP].
Fields are values that may be shown: ids, counts, durations, sentences. Never keys, URLs with signatures, paths.
"""

import logging
import sys
from typing import Final

_log = logging.getLogger("arke")

PREFIXES: Final = {
    "intake": "[Queue]",
    "job": "[DO]",
    "task": "[TiffConversion]",
    "fleet": "[Fleet]",
    "delivery": "[Callback]",
    "http": "[HTTP]",
    "duty": "[Maintenance]",
}


def configure(level: str = "INFO") -> None:
    """Send the engine's log lines to stderr."""
    logging.basicConfig(level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s", force=True)
    for noisy in ("httpx", "httpcore", "botocore", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def event(name: str, /, **fields: object) -> None:
    """Something happened. `name` is "group.what"; the group gives the prefix."""
    _log.info(_line(name, fields))


def warning(name: str, /, **fields: object) -> None:
    """Something happened that an operator should look at."""
    _log.warning(_line(name, fields))


def fault(name: str, /, **fields: object) -> None:
    """A bug or a broken part: logged with its traceback, which stays in the log."""
    _log.exception(_line(name, fields))


def _line(name: str, fields: dict[str, object]) -> str:
    group, _, what = name.partition(".")
    shown = " ".join(f"{key}={value}" for key, value in fields.items())
    return f"{PREFIXES.get(group, '[Arke]')} {what or group} {shown}".rstrip()
