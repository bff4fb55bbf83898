"""What an activation begins besides its loop."""

import asyncio
import warnings

from actors.fleet.activity import Activity


async def test_what_never_began_is_closed_with_the_activation() -> None:
    """Cancelled before its first step, it would be reported as never awaited whenever it is collected."""

    async def work() -> None:
        raise AssertionError("not to be run")

    activity = Activity(now=lambda: 0, wait=lambda event, milliseconds: asyncio.sleep(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        activity.background(work())
        await activity.close()
