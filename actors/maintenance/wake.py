"""Wake: jobs whose alarm is overdue have lost their actor, or it hibernates. Invariant 5: nothing waits forever.

`SLACK_MS` is left to the actors that run: an alarm that is a moment late is theirs. An alarm that is further ahead
than any can be was set before the clock went back: its job, too, is activated, and bounds its waits.
"""

from typing import Final, Protocol

from actors.maintenance.base import CLOCKS_DIFFER_MS, Activate, Report, for_each
from actors.rules.model import Job

SLACK_MS: Final = 1_000
LIMIT: Final = 100


class WakeStore(Protocol):
    async def overdue(self, now: int, limit: int, far: int) -> list[Job]: ...


async def run_once(
    store: WakeStore, activate: Activate, *, now: int, longest_ms: int, slack_ms: int = SLACK_MS, limit: int = LIMIT
) -> Report:
    """Activate what has been overdue for `slack_ms` at `now` (ms), at most `limit` jobs, side by side.

    `longest_ms` is how far ahead an alarm can be. `done` counts the jobs whose actor answered; what their alarm asks
    for, they do afterwards. Raises what the store's question raises.
    """
    jobs = await store.overdue(now - slack_ms, limit, now + longest_ms + CLOCKS_DIFFER_MS)
    done, failed = await for_each(jobs, lambda job: activate(job.id), "not_woken")
    return Report(duty="wake", done=done, failed=failed, more=len(jobs) == limit)
