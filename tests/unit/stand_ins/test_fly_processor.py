"""The allowance of shared processors, as documented: a share of 6.25% of each vCPU, and a balance for bursts."""

import asyncio
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.stand_ins.fly.processor import Cores, Processor

DRAIN_1X = 1 - 0.0625
"""What a busy shared-cpu-1x takes from its balance each second."""


def shared(cpus: int = 1, **numbers: float) -> Processor:
    return Processor(shared=True, cpus=cpus, now=0.0, **numbers)


def test_a_burst_runs_at_full_speed_and_costs_what_goes_beyond_the_share() -> None:
    processor = shared()
    processor.add(2.0, now=0.0)
    assert processor.due_s() == pytest.approx(2.0)
    processor.advance(2.0)
    assert processor.done() == [1]
    assert processor.balance_s == pytest.approx(5.0 - 2.0 * DRAIN_1X)
    assert processor.throttled_s == 0.0


def test_a_spent_machine_is_sixteen_times_slower() -> None:
    processor = shared(burst_s=0.0)
    processor.add(1.0, now=0.0)
    assert processor.due_s() == pytest.approx(16.0)
    processor.advance(16.0)
    assert processor.done() == [1]
    assert processor.throttled_s == pytest.approx(15.0)


def test_the_balance_ends_in_the_middle_of_a_job() -> None:
    processor = shared()
    processor.add(10.0, now=0.0)
    spent_s = 5.0 / DRAIN_1X
    assert processor.due_s() == pytest.approx(spent_s + (10.0 - spent_s) * 16)
    processor.advance(60.0)
    assert processor.balance_s == 0.0
    assert processor.done() == []


def test_share_and_balance_belong_to_the_machine_whichever_vcpu_uses_them() -> None:
    """shared-cpu-2x: 12.5% of a core and 10 s, also for a single job."""
    processor = shared(cpus=2)
    assert processor.share == pytest.approx(0.125)
    processor.add(100.0, now=0.0)
    processor.advance(10.0 / (1 - 0.125))
    assert processor.balance_s == pytest.approx(0.0, abs=1e-5)
    used_s = processor.used_s
    processor.advance(10.0 / (1 - 0.125) + 8.0)
    assert processor.used_s - used_s == pytest.approx(1.0, abs=1e-4)


def test_two_jobs_on_two_vcpus_spend_twice_as_fast() -> None:
    processor = shared(cpus=2)
    processor.add(100.0, now=0.0)
    processor.add(100.0, now=0.0)
    processor.advance(4.0)
    assert processor.used_s == pytest.approx(8.0)
    assert processor.balance_s == pytest.approx(10.0 - 4.0 * (2 - 0.125))


@pytest.mark.parametrize(("tasks", "is_slow"), [(10, False), (11, False), (12, True)])
def test_about_ten_tasks_of_a_second_spend_a_shared_cpu_2x(tasks: int, is_slow: bool) -> None:
    processor, now = shared(cpus=2), 0.0
    for _ in range(tasks):
        job = processor.add(1.0, now)
        due_s = processor.due_s()
        assert due_s is not None
        now += due_s
        processor.remove(job, now)
    assert (processor.throttled_s > 0.01) is is_slow


def test_an_idle_machine_saves_up_to_the_most() -> None:
    processor = shared(burst_s=0.0)
    processor.advance(160.0)
    assert processor.balance_s == pytest.approx(10.0)
    processor.advance(1e6)
    assert processor.balance_s == 500.0


def test_a_machine_that_is_off_saves_nothing() -> None:
    processor = shared(burst_s=0.0)
    processor.advance(16.0)
    processor.resume(1000.0)
    processor.advance(1016.0)
    assert processor.balance_s == pytest.approx(2.0)


def test_a_performance_machine_is_never_slow() -> None:
    processor = Processor(shared=False, cpus=2, now=0.0)
    for _ in range(4):
        processor.add(1000.0, now=0.0)
    assert processor.due_s() == pytest.approx(2000.0), "four jobs on two vCPUs: half of one each"
    processor.advance(2000.0)
    assert len(processor.done()) == 4
    assert processor.throttled_s == 0.0
    assert math.isinf(processor.balance_s)


def test_without_a_job_nothing_is_due() -> None:
    assert shared().due_s() is None


@given(
    st.integers(1, 8),
    st.booleans(),
    st.lists(st.tuples(st.floats(0, 20), st.floats(0, 5)), min_size=1, max_size=6),
    st.floats(0, 5),
)
def test_a_job_is_done_when_it_was_due_and_not_before(
    cpus: int, is_shared: bool, jobs: list[tuple[float, float]], burst_s: float
) -> None:
    processor, now = Processor(shared=is_shared, cpus=cpus, now=0.0, burst_s=burst_s), 0.0
    for cpu_s, after_s in jobs:
        now += after_s
        processor.add(cpu_s, now)
    for _ in jobs:
        for job in processor.done():
            processor.remove(job, now)
        due_s = processor.due_s()
        if due_s is None:
            break
        if due_s > 0.01:
            processor.advance(now + due_s * 0.99)
            assert processor.done() == []
        now += due_s
        processor.advance(now)
        assert processor.done()
    assert processor.used_s <= sum(cpu_s for cpu_s, _ in jobs) + 1e-3
    assert processor.balance_s >= 0


async def test_work_takes_as_long_as_the_machine_is_slow() -> None:
    cores = Cores(Processor(shared=True, cpus=1, now=_now(), quota=0.25, burst_s=0.0))
    begun = _now()
    await cores.work(0.01)
    assert _now() - begun >= 0.039
    assert cores.processor.throttled_s >= 0.029
    await cores.work(0.0)


def _now() -> float:
    return asyncio.get_running_loop().time()
