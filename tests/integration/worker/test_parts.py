"""Parts of objects, read from S3 with keys and from URLs, by a server that does what servers do."""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.stand_ins.keeping import BUCKET, ID, MOMENT_S, SECRET, Fault, KeepingServer
from worker import web
from worker.errors import BadInput, ObjectMissing, Unavailable
from worker.objects import connections
from worker.objects.base import Part
from worker.objects.parts import Links, S3Parts

BODY = bytes(range(256)) * 40
Reads = Callable[[str, int, int], Part]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[KeepingServer]:
    """With one object; who tries again does not wait long."""
    monkeypatch.setattr(web, "FIRST_WAIT_S", 0.001)
    made = KeepingServer()
    made.objects["a b/ü.txt"] = BODY
    made.objects["empty"] = b""
    yield made
    made.close()


def s3(server: KeepingServer) -> S3Parts:
    return S3Parts(server.url, BUCKET, access_key_id=ID, secret=SECRET, region="auto")


@pytest.fixture(params=["keys", "urls"])
def read(request: pytest.FixtureRequest, server: KeepingServer) -> Reads:
    """Both ways to the same object."""
    if request.param == "keys":
        return s3(server).read_part
    links = Links()
    return lambda key, start, length: links.read_part(server.link(key), start, length)


def test_one_request_brings_all(server: KeepingServer, read: Reads) -> None:
    """Bytes, size, ETag and time; and all on one connection."""
    for start, length in ((0, 1), (0, len(BODY)), (5, 100_000), (len(BODY) - 1, 1)):
        assert read("a b/ü.txt", start, length) == Part(BODY[start : start + length], len(BODY), "etag", MOMENT_S)
    assert (len(server.requests), server.connections) == (4, 1)


def test_nothing_is_a_part_too(server: KeepingServer, read: Reads) -> None:
    """Of an empty object, and beyond the end: with the size of the whole."""
    assert read("empty", 0, 1) == Part(b"", 0, "etag", MOMENT_S)
    assert read("a b/ü.txt", len(BODY), 5) == Part(b"", len(BODY), "etag", MOMENT_S)


@pytest.mark.parametrize("fault", ["busy", "slow", "dropped", "cut", "rude", "endless"])
def test_what_passes_is_tried_again(server: KeepingServer, read: Reads, fault: Fault) -> None:
    """And does not break what comes after it on the same connection."""
    for faults in ([fault], [fault, fault], []):
        server.faults.extend(faults)
        assert read("a b/ü.txt", 0, 100_000).body == BODY


@pytest.mark.parametrize("fault", ["busy", "slow", "dropped", "cut", "rude", "endless"])
def test_what_does_not_pass_is_given_up(server: KeepingServer, read: Reads, fault: Fault) -> None:
    """After five tries."""
    server.always = fault
    with pytest.raises(Unavailable, match=r"the object store (did not answer|answered)"):
        read("a b/ü.txt", 0, 100_000)
    assert len(server.requests) == web.TRIES


@pytest.mark.parametrize("fault", ["whole", "pieces", "leaves"])
def test_servers_answer_in_many_ways(server: KeepingServer, read: Reads, fault: Fault) -> None:
    """The whole instead of a part, in pieces, and closing without a word."""
    server.always = fault
    for _ in range(3):
        assert read("a b/ü.txt", 3, 10) == Part(BODY[3:13], len(BODY), "etag", MOMENT_S)
    assert len(server.requests) == 3


def test_another_part_than_asked_for_is_none(server: KeepingServer, read: Reads) -> None:
    """Whatever a server says that it is."""
    server.faults.extend(["elsewhere", "sizeless"])
    with pytest.raises(Unavailable, match="another part"):
        read("a b/ü.txt", 0, 10)
    with pytest.raises(Unavailable, match="does not tell the size"):
        read("a b/ü.txt", 0, 10)


def test_what_is_not_there(server: KeepingServer, read: Reads) -> None:
    """Is missing, once and for all; without its bucket nothing is said of an object."""
    with pytest.raises(ObjectMissing, match="404 Not Found"):
        read("none", 0, 10)
    server.always = "no bucket"
    with pytest.raises(Unavailable, match="404 NoSuchBucket"):
        read("a b/ü.txt", 0, 10)
    assert len(server.requests) == 2


def test_who_has_no_permission(server: KeepingServer) -> None:
    """With keys another try may have them; a URL stays as it is."""
    server.always = "expired"
    with pytest.raises(Unavailable, match="403 AccessDenied"):
        s3(server).read_part("a b/ü.txt", 0, 10)
    with pytest.raises(BadInput, match="403 AccessDenied; its URL is not valid, or no longer"):
        Links().read_part(server.link("a b/ü.txt"), 0, 10)
    server.always = "moved"
    with pytest.raises(BadInput, match="307 TemporaryRedirect: the server redirects, which is not followed"):
        Links().read_part(server.link("a b/ü.txt"), 0, 10)
    assert len(server.requests) == 3


def test_a_head_is_one_request(server: KeepingServer) -> None:
    """Tried again as a GET is."""
    objects = s3(server)
    server.faults.extend(["busy", "dropped"])
    assert objects.head("a b/ü.txt") == ("a b/ü.txt", len(BODY), "etag")
    with pytest.raises(ObjectMissing):
        objects.head("none")
    for action in (objects.head, lambda key: objects.read_part(key, 0, 1)):
        with pytest.raises(BadInput):
            action("a//b")
    assert [method for method, _ in server.requests] == ["HEAD"] * 4


def test_many_threads_share_connections(server: KeepingServer) -> None:
    """As many as there are threads, however many requests."""
    objects = s3(server)
    server.objects |= {str(n): b"%d" % n for n in range(400)}
    with ThreadPoolExecutor(16) as pool:
        parts = list(pool.map(lambda n: objects.read_part(str(n), 0, 10).body, range(400)))
    assert parts == [b"%d" % n for n in range(400)]
    assert server.connections <= 16


def test_old_connections_are_not_used(server: KeepingServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is between may have forgotten them."""
    objects = s3(server)
    monkeypatch.setattr(connections, "IDLE_S", 0.0)
    for _ in range(3):
        objects.head("a b/ü.txt")
    assert server.connections == 3


@pytest.mark.parametrize("fault", ["busy", "dropped", "expired", "rude", "moved", "elsewhere", "no bucket"])
def test_no_secret_is_told(server: KeepingServer, read: Reads, caplog: pytest.LogCaptureFixture, fault: Fault) -> None:
    """In no error, none that it comes from, and no line of the log, though the server repeats what it was asked."""
    server.always = fault
    caplog.set_level(logging.DEBUG)
    with pytest.raises((BadInput, Unavailable)) as caught:
        read("a b/ü.txt", 0, 10)
    error: Any = caught.value
    told = [caplog.text]
    while error is not None:
        told.append(repr(error))
        error = error.__cause__ or error.__context__
    assert not any(word in text for text in told for word in ("X-Amz", ID, SECRET, "%C3%BC"))


@pytest.mark.parametrize("url", ["", "ftp://x/y", "http://", "http://x:0/secret", "https://x/a\nsecret"])
def test_what_is_no_url(url: str) -> None:
    """Is told without showing it."""
    with pytest.raises(BadInput) as caught:
        Links().read_part(url, 0, 1)
    assert "secret" not in str(caught.value)
