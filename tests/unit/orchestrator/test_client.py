"""The client: what it repeats, what it reports, and that it never creates twice."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from orchestrator.client import ArkeClient, Refused, Unreachable

Answer = httpx.Response | Exception


class Service:
    """Answers from a list, keeps the requests, and lets time pass only when the client sleeps."""

    def __init__(self, *answers: Answer) -> None:
        self.answers: Iterator[Answer] = iter(answers)
        self.requests: list[httpx.Request] = []
        self.now = 0.0

    def handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = next(self.answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def client(self, **more: Any) -> ArkeClient:
        transport = httpx.MockTransport(self.handle)
        return ArkeClient("http://arke/", transport=transport, sleep=self.sleep, clock=lambda: self.now, **more)


def ok(**body: Any) -> httpx.Response:
    return httpx.Response(200, json=body)


@pytest.mark.parametrize(
    "trouble",
    [
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("closed"),
        httpx.Response(503, json={"error": "Busy.", "code": "unavailable"}),
        httpx.Response(502, text="bad gateway"),
        httpx.Response(404, text="Path '/status/a' not found."),
    ],
)
def test_temporary_trouble_is_repeated(trouble: Answer) -> None:
    """No connection, 502/503, and a 404 that is not ours (the proxy's, while it restarts) are tried again."""
    service = Service(trouble, ok(status="DONE"))
    assert service.client().status("a") == {"status": "DONE"}
    assert len(service.requests) == 2


def test_our_own_404_is_final() -> None:
    """A 404 with our JSON body is an answer, and its code is kept."""
    service = Service(httpx.Response(404, json={"error": "Nothing is known.", "code": "not_found"}))
    with pytest.raises(Refused, match="Nothing is known") as caught:
        service.client().status("a")
    assert (caught.value.status, caught.value.code) == (404, "not_found")


def test_retry_after_is_respected() -> None:
    """The client waits at least as long as the service asks."""
    service = Service(httpx.Response(503, json={"error": "Busy."}, headers={"Retry-After": "7"}), ok())
    service.client().health()
    assert service.now >= 7


def test_patience_ends() -> None:
    """A service that stays away is reported as unreachable, within the patience."""
    service = Service(*[httpx.ConnectError("refused")] * 100)
    with pytest.raises(Unreachable, match="http://arke cannot be reached"):
        service.client(patience_s=5).health()
    assert service.now <= 5


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (httpx.Response(503, json={"error": "The provider does not answer."}), "^The provider does not answer.$"),
        (
            httpx.Response(502, text="bad gateway"),
            r"^http://arke is not available \(HTTP 502\). Is the service running",
        ),
    ],
)
def test_who_says_that_it_is_not_available_is_told(answer: httpx.Response, told: str) -> None:
    """The service's own sentence, where it is the service that answers; else nobody knows whether it runs."""
    service = Service(*[answer] * 100)
    with pytest.raises(Unreachable, match=told):
        service.client(patience_s=5).sweep(dry_run=True)


def test_repeated_creation_has_one_id() -> None:
    """A creation that is sent again names the same batch, so that no second one is made."""
    service = Service(httpx.ReadTimeout("lost"), ok(batch_id="x"))
    service.client().create({"r2_prefix": "a/"})
    first, second = (json.loads(request.content)["batch_id"] for request in service.requests)
    assert first == second


def test_own_batch_id_is_kept() -> None:
    """An id of the caller is not replaced."""
    service = Service(ok())
    service.client().create({"batch_id": "mine", "r2_prefix": "a/"})
    assert json.loads(service.requests[0].content)["batch_id"] == "mine"


def test_success_that_is_not_json_is_refused() -> None:
    """A page of some other server is not taken for an answer."""
    with pytest.raises(Refused, match="HTTP 200"):
        Service(httpx.Response(200, text="<html>")).client().health()


@pytest.mark.parametrize(
    ("call", "method", "path"),
    [
        (lambda c: c.batches(state="done", limit=2), "GET", "/batches?state=done&limit=2"),
        (lambda c: c.tasks("b", status="failed", limit=3), "GET", "/batches/b/tasks?status=failed&limit=3"),
        (lambda c: c.cancel("b", "why"), "POST", "/batches/b/cancel"),
        (lambda c: c.retry("b"), "POST", "/batches/b/retry"),
        (lambda c: c.redeliver("b"), "POST", "/batches/b/redeliver"),
    ],
)
def test_calls_go_where_the_protocol_says(call: Callable[[ArkeClient], Any], method: str, path: str) -> None:
    """Each method is one documented request, with the API key."""
    service = Service(ok())
    call(service.client(api_key="k", admin_key="a"))
    request = service.requests[0]
    assert (request.method, request.url.raw_path.decode()) == (method, path)
    assert request.headers["Authorization"] == "Bearer k"


def test_admin_calls_carry_the_admin_key() -> None:
    """Reset sends the admin key, not the API key."""
    service = Service(ok())
    service.client(api_key="k", admin_key="a").reset("b")
    assert service.requests[0].headers["Authorization"] == "Bearer a"


def test_all_tasks_follows_the_pages() -> None:
    """Pages are fetched until there is no next one."""
    service = Service(ok(items=[{"n": 1}], next="c"), ok(items=[{"n": 2}], next=None))
    assert list(service.client().all_tasks("b")) == [{"n": 1}, {"n": 2}]
    assert service.requests[1].url.params["cursor"] == "c"


def test_client_imports_nothing_of_ours() -> None:
    """The module works without the engine, the worker, the web framework and ray."""
    code = "import sys, orchestrator.client; print([m for m in sys.modules if m.split('.')[0] in {'actors', 'worker', 'fastapi', 'ray'}])"  # noqa: E501
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
