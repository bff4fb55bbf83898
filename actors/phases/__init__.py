"""Phases are plug-ins: a file in this folder, or an entry point of the group `arke.phases`. Nothing is registered."""

import functools
import importlib
import pkgutil
from collections.abc import Mapping
from importlib.metadata import entry_points

from actors.phases.base import Phase

__all__ = ["Phase", "all_phases"]


@functools.cache
def all_phases() -> Mapping[str, Phase]:
    """Every phase by its name.

    Raises:
        TypeError: a module of this folder or an entry point has no PHASE of the right type; it is named.
    """
    found: dict[str, Phase] = {}
    for module in pkgutil.iter_modules(__path__):
        if module.name != "base":
            loaded = importlib.import_module(f"{__name__}.{module.name}")
            _add(found, getattr(loaded, "PHASE", None), f"actors/phases/{module.name}.py")
    for point in entry_points(group="arke.phases"):
        _add(found, point.load(), f"the entry point {point.name}")
    return found


def _add(found: dict[str, Phase], phase: object, where: str) -> None:
    if not isinstance(phase, Phase):
        raise TypeError(f"{where} has no PHASE: set PHASE = Phase(name=…, kind=…, …)")
    found[phase.name] = phase
