"""How long the host has kept this machine from its processors, as the kernel counts it: "steal", of all processors."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

STAT: Final = Path("/proc/stat")
STEAL: Final = 8
"""Its place in the line of all processors, behind their name; proc(5)."""


class Throttling:
    """Of a machine that is one of Fly's (FLY_MACHINE_ID): elsewhere others use the same processors, and would be told
    the same."""

    def __init__(self, env: Mapping[str, str], stat: Path = STAT) -> None:
        self._stat = stat if env.get("FLY_MACHINE_ID") else None
        self._told_ms = self._total_ms()

    def since_last_ms(self) -> int | None:
        """Milliseconds since this was asked before, or since the beginning; None where there is nothing to tell."""
        total_ms, former_ms = self._total_ms(), self._told_ms
        self._told_ms = total_ms
        return max(0, total_ms - former_ms) or None

    def _total_ms(self) -> int:
        try:
            words = self._stat.read_text().split("\n", 1)[0].split() if self._stat is not None else []
            return int(words[STEAL]) * 1000 // os.sysconf("SC_CLK_TCK")
        except (OSError, ValueError, IndexError):
            return 0
