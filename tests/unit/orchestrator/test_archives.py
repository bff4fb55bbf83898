"""The endpoints of archives over a fake engine: creation, status, downloads, cancel, and the originals' paths."""

from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from actors.errors import Conflict, Unavailable
from actors.rules.model import Job, Task
from actors.rules.states import JobState, TaskStatus
from actors.signing import sign_download
from actors.store.catalog_rows import CatalogExport
from tests.unit.orchestrator.fakes import SECRET, FakeEngine
from worker.objects.local import LocalObjects

EXPORT = "export_zip_1_00000000"
LATER = 1_800_000_000_000 + 1000
BODY = bytes(range(256)) * 10
KEY = f"exports/u-1/{EXPORT}/1000-export"


def task(n: int, **fields: Any) -> Task:
    given: dict[str, Any] = {
        "status": TaskStatus.COMPLETED, "completed_at": 9_000, "output_file_size": len(BODY),
        "performance": {"files": 2, "missing": 1, "bytes": 100, "written": 5}, "output_r2_key": f"{KEY}-{n + 1}.zip",
    }  # fmt: skip
    return Task(
        job_id=EXPORT, phase=0, n=n, task_id=f"{EXPORT}_zip_{n}", input_r2_key="list", **(given | fields),
    )  # fmt: skip


def job(parts: int, **fields: Any) -> Job:
    message = {
        "source": "catalog", "user_id": "u-1", "export_type": "full", "filter_params": {}, "name": "Mine",
        "folder": f"exports/u-1/{EXPORT}/", "parts": [{"files": 3, "bytes": 100}] * parts,
    }  # fmt: skip
    given: dict[str, Any] = {
        "kind": "archive", "state": JobState.DONE, "phases": ("ARCHIVING",), "message": message, "created_at": 1_000,
        "queued_at": 2_000, "started_at": 3_000, "completed_at": 9_000, "expires_at": LATER, "files_total": 6,
        "files_missing": 1, "bytes_total": 100 * parts, "tasks_total": parts, "tasks_completed": parts,
    }  # fmt: skip
    return Job(id=EXPORT, **(given | fields))


@pytest.fixture
def store(engine: FakeEngine, tmp_path: Path) -> LocalObjects:
    """An archive of two parts."""
    objects = LocalObjects(tmp_path, "arke-staging")
    engine.archive_objects = objects
    engine.store.jobs[EXPORT] = job(2)
    engine.store.rows[EXPORT] = [task(0), task(1)]
    for each in engine.store.rows[EXPORT]:
        objects.put(each.output_r2_key, BODY, "application/zip")
    return objects


async def test_it_is_accepted(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    answer = await http.post("/export/zip", json={"user_id": "u-1", "export_type": "full", "name": "Mine"})
    assert answer.status_code == 202
    assert answer.json()["export_id"] == EXPORT
    assert answer.json()["status"] == "pending"
    ((wanted, _),) = engine.archives
    assert (wanted.user_id, wanted.export_type, wanted.name, wanted.alone) == ("u-1", "full", "Mine", False)


@pytest.mark.parametrize(
    ("body", "field"), [(b"{", None), (b"[]", None), (b"{}", "export_type"), (b'{"keys": ["a", 7]}', "keys")]
)
async def test_a_bad_body_is_400(http: httpx.AsyncClient, body: bytes, field: str | None) -> None:
    answer = await http.post("/export/zip", content=body)
    assert (answer.status_code, answer.json()["code"], answer.json().get("field")) == (400, "invalid_input", field)


async def test_status_of_parts(http: httpx.AsyncClient, store: LocalObjects) -> None:
    status = (await http.get(f"/status/{EXPORT}")).json()
    assert (status["status"], status["state"], status["phase"]) == ("completed", "done", "ARCHIVING")
    assert (status["files_verified"], status["files_missing"], status["file_count"]) == (5, 1, 4)
    assert (status["size_bytes"], status["parts_total"], status["percent"]) == (2 * len(BODY), 2, 100.0)
    assert [part["r2_key"] for part in status["parts"]] == [f"{KEY}-1.zip", f"{KEY}-2.zip"]
    assert status["r2_key"] == f"{KEY}-index.json"
    assert (status["expires_at"], status["expired"]) == (LATER, False)


@pytest.mark.parametrize(
    ("fields", "word", "phase"),
    [
        ({"state": JobState.RECEIVING, "source_cursor": "", "queued_at": None}, "pending", "VERIFYING"),
        ({"state": JobState.RECEIVING, "source_cursor": "x", "queued_at": None}, "processing", "VERIFYING"),
        ({"state": JobState.QUEUED}, "processing", "ARCHIVING"),
        ({"state": JobState.RUNNING}, "processing", "ARCHIVING"),
        ({"state": JobState.DONE}, "completed", "ARCHIVING"),
        ({"state": JobState.DONE, "tasks_failed": 1}, "failed", "ARCHIVING"),
        ({"state": JobState.FAILED}, "failed", "ARCHIVING"),
        ({"state": JobState.CANCELLED}, "failed", "ARCHIVING"),
    ],
)
async def test_words(
    http: httpx.AsyncClient, engine: FakeEngine, store: LocalObjects, fields: dict[str, Any], word: str, phase: str
) -> None:
    engine.store.jobs[EXPORT] = job(2, **fields)
    status = (await http.get(f"/status/{EXPORT}")).json()
    assert (status["status"], status["phase"]) == (word, phase)
    row = (await http.get(f"/api/storage/export/{EXPORT}")).json()
    assert row["status"] == word
    assert (row["r2_key"] is not None) == (word == "completed")


async def test_a_part_and_the_index(http: httpx.AsyncClient, store: LocalObjects) -> None:
    index = await http.get(f"/download/{EXPORT}")
    assert index.headers["content-type"] == "application/json"
    assert index.headers["content-disposition"] == 'attachment; filename="1000-export-index.json"'
    assert [part["part"] for part in index.json()["parts"]] == [1, 2]
    head = await http.head(f"/download/{EXPORT}")
    assert (head.content, head.headers["content-length"]) == (b"", str(len(index.content)))
    whole = await http.get(f"/download/{EXPORT}/2")
    assert (whole.status_code, whole.content, whole.headers["content-type"]) == (200, BODY, "application/zip")
    part = await http.get(f"/download/{EXPORT}/2", headers={"Range": "bytes=2-4", "If-Range": whole.headers["etag"]})
    assert (part.status_code, part.content) == (206, BODY[2:5])
    assert (await http.head(f"/download/{EXPORT}/1")).headers["content-length"] == str(len(BODY))
    for number in (0, 3, -1):
        assert (await http.get(f"/download/{EXPORT}/{number}")).status_code == 404


async def test_an_only_part_is_the_archive(http: httpx.AsyncClient, engine: FakeEngine, store: LocalObjects) -> None:
    engine.store.jobs[EXPORT] = job(1)
    engine.store.rows[EXPORT] = [task(0, output_r2_key=f"{KEY}.zip")]
    store.put(f"{KEY}.zip", BODY, "application/zip")
    for path in (f"/download/{EXPORT}", f"/download/{EXPORT}/1"):
        assert (await http.get(path)).content == BODY
    store.delete(f"{KEY}.zip")
    assert (await http.get(f"/download/{EXPORT}")).status_code == 404


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"state": JobState.RUNNING}, 400, "Status: processing"),
        ({"state": JobState.FAILED}, 400, "Status: failed"),
        ({"state": JobState.CANCELLED}, 410, "was cancelled"),
        ({"removed_since": 10_000, "expires_at": None}, 410, "expired"),
        ({"message": job(0).message}, 400, "has no file"),
    ],
)
async def test_what_cannot_be_downloaded(
    http: httpx.AsyncClient, engine: FakeEngine, store: LocalObjects, fields: dict[str, Any], code: int, words: str
) -> None:
    engine.store.jobs[EXPORT] = job(2, **fields)
    for path in (f"/download/{EXPORT}", f"/download/{EXPORT}/1"):
        answer = await http.get(path)
        assert (answer.status_code, words in answer.json()["error"]) == (code, True)


async def test_it_is_cancelled(http: httpx.AsyncClient, engine: FakeEngine, store: LocalObjects) -> None:
    assert (await http.post(f"/exports/{EXPORT}/cancel", json={"reason": "why"})).json() == {"ok": True}
    assert (await http.post(f"/exports/{EXPORT}/cancel")).json() == {"ok": True}
    assert [request["reason"] for _, request in engine.calls] == ["why", "by request"]
    assert (await http.post("/exports/none/cancel")).status_code == 404
    engine.store.jobs["b1"] = Job(id="b1")
    assert (await http.post("/exports/b1/cancel")).status_code == 404
    engine.catalog.rows["e-1"] = CatalogExport(id="e-1", user_id="u", export_type="full", created_at=1)
    assert (await http.post("/exports/e-1/cancel")).status_code == 409


async def test_rows_outlive_jobs(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    """Of what was removed with the rows of its time, the catalog still tells."""
    engine.catalog.rows["e-1"] = CatalogExport(
        id="e-1", user_id="u", status="completed", export_type="full", created_at=1, completed_at=5, expires_at=100,
        r2_key="k", size_bytes=7, file_count=2,
    )  # fmt: skip
    status = (await http.get("/status/e-1")).json()
    assert (status["status"], status["expired"], status["file_count"]) == ("completed", True, 2)
    assert (await http.get("/download/e-1")).status_code == 410
    assert (await http.get("/api/storage/export/e-1/download")).status_code == 410
    (item,) = (await http.get("/exports", params={"user_id": "u"})).json()["items"]
    assert item["created_at"] == "1970-01-01T00:00:00.001Z"
    assert (await http.get("/exports", params={"user_id": "nobody"})).json() == {"items": [], "next": None}
    assert (await http.get("/exports")).json()["field"] == "user_id"


async def test_the_originals_paths(http: httpx.AsyncClient, engine: FakeEngine, store: LocalObjects) -> None:
    answer = await http.post(
        "/api/storage/export", json={"type": "category", "filters": {"category": "c"}}, headers={"X-User-ID": "u-1"}
    )
    assert (answer.status_code, answer.json()["export_id"], answer.json()["status"]) == (202, EXPORT, "pending")
    ((wanted, _),) = engine.archives
    assert (wanted.user_id, wanted.filter_params, wanted.alone) == ("u-1", {"category": "c"}, True)
    row = (await http.get(f"/api/storage/export/{EXPORT}")).json()
    assert (row["r2_key"], row["completed_at"]) == (f"{KEY}-index.json", "1970-01-01T00:00:09.000Z")
    told = (await http.get(f"/api/storage/export/{EXPORT}/download")).json()
    assert told == {
        "download_url": f"http://127.0.0.1:8787/download/{EXPORT}", "expires_at": row["expires_at"],
        "part_urls": [f"http://127.0.0.1:8787/download/{EXPORT}/{part}" for part in (1, 2)],
        "size_bytes": 2 * len(BODY), "file_count": 4,
    }  # fmt: skip
    engine.store.jobs[EXPORT] = job(2, state=JobState.RUNNING)
    assert (await http.get(f"/api/storage/export/{EXPORT}/download")).status_code == 404
    engine.failure = Conflict("The export x of this user is still in progress.")
    assert (await http.post("/api/storage/export", json={"type": "full", "user_id": "u-1"})).status_code == 409


@pytest.mark.parametrize(
    ("body", "field"),
    [({}, "type"), ({"type": "full"}, "user_id"), ({"type": "x", "user_id": "u"}, "type"),
     ({"type": "full", "user_id": 7}, "user_id"), ({"type": "category", "user_id": "u"}, "filters.category")],
)  # fmt: skip
async def test_bad_bodies_on_the_originals_path(http: httpx.AsyncClient, body: dict[str, Any], field: str) -> None:
    answer = await http.post("/api/storage/export", json=body)
    assert (answer.status_code, answer.json()["field"]) == (400, field)


async def test_who_calls_is_the_user_where_none_is_named(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.settings.api_keys = ("secret",)
    answer = await http.post("/api/storage/export", json={"type": "full"}, headers={"Authorization": "Bearer secret"})
    assert answer.status_code == 202
    ((wanted, owner),) = engine.archives
    assert wanted.user_id == owner
    for method, path in (("POST", "/export/zip"), ("GET", "/exports?user_id=u"), ("GET", "/api/storage/export/x")):
        assert (await http.request(method, path)).status_code == 401


async def test_files_are_added(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    file = {"user_id": "u-1", "r2_key": "u-1/a/p.jpg", "product": "blog"}
    answer = await http.post("/api/storage/files", json={"files": [file, file | {"r2_key": "b", "deleted": True}]})
    assert answer.json() == {"ok": True, "files": 2}
    assert [(each.filename, each.deleted_at is None) for each in engine.files] == [("p.jpg", True), ("b", False)]
    assert len({each.id for each in engine.files}) == 2
    for bad, field in (
        ({"r2_key": "../x"}, "files[0].r2_key"), ({"r2_key": "a", "size_bytes": -1}, "files[0].size_bytes"),
        ({"r2_key": "a", "size_bytes": 2**63}, "files[0].size_bytes"),
        ({"r2_key": "a", "user_id": ""}, "files[0].user_id"),
    ):  # fmt: skip
        answer = await http.post("/api/storage/files", json={"files": [{"user_id": "u"} | bad]})
        assert (answer.status_code, answer.json()["field"]) == (400, field)
    many = msgspec.json.encode({"files": [{"user_id": "u", "r2_key": "a"}] * 10_001})
    engine.settings.max_body_bytes = 1 << 22
    assert (await http.post("/api/storage/files", content=many)).json()["field"] == "files"
    engine.failure = Conflict("The catalog is that of CATALOG_URL: files are added there.")
    assert (await http.post("/api/storage/files", json={"files": [file]})).status_code == 409


async def test_a_catalog_that_is_away_is_503(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.failure = Unavailable("The catalog does not answer.", retry_after_s=1)
    answer = await http.post("/export/zip", json={"keys": ["a"]})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


async def test_a_link_opens_what_an_export_has_made(
    http: httpx.AsyncClient, engine: FakeEngine, store: LocalObjects
) -> None:
    """Of this export alone, until its time, with its signature; nothing else opens without a key."""
    engine.settings.api_keys = ("secret",)
    now = engine.now()
    good = f"until={now + 1}&sig={sign_download(SECRET, EXPORT, now + 1)}"
    for path in (f"/download/{EXPORT}", f"/download/{EXPORT}/2"):
        assert (await http.get(f"{path}?{good}")).status_code == 200
        for bad in (
            "", f"until={now + 2}&sig={sign_download(SECRET, EXPORT, now + 1)}", "until=&sig=", "until=x&sig=y",
            f"until={now}&sig={sign_download(SECRET, EXPORT, now)}",
            f"until={now + 1}&sig={sign_download(SECRET, 'other', now + 1)}", f"until={'9' * 30}&sig=z",
        ):  # fmt: skip
            assert (await http.get(f"{path}?{bad}")).status_code == 401, bad
    assert (await http.get(f"/status/{EXPORT}?{good}")).status_code == 401


async def test_a_catalog_that_is_away_makes_no_id_known(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    """Ids of nothing are 404 as ever; of what is asked of the catalog itself it is told."""

    async def away(export_id: str) -> None:
        raise Unavailable("The catalog does not answer.")

    engine.catalog.export = away
    assert (await http.get("/status/nothing")).status_code == 404
    assert (await http.get("/download/nothing")).status_code == 404
    assert (await http.get("/api/storage/export/nothing")).status_code == 503


async def test_what_is_over_there_is_not_asked_for_again(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    """A page of a list costs the jobs of those that are not over."""
    for n, status in enumerate(("completed", "failed", "processing")):
        engine.catalog.rows[f"e-{n}"] = CatalogExport(
            id=f"e-{n}", user_id="u-1", status=status, export_type="full", created_at=n
        )
    engine.store.jobs["e-2"] = msgspec.structs.replace(job(1), id="e-2")
    engine.store.rows["e-2"] = [task(0)]
    items = (await http.get("/exports", params={"user_id": "u-1"})).json()["items"]
    assert [item["status"] for item in items] == ["completed", "failed", "completed"]


async def test_what_somebody_else_has_made_can_be_had(
    http: httpx.AsyncClient, engine: FakeEngine, tmp_path: Path
) -> None:
    """Rows of the originals, whose archives are in the bucket, outlive the change to this service."""
    engine.archive_objects = LocalObjects(tmp_path, "arke-staging")
    engine.archive_objects.put("exports/u/e-1/1-export.zip", BODY, "application/zip")
    row = CatalogExport(
        id="e-1", user_id="u", status="completed", export_type="full", created_at=1,
        r2_key="exports/u/e-1/1-export.zip", expires_at=LATER, file_count=2, size_bytes=len(BODY),
    )  # fmt: skip
    engine.catalog.rows["e-1"] = row
    assert (await http.get("/download/e-1")).content == BODY
    assert (await http.get("/download/e-1/1")).status_code == 404
    told = (await http.get("/api/storage/export/e-1/download")).json()
    assert told["download_url"] == "http://127.0.0.1:8787/download/e-1"
    for key, code in ((None, 400), ("../x", 404), ("gone", 404)):
        engine.catalog.rows["e-1"] = msgspec.structs.replace(row, r2_key=key)
        assert (await http.get("/download/e-1")).status_code == code
    engine.catalog.rows["e-1"] = msgspec.structs.replace(row, r2_key=None)
    answer = await http.get("/api/storage/export/e-1/download")
    assert (answer.status_code, "has no file" in answer.json()["error"]) == (404, True)
