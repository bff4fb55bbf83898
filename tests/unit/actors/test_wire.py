"""The wire: order, grouping, errors, and what a caller learns when the other side goes away."""

import asyncio
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest
import uvloop

from actors import assembly, wire
from actors.errors import ArkeError, Conflict, Fenced, InvalidInput, TooLarge, Unavailable
from actors.network import Tls
from actors.wire import WireDown
from tests.unit.actors.transports import KINDS, Tcp, Transport, Unix, certificates, ended, misbehave

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy:pytest.PytestDeprecationWarning")


@pytest.fixture
def run_dir() -> Any:
    """A directory whose path is short enough for a socket."""
    with TemporaryDirectory(prefix="wire") as directory:
        yield Path(directory)


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """Certificates of one node."""
    return Tls.load(*certificates(tmp_path_factory.mktemp("node")))


@pytest.fixture(
    scope="session", params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy], ids=["asyncio", "uvloop"]
)
def event_loop_policy(request: pytest.FixtureRequest) -> Any:
    """Ray's actors have uvloop's; `arke` elsewhere may have the other."""
    return request.param()


@pytest.fixture(params=KINDS)
async def at(request: pytest.FixtureRequest, run_dir: Path, tls: Tls) -> AsyncIterator[Transport]:
    """Where the actor of a test listens."""
    made = Unix(run_dir) if request.param == "unix" else Tcp(tls if request.param == "tls" else None)
    yield made
    for server in made.servers:
        server.close()
    await ended(*made.servers)


@asynccontextmanager
async def serving(at: Transport, handler: wire.Handler, **options: Any) -> AsyncIterator[wire.Client]:
    server = await at.serve(handler)
    client = wire.Client(at.where, **options)
    try:
        yield client
    finally:
        await client.close()
        server.close()


def each(answer: Callable[[Any], Any]) -> wire.Handler:
    async def handler(requests: list[Any]) -> list[Any]:
        return [answer(request) for request in requests]

    return handler


class Gate:
    """A handler that notes the lists it gets and answers when it is opened."""

    def __init__(self) -> None:
        self.lists: list[list[Any]] = []
        self.entered = asyncio.Event()
        self.open = asyncio.Event()

    async def __call__(self, requests: list[Any]) -> list[Any]:
        self.lists.append([request["n"] for request in requests])
        self.entered.set()
        await self.open.wait()
        return [request["n"] for request in requests]


async def test_answers_go_to_their_callers(at: Transport) -> None:
    """Of a thousand calls at once each gets its own answer."""
    async with serving(at, each(lambda request: request["n"] * 2)) as client:
        answers = await asyncio.gather(*(client.call({"op": "x", "n": n}) for n in range(1000)))
    assert answers == [n * 2 for n in range(1000)]


async def test_what_gathers_goes_as_one_list(at: Transport) -> None:
    """While one list is in flight, all further calls wait and then go together."""
    gate = Gate()
    async with serving(at, gate) as client:
        first = asyncio.create_task(client.call({"n": 0}))
        await gate.entered.wait()
        later = [asyncio.create_task(client.call({"n": n})) for n in range(1, 6)]
        await asyncio.sleep(0)
        gate.open.set()
        assert await asyncio.gather(first, *later) == [0, 1, 2, 3, 4, 5]
    assert gate.lists == [[0], [1, 2, 3, 4, 5]]


@pytest.mark.parametrize(
    "error",
    [
        Conflict("no", field="state"),
        InvalidInput("wrong", field="n"),
        Unavailable("busy", retry_after_s=7),
        Fenced(),
    ],
)
async def test_errors_keep_their_class_and_fields(at: Transport, error: ArkeError) -> None:
    """An ArkeError in a place of the list is raised at its caller, with all it says; its neighbours are answered."""
    async with serving(at, each(lambda request: error if request["n"] == 1 else "fine")) as client:
        answers = await asyncio.gather(*(client.call({"n": n}) for n in range(3)), return_exceptions=True)
    assert answers[0] == answers[2] == "fine"
    raised = answers[1]
    assert type(raised) is type(error)
    assert (raised.message, raised.field, raised.retry_after_s) == (error.message, error.field, error.retry_after_s)


async def test_an_unexpected_error_tells_nothing(at: Transport, caplog: pytest.LogCaptureFixture) -> None:
    """What is not an ArkeError is logged here and says nothing there, whether it is in a place or raised."""

    async def handler(requests: list[Any]) -> list[Any]:
        if requests[0]["n"] == 0:
            raise RuntimeError("secret")
        return [ValueError("secret")]

    async with serving(at, handler) as client:
        for n in (0, 1):
            with pytest.raises(ArkeError) as raised:
                await client.call({"n": n})
            assert raised.value.code == "error"
            assert "secret" not in raised.value.message
    assert caplog.text.count("secret") >= 2


async def test_what_the_handler_lost_is_unavailable_and_logged_once(
    at: Transport, caplog: pytest.LogCaptureFixture
) -> None:
    """A part that died under the handler: its caller may repeat, and who reads the log learns of each such answer,
    without a trace and once, though another answer of the list cannot be sent as it is.
    """
    values: list[Any] = [WireDown("store.sock: secret"), object(), ConnectionResetError("secret"), "fine"]
    async with serving(at, each(lambda request: values[request["n"]])) as client:
        answers = await asyncio.gather(*(client.call({"n": n}) for n in range(4)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [Unavailable, ArkeError, Unavailable, str]
    assert "secret" not in str(answers)
    logged = [record for record in caplog.records if "needed_part_away" in record.getMessage()]
    assert [record.getMessage() for record in logged] == [
        "[Wire] needed_part_away why=WireDown",
        "[Wire] needed_part_away why=ConnectionResetError",
    ]
    assert [(record.levelname, record.exc_info) for record in logged] == [("WARNING", None)] * 2
    assert "secret" not in caplog.text


async def test_a_value_that_cannot_be_sent_fails_alone(at: Transport) -> None:
    """A handler's value without a msgpack form is an error for its caller only."""
    gate_values: dict[int, Any] = {0: object(), 1: "fine"}
    async with serving(at, each(lambda request: gate_values[request["n"]])) as client:
        answers = await asyncio.gather(*(client.call({"n": n}) for n in (0, 1)), return_exceptions=True)
    assert isinstance(answers[0], ArkeError)
    assert answers[1] == "fine"


async def test_nobody_listening(at: Transport) -> None:
    """Without a server a call raises WireDown, a ConnectionError; once there is one, the same client works."""
    client = wire.Client(at.where)
    with pytest.raises(ConnectionError):
        await client.call({"n": 1})
    server = await at.serve(each(lambda request: request["n"]))
    assert await client.call({"n": 1}) == 1
    await client.close()
    server.close()


async def test_connection_lost_fails_all_pending(at: Transport) -> None:
    """When the server goes away, the list in flight and all that waits raise WireDown."""
    received = asyncio.Event()
    leave = asyncio.Event()

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(4)
        received.set()
        await leave.wait()
        writer.close()

    server = await misbehave(at, hang_up)
    client = wire.Client(at.where)
    first = asyncio.create_task(client.call({"n": 0}))
    await received.wait()
    second = asyncio.create_task(client.call({"n": 1}))
    await asyncio.sleep(0)
    leave.set()
    answers = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(answer) for answer in answers] == [wire.WireDown, wire.WireDown]
    await client.close()
    server.close()


async def test_too_many_waiting(at: Transport) -> None:
    """Above max_waiting a call is refused at once, with a time to come back."""
    gate = Gate()
    async with serving(at, gate, max_waiting=2) as client:
        first = asyncio.create_task(client.call({"n": 0}))
        await gate.entered.wait()
        waiting = [asyncio.create_task(client.call({"n": n})) for n in (1, 2)]
        await asyncio.sleep(0)
        with pytest.raises(Unavailable) as refused:
            await client.call({"n": 3})
        assert refused.value.retry_after_s == 1
        gate.open.set()
        assert await asyncio.gather(first, *waiting) == [0, 1, 2]


async def test_a_call_given_up_is_not_sent(at: Transport) -> None:
    """A call that was cancelled while it waited is left out of the next list."""
    gate = Gate()
    async with serving(at, gate) as client:
        first = asyncio.create_task(client.call({"n": 0}))
        await gate.entered.wait()
        second, third = (asyncio.create_task(client.call({"n": n})) for n in (1, 2))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.sleep(0)
        gate.open.set()
        assert [await first, await third] == [0, 2]
    assert gate.lists == [[0], [2]]


async def test_sizes(at: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that no frame holds is refused; requests that together are too large go in several frames."""
    monkeypatch.setattr(wire, "MAX_FRAME_BYTES", 1000)
    sizes: list[int] = []

    async def handler(requests: list[Any]) -> list[Any]:
        sizes.append(len(requests))
        return [len(request["x"]) for request in requests]

    async with serving(at, handler) as client:
        with pytest.raises(TooLarge):
            await client.call({"x": "y" * 1000})
        assert await asyncio.gather(*(client.call({"x": "y" * 400}) for _ in range(4))) == [400] * 4
    assert sizes == [2, 2]


@pytest.mark.parametrize("sent", [b"\xff\xff\xff\xff", b"\0\0\0\1\xc1", b"\0\0\0\1\x01"])
async def test_nonsense_closes_the_connection(at: Transport, sent: bytes) -> None:
    """A frame that is too large, no msgpack, or no list ends that connection and no other."""
    async with serving(at, each(lambda request: request["n"])) as client:
        reader, writer = await at.connect()
        writer.write(sent)
        assert await reader.read() == b""
        writer.close()
        assert await client.call({"n": 1}) == 1


async def test_stale_socket_is_replaced(run_dir: Path) -> None:
    """The file of an earlier process does not hinder; only this user may connect."""
    former = await wire.serve(run_dir / "a.sock", each(lambda _: "former"))
    async with serving(Unix(run_dir), each(lambda _: "new")) as client:
        assert await client.call({}) == "new"
        assert stat.S_IMODE((run_dir / "a.sock").stat().st_mode) == 0o600
        assert [entry.name for entry in run_dir.iterdir()] == ["a.sock"]
    former.close()


async def test_server_restarted_between_calls(at: Transport) -> None:
    """A connection that ended while nothing was in flight is made anew, unnoticed by the caller."""
    gone = asyncio.Event()

    async def one_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length = int.from_bytes(await reader.readexactly(4), "big")
        await reader.readexactly(length)
        body = msgspec.msgpack.encode([{"ok": "former"}])
        writer.write(len(body).to_bytes(4, "big") + body)
        writer.close()

    former = await misbehave(at, one_answer)
    client = wire.Client(at.where, on_end=gone.set)
    assert await client.call({}) == "former"
    former.close()
    await gone.wait()
    server = await at.serve(each(lambda _: "new"))
    assert await client.call({}) == "new"
    await client.close()
    server.close()


async def test_call_once(at: Transport) -> None:
    """A long poll on a connection of its own holds up nobody."""
    gate = Gate()
    server = await at.serve(gate)
    poll = asyncio.create_task(wire.call_once(at.where, {"n": 1}))
    await gate.entered.wait()
    gate.open.set()
    assert await poll == 1
    server.close()


async def test_closed_client() -> None:
    """After close a call raises WireDown."""
    client = wire.Client(Path("nowhere.sock"))
    await client.close()
    with pytest.raises(wire.WireDown):
        await client.call({})


@pytest.mark.parametrize("name", ["store", "batch:01KAHTV88C21B76TF9DCV3AEPP", "batch:" + "x" * 200, "batch:../../a b"])
def test_socket_path_fits(name: str) -> None:
    """Every actor's path is one file in the directory, short enough for every system, and its own."""
    run_dir = Path("/tmp/arke-0123456789abcdef")
    path = wire.socket_path(run_dir, name)
    assert path.parent == run_dir
    assert len(str(path)) <= wire.MAX_PATH_BYTES
    assert path != wire.socket_path(run_dir, name + "1")


def test_socket_path_of_a_plain_name() -> None:
    """A short name stays readable."""
    assert wire.socket_path(Path("/r"), "batches:1") == Path("/r/batches_1.sock")


async def test_the_file_of_a_server_goes_with_it(run_dir: Path) -> None:
    """What is left of an actor that has ended is no socket that nobody listens at."""
    server = await wire.serve(run_dir / "a.sock", each(lambda request: request))
    server.close()
    assert list(run_dir.iterdir()) == []


async def test_a_server_leaves_the_file_of_its_successor(run_dir: Path) -> None:
    """A process that ends late does not make the one deaf that has taken its place."""
    former = await wire.serve(run_dir / "a.sock", each(lambda request: request))
    successor = await wire.serve(run_dir / "a.sock", each(lambda request: request))
    former.close()
    assert await wire.call_once(run_dir / "a.sock", {"n": 1}) == {"n": 1}
    successor.close()


async def test_a_server_knows_whether_it_is_in_place(run_dir: Path) -> None:
    """Not when another one has its path, or nobody: a slow start, or somebody who cleans folders up. (Found by the
    simulation: a process that was ready later than its successor took the path with it when it died, and the successor
    stood there deaf.)"""
    path = run_dir / "s.sock"
    first = await wire.serve(path, each(lambda request: request))
    assert first.is_in_place()
    second = await wire.serve(path, each(lambda request: request))
    assert (first.is_in_place(), second.is_in_place()) == (False, True)
    path.unlink()
    assert not second.is_in_place()
    second.close()
    assert second.is_in_place(), "it listens no more: nobody shall come"
    first.close()


async def test_who_is_not_in_place_any_more_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the next look, and once."""
    monkeypatch.setattr(assembly, "PLACE_LOOK_S", 0.0)
    looks, left = iter([True, True, False]), []
    await assembly.leave_when_displaced(lambda: next(looks), lambda: left.append(1))
    assert left == [1]


async def test_who_is_on_a_lost_node_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in a cluster, where Ray is asked, which may take its time."""
    monkeypatch.setattr(assembly, "PLACE_LOOK_S", 0.0)
    looks, left = iter([True, True, False]), []
    await assembly.leave_when_node_is_lost(lambda: next(looks), lambda: left.append(1))
    assert left == [1]


async def test_a_client_tells_that_its_connection_has_ended(at: Transport) -> None:
    """Whoever keeps clients by name learns that an actor has gone, without calling it."""
    ended = asyncio.Event()
    server = await at.serve(each(lambda request: request))
    client = wire.Client(at.where, on_end=ended.set)
    await client.call({"n": 1})
    server.close()
    async with asyncio.timeout(5):
        await ended.wait()


async def test_calls_that_were_given_up_take_no_place(at: Transport) -> None:
    """A side that does not answer has many callers who give up: they do not count as waiting for ever."""
    gate = Gate()
    async with serving(at, gate, max_waiting=2) as client:
        out = asyncio.create_task(client.call({"n": 0}))
        await gate.entered.wait()
        for n in range(6):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.call({"n": n}), 0.01)
        gate.open.set()
        assert await out == 0
        assert await client.call({"n": 9}) == 9


async def test_a_connection_that_ends_between_call_and_sending_mixes_up_no_answers(at: Transport) -> None:
    """A call was about to be sent when the connection ended; the next calls come before its turn does. One list is
    sent, on one new connection: two would answer each other's callers.
    """
    connections = 0
    async with serving(at, each(lambda request: request["n"])) as client:
        assert await client.call({"n": 0}) == 0
        assert client._link is not None
        connect = client._connect

        async def counted() -> None:
            nonlocal connections
            connections += 1
            await connect()

        client._connect = counted  # type: ignore[method-assign]
        lost = asyncio.ensure_future(client.call({"n": 1}))
        await asyncio.sleep(0)
        client._ended(client._link, "it broke")
        first = asyncio.ensure_future(client.call({"n": 2}))
        await asyncio.sleep(0)
        second = asyncio.ensure_future(client.call({"n": 3}))
        with pytest.raises(wire.WireDown):
            await lost
        async with asyncio.timeout(5):
            assert await asyncio.gather(first, second) == [2, 3]
        assert connections == 1
