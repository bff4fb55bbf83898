"""docs/reference/worker.md is written by hand; what it lists is what the worker reads."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from worker import limits, settings
from worker.contract import Callback

PAGE: Final = (Path(__file__).parents[3] / "docs" / "reference" / "worker.md").read_text()


def rows(text: str) -> Iterator[tuple[str, ...]]:
    """The cells of each row of the tables that have units, without the marks of code."""
    for line in text.splitlines():
        cells = tuple(cell.strip() for cell in line.replace("`", "").strip("|").split("|"))
        if line.startswith("|") and len(cells) == 4 and cells[0].isupper():
            yield cells[:3]


def test_the_page_lists_the_variables_of_the_process() -> None:
    """The names, units and defaults of the table in `worker.settings`, and no other."""
    assert settings.__doc__ is not None
    documented = list(rows(settings.__doc__))
    assert "WORKER_CONCURRENCY" in {name for name, _, _ in documented}
    assert list(rows(PAGE)) == documented


def test_the_page_names_every_other_variable() -> None:
    """Those of a task, and those that a task cannot change."""
    named = set(re.findall(r"[A-Z][A-Z0-9_]+", PAGE))
    assert {*settings.TASK_VARIABLES, *settings.MACHINE_VARIABLES} <= named


def test_the_page_has_the_numbers_of_the_memory_rule() -> None:
    """Bytes for each pixel, the reserve for each process, and the least, as `worker.limits` has them."""
    told = PAGE.partition("## Memory\n")[2].partition("\n## ")[0]
    assert f"{limits.BYTES_PER_PIXEL:g} bytes for each pixel" in told
    assert f"{limits.WHOLE_BYTES_PER_PIXEL:g} more where it is turned" in told
    assert f"{limits.PILLOW_BYTES_PER_PIXEL:g} more where Pillow decodes it" in told
    assert f"a reserve of {limits.PROCESS_BYTES // limits.MB} MB for the worker" in told
    assert f"at least {limits.LEAST_BYTES // limits.MB} MB" in told
    assert limits.memory_for_pictures(1024, 2) == 880 * limits.MB


def test_the_page_lists_the_fields_of_a_callback() -> None:
    """Each in the first cell of a row."""
    first_cells = " ".join(line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `"))
    assert set(Callback.__struct_fields__) <= set(re.findall(r"`([a-z0-9_]+)`", first_cells))
