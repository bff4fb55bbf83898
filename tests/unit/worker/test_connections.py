"""Answers in HTTP/1.1, as they come from servers."""

import io
from typing import Any

import pytest

from worker.objects.connections import MAX_LINE_BYTES, Answer, _answer


def answered(data: bytes, *, most: int = 100, is_head: bool = False) -> tuple[Answer, bool]:
    raw: Any = io.BytesIO(data)
    return _answer(io.BufferedReader(raw, 16), is_head, most)


@pytest.mark.parametrize(
    ("data", "body", "keeps"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", b"abc", True),
        (b"HTTP/1.1 200\nContent-Length: 3\n\nabc", b"abc", True),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nCONTENT-length:3 \r\n\r\nabc", b"abc", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: Close\r\n\r\nabc", b"abc", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc", b"abc", False),
        (b"HTTP/1.1 200 OK\r\n\r\nabc", b"abc", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 300\r\n\r\n" + b"x" * 300, b"x" * 100, False),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\nA: b\r\n\r\n",
            b"abc",
            True,
        ),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n" + b"x" * 255 + b"\r\n", b"x" * 100, False),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
    ],
)
def test_what_is_an_answer(data: bytes, body: bytes, keeps: bool) -> None:
    """Its body, and whether the connection may be used again: only where it ended before the next answer begins."""
    answer, is_kept = answered(data)
    assert (answer.body, is_kept) == (body, keeps)


def test_an_answer_to_head_has_no_body() -> None:
    """Whatever its length says."""
    assert answered(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", is_head=True) == (
        Answer(200, {"content-length": "3"}, b""), True,
    )  # fmt: skip


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1_0\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * MAX_LINE_BYTES + b"\r\n\r\n",
    ],
)
def test_what_is_none(data: bytes) -> None:
    """Is told from one."""
    with pytest.raises(ValueError):
        answered(data)


@pytest.mark.parametrize("end", [0, 5, 20, 30, 40])
def test_what_ends_too_early(end: int) -> None:
    """Wherever it does."""
    with pytest.raises(ConnectionError):
        answered(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"[:end])
