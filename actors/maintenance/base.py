"""What a duty reports."""

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

Activate = Callable[[str], Awaitable[object]]
"""Makes sure that the actor of this job runs and looks at its alarm. Raises ArkeError or OSError when it cannot."""

CLOCKS_DIFFER_MS: Final = 10_000
"""More than the clocks of two processes drift apart without a jump."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One round of one duty: how many were done, how many failed (their next turn is the next round), whether more
    were due than one round takes."""

    duty: str
    done: int = 0
    failed: int = 0
    more: bool = False
