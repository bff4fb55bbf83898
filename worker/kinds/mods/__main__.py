"""`python -m worker.kinds.mods FOLDER`: bring the official schemas into a folder, where there is no `arke`.

The images are built with it. `arke schemas fetch` is the same for people.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from worker.errors import WorkerError
from worker.kinds.mods.fetching import fetch
from worker.kinds.mods.schemas import Schemas


def main(arguments: Sequence[str]) -> str | None:
    """None, or the sentence that says why there are no schemas."""
    if len(arguments) != 1:
        return "usage: python -m worker.kinds.mods FOLDER"
    folder = Path(arguments[0])
    try:
        fetch(folder, lambda line: print(line, file=sys.stderr))  # noqa: T201 - a command
        Schemas(folder).check()
    except WorkerError as error:
        return str(error)
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
