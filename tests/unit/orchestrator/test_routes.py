"""The endpoints over a fake engine: statuses, bodies, and what the engine is asked."""

from typing import Any

import httpx
import msgspec
import pytest

from actors.errors import Conflict, Retired, Unavailable
from actors.rules.costs import Charge
from actors.rules.model import Job, PhaseCount
from actors.rules.states import JobState
from actors.signing import machine_token
from orchestrator.auth import owner_of
from tests.unit.orchestrator.fakes import SECRET, FakeEngine

CLAIM = {"machine": "m-1", "claim": "c1", "kinds": ["tiff"], "free": 2, "wait_ms": 5000}


def bearer(key: str) -> dict[str, str]:
    """The header that carries a key."""
    return {"Authorization": f"Bearer {key}"}


async def test_status_has_the_fields_of_the_contract(http: httpx.AsyncClient) -> None:
    """The originals' fields, then the added ones, times in ISO 8601 UTC with milliseconds."""
    answer = await http.get("/status/b1")
    assert answer.status_code == 200
    assert answer.json() == {
        "batch_id": "b1",
        "status": "TIFF_CONVERSION",
        "progress": {"tasks_total": 3, "tasks_completed": 1, "tasks_failed": 0},
        "started_at": "2025-11-21T10:00:00.120Z",
        "updated_at": "2025-11-21T10:00:31.004Z",
        "completed_at": None,
        "error": None,
        "state": "running",
        "code": None,
        "run": 1,
        "phases": [
            {
                "name": "TIFF_CONVERSION",
                "run": 1,
                "tasks_total": 3,
                "tasks_completed": 1,
                "tasks_failed": 0,
                "delivery": "pending",
            }
        ],
        "files_total": 5,
        "queued_at": "2025-11-21T10:00:00.090Z",
        "delivery": "pending",
        "costs": {
            "machines": 0, "machine_seconds": 0.0, "spawns": 0, "starts": 0, "retries": 0, "throttled_ms": 0,
        },
    }  # fmt: skip


async def test_status_tells_what_a_batch_has_cost(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    """Dollars are there only where a price is known."""
    engine.charge = Charge(job_id="b1", machines=2, machine_ms=90_500, spawns=3, starts=1, nano_usd=1_234_000)
    costs = (await http.get("/status/b1")).json()["costs"]
    assert costs == {
        "machines": 2, "machine_seconds": 90.5, "spawns": 3, "starts": 1, "retries": 0, "throttled_ms": 0,
        "usd": 0.001234,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("state", "word"),
    [
        (JobState.RECEIVING, "TIFF_CONVERSION"),
        (JobState.QUEUED, "TIFF_CONVERSION"),
        (JobState.RUNNING, "TIFF_CONVERSION"),
        (JobState.DONE, "DONE"),
        (JobState.FAILED, "ERROR"),
        (JobState.CANCELLED, "ERROR"),
    ],
)
async def test_status_word_is_the_originals(
    http: httpx.AsyncClient, engine: FakeEngine, state: JobState, word: str
) -> None:
    """Each state shows as a phase's name, DONE or ERROR; started_at is never null."""
    engine.store.jobs["x"] = Job(id="x", state=state, created_at=1000)
    answer = (await http.get("/status/x")).json()
    assert (answer["status"], answer["state"]) == (word, state.value)
    assert answer["started_at"] == "1970-01-01T00:00:01.000Z"


async def test_a_finished_phase_is_listed_once(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    """A phase of the current run that is in the history already does not appear twice."""
    engine.store.jobs["x"] = Job(
        id="x",
        state=JobState.DONE,
        tasks_total=2,
        tasks_completed=2,
        history=(PhaseCount("TIFF_CONVERSION", 1, 2, 2, 0),),
    )
    assert len((await http.get("/status/x")).json()["phases"]) == 1


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/status/unknown"),
        ("GET", "/status/batch"),
        ("GET", "/status/a%20b"),
        ("GET", "/batches/unknown/tasks"),
        ("GET", "/batches/unknown/tasks/t/env"),
        ("POST", "/batches/unknown/cancel"),
        ("POST", "/batches/unknown/retry"),
        ("POST", "/batches/unknown/redeliver"),
        ("POST", "/admin/reset/unknown"),
        ("GET", "/no/such/route"),
        ("GET", f"/status/{'x' * 65}"),
    ],
)
async def test_what_is_unknown_is_404(http: httpx.AsyncClient, method: str, path: str) -> None:
    """Unknown ids, impossible ids and unknown routes are 404 in the one shape of errors."""
    answer = await http.request(method, path)
    assert answer.status_code == 404
    assert answer.json().keys() == {"error", "code"}
    assert answer.json()["code"] == "not_found"


async def test_a_wrong_method_is_405_in_the_same_shape(http: httpx.AsyncClient) -> None:
    """405 says which methods there are, and has a body like every error."""
    answer = await http.post("/health")
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "GET"


async def test_create_is_202_then_200_then_409(http: httpx.AsyncClient) -> None:
    """A new batch is 202, the same body again 200, another body under its id 409."""
    body = {"batch_id": "new", "r2_prefix": "staging/new/", "root_pi": "kept"}
    first = await http.post("/batches", json=body)
    assert (first.status_code, first.json()["batch_id"]) == (202, "new")
    assert (await http.post("/batches", json=body)).status_code == 200
    other = await http.post("/batches", json=body | {"r2_prefix": "staging/other/"})
    assert (other.status_code, other.json()["code"]) == (409, "batch_exists")


async def test_create_passes_unknown_fields_to_the_engine(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    """Fields that this service does not know reach intake as they were sent."""
    body = {"batch_id": "new", "manifest_r2_key": "m.json", "node_tips": {"a": [1, None]}}
    await http.post("/batches", json=body)
    assert engine.created == [(body, None)]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{", None),
        (b"", None),
        (b"\xff\xfe", None),
        (b"[]", None),
        (b'{"batch_id": 7, "r2_prefix": "x/"}', "batch_id"),
        (b'{"batch_id": "a b", "r2_prefix": "x/"}', "batch_id"),
        (b'{"batch_id": "batch", "r2_prefix": "x/"}', "batch_id"),
        (b'{"batch_id": "", "r2_prefix": "x/"}', "batch_id"),
        (b'{"r2_prefix": 1}', "r2_prefix"),
        (b'{"files": "x"}', "files"),
        (b'{"r2_prefix": "x/", "metadata": {"n": [1, 1180591620717411303424]}}', "metadata.n[1]"),
        (b'{"r2_prefix": "x/", "metadata": ' + b"[" * 101 + b"]" * 101 + b"}", "metadata"),
        (b'{"batch_id": "x"}', "files"),
        (b"[" * 20000, None),
    ],
)
async def test_an_invalid_creation_is_400_with_its_field(
    http: httpx.AsyncClient, engine: FakeEngine, body: bytes, field: str | None
) -> None:
    """Malformed JSON and wrong types are 400; the field is named where there is one; nothing is created."""
    answer = await http.post("/batches", content=body)
    assert answer.status_code == 400
    assert (answer.json()["code"], answer.json().get("field")) == ("invalid_input", field)
    assert not engine.created


async def test_a_file_may_be_its_key_alone(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    """The short form of a list reaches intake: no second check stands before it."""
    body = {"batch_id": "new", "files": ["s/0.tif"]}
    assert (await http.post("/batches", json=body)).status_code == 202
    assert engine.created == [(body, None)]


async def test_an_unknown_batch_is_named_by_every_route(http: httpx.AsyncClient) -> None:
    """Reads and orders say the same sentence."""
    for method, path in (("GET", "/status/x"), ("GET", "/status/a.b"), ("POST", "/batches/x/cancel")):
        name = path.split("/")[2]
        assert (await http.request(method, path)).json()["error"] == f"No batch has the id {name}."


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_over_the_limit_is_413(http: httpx.AsyncClient, engine: FakeEngine, declared: bool) -> None:
    """The limit holds for bodies that say their length and for those that do not, while they are read."""
    read = 0

    async def parts() -> Any:
        nonlocal read
        for _ in range(1000):
            read += 10_000
            yield b"x" * 10_000

    content = b"x" * (engine.settings.max_body_bytes + 1) if declared else parts()
    answer = await http.post("/batches", content=content)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


async def test_test_route_exists_in_development_only(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    """POST /test creates in development and is 404 elsewhere."""
    assert (await http.post("/test", json={"r2_prefix": "a/"})).status_code == 202
    engine.settings.environment = "production"
    assert (await http.post("/test", json={"r2_prefix": "b/"})).status_code == 404


async def test_lists_pass_their_filters_and_cursor(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    """Filters, limit and cursor reach the store; the page has items and the next cursor."""
    answer = await http.get("/batches?state=running&status=DONE&limit=7&cursor=abc")
    assert answer.json()["next"] == "more"
    assert [item["batch_id"] for item in answer.json()["items"]] == ["b1"]
    assert engine.store.asked == [{"state": "running", "status": "DONE", "limit": 7, "cursor": "abc"}]


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/batches?limit=0", "limit"),
        ("/batches?limit=1001", "limit"),
        ("/batches?limit=x", "limit"),
        ("/batches?state=asleep", "state"),
        ("/batches/b1/tasks?status=asleep", "status"),
    ],
)
async def test_an_invalid_query_is_400_with_its_field(http: httpx.AsyncClient, path: str, field: str) -> None:
    """Invalid query parameters are 400, not 422, with the field named."""
    answer = await http.get(path)
    assert (answer.status_code, answer.json()["field"]) == (400, field)


async def test_tasks_have_the_fields_of_the_contract(http: httpx.AsyncClient) -> None:
    """An item of the task list is exactly what the contract says."""
    answer = (await http.get("/batches/b1/tasks?status=completed")).json()
    assert answer == {
        "items": [
            {
                "task_id": "b1_tiff_0",
                "status": "completed",
                "attempt": 2,
                "input_r2_key": "staging/b1/p.tif",
                "output_r2_key": "staging/b1/p.jpg",
                "error": None,
                "started_at": "2025-11-21T10:00:00.120Z",
                "completed_at": "2025-11-21T10:00:01.000Z",
                "machine": "m-1",
                "performance": {"total_time_ms": 880},
            }
        ],
        "next": None,
    }


@pytest.mark.parametrize(
    ("path", "body", "status", "event"),
    [
        ("/batches/b1/cancel", b'{"reason": "wrong scans"}', 200, {"op": "cancel", "reason": "wrong scans"}),
        ("/batches/b1/cancel", b"", 200, {"op": "cancel", "reason": "by request"}),
        ("/batches/b1/retry", b"", 202, {"op": "retry", "after_run": 1, "created_at": 1_763_719_200_000}),
        ("/batches/b1/redeliver", b"", 202, {"op": "redeliver"}),
        ("/admin/reset/b1", b"", 200, {"op": "reset"}),
    ],
)
async def test_orders_reach_the_owner_of_the_batch(
    http: httpx.AsyncClient, engine: FakeEngine, path: str, body: bytes, status: int, event: dict[str, Any]
) -> None:
    """Each order is one event to the batch's actor, with the status of the contract."""
    assert (await http.post(path, content=body)).status_code == status
    assert engine.calls == [("b1", {"job": "b1"} | event)]


async def test_reset_answers_as_the_originals(http: httpx.AsyncClient) -> None:
    """The body of a reset is the originals'."""
    assert (await http.post("/admin/reset/b1")).json() == {"ok": True, "message": "Batch reset"}


async def test_an_order_that_the_state_forbids_is_409(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    """Errors of the engine come out with their own status, sentence and code."""
    engine.failure = Conflict("The batch still runs.")
    answer = await http.post("/batches/b1/retry")
    assert (answer.status_code, answer.json()) == (409, {"error": "The batch still runs.", "code": "conflict"})


async def test_busy_is_503_with_retry_after(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    """Unavailable carries Retry-After."""
    engine.failure = Unavailable(retry_after_s=3)
    answer = await http.post("/batches/b1/retry")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "3")


async def test_an_unexpected_failure_gives_nothing_away(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    """A bug is a 500 without message, path or trace; CORS headers are on it like on any answer."""
    engine.failure = RuntimeError("/srv/secret/path")
    answer = await http.post("/batches/b1/retry")
    assert (answer.status_code, answer.json()["code"]) == (500, "error")
    assert "secret" not in answer.text
    assert answer.headers["access-control-allow-origin"] == "*"


async def test_keys_guard_the_batch_routes(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    """With API_KEYS set, a route without a valid key is 401; the owner of a batch follows from the key."""
    engine.settings.api_keys = ("k1", "k2")
    engine.settings.admin_key = "root"
    for path in ("/status/b1", "/batches", "/batches/b1/tasks", "/batches/b1/tasks/t/env"):
        assert (await http.get(path)).status_code == 401
        assert (await http.get(path, headers=bearer("k3"))).status_code == 401
        assert (await http.get(path, headers=bearer("k2"))).status_code == 200
        assert (await http.get(path, headers=bearer("root"))).status_code == 200
    assert (await http.post("/batches", json={"r2_prefix": "a/"})).status_code == 401
    await http.post("/batches", json={"r2_prefix": "a/"}, headers=bearer("k1"))
    assert engine.created == [({"r2_prefix": "a/"}, owner_of("k1"))]
    assert (await http.get("/health")).status_code == 200


async def test_admin_key_guards_admin(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    """/admin: 401 without or with an unknown key, 403 with an API key, 200 with the admin's."""
    engine.settings.api_keys, engine.settings.admin_key = ("k1",), "root"
    statuses = [
        (await http.post("/admin/reset/b1", headers=headers)).status_code
        for headers in ({}, bearer("no"), bearer("k1"), bearer("root"))
    ]
    assert statuses == [401, 401, 403, 200]
    engine.settings.admin_key = None
    assert (await http.post("/admin/reset/b1")).status_code == 401
    assert (await http.post("/admin/reset/b1", headers=bearer("k1"))).status_code == 200


async def test_a_machine_claims_with_its_own_token(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    """A machine's token opens the claim of that machine only, and says that it is ours."""
    engine.fleet_reply = {"tasks": [{"TASK_ID": "t"}]}
    token = machine_token(SECRET, "m-1")
    answer = await http.post("/machines/claim", json=CLAIM, headers=bearer(token))
    assert (answer.status_code, answer.json()) == (200, {"tasks": [{"TASK_ID": "t"}]})
    assert engine.fleet_calls == [{"op": "claim", "claim": CLAIM | {"kinds": ("tiff",)}, "internal": True}]
    other = await http.post("/machines/claim", json=CLAIM | {"machine": "m-2"}, headers=bearer(token))
    assert other.status_code == 401


async def test_a_pull_worker_claims_with_a_worker_key(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    """WORKER_KEYS open the claim of any machine, which is then not ours; nothing to do is 204; waits are bounded."""
    engine.settings.worker_keys = ("w1",)
    answer = await http.post("/machines/claim", json=CLAIM | {"wait_ms": 99_000}, headers=bearer("w1"))
    assert (answer.status_code, answer.content) == (204, b"")
    assert engine.fleet_calls[0]["internal"] is False
    assert engine.fleet_calls[0]["claim"]["wait_ms"] == 30_000


async def test_a_retired_machine_is_told_to_exit(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    """410 for a machine that the fleet has given up."""
    engine.failure = Retired()
    answer = await http.post("/machines/claim", json=CLAIM, headers=bearer(machine_token(SECRET, "m-1")))
    assert (answer.status_code, answer.json()["code"]) == (410, "retired")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"free": 0}, "free"),
        ({"free": "2"}, "free"),
        ({"wait_ms": -1}, "wait_ms"),
        ({"claim": ""}, "claim"),
        ({"kinds": []}, "kinds"),
        ({"machine": None}, "machine"),
    ],
)
async def test_an_invalid_claim_is_400(http: httpx.AsyncClient, change: dict[str, Any], field: str) -> None:
    """Each wrong field of a claim is named."""
    answer = await http.post("/machines/claim", json=CLAIM | change, headers=bearer(machine_token(SECRET, "m-1")))
    assert (answer.status_code, answer.json()["field"]) == (400, field)


async def test_health_says_what_does_not_answer(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    """All well is the originals' body with two fields more; a part that does not answer makes it 503."""
    answer = await http.get("/health")
    assert answer.status_code == 200
    assert answer.json() | {"timestamp": ""} == {
        "status": "ok",
        "service": "arke-preprocessing-orchestrator",
        "timestamp": "",
        "store": "ok",
        "objects": "ok",
    }
    engine.parts["store"] = "The store does not answer."
    assert (await http.get("/health")).status_code == 503


async def test_pages_of_any_origin_may_ask_but_not_read_environments(http: httpx.AsyncClient) -> None:
    """CORS headers are on every answer, OPTIONS is 204, and /env has none: it is not for other people's pages."""
    assert (await http.get("/status/b1")).headers["access-control-allow-origin"] == "*"
    preflight = await http.options("/batches")
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-methods"] == "GET, POST, OPTIONS"
    assert "Content-Type" in preflight.headers["access-control-allow-headers"]
    assert "access-control-allow-origin" not in (await http.get("/batches/b1/tasks/t/env")).headers


async def test_openapi_has_examples_and_no_422(http: httpx.AsyncClient) -> None:
    """Every body that a route reads is documented with examples, and invalid input as 400."""
    document = (await http.get("/openapi.json")).json()
    for path in (
        "/batches",
        "/test",
        "/machines/claim",
        "/callback/{batch_id}/{task_id}",
        "/batches/{batch_id}/cancel",
    ):
        assert document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["examples"]
    assert b'"422"' not in msgspec.json.encode(document)
    assert "400" in document["paths"]["/batches"]["post"]["responses"]


async def test_the_first_page_leads_on(http: httpx.AsyncClient) -> None:
    """A browser at / finds the documentation."""
    answer = await http.get("/")
    assert answer.status_code == 200
    assert 'href="/docs"' in answer.text


MACHINE = {
    "id": "m-1-2", "name": "pool-x", "provider": "fly", "provider_id": "one/17", "kind": "tiff", "pool": "x",
    "state": "running", "job_id": "b1", "task_id": None, "attempt": 0, "created_at": 1_700_000_000_000,
    "started_at": None, "seen_at": None, "ended_at": None, "reason": None,
}  # fmt: skip


async def test_machines_are_listed_oldest_first(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    """For whom, since when, and whether it is of the pool; nothing else of the row."""
    older = MACHINE | {"id": "m-1-1", "pool": None, "created_at": 1_600_000_000_000}
    engine.fleet_reply = [MACHINE, older]
    items = (await http.get("/admin/machines")).json()["items"]
    assert [(item["machine"], item["pool"]) for item in items] == [("m-1-1", False), ("m-1-2", True)]
    assert items[1]["batch_id"] == "b1"
    assert items[1]["created_at"] == "2023-11-14T22:13:20.000Z"
    assert engine.fleet_calls == [{"op": "list"}]


async def test_the_pool_is_shown(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    """As the fleet counts it."""
    counts = {"size": 2, "ready": 1, "preparing": 1, "working": 0, "outdated": 0}
    engine.fleet_reply = {"tiff": counts}
    assert (await http.get("/admin/machines/pool")).json() == {"pools": {"tiff": counts}}


@pytest.mark.parametrize(("body", "dry_run"), [(b"", False), (b'{"dry_run":true}', True)])
async def test_a_sweep_may_only_look(http: httpx.AsyncClient, engine: FakeEngine, body: bytes, dry_run: bool) -> None:
    """The fleet alone ends machines."""
    engine.fleet_reply = {"destroyed": 1, "items": [{"provider_id": "one/17", "name": "x", "since": 1_700_000_000_000}]}
    told = (await http.post("/admin/machines/sweep", content=body)).json()
    assert (told["destroyed"], told["items"][0]["since"]) == (1, "2023-11-14T22:13:20.000Z")
    assert engine.fleet_calls == [{"op": "sweep", "dry_run": dry_run}]


@pytest.mark.parametrize("body", [b"[]", b'{"dry_run":1}', b'{"dryrun":true}', b"{"])
async def test_a_sweep_that_is_not_understood_sweeps_nothing(
    http: httpx.AsyncClient, engine: FakeEngine, body: bytes
) -> None:
    """Who has mistyped dry_run wanted to look."""
    assert (await http.post("/admin/machines/sweep", content=body)).status_code == 400
    assert engine.fleet_calls == []


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/admin/machines"), ("GET", "/admin/machines/pool"), ("POST", "/admin/machines/sweep")]
)
async def test_machines_are_the_administrators(
    http: httpx.AsyncClient, engine: FakeEngine, method: str, path: str
) -> None:
    """Neither nobody nor a caller sees or ends them."""
    engine.settings.admin_key, engine.settings.api_keys = "admin", ("k1",)
    assert (await http.request(method, path)).status_code == 401
    assert (await http.request(method, path, headers=bearer("k1"))).status_code == 403
    assert engine.fleet_calls == []
