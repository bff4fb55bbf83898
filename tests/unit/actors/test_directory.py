"""The way to the actors: real sockets in one process, actors that come, go and hang."""

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from actors import directory, wire
from actors.directory import Directory
from actors.errors import Unavailable
from actors.rules.model import Job
from actors.rules.placement import shared_host
from actors.rules.states import JobState


class Store:
    """Knows the jobs that a test has put into it."""

    def __init__(self, *jobs: Job) -> None:
        self.jobs = {job.id: job for job in jobs}

    async def job(self, job_id: str) -> Job | None:
        return self.jobs.get(job_id)


class Actors:
    """Listens under the name of each actor that is asked for; answers with that name."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.servers: dict[str, wire.Server] = {}
        self.ensured: list[str] = []
        self.ways: list[Directory] = []

    async def close(self) -> None:
        """End all connections, and wait until they have ended."""
        for way in self.ways:
            for client in list(way._lines._clients.values()):
                await client.close()
        for server in self.servers.values():
            server.close()
        await turns()

    async def ensure(self, name: str) -> None:
        self.ensured.append(name)

        async def answer(requests: list[Any]) -> list[Any]:
            return [name for _ in requests]

        await self.listen(name, answer)

    async def listen(self, name: str, handler: wire.Handler) -> None:
        self.servers[name] = await wire.serve(wire.socket_path(self.run_dir, name), handler)


@pytest.fixture
def run_dir() -> Iterator[Path]:
    with TemporaryDirectory(prefix="way") as name:
        yield Path(name)


@pytest.fixture
async def actors(run_dir: Path) -> AsyncIterator[Actors]:
    made = Actors(run_dir)
    yield made
    await made.close()


async def turns() -> None:
    """Let the event loop do what is ready, and what follows on that."""
    for _ in range(20):
        await asyncio.sleep(0)


def way_of(actors: Actors, store: Any = None) -> Directory:
    way = Directory(store=store, run_dir=actors.run_dir, ensure=actors.ensure, max_active=1, small_tasks=1, hosts=1)
    actors.ways.append(way)
    return way


def running(job_id: str) -> Job:
    return Job(id=job_id, state=JobState.RUNNING, placement=f"batch:{job_id}")


async def silent(requests: list[Any]) -> list[Any]:
    await asyncio.Event().wait()
    return []


async def test_an_actor_that_does_not_answer_is_not_waited_for(actors: Actors, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lives and listens, and answers nothing: the caller has Unavailable when its patience is over."""
    monkeypatch.setattr(directory, "PATIENCE_S", 0.1)
    await actors.listen("fleet", silent)
    await actors.listen("batch:b", silent)
    way = way_of(actors, Store(running("b")))
    async with asyncio.timeout(5):
        with pytest.raises(Unavailable):
            await way.fleet({"op": "demand"})
        with pytest.raises(Unavailable):
            await way.call("b", {"op": "activate"})
        with pytest.raises(Unavailable):
            await way.fleet({"op": "claim", "claim": {"wait_ms": 50}})


async def test_a_claim_may_wait_for_as_long_as_it_says(actors: Actors, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time that a claim asks for comes on top of the patience with the fleet."""
    monkeypatch.setattr(directory, "PATIENCE_S", 0.1)

    async def late(requests: list[Any]) -> list[Any]:
        await asyncio.sleep(0.3)
        return ["work" for _ in requests]

    await actors.listen("fleet", late)
    assert await way_of(actors).fleet({"op": "claim", "claim": {"wait_ms": 10_000}}) == "work"


async def test_an_actor_that_cannot_be_started_in_time_is_not_waited_for(
    actors: Actors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start goes on for the next caller; this one is told."""
    monkeypatch.setattr(directory, "PATIENCE_S", 0.1)
    starts = asyncio.Event()

    async def slow(_: str) -> None:
        await starts.wait()

    monkeypatch.setattr(actors, "ensure", slow)
    async with asyncio.timeout(5):
        with pytest.raises(Unavailable):
            await way_of(actors, Store(running("b"))).call("b", {"op": "activate"})


async def test_what_nobody_waits_for_any_more_may_fail(actors: Actors) -> None:
    """An actor that cannot be started, when who asked has gone: that is no error of the loop, which would be logged."""
    failed, told = asyncio.Event(), list[dict[str, Any]]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))

    async def ensure(_: str) -> None:
        await failed.wait()
        raise Unavailable

    way = Directory(
        store=Store(), run_dir=actors.run_dir, ensure=ensure, max_active=1, small_tasks=1, hosts=1  # type: ignore[arg-type]
    )  # fmt: skip
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(way.ensure("batch:b"), 0.01)
    failed.set()
    await turns()
    gc.collect()
    assert told == []


async def test_nothing_is_kept_of_actors_that_have_left(actors: Actors) -> None:
    """Neither a client of an actor that has ended nor its socket's file."""
    names = [f"j{i}" for i in range(20)]
    way = way_of(actors, Store(*map(running, names)))
    for name in names:
        assert await way.call(name, {"op": "activate"}) == f"batch:{name}"
        actors.servers[f"batch:{name}"].close()
    await turns()
    assert way._lines._clients == {}
    assert list(actors.run_dir.iterdir()) == []


async def test_a_job_that_is_over_is_looked_for_before_its_own_actor_is_started_again(actors: Actors) -> None:
    """Its place is remembered from when it ran and its actor has left: a standing host takes the call."""
    store = Store(running("b"))
    way = way_of(actors, store)
    assert await way.call("b", {"op": "activate"}) == "batch:b"
    store.jobs["b"] = Job(id="b", state=JobState.DONE, placement="batch:b")
    actors.servers["batch:b"].close()
    assert await way.call("b", {"op": "activate"}) == shared_host("b", 1)
    assert actors.ensured == ["batch:b", shared_host("b", 1)]
