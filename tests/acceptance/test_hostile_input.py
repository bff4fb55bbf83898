"""Bad requests over HTTP: each with its status, its code and a sentence, and nothing of the inside in any body."""

import json
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from actors.signing import machine_token
from tests.acceptance.service import ROOT, Service, eventually

GOOD = {"r2_key": "hostile/p.pdf", "file_size": 1}


def refused(answer: httpx.Response, status: int, code: str, words: str, service: Service) -> dict[str, Any]:
    """The body of a refusal, checked."""
    assert answer.status_code == status, answer.text
    body: dict[str, Any] = answer.json()
    assert body["code"] == code
    assert words.lower() in body["error"].lower()
    for inside in ("Traceback", 'File "', ".py", str(ROOT), str(service.data_dir), str(service.settings.run_dir)):
        assert inside not in answer.text
    return body


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/status/nobody"),
        ("GET", "/status/batch"),
        ("GET", "/status/..%2f..%2fetc"),
        ("GET", "/status/" + "x" * 65),
        ("GET", "/batches/nobody/tasks"),
        ("POST", "/batches/nobody/cancel"),
        ("POST", "/batches/nobody/retry"),
        ("POST", "/batches/nobody/redeliver"),
        ("POST", "/admin/reset/nobody"),
        ("GET", "/no/such/address"),
    ],
)
def test_unknown_is_404(service: Service, method: str, path: str) -> None:
    """What is not known is 404 on every route, quickly, whatever the id looks like."""
    answer = service.http.request(method, path, timeout=5)
    refused(answer, 404, "not_found", "", service)


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        (b"{", None, "not valid JSON"),
        (b"", None, "not valid JSON"),
        (b"\xff\xfe{}", None, ""),
        (b"[1]", None, "object"),
        (b'"text"', None, "object"),
        (b"[" * 100_000, None, ""),
        (b'{"batch_id": 7, "files": []}', "batch_id", "str"),
        (b'{"files": "p.tif"}', "files", "list"),
        (b'{"files": [7]}', "files[0]", "object"),
        (b'{"files": [{"r2_key": 7}]}', "files[0]", "r2_key"),
        (b'{"files": [{"r2_key": "a.tif", "file_size": "big"}]}', "files[0]", "int"),
        (b'{"files": [{"r2_key": "a.tif", "file_size": -1}]}', "files[0].file_size", "negative"),
        (b'{"files": [{"r2_key": ""}]}', "files[0].r2_key", "1 to 1024"),
        (b'{"manifest_r2_key": ["x"]}', "manifest_r2_key", "str"),
        (b'{"r2_prefix": {}}', "r2_prefix", "str"),
        (b"{}", "files", "files"),
        (b'{"batch_id": "a b", "files": [{"r2_key": "a.tif"}]}', "batch_id", "batch_id"),
        (b'{"batch_id": "batch", "files": [{"r2_key": "a.tif"}]}', "batch_id", "batch"),
        (b'{"phases": ["NO_SUCH"], "files": [{"r2_key": "a.tif"}]}', "phases", "TIFF_CONVERSION"),
        (b'{"manifest_r2_key": "hostile/none.json"}', "manifest_r2_key", "does not exist"),
        (b'{"files": [{"r2_key": "a/../../etc/passwd"}]}', "files[0].r2_key", ".."),
        (b'{"files": [{"r2_key": "/etc/passwd.tif"}]}', "files[0].r2_key", "relative"),
        (b'{"files": [{"r2_key": "a\\\\..\\\\b.tif"}]}', "files[0].r2_key", "backslash"),
        (b'{"files": [{"r2_key": "a\\u0000.tif"}]}', "files[0].r2_key", "control"),
        (b'{"manifest_r2_key": "../callback.secret"}', "manifest_r2_key", ".."),
        (b'{"manifest_r2_key": "/etc/passwd"}', "manifest_r2_key", "relative"),
        (b'{"r2_prefix": "../"}', "r2_prefix", ".."),
        (b'{"r2_prefix": "/"}', "r2_prefix", ""),
    ],
)
def test_bad_body_is_400_and_says_why(service: Service, body: bytes, field: str | None, words: str) -> None:
    """A body that is not valid is 400 (never 422) with the field named, and nothing is created."""
    before = service.http.get("/batches?limit=1").json()["items"]
    answer = service.http.post("/batches", content=body)
    assert refused(answer, 400, "invalid_input", words, service).get("field") == field
    assert service.http.get("/batches?limit=1").json()["items"] == before


@pytest.mark.parametrize("body", [{"files": []}, {"manifest_r2_key": "hostile/empty.json"}])
def test_batch_without_files_is_refused(service: Service, body: Mapping[str, Any]) -> None:
    """An empty list, or a manifest without a file, is 400 `empty_batch`."""
    service.put("hostile/empty.json", b'{"directories": [{"files": []}]}')
    refused(service.http.post("/batches", json=body), 400, "empty_batch", "no file", service)


def test_prefix_without_an_object_ends_in_error(service: Service) -> None:
    """The list of a prefix is read later: the batch ends in ERROR, and the prefix is named."""
    service.create({"batch_id": "nothing", "r2_prefix": "hostile/nothing/"})
    status = service.until_over("nothing")
    assert (status["status"], status["code"]) == ("ERROR", "empty_batch")
    assert "hostile/nothing/" in status["error"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{not json", "not valid JSON"),
        (b"\x00\xff", "not valid JSON"),
        (b"[]", "directories"),
        (b'{"directories": 3}', "directories"),
        (b'{"directories": [{"files": {}}]}', "directories[0]"),
        (b'{"directories": [{"files": [{}]}]}', "directories[0].files[0]"),
        (b'{"directories": [{"files": [{"r2_key": "../a.tif"}]}]}', "directories[0].files[0].r2_key"),
    ],
)
def test_broken_manifest_is_400(service: Service, content: bytes, words: str) -> None:
    """A manifest that cannot be used is refused with the place named."""
    service.put("hostile/manifest.json", content)
    answer = service.http.post("/batches", json={"manifest_r2_key": "hostile/manifest.json"})
    refused(answer, 400, "invalid_input", words, service)


def test_same_id_again(service: Service) -> None:
    """The same body again is 200 and the same batch; another body under the id is 409 and changes nothing."""
    body = {"batch_id": "twice", "files": [GOOD]}
    service.create(body)
    again = service.http.post("/batches", json=body)
    assert (again.status_code, again.json()["run"]) == (200, 1)
    other = service.http.post("/batches", json={**body, "files": [GOOD, {"r2_key": "hostile/q.pdf"}]})
    refused(other, 409, "batch_exists", "exists", service)
    assert service.status("twice")["files_total"] == 1


def test_body_over_the_limit_is_413(service: Service) -> None:
    """With a Content-Length and without: refused, with the way out."""
    body = json.dumps({"files": [GOOD], "metadata": "x" * service.settings.max_body_bytes}).encode()
    refused(service.http.post("/batches", content=body), 413, "too_large", "manifest", service)
    in_parts = (body[at : at + 65536] for at in range(0, len(body), 65536))
    refused(service.http.post("/batches", content=in_parts), 413, "too_large", "manifest", service)


def test_forged_callback_changes_nothing(service: Service, tiff: bytes) -> None:
    """Without a signature, with a wrong one, or with another task's: 403, and the task stays what it was."""
    service.put("forged/p.tif", tiff)
    service.create({"batch_id": "forged", "r2_prefix": "forged/"})
    service.until_over("forged")
    (before,) = service.tasks("forged")
    task = before["task_id"]
    body = {"task_id": task, "batch_id": "forged", "status": "error", "error": "forged"}
    good = service.callback_path("forged", task)
    for path in (
        f"/callback/forged/{task}",
        f"/callback/forged/{task}?run=1&attempt=1&sig={'0' * 64}",
        good.replace("attempt=1", "attempt=2"),
        good.replace("run=1", "run=%31%00"),
        service.callback_path("forged", "other").replace("/other?", f"/{task}?"),
    ):
        refused(service.http.post(path, json=body), 403, "forbidden", "signature", service)
    assert service.tasks("forged") == [before]
    assert service.http.post(good, json=body).json()["ok"] is True  # late: 200, and no change
    assert service.tasks("forged") == [before]


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"batch_id": "other"}, 400, "invalid_input"),
        ({"task_id": "other"}, 400, "invalid_input"),
        ({"status": "great"}, 400, "invalid_input"),
        ({"output_file_size": "big"}, 400, "invalid_input"),
        ({"status": None}, 400, "invalid_input"),
        ({"error": "x" * 300_000}, 413, "too_large"),
    ],
)
def test_bad_callback_body(service: Service, change: Mapping[str, Any], status: int, code: str) -> None:
    """A callback whose body does not fit is refused before anything looks at its batch."""
    body = {"task_id": "t", "batch_id": "none", "status": "success", **change}
    refused(service.http.post(service.callback_path("none", "t"), json=body), status, code, "", service)


def test_callback_of_unknown_batch_or_task_is_404(service: Service) -> None:
    """Signed by us and yet unknown (removed meanwhile), or not even signed."""
    service.create({"batch_id": "known", "files": [GOOD]})
    for batch, task in (("none", "t"), ("known", "none")):
        body = {"task_id": task, "batch_id": batch, "status": "success"}
        for path in (service.callback_path(batch, task), f"/callback/{batch}/{task}"):
            refused(service.http.post(path, json=body, timeout=5), 404, "not_found", "", service)


def test_claim_needs_its_token(service: Service) -> None:
    """A wrong token, none, or another machine's is 401; one that is retired is 410; a bad claim is 400."""
    claim = {"machine": "m-9-9", "claim": "c1", "kinds": ["tiff"], "free": 1, "wait_ms": 0}
    secret = service.settings.callback_secret_file.read_text().strip()
    for token in ("", "Bearer wrong", f"Bearer {machine_token(secret, 'm-9-8')}", "Basic x"):
        headers = {"Authorization": token} if token else {}
        answer = service.http.post("/machines/claim", json=claim, headers=headers)
        refused(answer, 401, "unauthorized", "", service)
    own = {"Authorization": f"Bearer {machine_token(secret, 'm-9-9')}"}
    refused(service.http.post("/machines/claim", json=claim, headers=own), 410, "retired", "exit", service)
    changes: tuple[dict[str, Any], ...] = ({"free": 0}, {"wait_ms": -1}, {"kinds": []}, {"claim": ""}, {"free": "two"})
    for change in changes:
        answer = service.http.post("/machines/claim", json={**claim, **change}, headers=own)
        assert refused(answer, 400, "invalid_input", "", service)["field"] == next(iter(change))


def test_cancel_after_the_end_and_twice(service: Service) -> None:
    """Cancelling what has ended is 409; cancelling what is cancelled is 200 again; retry of what runs is 409."""
    service.create({"batch_id": "ended", "files": [GOOD]})
    service.until_over("ended")
    refused(service.http.post("/batches/ended/cancel"), 409, "conflict", "ended", service)
    refused(service.http.post("/batches/ended/retry"), 409, "conflict", "no task", service)
    refused(service.http.post("/admin/reset/ended"), 409, "conflict", "retry", service)


def test_reset_stops_a_batch(service: Service, tiff: bytes) -> None:
    """Reset answers as the originals did; the same body then begins a new run."""
    for n in range(100):
        service.put(f"reset/p{n}.tif", tiff)
    body = {"batch_id": "reset", "r2_prefix": "reset/"}
    service.create(body)
    eventually(lambda: service.completed("reset") > 0, "it works")
    answer = service.http.post("/admin/reset/reset")
    assert answer.json() == {"ok": True, "message": "Batch reset"}
    status = service.status("reset")
    assert (status["status"], status["error"], status["code"]) == ("ERROR", "Manually reset by admin", "reset")
    again = service.http.post("/batches", json=body)
    assert (again.status_code, again.json()["run"]) == (202, 2)
    assert service.until_over("reset")["status"] == "DONE"
    assert service.status("reset")["progress"]["tasks_failed"] == 0


def test_limits_of_lists(service: Service) -> None:
    """Query parameters that are out of range are 400 with the parameter named."""
    for query, field in (("limit=0", "limit"), ("limit=x", "limit"), ("state=odd", "state"), ("cursor=%ff", "cursor")):
        answer = service.http.get(f"/batches?{query}")
        assert refused(answer, 400, "invalid_input", "", service)["field"] == field
