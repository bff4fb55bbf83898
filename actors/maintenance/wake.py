"""Wake: jobs whose alarm is overdue have lost their actor, or it hibernates. Invariant 5: nothing waits forever.

`SLACK_MS` is left to the actors that run: an alarm that is a moment late is theirs. An alarm that is further ahead
than any can be was set before the clock went back: its job, too, is activated, and bounds its waits.
"""

import logging
from typing import Final, Protocol

from actors.errors import ArkeError
from actors.maintenance.base import CLOCKS_DIFFER_MS, Activate, Report
from actors.rules.model import Job

log = logging.getLogger(__name__)

SLACK_MS: Final = 1_000
LIMIT: Final = 100


class WakeStore(Protocol):
    async def overdue(self, now: int, limit: int, far: int) -> list[Job]: ...


async def run_once(
    store: WakeStore, activate: Activate, *, now: int, longest_ms: int, slack_ms: int = SLACK_MS, limit: int = LIMIT
) -> Report:
    """Activate what is overdue at `now` (ms), at most `limit` jobs. One that cannot be woken delays no other.

    `longest_ms` is how far ahead an alarm can be.
    """
    jobs = await store.overdue(now - slack_ms, limit, now + longest_ms + CLOCKS_DIFFER_MS)
    failed = 0
    for job in jobs:
        try:
            await activate(job.id)
        except (ArkeError, OSError) as failure:
            failed += 1
            log.warning("[Maintenance] %s cannot be woken: %s", job.id, failure)
    return Report(duty="wake", done=len(jobs) - failed, failed=failed, more=len(jobs) == limit)
