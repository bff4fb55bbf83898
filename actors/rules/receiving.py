"""The end of an intake that cannot be completed."""

from actors.rules.effects import Policy
from actors.rules.model import Job
from actors.rules.states import Delivery, JobState
from actors.rules.task import bounded, replace


def failed(job: Job, code: str, error: str, policy: Policy, now: int) -> Job:
    """The row of a job that has failed before its list was complete. Where each end is told, this one is due now."""
    row = replace(
        job,
        state=JobState.FAILED,
        code=code,
        error=bounded(error),
        completed_at=now,
        updated_at=now,
        alarm_at=None,
        expires_at=None if policy.kept_ms is None else now + policy.kept_ms,
    )
    if not policy.tells_each_end:
        return row
    return replace(row, delivery=Delivery.PENDING, delivery_tries=0, delivery_at=now, delivery_since=now, alarm_at=now)
