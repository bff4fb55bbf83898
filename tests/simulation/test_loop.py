"""The loop with a virtual clock, and its processes: what a kill drops and a stop keeps."""

import asyncio
import time
from collections.abc import Iterator

import pytest

from tests.simulation.loop import GoesRound, Process, SleepsForever, VirtualLoop, current


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    """Ends with the test."""
    made = VirtualLoop()
    yield made
    made.close()


async def note(seen: list[str], *names: str, each_s: float = 1.0) -> None:
    """One name after the other, and `finally` at the end."""
    try:
        for name in names:
            await asyncio.sleep(each_s)
            seen.append(name)
    finally:
        seen.append("finally")


def test_an_hour_takes_no_time(loop: VirtualLoop) -> None:
    """The clock is a number."""
    since = time.monotonic()
    loop.run_until_complete(asyncio.sleep(3600))
    assert loop.time() == 3600
    assert time.monotonic() - since < 1


def test_timers_run_in_the_order_of_their_times_and_those_of_one_time_in_that_of_their_making(
    loop: VirtualLoop,
) -> None:
    """A seed knows no other order."""
    seen: list[str] = []
    for when, name in ((2.0, "c"), (1.0, "a"), (2.0, "d"), (1.0, "b"), (0.0, "first")):
        loop.call_later(when, seen.append, name)
    loop.call_later(1.5, seen.append, "cancelled").cancel()
    loop.run_until_complete(asyncio.sleep(3))
    assert seen == ["first", "a", "b", "c", "d"]


def test_a_killed_process_runs_no_step_more_and_no_finally(loop: VirtualLoop) -> None:
    """As kill -9: only what others hear of it still happens."""
    seen: list[str] = []
    process = Process(loop, "p")
    process.at_end.append(lambda: seen.append("told"))
    process.begin(note(seen, "one", "two", "three"))
    loop.call_later(1.5, process.kill)
    loop.run_until_complete(asyncio.sleep(10))
    assert seen == ["one", "told"]
    process.kill()
    assert seen == ["one", "told"], "a second kill tells nobody"


def test_a_killed_process_drops_what_is_due_in_the_same_moment(loop: VirtualLoop) -> None:
    """Between any two steps, also of one instant."""
    seen: list[str] = []
    process = Process(loop, "p")
    loop.call_later(1.0, seen.append, "before", context=process.context)
    loop.call_later(1.0, process.kill)
    loop.call_later(1.0, seen.append, "after", context=process.context)
    loop.run_until_complete(asyncio.sleep(2))
    assert seen == ["before"]


def test_a_stopped_process_runs_later_what_was_due_and_in_that_order(loop: VirtualLoop) -> None:
    """Others go on meanwhile."""
    seen: list[str] = []
    process = Process(loop, "p")
    for n in range(4):
        loop.call_later(n, lambda n=n: seen.append(f"{n} at {loop.time():.0f}"), context=process.context)
    loop.call_later(1.5, seen.append, "another")
    loop.call_later(0.5, process.stop)
    loop.call_later(8, process.go_on)
    loop.run_until_complete(asyncio.sleep(10))
    assert seen == ["0 at 0", "another", "1 at 8", "2 at 8", "3 at 8"]


def test_a_stopped_process_that_is_killed_never_goes_on(loop: VirtualLoop) -> None:
    """What was kept is dropped."""
    seen: list[str] = []
    process = Process(loop, "p")
    process.begin(note(seen, "one", "two"))
    loop.call_later(0.5, process.stop)
    loop.call_later(2, process.kill)
    loop.call_later(3, process.go_on)
    loop.run_until_complete(asyncio.sleep(10))
    assert seen == []
    assert not process.is_alive


def test_a_step_belongs_to_the_process_that_made_it(loop: VirtualLoop) -> None:
    """Tasks that it begins die with it; what it asks of the world outside does not."""
    seen: list[str] = []
    process = Process(loop, "p")

    async def work() -> None:
        assert current() is process
        loop.outside(2, seen.append, "outside")
        await asyncio.gather(note(seen, "own"), asyncio.create_task(note(seen, "child")))

    process.begin(work())
    loop.call_later(0.5, process.kill)
    loop.run_until_complete(asyncio.sleep(5))
    assert seen == ["outside"]
    assert current() is None


def test_to_wait_for_what_never_comes_is_an_error(loop: VirtualLoop) -> None:
    """Nothing waits forever: it is tested for free."""
    with pytest.raises(SleepsForever):
        loop.run_until_complete(loop.create_future())


def test_a_cancelled_timer_keeps_nobody_waiting(loop: VirtualLoop) -> None:
    """It is passed over."""
    loop.call_later(5, print).cancel()
    with pytest.raises(SleepsForever):
        loop.run_until_complete(loop.create_future())
    assert loop.time() == 0


def test_a_thread_runs_at_once_and_here(loop: VirtualLoop) -> None:
    """Its value and its exception arrive as a thread's do."""

    async def work() -> None:
        assert await asyncio.to_thread(lambda: 7) == 7
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 // 0)
        assert loop.time() == 0

    loop.run_until_complete(work())


def test_time_outs_of_asyncio_work(loop: VirtualLoop) -> None:
    """They are timers like others."""

    async def work() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30):
                await asyncio.sleep(60)

    loop.run_until_complete(work())
    assert loop.time() == 30


def test_to_go_round_in_circles_is_an_error(loop: VirtualLoop) -> None:
    """Also where no time passes."""

    async def work() -> None:
        while True:
            await asyncio.sleep(0)

    loop.most_steps = 1000
    with pytest.raises(GoesRound):
        loop.run_until_complete(work())
