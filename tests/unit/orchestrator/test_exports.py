"""The endpoints of exports over a fake engine: creation, status, downloads with ranges and conditions, the ZIP."""

import io
import zipfile
from pathlib import Path
from typing import Any

import httpx
import pytest

from actors.errors import Unavailable
from actors.rules.model import Job, Task
from actors.rules.states import JobState, TaskStatus
from actors.signing import sign_task
from orchestrator.downloads import Span, Unsatisfiable, disposition, span
from orchestrator.zipping import unused
from tests.unit.orchestrator.fakes import SECRET, FakeEngine
from worker.objects.local import LocalObjects

PI = "01K8W0AG70YQWM0ESYWV3FY5SR"
ALONE = "export_mods_1_00000000"
BATCH = "batch_1_00000000"
BODY = bytes(range(256)) * 10
METRICS = {
    "entities_exported": 3,
    "entities_failed": 0,
    "entities_incomplete": 1,
    "total_time_ms": 5,
    "peak_memory_mb": 40,
}


def task(job_id: str, n: int = 0, **fields: Any) -> Task:
    name = job_id if job_id == ALONE else f"{job_id}_mods_{n}"
    given = {
        "status": TaskStatus.COMPLETED,
        "completed_at": 9_000,
        "output_file_size": len(BODY),
        "performance": METRICS,
    }
    return Task(
        job_id=job_id, phase=0, n=n, task_id=name, input_r2_key=PI, output_r2_key=f"exports/{name}/{PI}-collection.xml",
        **(given | fields),
    )  # fmt: skip


def job(job_id: str, **fields: Any) -> Job:
    given: dict[str, Any] = {
        "kind": "export" if job_id == ALONE else "exports", "state": JobState.DONE, "phases": ("METADATA_EXPORT",),
        "message": {"format": "mods", "options": {}}, "created_at": 1_000, "completed_at": 9_000, "expires_at": 99_000,
    }  # fmt: skip
    return Job(id=job_id, **(given | fields))


@pytest.fixture
def store(engine: FakeEngine, tmp_path: Path) -> LocalObjects:
    """An export that is done, a batch of three of which one has failed, and their files."""
    objects = LocalObjects(tmp_path, "arke-staging")
    engine.export_objects = objects
    engine.store.jobs |= {ALONE: job(ALONE), BATCH: job(BATCH)}
    failed = {"status": TaskStatus.FAILED, "error": "Failed to fetch manifest: 404 Not Found", "performance": None}
    engine.store.rows |= {ALONE: [task(ALONE)], BATCH: [task(BATCH, 0), task(BATCH, 1), task(BATCH, 2, **failed)]}
    for each in (task(ALONE), task(BATCH, 0), task(BATCH, 1)):
        objects.put(each.output_r2_key, BODY, "application/xml")
    return objects


@pytest.mark.parametrize(
    ("path", "body", "format"),
    [
        ("/export/mods", {}, "mods"), ("/export/dc", {}, "dc"), ("/export/marcxml", {}, "marcxml"), ("/export", {},
        "mods"),
        ("/export", {"format": "dc"}, "dc"), ("/export/mods", {"format": "dc"}, "mods"),
    ],
)  # fmt: skip
async def test_creation(http: httpx.AsyncClient, engine: FakeEngine, path: str, body: Any, format: str) -> None:
    """The contract's answer; the address names the format, or the body does."""
    answer = await http.post(path, json={"pi": PI, "options": {"recursive": True}} | body)
    assert answer.status_code == 202
    assert answer.json() == {
        "task_id": ALONE, "status": "processing", "message": "Export job started. Use task_id to check status.",
    }  # fmt: skip
    ((asked, owner),) = engine.exports
    assert (asked.format, asked.pis, asked.options.recursive, asked.is_batch, owner) == (
        format,
        (PI,),
        True,
        False,
        None,
    )


async def test_creation_of_a_batch(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    """One is a batch too, when it is asked for as one."""
    answer = (await http.post("/export/mods/batch", json={"pis": [PI, PI]})).json()
    assert answer == {
        "batch_id": BATCH, "task_ids": [f"{BATCH}_mods_0", f"{BATCH}_mods_1"], "status": "processing",
        "message": "Batch export started with 2 tasks.",
    }  # fmt: skip
    assert (await http.post("/export/mods/batch", json={"pis": [PI]})).json()["message"].endswith("with 1 task.")
    assert engine.exports[1][0].is_batch


async def test_what_is_wrong_is_400_and_what_is_too_large_413(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    """With the field; nothing is created."""
    answer = await http.post("/export/mods", json={})
    assert (answer.status_code, answer.json()["error"]) == (400, "Missing required field: pi")
    assert (await http.post("/export", content=b"x" * (2 << 20))).status_code == 413
    assert (await http.post("/export/pdf", json={"pi": PI})).status_code == 404
    assert engine.exports == []


async def test_the_setting_says_whether_downloads_remove(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    """Where the body does not."""
    engine.settings.export_remove_after_download = True
    for body in ({}, {"removeAfterDownload": False}):
        await http.post("/export", json={"pi": PI} | body)
    assert [asked.removes_after_download for asked, _ in engine.exports] == [True, False]


@pytest.mark.usefixtures("store")
async def test_status_of_one(http: httpx.AsyncClient) -> None:
    """The fields of the contract, times in milliseconds, and what is added."""
    answer = (await http.get(f"/status/{ALONE}")).json()
    assert answer.pop("costs")["machines"] == 0
    assert answer == {
        "task_id": ALONE, "status": "success", "pi": PI, "created_at": 1_000, "completed_at": 9_000,
        "output_r2_key": f"exports/{ALONE}/{PI}-collection.xml", "output_file_name": f"{PI}-collection.xml",
        "output_file_size": len(BODY), "metrics": METRICS, "error": None, "state": "done", "code": None,
        "format": "mods",
        "progress": None, "expires_at": 99_000,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("of_job", "of_task", "status", "state", "error"),
    [
        ({"state": JobState.QUEUED}, {"status": TaskStatus.PENDING}, "processing", "queued", None),
        ({"state": JobState.RUNNING}, {"status": TaskStatus.PROCESSING}, "processing", "running", None),
        ({}, {"status": TaskStatus.FAILED, "error": "No."}, "error", "failed", "No."),
        ({"state": JobState.CANCELLED, "error": "Cancelled: x"}, {"status": TaskStatus.PENDING}, "error",
        "cancelled", "Cancelled: x"),
        ({"state": JobState.FAILED, "error": "Late.", "code": "expired"}, {"status": TaskStatus.PENDING}, "error",
        "failed", "Late."),
    ],
)  # fmt: skip
async def test_status_in_all_states(
    http: httpx.AsyncClient, engine: FakeEngine, store: LocalObjects, of_job: Any, of_task: Any, status: str,
    state: str, error: str | None,
) -> None:  # fmt: skip
    """The originals' three words; a file is named only where there is one, progress only while it runs."""
    engine.store.jobs[ALONE] = job(ALONE, **of_job)
    engine.store.rows[ALONE] = [task(ALONE, **of_task)]
    answer = (await http.get(f"/status/{ALONE}")).json()
    assert (answer["status"], answer["state"], answer["error"], answer["output_r2_key"]) == (status, state, error, None)
    assert answer["progress"] == (METRICS if status == "processing" else None)
    download = await http.get(f"/download/{ALONE}")
    assert (download.status_code, download.json()["error"]) == (400, f"Export not ready or failed. Status: {status}")


@pytest.mark.usefixtures("store")
async def test_status_of_a_batch_and_of_its_tasks(http: httpx.AsyncClient) -> None:
    """By both addresses; each task can be asked for alone."""
    answer = (await http.get(f"/status/batch/{BATCH}")).json()
    assert (answer["total_tasks"], answer["completed"], answer["failed"], answer["processing"]) == (3, 2, 1, 0)
    assert answer["tasks"][2] == {"task_id": f"{BATCH}_mods_2", "pi": PI, "status": "error"}
    assert (await http.get(f"/status/{BATCH}")).json() == answer
    one = (await http.get(f"/status/{BATCH}_mods_2")).json()
    assert (one["status"], one["error"]) == ("error", "Failed to fetch manifest: 404 Not Found")


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/status/export_mods_2_00000000", "Task not found"), (f"/status/{BATCH}_mods_9", "Task not found"),
        ("/status/batch_2_00000000_mods_0", "Task not found"), ("/status/batch/b1", "Batch not found"),
        ("/status/batch/nothing", "Batch not found"), ("/download/nothing", "Task not found"), ("/download/b1",
        "Task not found"),
        ("/download/batch/nothing", "Batch not found"), ("/download/a%20b", "Task not found"),
    ],
)  # fmt: skip
async def test_what_is_unknown_has_the_originals_words(http: httpx.AsyncClient, path: str, error: str) -> None:
    """404; a batch of files has no file to download."""
    answer = await http.get(path)
    assert (answer.status_code, answer.json()["error"]) == (404, error)


@pytest.mark.usefixtures("store")
async def test_a_download_is_the_file(http: httpx.AsyncClient) -> None:
    """With its name, type, length and ETag; HEAD has the same headers and nothing else."""
    answer = await http.get(f"/download/{ALONE}")
    assert (answer.status_code, answer.content) == (200, BODY)
    assert answer.headers["content-type"] == "application/xml"
    assert answer.headers["content-disposition"] == f'attachment; filename="{PI}-collection.xml"'
    assert answer.headers["content-length"] == str(len(BODY))
    head = await http.head(f"/download/{ALONE}")
    assert (head.status_code, head.content) == (200, b"")
    for name in ("etag", "content-length", "last-modified", "accept-ranges", "content-type"):
        assert head.headers[name] == answer.headers[name]


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("header", "status", "start", "end"),
    [
        ("bytes=0-9", 206, 0, 10), ("bytes=10-", 206, 10, 2560), ("bytes=-5", 206, 2555, 2560),
        ("bytes=2559-9999", 206, 2559, 2560),
        ("bytes=0-", 200, 0, 2560), ("bytes=-99999", 200, 0, 2560), ("bytes=5-2", 200, 0, 2560),
        ("bytes=0-1,5-6", 200, 0, 2560),
        ("lines=1-2", 200, 0, 2560), ("bytes=", 200, 0, 2560), ("bytes=-", 200, 0, 2560), ("bytes=2560-", 416, 0, 0),
        ("bytes=-0", 416, 0, 0), ("BYTES=0-9", 206, 0, 10),
    ],
)  # fmt: skip
async def test_ranges(http: httpx.AsyncClient, header: str, status: int, start: int, end: int) -> None:
    """One range is served; what is not understood is answered with the whole; what begins beyond the end is refused."""
    answer = await http.get(f"/download/{ALONE}", headers={"Range": header})
    assert (answer.status_code, answer.content) == (status, BODY[start:end])
    if status == 206:
        assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(BODY)}"
        assert answer.headers["content-length"] == str(end - start)
    if status == 416:
        assert answer.headers["content-range"] == f"bytes */{len(BODY)}"


@pytest.mark.usefixtures("store")
async def test_conditions(http: httpx.AsyncClient) -> None:
    """Who has it gets 304; a range of another version is not mixed with this one."""
    etag = (await http.head(f"/download/{ALONE}")).headers["etag"]
    for match in (etag, f'"x", {etag}', f"W/{etag}", "*"):
        assert (await http.get(f"/download/{ALONE}", headers={"If-None-Match": match})).status_code == 304
    assert (await http.get(f"/download/{ALONE}", headers={"If-None-Match": '"x"'})).status_code == 200
    for condition, status in ((etag, 206), ('"other"', 200)):
        asked = {"Range": "bytes=0-3", "If-Range": condition}
        assert (await http.get(f"/download/{ALONE}", headers=asked)).status_code == status


async def test_no_name_and_no_key_of_a_worker_is_handed_on(
    http: httpx.AsyncClient, engine: FakeEngine, store: LocalObjects
) -> None:
    """It could be a path."""
    engine.store.rows[ALONE] = [task(ALONE, output_file_name="../../evil")]
    assert "evil" not in (await http.get(f"/download/{ALONE}")).headers["content-disposition"]
    assert (await http.get(f"/status/{ALONE}")).json()["output_file_name"] == f"{PI}-collection.xml"


async def test_a_file_that_is_replaced_amid_a_download_is_not_mixed(
    http: httpx.AsyncClient, engine: FakeEngine, store: LocalObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of the old one with the ETag of the new one would be taken for a part of that."""
    opens = store.open

    def replaced(key: str, start: int = 0) -> Any:
        opened = opens(key, start)
        if start == 0:
            store.put(key, b"new" * 1000, "application/xml")
            monkeypatch.setattr(store, "open", opens)
        return opened

    monkeypatch.setattr(store, "open", replaced)
    answer = await http.get(f"/download/{ALONE}", headers={"Range": "bytes=3-5"})
    assert (answer.content, answer.headers["content-range"]) == (b"new", "bytes 3-5/3000")


async def test_a_file_that_is_gone_is_404(http: httpx.AsyncClient, store: LocalObjects) -> None:
    """With what to do."""
    store.delete(task(ALONE).output_r2_key)
    answer = await http.get(f"/download/{ALONE}")
    assert answer.status_code == 404
    assert "Start the export again" in answer.json()["error"]


async def test_only_a_whole_download_removes(http: httpx.AsyncClient, engine: FakeEngine, store: LocalObjects) -> None:
    """Neither a look at it, nor a part; and only where that was asked for."""
    await http.get(f"/download/{ALONE}")
    engine.store.jobs[ALONE] = job(ALONE, message={"format": "mods", "options": {}, "removeAfterDownload": True})
    await http.head(f"/download/{ALONE}")
    await http.get(f"/download/{ALONE}", headers={"Range": "bytes=0-9"})
    assert engine.calls == []
    await http.get(f"/download/{ALONE}")
    assert engine.calls == [(ALONE, {"op": "downloaded", "job": ALONE})]


async def test_a_download_that_cannot_be_told_is_whole_all_the_same(
    http: httpx.AsyncClient, engine: FakeEngine, store: LocalObjects
) -> None:
    """The file was sent; it expires later."""
    engine.store.jobs[ALONE] = job(ALONE, message={"format": "mods", "options": {}, "removeAfterDownload": True})
    engine.failure = Unavailable()
    answer = await http.get(f"/download/{ALONE}")
    assert (answer.status_code, answer.content) == (200, BODY)


async def test_an_option_that_is_not_known_is_told(http: httpx.AsyncClient) -> None:
    """It is ignored, as the originals do, but somebody may have mistyped it."""
    answer = await http.post("/export/mods", json={"pi": PI, "options": {"recursiv": True, "maxDepth": 1}})
    assert answer.status_code == 202
    assert answer.json()["message"].endswith("Options that are not known were ignored: recursiv.")
    refused = await http.post("/export/mods", json={"pi": PI, "options": {"cheimarrosMode": "x"}})
    assert "one of full, minimal, skip" in refused.json()["error"]


@pytest.mark.usefixtures("store")
async def test_the_zip_of_a_batch(http: httpx.AsyncClient) -> None:
    """The successful ones, equal names told apart; HEAD has its headers."""
    head = await http.head(f"/download/batch/{BATCH}")
    assert (head.status_code, head.content, head.headers["content-type"]) == (200, b"", "application/zip")
    answer = await http.get(f"/download/batch/{BATCH}")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/zip")
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [f"{PI}-collection.xml", f"{PI}-collection (2).xml"]
        assert archive.read(archive.namelist()[1]) == BODY


async def test_a_whole_zip_may_remove_the_batch(
    http: httpx.AsyncClient, engine: FakeEngine, store: LocalObjects
) -> None:
    """Where that was asked for; a download of one of its files does not."""
    message = {"format": "mods", "options": {}, "removeAfterDownload": True}
    engine.store.jobs[BATCH] = job(BATCH, message=message)
    await http.get(f"/download/{BATCH}_mods_0")
    assert engine.calls == []
    await http.get(f"/download/batch/{BATCH}")
    assert engine.calls == [(BATCH, {"op": "downloaded", "job": BATCH})]


async def test_the_zip_names_what_is_missing(http: httpx.AsyncClient, store: LocalObjects) -> None:
    """An archive that silently lacks something would be taken for a whole one."""
    store.delete(task(BATCH, 0).output_r2_key)
    answer = await http.get(f"/download/batch/{BATCH}")
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.namelist() == [f"{PI}-collection.xml", "MISSING.txt"]
        assert archive.read("MISSING.txt").decode() == f"{PI}-collection.xml\n"


async def test_the_zip_waits_for_all(http: httpx.AsyncClient, engine: FakeEngine, store: LocalObjects) -> None:
    """And there is none where nothing succeeded."""
    rows = engine.store.rows[BATCH]
    engine.store.jobs[BATCH] = job(BATCH, state=JobState.RUNNING)
    engine.store.rows[BATCH] = [rows[0], task(BATCH, 1, status=TaskStatus.PROCESSING)]
    answer = await http.get(f"/download/batch/{BATCH}")
    assert (answer.status_code, answer.json()["error"]) == (400, "Export not ready or failed. Status: processing")
    engine.store.jobs[BATCH], engine.store.rows[BATCH] = job(BATCH), [rows[2]]
    assert (await http.get(f"/download/batch/{BATCH}")).json()["error"].endswith("Status: error")


async def test_keys_guard_exports(http: httpx.AsyncClient, engine: FakeEngine, store: LocalObjects) -> None:
    """The originals let anyone download."""
    engine.settings.api_keys = ("key",)
    for method, path in (("POST", "/export"), ("POST", "/export/mods/batch"), ("GET", f"/status/{ALONE}"),
                         ("GET", f"/status/batch/{BATCH}"), ("GET", f"/download/{ALONE}"),
                         ("GET", f"/download/batch/{BATCH}")):  # fmt: skip
        assert (await http.request(method, path)).status_code == 401
    answer = await http.get(f"/download/{ALONE}", headers={"Authorization": "Bearer key"})
    assert answer.status_code == 200


@pytest.mark.parametrize("batch", ["single", ALONE])
async def test_callbacks_of_one_need_no_batch(
    http: httpx.AsyncClient, engine: FakeEngine, store: LocalObjects, batch: str
) -> None:
    """`metrics`, as the originals' workers name it, is what others call `performance`."""
    address = f"/callback/{ALONE}?run=1&attempt=1&sig={sign_task(SECRET, ALONE, ALONE, 1, 1)}"
    body = {"task_id": ALONE, "batch_id": batch, "status": "success", "metrics": METRICS}
    answer = await http.post(address, json=body)
    assert (answer.status_code, answer.json()) == (200, {"ok": True, "received": True})
    ((_, request),) = engine.calls
    assert request["body"]["performance"] == METRICS
    assert "metrics" not in request["body"]


@pytest.mark.parametrize(
    ("changes", "status"),
    [({"batch_id": "other"}, 400), ({"task_id": "other"}, 400), ({"metrics": {"a": 2**70}}, 400), ({}, 403)],
)
async def test_callbacks_of_one_are_checked(
    http: httpx.AsyncClient, engine: FakeEngine, store: LocalObjects, changes: Any, status: int
) -> None:
    """As those of batches; `single` is no batch of any other task."""
    body = {"task_id": ALONE, "batch_id": "single", "status": "success"} | changes
    assert (await http.post(f"/callback/{ALONE}?run=1&attempt=1&sig=x", json=body)).status_code == status
    signed = f"run=1&attempt=1&sig={sign_task(SECRET, BATCH, f'{BATCH}_mods_0', 1, 1)}"
    of_batch = {"task_id": f"{BATCH}_mods_0", "batch_id": "single", "status": "success"}
    assert (await http.post(f"/callback/{BATCH}/{BATCH}_mods_0?{signed}", json=of_batch)).status_code == 400
    assert engine.calls == []


@pytest.mark.parametrize(
    ("header", "size", "found"), [(None, 10, None), ("bytes=1-1", 10, Span(1, 2)), ("bytes=0-", 0, 416)]
)
def test_a_range_of(header: str | None, size: int, found: Any) -> None:
    """None: the whole."""
    if found == 416:
        with pytest.raises(Unsatisfiable):
            span(header, size)
    else:
        assert span(header, size) == found


def test_names_in_headers_and_archives() -> None:
    """Whatever characters they have."""
    assert disposition('a"b\\é\n.xml') == "attachment; filename=\"a_b___.xml\"; filename*=UTF-8''a%22b%5C%C3%A9%0A.xml"
    used: set[str] = set()
    assert [unused(name, used) for name in ("a.xml", "a.xml", "a (2).xml", "b", "b")] == [
        "a.xml", "a (2).xml", "a (2) (2).xml", "b", "b (2)",
    ]  # fmt: skip
