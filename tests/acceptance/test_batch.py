"""A batch from its creation to the final callback, over HTTP, with real workers."""

import time
from pathlib import Path
from typing import Any

import psutil

from orchestrator.cli.samples import write_samples
from tests.acceptance.service import Service, eventually
from tests.stand_ins.receiver import Receiver

TRACKING = {"root_pi": "01KAHTV88C21B76TF9DCV3AEPP", "node_pis": {"/": "01KA"}, "node_tips": {}, "node_versions": {}}


def test_samples_of_all_kinds_are_converted_and_delivered(service: Service, receiver: Receiver) -> None:
    """Every kind of TIFF ends as a JPEG; the receiver gets both, tagged, and what the message said besides."""
    write_samples(service.objects / "samples" / "all")
    names = sorted(path.name for path in (service.objects / "samples" / "all").iterdir())
    service.put("samples/all/notes.txt", b"not a picture")
    receiver.required_fields["samples"] = frozenset(TRACKING)
    service.create({"batch_id": "samples", "r2_prefix": "samples/all/", "uploader": "me", **TRACKING})

    status = service.until_over("samples")
    tasks = service.tasks("samples")
    assert (status["status"], status["state"], status["error"]) == ("DONE", "done", None), [t["error"] for t in tasks]
    assert status["progress"] == {"tasks_total": len(names), "tasks_completed": len(names), "tasks_failed": 0}
    assert status["completed_at"] is not None
    eventually(lambda: service.status("samples")["delivery"] == "delivered", "the delivery")

    (post,) = receiver.posts("samples")
    assert (post.status, post.key) == (200, "samples:1")
    assert {key: post.body[key] for key in TRACKING} == TRACKING
    assert post.body.keys() == {"files", *TRACKING}
    files = {file["file_name"]: file for file in post.body["files"]}
    assert len(files) == len(post.body["files"]) == 2 * len(names) + 1
    assert files["notes.txt"].get("preprocessor_tags", []) == []
    for name in names:
        check_pair(service, files, name)


def check_pair(service: Service, files: dict[str, dict[str, Any]], name: str) -> None:
    """The TIFF and its JPEG in the final callback, and the object."""
    source, jpeg = files[name], files[f"{Path(name).stem}.jpg"]
    assert source["preprocessor_tags"] == ["TiffConverter:source"]
    assert source["r2_key"] == f"samples/all/{name}"
    assert jpeg["preprocessor_tags"] == ["TiffConverter"]
    assert jpeg["source_file"] == name
    assert jpeg["content_type"] == "image/jpeg"
    assert jpeg["r2_key"] == f"samples/all/{jpeg['file_name']}"
    assert jpeg["logical_path"] == f"{source['logical_path'].rpartition('/')[0]}/{jpeg['file_name']}"
    content = (service.objects / jpeg["r2_key"]).read_bytes()
    assert content.startswith(b"\xff\xd8\xff")
    assert jpeg["file_size"] == len(content)


def test_output_never_overwrites_an_input(service: Service, tiff: bytes) -> None:
    """`p.tif`, `p.tiff` and an uploaded `p.jpg` of one folder all survive, each output under a key of its own."""
    for name in ("p.tif", "p.tiff"):
        service.put(f"keys/{name}", tiff)
    service.put("keys/p.jpg", b"mine")
    service.create({"batch_id": "keys", "r2_prefix": "keys/"})
    assert service.until_over("keys")["status"] == "DONE"
    assert {task["output_r2_key"] for task in service.tasks("keys")} == {"keys/p-1.jpg", "keys/p-2.jpg"}
    assert (service.objects / "keys/p.jpg").read_bytes() == b"mine"


def test_hopeless_file_fails_alone_and_can_be_retried(service: Service, receiver: Receiver, tiff: bytes) -> None:
    """A missing object and a broken TIFF fail after one try, with the reason; `retry` runs only them again."""
    service.put("some/good.tif", tiff)
    service.put("some/broken.tif", b"II*\0 this is no picture")
    keys = [f"some/{name}.tif" for name in ("good", "broken", "missing")]
    files = [{"r2_key": key, "file_size": 100} for key in keys]
    service.create({"batch_id": "some", "files": files})
    status = service.until_over("some")
    assert status["status"] == "DONE"
    assert status["progress"] == {"tasks_total": 3, "tasks_completed": 1, "tasks_failed": 2}
    failed = {task["input_r2_key"]: task for task in service.tasks("some") if task["status"] == "failed"}
    assert "404 Not Found" in failed["some/missing.tif"]["error"]
    assert failed["some/broken.tif"]["error"]
    assert {task["attempt"] for task in failed.values()} == {1}
    eventually(lambda: service.status("some")["delivery"] == "delivered", "the first delivery")

    service.put("some/missing.tif", tiff)
    answer = service.http.post("/batches/some/retry")
    assert (answer.status_code, answer.json()["run"]) == (202, 2)
    status = service.until_over("some")
    assert status["progress"] == {"tasks_total": 2, "tasks_completed": 1, "tasks_failed": 1}
    assert [phase["run"] for phase in status["phases"]] == [1, 2]
    # This receiver takes a batch once: what it makes of the new list is told, and does not fail the batch.
    eventually(lambda: service.status("some")["delivery"] == "refused", "the second delivery")
    assert [post.key for post in receiver.posts("some")] == ["some:1", "some:2"]


def test_delivery_is_repeated_until_it_is_taken(service: Service, receiver: Receiver, tiff: bytes) -> None:
    """A receiver that fails, or says that it is too early, is asked again under the same key."""
    receiver.fail_next("again", 1)
    receiver.uploading.add("again")
    service.put("again/p.tif", tiff)
    service.create({"batch_id": "again", "r2_prefix": "again/"})
    assert service.until_over("again")["status"] == "DONE"
    eventually(lambda: [post.status for post in receiver.posts("again")][:2] == [500, 400], "two refused deliveries")
    receiver.uploading.discard("again")
    eventually(lambda: service.status("again")["delivery"] == "delivered", "the delivery")
    assert {post.key for post in receiver.posts("again")} == {"again:1"}
    assert len(receiver.accepted("again")) == 1


def test_batch_without_tiff_is_done_at_once(service: Service, receiver: Receiver) -> None:
    """Files but no TIFF: DONE with no task, and the receiver gets the list."""
    service.create({"batch_id": "plain", "files": [{"r2_key": "plain/a.pdf", "file_size": 5}]})
    assert service.until_over("plain")["progress"]["tasks_total"] == 0
    eventually(lambda: receiver.accepted("plain"), "the delivery")


def test_hundred_thousand_files_in_one_request(service: Service) -> None:
    """A manifest of 100,000 files is taken in within seconds; ids are distinct; the actor stays small; it can be
    cancelled."""
    number = 100_000
    rows = ",".join(
        f'{{"r2_key":"large/p{n}.tif","logical_path":"/p{n}.tif","file_name":"p{n}.tif","file_size":1}}'
        for n in range(number)
    )
    service.put("large/_manifest.json", f'{{"directories":[{{"directory_path":"/","files":[{rows}]}}]}}'.encode())
    begun = time.monotonic()
    service.create({"batch_id": "large", "manifest_r2_key": "large/_manifest.json"})
    took_s = time.monotonic() - begun
    assert took_s < 30, f"created in {took_s:.1f} s"
    assert service.status("large")["progress"]["tasks_total"] == number

    host = eventually(lambda: service.pid_of_actor("batch:large"), "the batch has its actor")
    eventually(lambda: service.status("large")["progress"]["tasks_failed"] > 50, "it works: the objects are missing")
    ids = [task["task_id"] for task in service.tasks("large")]
    assert len(ids) == len(set(ids)) == number
    memory_mb = psutil.Process(host).memory_info().rss / 1e6
    assert memory_mb < 250, f"the actor of the batch has {memory_mb:.0f} MB"

    assert service.http.post("/batches/large/cancel", json={"reason": "enough"}).json() == {"ok": True}
    status = service.status("large")
    assert (status["status"], status["code"], status["error"]) == ("ERROR", "cancelled", "Cancelled: enough")
    assert status["progress"]["tasks_completed"] + status["progress"]["tasks_failed"] == number
