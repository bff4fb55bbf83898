"""Callbacks, through the middleware and through the ordinary route: one set of claims for both."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest

from actors.errors import Unavailable
from actors.signing import machine_token, sign_task
from orchestrator.app import create_app
from orchestrator.callback_path import Installed, WorkerMiddleware
from tests.unit.orchestrator.fakes import SECRET, FakeEngine

GOOD = b'{"task_id":"b1_tiff_0","batch_id":"b1","status":"success"'
BODY: dict[str, Any] = {"task_id": "b1_tiff_0", "batch_id": "b1", "status": "success", "output_r2_key": "a.jpg"}


def address(task: str = "b1_tiff_0", batch: str = "b1", *, secret: str = SECRET, run: int = 1, attempt: int = 2) -> str:
    """A CALLBACK_URL without its host."""
    signature = sign_task(secret, batch, task, run, attempt)
    return f"/callback/{batch}/{task}?run={run}&attempt={attempt}&sig={signature}"


@pytest.fixture(params=["middleware", "route"])
async def http(engine: FakeEngine, request: pytest.FixtureRequest) -> AsyncIterator[httpx.AsyncClient]:
    """The application with, and without, the middleware in front."""
    app = create_app(engine, callbacks_in_front=request.param == "middleware")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client


async def test_a_signed_callback_reaches_the_owner(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    """The batch's actor gets run and attempt of the signed address, and its answer is the answer."""
    engine.reply = {"ok": True, "received": True, "next": {"TASK_ID": "t2"}}
    answer = await http.post(address(), json=BODY | {"unknown": 1})
    assert (answer.status_code, answer.json()) == (200, engine.reply)
    assert engine.calls == [("b1", {"op": "callback", "job": "b1", "run": 1, "attempt": 2, "body": BODY})]


async def test_the_largest_numbers_pass(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    """2^53 is a size, and what is measured may have 64 bits; all of it can cross the wire to the actor."""
    body = BODY | {"output_file_size": 2**53, "performance": {"n": 2**64 - 1, "m": [-(2**63), 0.5, None, "x", True]}}
    assert (await http.post(address(), json=body)).status_code == 200
    ((_, request),) = engine.calls
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(request["body"])) == body


async def test_a_long_error_is_cut(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    """What a worker says of its failure is kept with the task: at most 2,000 characters of it."""
    await http.post(address(), json=BODY | {"status": "error", "error": "ü" * 100_000})
    ((_, request),) = engine.calls
    assert request["body"]["error"] == "ü" * 2000


async def test_the_former_secret_is_accepted(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    """During a rotation, signatures of the former secret count."""
    engine.secrets = ("new", SECRET)
    assert (await http.post(address(), json=BODY)).status_code == 200


@pytest.mark.parametrize(
    "forged",
    [
        "/callback/b1/b1_tiff_0",
        address(secret="guessed"),
        address(attempt=2).replace("attempt=2", "attempt=3"),
        address(attempt=2).replace("attempt=2", "attempt=" + "9" * 5000),
        address(attempt=2).replace("run=1", "run=%D9%A1"),
        address() + "%ff%00",
        address().replace("sig=", "sig=%ff"),
    ],
)
async def test_a_forged_callback_is_403_and_changes_nothing(
    http: httpx.AsyncClient, engine: FakeEngine, forged: str
) -> None:
    """Without a valid signature over exactly this run and attempt, nothing reaches the engine."""
    answer = await http.post(forged, json=BODY)
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert not engine.calls


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{", None),
        (b"", None),
        (b"\xff", None),
        (b"[]", None),
        (b'{"batch_id":"b1","status":"success"}', "task_id"),
        (b'{"task_id":"b1_tiff_0","batch_id":"b1","status":"maybe"}', "status"),
        (b'{"task_id":"b1_tiff_0","batch_id":"b1","status":"success","output_file_size":"1"}', "output_file_size"),
        (GOOD + b',"output_file_size":9007199254740993}', "output_file_size"),
        (GOOD + b',"pages":9223372036854775808}', "pages"),
        (GOOD + b',"cpu_ms":1180591620717411303424}', "cpu_ms"),
        (GOOD + b',"cpu_ms":-1}', "cpu_ms"),
        (GOOD + b',"performance":{"a":[{"b":18446744073709551616}]}}', "performance.a[0].b"),
        (GOOD + b',"performance":{"a":' + b"[" * 100 + b"]" * 100 + b"}}", "performance"),
        (GOOD + b',"performance":{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}}", None),
        (b'{"task_id":"b1_tiff_0","batch_id":"other","status":"success"}', "batch_id"),
        (b'{"task_id":"other","batch_id":"b1","status":"success"}', "task_id"),
    ],
)
async def test_an_invalid_callback_is_400_and_fails_alone(
    http: httpx.AsyncClient, engine: FakeEngine, body: bytes, field: str | None
) -> None:
    """Malformed bodies, wrong types and ids that are not the address's are 400; the engine never sees them."""
    answer = await http.post(address(), content=body)
    assert (answer.status_code, answer.json().get("field")) == (400, field)
    assert not engine.calls


@pytest.mark.parametrize("signed", [True, False])
async def test_an_unknown_batch_is_404(http: httpx.AsyncClient, signed: bool) -> None:
    """Unknown batches are 404, whether or not the signature holds."""
    target = address(batch="none") if signed else "/callback/none/b1_tiff_0"
    assert (await http.post(target, json=BODY | {"batch_id": "none"})).status_code == 404


async def test_keys_hide_which_batches_there_are(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    """With API_KEYS set, a forged callback learns nothing of what exists; a signed one needs no key."""
    engine.settings.api_keys = ("k",)
    assert (await http.post("/callback/none/t", json=BODY | {"batch_id": "none", "task_id": "t"})).status_code == 403
    assert (await http.post(address(), json=BODY)).status_code == 200


async def test_a_large_callback_is_413(http: httpx.AsyncClient) -> None:
    """The bound holds while reading."""
    answer = await http.post(address(), json=BODY | {"error": "x" * 300_000})
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


async def test_a_busy_engine_is_503_with_retry_after(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    """The worker is told when to come again."""
    engine.failure = Unavailable()
    answer = await http.post(address(), json=BODY)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


async def test_a_bug_gives_nothing_away(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    """An unexpected failure is a bare 500."""
    engine.failure = RuntimeError("secret")
    answer = await http.post(address(), json=BODY)
    assert (answer.status_code, answer.json()["code"]) == (500, "error")
    assert "secret" not in answer.text


async def test_without_an_engine_everything_is_passed_on() -> None:
    """In Serve's proxy, where nothing is installed, the middleware does nothing."""
    assert Installed.engine is None
    passed: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        passed.append(scope["path"])

    async def never(*_: Any) -> Any:
        raise AssertionError

    scope = {"type": "http", "method": "POST", "path": "/callback/b1/t", "query_string": b""}
    await WorkerMiddleware(app)(scope, never, never)
    assert passed == ["/callback/b1/t"]


async def test_a_caller_that_leaves_is_not_answered(engine: FakeEngine) -> None:
    """A body that breaks off reaches nobody."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError

    async def gone() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise AssertionError

    scope = {"type": "http", "method": "POST", "path": "/callback/b1/t", "query_string": b""}
    await WorkerMiddleware(app, engine)(scope, gone, send)
    assert not engine.calls


# --- claims go the same way


def claim_of(machine: str = "m-1") -> dict[str, Any]:
    return {"machine": machine, "claim": "c1", "kinds": ["tiff"], "free": 2, "wait_ms": 99_000}


MINE = {"Authorization": f"Bearer {machine_token(SECRET, 'm-1')}"}


async def test_a_claim_reaches_the_fleet(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    """With a bounded wait; tasks are the answer, and without any it is 204 without a body."""
    engine.fleet_reply = {"tasks": [{"TASK_ID": "t1"}]}
    answer = await http.post("/machines/claim", json=claim_of(), headers=MINE)
    assert (answer.status_code, answer.json()) == (200, {"tasks": [{"TASK_ID": "t1"}]})
    assert engine.fleet_calls[0]["claim"]["wait_ms"] == 30_000
    engine.fleet_reply = {"tasks": []}
    answer = await http.post("/machines/claim", json=claim_of(), headers=MINE)
    assert (answer.status_code, answer.content) == (204, b"")


@pytest.mark.parametrize(
    ("body", "headers", "code"),
    [
        (msgspec.json.encode(claim_of("m-2")), MINE, 401),
        (msgspec.json.encode(claim_of()), {}, 401),
        (b'{"machine": "m-1"}', MINE, 400),
        (b'{"machine": ' + b'"' + b"m" * 20_000 + b'"}', MINE, 413),
        (b"[" * 9000, MINE, 400),
    ],
)
async def test_a_bad_claim_is_refused_before_the_fleet(
    http: httpx.AsyncClient, engine: FakeEngine, body: bytes, headers: dict[str, str], code: int
) -> None:
    """Another machine's token, none, a missing field, too much, too deep."""
    answer = await http.post("/machines/claim", content=body, headers=headers)
    assert (answer.status_code, engine.fleet_calls) == (code, [])
    assert answer.json()["error"]
