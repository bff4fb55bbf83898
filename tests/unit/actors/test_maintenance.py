"""The duties, with stores that remember what they were asked."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from actors.assembly import Duty, rounds
from actors.errors import Conflict, Unavailable
from actors.maintenance import admit, expire, sweep, wake
from actors.maintenance.base import Activator, Report
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

    async def waiting(self, limit: int, most_tasks: int = 10**9) -> list[Job]:
        return [job for job in self.jobs.get("waiting", []) if job.tasks_total <= most_tasks][:limit]

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
        self.asked.append(("admit", job_id))
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
    return [Job(id=i, state=JobState.QUEUED, tasks_total=1 if i.startswith("small") else 99) for i in ids]


async def admitted(store: Store, activate: Calls, limit: int = 200) -> Report:
    return await admit.run_once(
        store, activate, Calls(), now=0, max_active=16, small_tasks=50, shared_hosts=2, intake_timeout_ms=9, limit=limit
    )  # fmt: skip


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


async def test_small_jobs_behind_a_page_of_large_ones_are_placed() -> None:
    """However many large jobs wait for a slot, small ones that are younger have places; no job is asked for twice."""
    store, activate = Store(waiting=jobs("large1", "small1", "large2", "large3", "small2", "large4", "small3")), Calls()
    store.slots = 0
    report = await admitted(store, activate, limit=3)
    assert sorted(activate.jobs) == ["small1", "small2", "small3"]
    assert [job_id for what, job_id in store.asked if what == "admit"] == ["large1", "small1", "small2", "small3"]
    assert report.done == 3


async def test_a_page_of_large_jobs_without_a_slot_is_not_asked_for_again_at_once() -> None:
    """One transaction tells that no slot is free; there is nothing more to do until the next round."""
    store, activate = Store(waiting=jobs(*(f"large{i}" for i in range(10)))), Calls()
    store.slots = 0
    report = await admitted(store, activate, limit=5)
    assert (report.done, report.more) == (0, False)
    assert store.asked == [("admit", "large0")]


async def test_a_full_page_of_placed_jobs_is_followed_by_the_next_at_once() -> None:
    """As long as there are places, nobody waits for an interval."""
    report = await admitted(Store(waiting=jobs(*(f"large{i}" for i in range(10)))), Calls(), limit=5)
    assert (report.done, report.more) == (5, True)


async def test_a_job_that_cannot_be_placed_stops_no_other() -> None:
    """It was removed since it was listed, say; those behind it get their places."""

    class Removed(Store):
        async def admit(self, job_id: str, **more: Any) -> str | None:
            if job_id == "gone":
                raise Conflict
            return await super().admit(job_id, **more)

    activate = Calls()
    report = await admitted(Removed(waiting=jobs("gone", "b")), activate)
    assert (activate.jobs, report.done, report.failed) == (["b"], 1, 1)


# --- hosts that hang, duties that break --------------------------------------------------------------


async def test_a_job_that_cannot_be_woken_for_long_delays_no_other() -> None:
    """While the hosts of two jobs hang, the three behind them are woken."""
    woken, others = [], asyncio.Event()

    async def activate(job_id: str) -> None:
        if job_id in ("a", "b"):
            await others.wait()  # without what comes behind, this would never end
            raise Unavailable
        woken.append(job_id)
        if len(woken) == 3:
            others.set()

    async with asyncio.timeout(5):
        report = await wake.run_once(Store(overdue=jobs(*"abcde")), activate, now=0, longest_ms=1)
    assert (woken, report.done, report.failed) == (["c", "d", "e"], 3, 2)


async def test_a_host_that_hangs_holds_up_no_round_and_is_asked_once() -> None:
    """The round goes on without it; the activation that is under way is not begun a second time."""
    asked: list[str] = []
    answers = asyncio.Event()

    async def activate(job_id: str) -> None:
        asked.append(job_id)
        await answers.wait()

    patient = Activator(activate, patience_s=0.01)
    for _ in range(2):
        with pytest.raises(Unavailable):
            await patient("a")
    assert asked == ["a"]
    answers.set()
    while True:  # until the activation has ended: then it is begun anew
        try:
            await patient("a")
            break
        except Unavailable:
            await asyncio.sleep(0)
    assert asked == ["a", "a"]


async def test_an_activation_that_fails_raises_what_it_failed_with() -> None:
    """The round counts it, and the next one asks again."""
    patient = Activator(Calls())
    for _ in range(2):
        with pytest.raises(Conflict):
            await patient("dead")


async def test_a_duty_outlives_a_bug_in_a_round() -> None:
    """Whatever a round raises, the next one comes."""
    again = asyncio.Event()
    begun: list[int] = []

    async def broken() -> Report:
        begun.append(1)
        if len(begun) == 3:
            again.set()
        raise RuntimeError("nobody foresaw it")

    running = asyncio.create_task(rounds(Duty("wake", 0.0, broken)))
    async with asyncio.timeout(5):
        await asyncio.wait([running, asyncio.create_task(again.wait())], return_when=asyncio.FIRST_COMPLETED)
    assert again.is_set()
    running.cancel()


@pytest.mark.parametrize(
    ("report", "at_once"),
    [
        (Report(duty="d", done=0, more=True), False),
        (Report(duty="d", done=1, more=True), True),
        (Report(duty="d", done=1, more=True, failed=1), False),
        (Report(duty="d", done=1), False),
    ],
)
async def test_a_round_follows_at_once_only_on_one_that_did_something(report: Report, at_once: bool) -> None:
    """A page that is full of what cannot be done now is no reason to ask for it again and again."""
    begun: list[int] = []

    async def run_once() -> Report:
        begun.append(1)
        await asyncio.sleep(0)
        return report

    running = asyncio.create_task(rounds(Duty("d", 3600.0, run_once)))
    for _ in range(20):
        await asyncio.sleep(0)
    running.cancel()
    assert (len(begun) > 1) is at_once


# --- expire, sweep -----------------------------------------------------------------------------------


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
