"""The duties, with stores that remember what they were asked."""

import os
from pathlib import Path
from typing import Any

from actors.errors import Conflict, Unavailable
from actors.maintenance import admit, expire, sweep, wake
from actors.rules.model import Job
from actors.rules.states import JobState


class Store:
    """Answers with what a test has put into it."""

    def __init__(self, **jobs: list[Any]):
        self.jobs = jobs
        self.asked: list[tuple[str, Any]] = []
        self.removed: list[str] = []
        self.slots = 100

    async def overdue(self, now: int, limit: int, far: int) -> list[Job]:
        self.asked.append(("overdue", now))
        return self.jobs.get("overdue", [])[:limit]

    async def waiting(self, limit: int) -> list[Job]:
        return self.jobs.get("waiting", [])[:limit]

    async def stalled(self, now: int, limit: int, far: int) -> list[Job]:
        return self.jobs.get("stalled", [])[:limit]

    async def expired(self, before: int, limit: int) -> list[str]:
        self.asked.append(("expired", before))
        return self.jobs.get("expired", [])[:limit]

    async def remove(self, job_id: str) -> None:
        if job_id == "stuck":
            raise Unavailable
        self.removed.append(job_id)

    async def forget_machines(self, before: int, limit: int = 10) -> int:
        self.asked.append(("machines", before))
        return 7

    async def admit(self, job_id: str, *, max_active: int, small_tasks: int, shared_hosts: int, now: int) -> str | None:
        if self.slots < 1:
            return "batches:0" if job_id.startswith("small") else None
        self.slots -= 1
        return f"batch:{job_id}"


class Calls:
    """A callable that remembers; jobs named `dead…` raise."""

    def __init__(self) -> None:
        self.jobs: list[str] = []

    async def __call__(self, job: Job | str) -> None:
        job_id = job if isinstance(job, str) else job.id
        if job_id.startswith("dead"):
            raise Conflict
        self.jobs.append(job_id)


def jobs(*ids: str) -> list[Job]:
    return [Job(id=i, state=JobState.QUEUED) for i in ids]


async def test_wake_activates_what_is_overdue_and_goes_on_after_a_failure() -> None:
    """Invariant 5: each overdue job is activated; one that cannot be woken is counted and stops no other."""
    store, activate = Store(overdue=jobs("a", "dead", "b")), Calls()
    report = await wake.run_once(store, activate, now=50_000, longest_ms=120_000)
    assert activate.jobs == ["a", "b"]
    assert (report.done, report.failed, report.more) == (2, 1, False)
    assert store.asked == [("overdue", 50_000 - wake.SLACK_MS)]


async def test_a_round_is_bounded() -> None:
    """No round takes more than its limit, and it says that more is due."""
    store, activate = Store(overdue=jobs(*(f"j{i}" for i in range(10)))), Calls()
    report = await wake.run_once(store, activate, now=0, longest_ms=120_000, limit=3)
    assert (len(activate.jobs), report.more) == (3, True)


async def test_admit_places_and_activates_and_passes_over_large_jobs() -> None:
    """With one slot left the second large job waits, the small one behind it does not."""
    store, activate = Store(waiting=jobs("one", "large", "small")), Calls()
    store.slots = 1
    report = await admit.run_once(
        store, activate, Calls(), now=0, max_active=16, small_tasks=50, shared_hosts=2, intake_timeout_ms=9
    )  # fmt: skip
    assert activate.jobs == ["one", "small"]
    assert (report.done, report.failed) == (2, 0)


async def test_admit_fails_intake_that_nobody_continues() -> None:
    """A job that stays RECEIVING past its alarm is ended; one that went on meanwhile is left alone."""
    store, fail = Store(stalled=jobs("left", "dead-but-continued")), Calls()
    report = await admit.run_once(
        store, Calls(), fail, now=0, max_active=1, small_tasks=1, shared_hosts=1, intake_timeout_ms=9
    )
    assert fail.jobs == ["left"]
    assert (report.done, report.failed) == (1, 1)


async def test_expire_removes_after_the_retention() -> None:
    """The limit in time is RETENTION_DAYS before now; what cannot be removed is tried in the next round."""
    store = Store(expired=["a", "stuck", "b"])
    report = await expire.run_once(store, now=40 * expire.DAY_MS, retention_days=30)
    assert store.asked == [("expired", 10 * expire.DAY_MS), ("machines", 10 * expire.DAY_MS)]
    assert store.removed == ["a", "b"]
    assert (report.done, report.failed) == (2 + 7, 1)


async def test_sweep_removes_old_logs_only_and_asks_the_fleet(tmp_path: Path) -> None:
    """Logs of machines that are old go; new ones and other files stay. The fleet ends the machines."""
    asked: list[dict[str, Any]] = []

    async def fleet(request: dict[str, Any]) -> dict[str, Any]:
        asked.append(request)
        return {"destroyed": 2}

    for name in ("machine-old.log", "machine-new.log", "driver.log"):
        (tmp_path / name).write_text("x")
    for name in ("machine-old.log", "driver.log"):
        os.utime(tmp_path / name, (1000, 1000))
    os.utime(tmp_path / "machine-new.log", (9_000, 9_000))
    report = await sweep.run_once(fleet, tmp_path, now=9_000_000, kept_ms=1_000_000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["driver.log", "machine-new.log"]
    assert asked == [{"op": "sweep"}]
    assert (report.done, report.failed) == (3, 0)


async def test_sweep_goes_on_when_the_fleet_is_away(tmp_path: Path) -> None:
    """A fleet that starts again delays nothing but its own part."""

    async def fleet(request: dict[str, Any]) -> dict[str, Any]:
        raise Unavailable

    report = await sweep.run_once(fleet, tmp_path / "missing", now=0)
    assert (report.done, report.failed) == (0, 1)
