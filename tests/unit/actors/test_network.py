"""Connections between nodes: who gets in, who gets nothing, and what the caller learns."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from actors import handshake, network, wire
from actors.handshake import Nonces
from actors.network import Address, Network, TcpServer, Tls
from orchestrator.serve import free_ports
from tests.unit.actors.transports import ACTOR, SECRET, Talk, certificates, ended

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy:pytest.PytestDeprecationWarning")
POLICIES = [asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy]
HOST = "127.0.0.1"


@pytest.fixture(scope="session", params=POLICIES, ids=["asyncio", "uvloop"])
def event_loop_policy(request: pytest.FixtureRequest) -> Any:
    return request.param()


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """Certificates of one node."""
    return Tls.load(*certificates(tmp_path_factory.mktemp("node")))


def ours(**options: Any) -> Network:
    """A node that knows the secret."""
    return Network([SECRET], **options)


async def echo(requests: list[Any]) -> list[Any]:
    return requests


class Listening:
    """What listens in a test; closed at its end."""

    def __init__(self) -> None:
        self.servers: list[TcpServer] = []

    async def at(self, net: Network | None = None, actor: str = ACTOR, host: str = HOST) -> TcpServer:
        self.servers.append(await (net or ours()).listen(host, actor, echo))
        return self.servers[-1]


@pytest.fixture
async def listening() -> AsyncIterator[Listening]:
    made = Listening()
    yield made
    for server in made.servers:
        server.close()
    await ended(*made.servers)


async def stranger(address: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that knows nothing of the handshake."""
    return await asyncio.open_connection(*address)


async def nothing(reader: asyncio.StreamReader) -> bool:
    """Whether the connection ends without a byte."""
    try:
        return await reader.read() == b""
    except ConnectionResetError:  # the other side did not read all that was sent
        return True


async def impostor(talk: Talk) -> tuple[asyncio.Server, Address]:
    """Something that listens where an actor was."""
    server = await asyncio.start_server(talk, HOST, 0)
    return server, Address(*server.sockets[0].getsockname()[:2])


async def refused(net: Network, address: Address, actor: str = ACTOR) -> str:
    """Why a call is refused."""
    with pytest.raises(wire.Refused) as raised:
        await wire.call_once(net.way(actor, address), {"n": 1})
    return str(raised.value)


# ---- who is accepted


async def test_who_knows_the_secret_is_answered(listening: Listening) -> None:
    """At an address of this node, whichever it is."""
    for host in ("127.0.0.1", "127.0.0.5"):
        server = await listening.at(host=host)
        assert server.address.host == host
        assert await wire.call_once(ours().way(ACTOR, server.address), {"n": 1}) == {"n": 1}


async def test_while_the_secret_is_changed_both_are_accepted(listening: Listening) -> None:
    """The former one too, from nodes that have not yet the new one."""
    server = await listening.at(Network(["the new secret, which is long", SECRET]))
    assert await wire.call_once(ours().way(ACTOR, server.address), {"n": 1}) == {"n": 1}


async def test_ports_are_those_that_are_set(listening: Listening) -> None:
    """For a firewall; one that is taken is passed over, and none is an error."""
    first, second = sorted(free_ports(2))
    two = ours(ports=range(first, second + 1, second - first))
    assert {(await listening.at(two, name)).address.port for name in ("a", "b")} == {first, second}
    with pytest.raises(OSError, match="no port from"):
        await listening.at(two, "c")


# ---- who is not


async def test_another_secret(listening: Listening, caplog: pytest.LogCaptureFixture) -> None:
    """Refused, not absent; each side says so once, without secrets."""
    server = await listening.at()
    other = Network(["another secret of some length"])
    for _ in range(3):
        assert "does not accept our secret" in await refused(other, server.address)
    await ended(server)
    lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert sorted(line.split()[1] for line in lines) == ["refused", "stranger"]
    assert SECRET not in caplog.text
    assert "another secret" not in caplog.text


async def test_another_actor_at_the_address(listening: Listening, caplog: pytest.LogCaptureFixture) -> None:
    """It got the port of one that has gone: it answers nothing in its place. That happens, so nobody is warned."""
    server = await listening.at(actor="batch:b")
    assert "another actor" in await refused(ours(), server.address)
    await ended(server)
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []


async def test_nobody_is_there() -> None:
    """Which is not a refusal: the actor is to be looked for."""
    (port,) = free_ports(1)
    with pytest.raises(wire.WireDown) as raised:
        await wire.call_once(ours().way(ACTOR, Address(HOST, port)), {"n": 1})
    assert not isinstance(raised.value, wire.Refused)


async def test_an_older_version(listening: Listening, monkeypatch: pytest.MonkeyPatch) -> None:
    """Either side: the actor tells its version, and no more; the caller goes away."""
    server = await listening.at()
    reader, writer = await stranger(server.address)
    older = handshake.hello(handshake.new_nonce())
    writer.write(older[:4] + b"\0" + older[5:])
    said = await reader.read()
    assert handshake.nonce_of(said)[0] == handshake.VERSION
    writer.close()

    async def speaks_version_0(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(handshake.HELLO_BYTES)
        writer.write(older[:4] + b"\0" + older[5:])
        assert await reader.read() == b""
        writer.close()

    former, address = await impostor(speaks_version_0)
    assert "version 0" in await refused(ours(), address)
    former.close()


async def test_what_was_heard_is_of_no_use_later(listening: Listening) -> None:
    """All that a caller has sent, sent again: the actor has another nonce this time."""
    server = await listening.at()
    heard, passed = [b""], asyncio.Event()

    async def in_between(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, here = await stranger(server.address)
        for size, back in ((handshake.HELLO_BYTES,) * 2, (handshake.CLAIM_BYTES, handshake.VERDICT_BYTES)):
            heard[0] += (message := await reader.readexactly(size))
            here.write(message)
            writer.write(await there.readexactly(back))
        for end in (here, writer):
            end.close()
        passed.set()

    middle, address = await impostor(in_between)
    with pytest.raises(wire.WireDown):
        await wire.call_once(ours().way(ACTOR, address), {"n": 1})
    await passed.wait()
    middle.close()

    reader, writer = await stranger(server.address)
    writer.write(heard[0][: handshake.HELLO_BYTES])
    await reader.readexactly(handshake.HELLO_BYTES)
    writer.write(heard[0][handshake.HELLO_BYTES :])
    assert (await reader.read())[:1] == b"\0"
    writer.close()


async def test_who_sends_our_own_words_back_has_proved_nothing() -> None:
    """An impostor that answers with what it was sent, and one that accepts everything."""
    for answer in (lambda claim: b"\1" + claim[32:], lambda _: b"\1" + b"\7" * 32):

        async def mirror(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Any = answer) -> None:
            writer.write(await reader.readexactly(handshake.HELLO_BYTES))
            writer.write(answer(await reader.readexactly(handshake.CLAIM_BYTES)))
            assert await reader.read() == b"", "no request goes to who has proved nothing"
            writer.close()

        server, address = await impostor(mirror)
        assert "does not know the secret" in await refused(ours(), address)
        server.close()


@pytest.mark.parametrize(
    "said", [b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\n\r\n", b"\0" * 37, b"\xff" * 10**6]
)
async def test_garbage_gets_nothing(listening: Listening, said: bytes) -> None:
    """Another protocol, or a first frame of a million bytes: the connection ends, and nothing was said on it."""
    server = await listening.at()
    reader, writer = await stranger(server.address)
    writer.write(said)
    assert await nothing(reader)
    writer.close()
    assert await wire.call_once(ours().way(ACTOR, server.address), {"n": 1}) == {"n": 1}


async def test_frames_before_the_proof_are_not_read(listening: Listening) -> None:
    """Neither behind the hello nor in place of the proof."""
    server = await listening.at()
    frame = (2).to_bytes(4, "big") + b"\x91\x01"
    for extra in (frame, b"\0" * handshake.CLAIM_BYTES + frame):
        reader, writer = await stranger(server.address)
        writer.write(handshake.hello(handshake.new_nonce()) + extra)
        assert (await reader.read(10**6))[handshake.HELLO_BYTES :] == b""
        writer.close()
    assert server.connections == set()


async def test_silence_is_not_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    """Neither by the actor nor by the caller."""
    short = ours(patience_s=0.05)
    server = await short.listen(HOST, ACTOR, echo)
    reader, writer = await stranger(server.address)
    async with asyncio.timeout(10):
        assert await nothing(reader)
    writer.close()
    server.close()
    assert "has not proved itself in time" in caplog.text

    deaf = socket.create_server((HOST, 0))
    with pytest.raises(wire.WireDown, match="says nothing") as raised:
        await wire.call_once(short.way(ACTOR, Address(*deaf.getsockname())), {"n": 1})
    assert not isinstance(raised.value, wire.Refused)
    deaf.close()


async def test_who_goes_away_in_the_middle_is_gone() -> None:
    """A process that died during the handshake has not refused anybody."""

    async def dies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(handshake.HELLO_BYTES)
        writer.close()

    server, address = await impostor(dies)
    with pytest.raises(wire.WireDown) as raised:
        await wire.call_once(ours().way(ACTOR, address), {"n": 1})
    assert not isinstance(raised.value, wire.Refused)
    server.close()


async def test_who_opens_many_and_says_nothing_keeps_nobody_out_for_long(
    listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number is bounded; when they have gone, or have been ended, others are heard."""
    monkeypatch.setattr(network, "MOST_GREETING", 2)
    server = await listening.at()
    silent = [await stranger(server.address) for _ in range(2)]
    for _, writer in silent:
        writer.write(b"a")
    async with asyncio.timeout(10):
        while len(server.greeting) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    with pytest.raises(wire.WireDown):
        await wire.call_once(ours().way(ACTOR, server.address), {"n": 1})
    for _, writer in silent:
        writer.close()
    await ended(server)
    assert await wire.call_once(ours().way(ACTOR, server.address), {"n": 1}) == {"n": 1}


async def test_who_is_turned_off_ends_those_that_wait_at_the_door(listening: Listening) -> None:
    """As it ends those that are in."""
    server = await listening.at()
    reader, writer = await stranger(server.address)
    writer.write(b"arke")
    async with asyncio.timeout(10):
        while not server.greeting:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        server.close()
        assert await nothing(reader)
    writer.close()


# ---- certificates


async def test_certificates_of_another_authority(
    listening: Listening, tls: Tls, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """On either side: refused, with the right secret too."""
    foreign = Tls.load(*certificates(tmp_path))
    server = await listening.at(ours(tls=tls))
    assert "TLS" in await refused(ours(tls=foreign), server.address)
    assert "refused" in caplog.text
    credulous = ours(tls=foreign._replace(client=believing_everybody(tmp_path)))
    with pytest.raises(wire.WireDown):
        await wire.call_once(credulous.way(ACTOR, server.address), {"n": 1})
    assert await wire.call_once(ours(tls=tls).way(ACTOR, server.address), {"n": 1}) == {"n": 1}


def believing_everybody(folder: Path) -> ssl.SSLContext:
    """The side of a caller that shows a certificate of another authority, and looks at none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(folder / "tls/tls.crt", folder / "tls/tls.key")
    return context


async def test_the_certificate_of_another_node(listening: Listening, tls: Tls, tmp_path: Path) -> None:
    """By the same authority, and for another address: one node cannot pass for another."""
    server = await listening.at(ours(tls=tls), host="127.0.0.6")
    assert "TLS" in await refused(ours(tls=tls), server.address)


async def test_no_certificate(listening: Listening, tls: Tls) -> None:
    """Plain speech where certificates are asked for, and the other way round."""
    server = await listening.at(ours(tls=tls))
    with pytest.raises(wire.WireDown):
        await wire.call_once(ours().way(ACTOR, server.address), {"n": 1})
    plain = await listening.at()
    with pytest.raises(wire.WireDown):
        await wire.call_once(ours(tls=tls).way(ACTOR, plain.address), {"n": 1})


async def test_certificates_do_not_replace_the_secret(listening: Listening, tls: Tls) -> None:
    """Nor the name."""
    server = await listening.at(ours(tls=tls))
    assert "secret" in await refused(Network(["another secret of some length"], tls=tls), server.address)
    assert "another actor" in await refused(ours(tls=tls), server.address, "fleet")


def test_certificates_are_rays(tmp_path: Path) -> None:
    """Where Ray uses them, and only there; what is missing is named."""
    certificate, key, authority = certificates(tmp_path)
    environ = {
        "RAY_TLS_SERVER_CERT": str(certificate),
        "RAY_TLS_SERVER_KEY": str(key),
        "RAY_TLS_CA_CERT": str(authority),
    }
    assert Tls.of_ray(environ) is None
    assert Tls.of_ray(environ | {"RAY_USE_TLS": "0"}) is None
    assert Tls.of_ray(environ | {"RAY_USE_TLS": "1"}) is not None
    with pytest.raises(OSError, match="RAY_TLS_CA_CERT is not"):
        Tls.of_ray(environ | {"RAY_USE_TLS": "1", "RAY_TLS_CA_CERT": ""})
    with pytest.raises(OSError):
        Tls.of_ray(environ | {"RAY_USE_TLS": "1", "RAY_TLS_CA_CERT": str(tmp_path / "none")})


# ---- the proofs


def test_a_proof_is_of_one_conversation_and_one_side() -> None:
    """Of this actor, these nonces, this key, and the side that makes it."""
    key, nonces = handshake.key_of(SECRET), Nonces(b"c" * 32, b"a" * 32)
    said = handshake.claim(key, ACTOR, nonces)
    answer, mismatch = handshake.verdict([key], ACTOR, said, nonces)
    assert mismatch is None
    handshake.check_verdict(key, ACTOR, answer, nonces)
    for keys, actor, then in (
        ([handshake.key_of("another secret")], ACTOR, nonces),
        ([key], ACTOR, Nonces(nonces.caller, b"b" * 32)),
        ([key], ACTOR, Nonces(nonces.actor, nonces.caller)),
        ([key], "fleet", nonces),
    ):
        said_to, mismatch = handshake.verdict(keys, actor, said, then)
        assert mismatch is not None
        with pytest.raises(handshake.Mismatch):
            handshake.check_verdict(key, ACTOR, said_to, nonces)
    with pytest.raises(handshake.Mismatch):
        handshake.check_verdict(key, ACTOR, answer, Nonces(b"d" * 32, nonces.actor))
    with pytest.raises(handshake.Mismatch):
        handshake.check_verdict(key, ACTOR, handshake.OTHER + answer[1:], nonces)


def test_the_key_tells_nothing_of_the_secret() -> None:
    """It is derived, and differs from what else the secret signs."""
    assert SECRET.encode() not in handshake.key_of(SECRET)
    assert len({handshake.key_of(SECRET), handshake.key_of(SECRET + "x")}) == 2
