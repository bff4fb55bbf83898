"""What the processes of the service share."""

import asyncio
from typing import Any

from actors.assembly import leave_when_idle


class Host:
    """A host that is busy when it is looked at the first time, and idle from then on."""

    def __init__(self) -> None:
        self.looks = 0

    @property
    def idle(self) -> bool:
        self.looks += 1
        return self.looks > 1


async def test_a_process_that_nobody_asks_for_anything_leaves() -> None:
    """Ray started it again after its batch was over: no loop ever ends there, so it looks by itself."""
    host: Any = Host()
    left: list[int] = []
    async with asyncio.timeout(5):
        await leave_when_idle(host, lambda: left.append(host.looks), every_s=0.001)
    assert left == [2]
