"""What each answer of the API means, and what of its text may be shown."""

import pytest

from actors.machines.fly.answers import MOST_CHARS, Verdict, cleaned, judge

QUOTA = 'organization "x" is using 9 MB of memory in dfw which is over the allowed quota. please consider other regions'
TAKEN = 'already_exists: unique machine name violation, machine ID 148e already exists with name "tiff-a-1"'
RESERVE = "aborted: could not reserve resource for machine: insufficient memory available to fulfill request"


@pytest.mark.parametrize(
    ("action", "status", "said", "verdict"),
    [
        ("create", 200, "", Verdict.DONE),
        ("create", 201, "", Verdict.DONE),
        ("create", 401, "unauthorized", Verdict.TOKEN),
        ("list", 401, "unauthorized", Verdict.TOKEN),
        ("create", 408, "request timeout", Verdict.UNSURE),
        ("create", 500, "internal", Verdict.UNSURE),
        ("create", 502, "bad gateway", Verdict.UNSURE),
        ("create", 504, "deadline_exceeded", Verdict.UNSURE),
        ("create", 429, "rate limit exceeded", Verdict.LATER),
        ("create", 500, "resource_exhausted: rate limit exceeded", Verdict.LATER),
        ("create", 412, "insufficient resources available to fulfill request", Verdict.FULL),
        ("create", 409, RESERVE, Verdict.FULL),
        ("create", 403, QUOTA, Verdict.FULL),
        ("create", 403, "forbidden", Verdict.REFUSED),
        ("create", 409, TAKEN, Verdict.TAKEN),
        ("create", 422, TAKEN, Verdict.TAKEN),
        ("create", 422, "name tiff-a-1 has already been taken", Verdict.TAKEN),
        ("create", 409, "aborted: lease currently held", Verdict.LATER),
        ("create", 422, "invalid_argument: invalid image identifier", Verdict.REFUSED),
        ("create", 400, "invalid_argument", Verdict.REFUSED),
        ("create", 404, "app not found", Verdict.NO_APP),
        ("list", 404, "app not found", Verdict.NO_APP),
        ("get", 404, "not_found: machine not found", Verdict.MISSING),
        ("get", 404, "app not found", Verdict.MISSING),
        ("destroy", 404, "not_found: machine not found", Verdict.MISSING),
        ("destroy", 409, "aborted: lease currently held", Verdict.LATER),
        ("destroy", 412, "failed_precondition: unable to destroy machine", Verdict.STATE),
        ("start", 412, "failed_precondition: machine still active, refusing to start", Verdict.STATE),
        ("start", 412, "insufficient resources available to fulfill request", Verdict.FULL),
        ("start", 409, RESERVE, Verdict.FULL),
        ("stop", 412, "failed_precondition: unable to stop machine", Verdict.STATE),
        ("wait", 408, "deadline_exceeded", Verdict.UNSURE),
        ("create", 302, "", Verdict.REFUSED),
        ("create", 418, "", Verdict.REFUSED),
    ],
)
def test_an_answer_is_judged(action: str, status: int, said: str, verdict: Verdict) -> None:
    """The table of the module, and of the facts that it follows."""
    answer = judge(
        action, status, f'{{"error": "{said}"}}'.replace('"x"', "x").replace('"tiff-a-1"', "tiff-a-1").encode()
    )
    assert answer.verdict is verdict
    assert answer.is_limited is ("rate limit" in said)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("3", 3.0), (" 0.5 ", 0.5), ("99999", 60.0), ("soon", None), ("-1", None), (None, None), ("", None)],
)
def test_retry_after_is_read_and_bounded(text: str | None, seconds: float | None) -> None:
    """An answer cannot make a caller wait for ever."""
    assert judge("list", 429, b"", retry_after=text).retry_after_s == seconds


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": "no such image"}', "no such image"),
        (b'{"message": "no such image"}', "no such image"),
        (b'{"error": {"code": 5}}', "status 422"),
        (b"", "status 422"),
        (b"[]", "status 422"),
        (b"<html>\n<b>bad</b>\x00</html>", "<html> <b>bad</b>?</html>"),
        (b"\xff\xfe", "\ufffd\ufffd"),
    ],
)
def test_whatever_the_body_is_there_is_a_message(body: bytes, message: str) -> None:
    """On one line, printable."""
    assert judge("create", 422, body).message == message


def test_no_secret_gets_into_a_message() -> None:
    """Neither those that are known, nor what looks like a token."""
    said = "env MACHINE_TOKEN=abc-123-xyz is bad; Authorization: Bearer fm2_AAA.bbb, FlyV1 fm1r_CCC, fo1_ddd"
    shown = cleaned(said, ("abc-123-xyz", ""))
    for secret in ("abc-123", "AAA", "CCC", "ddd"):
        assert secret not in shown
    assert shown.startswith("env MACHINE_TOKEN=*** is bad")


def test_a_long_message_is_cut() -> None:
    """It ends in the row of a task, and in a log."""
    assert len(cleaned("x" * 10_000)) == MOST_CHARS
