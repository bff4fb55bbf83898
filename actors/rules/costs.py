"""What machines cost, and whom. Pure: the fleet hands in what it writes and the time, milliseconds since 1970 UTC.

The time of a machine is that of the job for which it works at the moment, from when it runs until it is gone or has
stopped: idle time at the end included, as the provider counts it. Of one that works for several jobs at once all of it
is charged to the one that took work last: who of them used how much of it, the provider does not tell.
"""

from collections.abc import Collection
from typing import Final

import msgspec

from actors.rules.model import Machine
from actors.rules.states import MachineState

RUNS: Final = frozenset({MachineState.RUNNING, MachineState.DESTROYING})

replace = msgspec.structs.replace


class Charge(msgspec.Struct, frozen=True, kw_only=True):
    """What is added to the costs of a job. `spawns` and `starts` are machines that the provider was asked to make or
    to start, each counted once however often that was repeated and whatever came of it; `nano_usd` are 10^-9 dollars.
    """

    job_id: str
    machines: int = 0
    spawns: int = 0
    starts: int = 0
    machine_ms: int = 0
    nano_usd: int = 0


def charged(
    former: Machine | None, row: Machine, known: Collection[str], *, now: int
) -> tuple[Machine, tuple[Charge, ...]]:
    """The row as it is to be written, and what follows for its jobs, as `former` becomes `row`. `known` are the jobs
    for which the machine was counted before."""
    charges = []
    ran, runs = _runs(former), _runs(row)
    if former is not None and ran and (not runs or former.job_id != row.job_id):
        charges += [time_of(former, now=now)] if former.job_id else []
        row = replace(row, charged_at=now if runs else None)
    elif runs and not ran:
        row = replace(row, charged_at=now)
    if row.job_id and (counted := _counted(former, row, is_known=row.job_id in known)):
        charges.append(counted)
    return row, tuple(charges)


def time_of(row: Machine, *, now: int) -> Charge:
    """What was not charged yet of a machine that runs for a job. Nothing where the clock has gone back."""
    since = row.charged_at if row.charged_at is not None else row.started_at
    ms = max(0, now - since) if since is not None else 0
    return Charge(job_id=row.job_id or "", machine_ms=ms, nano_usd=ms * (row.price or 0) // 1000)


def _runs(row: Machine | None) -> bool:
    return row is not None and row.state in RUNS and row.started_at is not None


def _counted(former: Machine | None, row: Machine, *, is_known: bool) -> Charge | None:
    came_to = row.state if former is None or former.state is not row.state else None
    charge = Charge(
        job_id=row.job_id or "",
        machines=int(row.state is MachineState.RUNNING and not is_known),
        spawns=int(came_to is MachineState.SPAWNING),
        starts=int(came_to is MachineState.STARTING),
    )
    return charge if charge.machines or charge.spawns or charge.starts else None
