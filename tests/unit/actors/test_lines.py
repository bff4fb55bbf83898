"""The way to actors of other nodes: they come up elsewhere, their ports get others, and a node may just be silent."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from actors import directory, lines, wire
from actors.directory import Directory
from actors.errors import Unavailable
from actors.network import Address, Network, TcpServer
from actors.rules.model import Job
from actors.rules.states import JobState
from tests.unit.actors.transports import SECRET, ended


class Nodes:
    """Ray in small: it knows where each actor listens, and starts those that do not."""

    def __init__(self) -> None:
        self.network = Network([SECRET])
        self.where: dict[str, TcpServer] = {}
        self.former: list[TcpServer] = []
        self.asked: list[str] = []
        self.ways: list[Directory] = []
        self.jobs: dict[str, Job] = {}

    async def job(self, job_id: str) -> Job | None:
        """Of the store."""
        return self.jobs.get(job_id)

    def way(self) -> Directory:
        self.ways.append(Directory(
            store=self, run_dir=Path("nowhere"), ensure=self.ensure, max_active=1, small_tasks=1, hosts=1,  # type: ignore[arg-type]
            network=self.network,
        ))  # fmt: skip
        return self.ways[-1]

    async def ensure(self, name: str) -> Address:
        self.asked.append(name)
        if name not in self.where:
            await self.start(name)
        return self.where[name].address

    async def start(self, name: str, handler: wire.Handler | None = None, host: str = "127.0.0.1") -> TcpServer:
        """It answers with its name and address. Who had the name before is still where it was."""

        async def answer(requests: list[Any]) -> list[Any]:
            return [f"{name} at {server.address.host}" for _ in requests]

        if name in self.where:
            self.former.append(self.where[name])
        server = self.where[name] = await self.network.listen(host, name, handler or answer)
        return server

    def kill(self, name: str) -> Address:
        """Where it listened."""
        server = self.where.pop(name)
        self.former.append(server)
        server.close()
        return server.address

    async def close(self) -> None:
        servers = [*self.where.values(), *self.former]
        for way in self.ways:
            await way._lines.close()
        for server in servers:
            server.close()
            for connection in list(server.connections):
                connection.close()
        await ended(*servers)


@pytest.fixture
async def nodes() -> AsyncIterator[Nodes]:
    made = Nodes()
    yield made
    await made.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence is noticed at once."""
    monkeypatch.setattr(lines, "SILENCE_S", 0.02)
    monkeypatch.setattr(lines, "LOOK_S", 0.01)


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


class Silent:
    """A handler that answers nothing, and tells that it was asked."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()

    async def __call__(self, requests: list[Any]) -> list[Any]:
        self.entered.set()
        await asyncio.Event().wait()
        return []


async def test_an_actor_is_asked_once_where_it_is(nodes: Nodes) -> None:
    """However often it is called, and by however many at once."""
    way = nodes.way()
    assert await asyncio.gather(*(way.fleet({"op": "x"}) for _ in range(20))) == ["fleet at 127.0.0.1"] * 20
    assert await way.fleet({"op": "claim", "claim": {}}) == "fleet at 127.0.0.1"
    assert nodes.asked == ["fleet"]


async def test_an_actor_comes_up_elsewhere(nodes: Nodes) -> None:
    """Nobody listens where it was: it is asked again, for claims too."""
    way = nodes.way()
    await way.fleet({"op": "x"})
    for turn, request in enumerate(({"op": "x"}, {"op": "claim", "claim": {}})):
        nodes.kill("fleet")
        await nodes.start("fleet", host=f"127.0.0.{turn + 2}")
        assert await way.fleet(request) == f"fleet at 127.0.0.{turn + 2}"
    assert nodes.asked == ["fleet"] * 3


async def test_another_actor_has_its_port(nodes: Nodes) -> None:
    """It is not asked what was meant for the former one."""
    way = nodes.way()
    await way.fleet({"op": "x"})
    address = nodes.kill("fleet")
    nodes.network = Network([SECRET], ports=range(address.port, address.port + 1))
    other = await nodes.start("batch:b")
    assert other.address == address
    way._lines.told("fleet", address)  # as one remembers it who has not seen the connection end
    nodes.network = Network([SECRET])
    assert await way.fleet({"op": "x"}) == "fleet at 127.0.0.1"
    assert nodes.asked == ["fleet"] * 2


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("request_", [{"op": "x"}, {"op": "claim", "claim": {"wait_ms": 30_000}}])
async def test_who_waits_at_a_silent_node_is_answered_by_its_successor(nodes: Nodes, request_: dict[str, Any]) -> None:
    """The connection stands: its node was suspended, or lost its network. Ray starts the actor elsewhere."""
    way, silent = nodes.way(), Silent()
    await nodes.start("fleet", silent)
    waiting = asyncio.ensure_future(way.fleet(request_))
    await silent.entered.wait()
    await nodes.start("fleet", host="127.0.0.2")
    async with asyncio.timeout(5):
        assert await waiting == "fleet at 127.0.0.2"
        assert await way.fleet(request_) == "fleet at 127.0.0.2"


@pytest.mark.usefixtures("impatient")
async def test_who_waits_at_a_slow_actor_goes_on_waiting(nodes: Nodes) -> None:
    """Ray says that it is still the one: its answer comes, and the request is not sent twice."""
    gate, sent = asyncio.Event(), []

    async def slow(requests: list[Any]) -> list[Any]:
        sent.extend(requests)
        await gate.wait()
        return ["late" for _ in requests]

    await nodes.start("fleet", slow)
    waiting = asyncio.ensure_future(nodes.way().fleet({"op": "x"}))
    await until(lambda: len(nodes.asked) >= 4)
    gate.set()
    assert await waiting == "late"
    assert len(sent) == 1


async def test_one_that_was_overtaken_is_not_believed(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lives on a node that Ray has lost, says that it can do nothing, and would say so for ever."""
    monkeypatch.setattr(lines, "SILENCE_S", 0.01)

    async def overtaken(requests: list[Any]) -> list[Any]:
        return [Unavailable(retry_after_s=1) for _ in requests]

    way = nodes.way()
    await nodes.start("fleet", overtaken)
    waiting = asyncio.ensure_future(way.fleet({"op": "x"}))
    await until(lambda: nodes.asked)
    await nodes.start("fleet", host="127.0.0.2")
    assert await waiting == "fleet at 127.0.0.2"


async def test_a_batch_that_is_over_is_not_started_again(nodes: Nodes) -> None:
    """Its process has left, and its address is remembered with its place: both are looked up first."""
    way = nodes.way()
    nodes.jobs["b"] = Job(id="b", state=JobState.RUNNING, placement="batch:b")
    assert await way.call("b", {"op": "activate"}) == "batch:b at 127.0.0.1"
    nodes.jobs["b"] = Job(id="b", state=JobState.DONE, placement="batch:b")
    nodes.kill("batch:b")
    assert await way.call("b", {"op": "activate"}) == "batches:0 at 127.0.0.1"
    assert nodes.asked == ["batch:b", "batches:0"]


async def test_nothing_is_kept_of_actors_that_have_left(nodes: Nodes) -> None:
    """Neither connection nor address."""
    way = nodes.way()
    for number in range(5):
        nodes.jobs[f"b{number}"] = Job(id=f"b{number}", state=JobState.RUNNING, placement=f"batch:b{number}")
        await way.call(f"b{number}", {"op": "activate"})
        nodes.kill(f"batch:b{number}")
    await until(lambda: not way._lines._clients)
    assert way._lines._addresses == {}
    assert way._lines._polls == {}


async def test_who_is_refused_at_the_right_address_is_told(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another secret on the other node: no number of tries helps."""
    monkeypatch.setattr(directory, "PATIENCE_S", 0.1)
    way = nodes.way()
    nodes.network = Network(["another secret of some length"])
    with pytest.raises(Unavailable):
        await way.fleet({"op": "x"})
