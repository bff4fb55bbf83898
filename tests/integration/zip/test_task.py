"""One task of the kind "zip": lists, parts, checkpoints, and who goes on where another was stopped."""

import io
import json
import logging
import os
import random
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.stand_ins.keeping import MOMENT_S, SECRET, Fault, KeepingServer
from worker import web
from worker.errors import BadInput, Cancelled, Unavailable
from worker.kinds import find
from worker.kinds.base import Context
from worker.kinds.zip import multipart, task
from worker.kinds.zip.multipart import part_bytes
from worker.kinds.zip.source import Member
from worker.limits import MemoryGate
from worker.objects.local import LocalObjects

MB = 1024 * 1024
PART = 5 * MB
KEY, CHECKPOINT = "exports/u/e/1-export.zip", "exports/u/e/checkpoint-1"
OPTIONS = {"title": "Export", "created_at": "2026-01-02T03:04:05Z", "export_id": "e", "user_id": "u"}


class Stopped(Exception):
    """As a kill, at a place that the test chooses."""


class Objects(LocalObjects):
    """A store that stops the process after so many parts, and counts what is read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, "b")
        self.stop_after: int | None = None
        self.put: Any = super().put
        self.stored: list[tuple[int, int]] = []
        self.reads: list[tuple[str, int]] = []

    def put_part(self, key: str, upload: str, number: int, body: bytes) -> Any:
        if self.stop_after is not None and number > self.stop_after:
            raise Stopped
        self.stored.append((number, len(body)))
        return super().put_part(key, upload, number, body)

    def read_part(self, key: str, start: int, length: int) -> Any:
        self.reads.append((key, start))
        return super().read_part(key, start, length)


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multipart, "PART_BYTES", PART)


def bodies() -> dict[str, bytes]:
    noise = random.Random(1).randbytes
    small = {f"in/{n:03}.bin": noise(40_000) for n in range(100)}
    return small | {"in/large.bin": noise(17 * MB + 5), "in/text.txt": b"text " * 2_000_000, "in/z.bin": noise(2 * MB)}


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    """The files of an export, and their list."""
    made = Objects(tmp_path / "objects")
    lines = []
    for key, body in sorted(bodies().items()):
        made.put(key, body, "application/octet-stream")
        etag = made.head(key).etag
        lines.append(msgspec.json.encode(Member(key=key, path=key, size=len(body), etag=etag, category="c")))
    made.put("exports/u/e/list-1.jsonl", b"\n".join(lines) + b"\n", "application/jsonl")
    return made


def context(objects: Any, folder: Path, **env: str) -> Context:
    given = {
        "KIND": "zip", "TASK_ID": "t", "BATCH_ID": "e", "INPUT_R2_KEY": "exports/u/e/list-1.jsonl",
        "OUTPUT_R2_KEY": KEY, "CHECKPOINT_R2_KEY": CHECKPOINT, "ARCHIVE_OPTIONS": json.dumps(OPTIONS),
        "OBJECTS_DIR": "x",
    }  # fmt: skip
    (folder / "work").mkdir(exist_ok=True)
    return Context(
        env=given | env, objects=objects, folder=folder / "work", memory=MemoryGate(1 << 30),
        converters=None, cancelled=threading.Event(),  # type: ignore[arg-type]
    )  # fmt: skip


def stored(objects: Objects) -> bytes:
    return objects.read(KEY, 1 << 30)


def test_a_list_becomes_an_archive(objects: Objects, tmp_path: Path) -> None:
    """Uploaded in parts of one size; nothing else is left."""
    outcome = find("zip")(context(objects, tmp_path))
    data = stored(objects)
    assert (outcome.output_r2_key, outcome.output_file_size) == (KEY, len(data))
    assert (outcome.performance["files"], outcome.performance["missing"]) == (103, 0)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert {name: archive.read(name) for name in archive.namelist()[1:-1]} == bodies()
        assert json.loads(archive.read("manifest.json"))["export_id"] == "e"
    sizes = [size for _, size in sorted(objects.stored)]
    assert set(sizes[:-1]) == {PART}
    assert 0 < sizes[-1] <= PART
    assert objects.uploads("") == []
    assert [info.key for info in objects.list("exports/")] == [KEY, "exports/u/e/list-1.jsonl"]


@pytest.mark.parametrize("after", range(1, 5))
def test_who_comes_after_goes_on(objects: Objects, tmp_path: Path, after: int) -> None:
    """After any part: the bytes are those of an attempt that nothing stopped, and no part but those under way is made
    twice."""
    find("zip")(context(objects, tmp_path))
    expected = stored(objects)
    objects.delete(KEY)
    objects.stored.clear()
    objects.stop_after = after
    with pytest.raises(Stopped):
        find("zip")(context(objects, tmp_path))
    assert len(objects.uploads("")) == 1
    objects.stop_after = None
    objects.reads.clear()
    find("zip")(context(objects, tmp_path))
    assert stored(objects) == expected
    numbers = [number for number, _ in objects.stored]
    assert len(numbers) - len(set(numbers)) <= multipart.AT_ONCE
    assert objects.uploads("") == []
    if after == 1:
        assert ("in/000.bin", 0) not in objects.reads


def test_a_file_that_changed_meanwhile_begins_it_anew(objects: Objects, tmp_path: Path) -> None:
    """A part of it is uploaded: the upload is given up, and the archive has the others."""
    objects.stop_after = 2
    with pytest.raises(Stopped):
        find("zip")(context(objects, tmp_path))
    objects.put("in/large.bin", b"another", "text/plain")
    objects.stop_after = None
    outcome = find("zip")(context(objects, tmp_path))
    assert [each["r2_key"] for each in outcome.performance["left_out"]] == ["in/large.bin"]
    with zipfile.ZipFile(io.BytesIO(stored(objects))) as archive:
        assert archive.testzip() is None
        assert len(archive.namelist()) == 104
    assert objects.uploads("") == []


@pytest.mark.parametrize("what", ["garbage", "other options", "upload is gone", "part is gone"])
def test_a_checkpoint_of_no_use_is_none(objects: Objects, tmp_path: Path, what: str) -> None:
    """The archive is made from its beginning, and is the right one."""
    objects.stop_after = 3
    with pytest.raises(Stopped):
        find("zip")(context(objects, tmp_path))
    objects.stop_after = None
    more = {}
    ((_, upload),) = objects.uploads("")
    if what == "garbage":
        objects.put(CHECKPOINT, b"garbage", "text/plain")
    elif what == "other options":
        more = {"ARCHIVE_OPTIONS": json.dumps(OPTIONS | {"level": 1})}
    elif what == "upload is gone":
        objects.abort_upload(KEY, upload)
    else:
        (tmp_path / "objects" / ".uploads" / "b" / upload / "00002").unlink()
    find("zip")(context(objects, tmp_path, **more))
    with zipfile.ZipFile(io.BytesIO(stored(objects))) as archive:
        assert archive.testzip() is None
        assert len(archive.namelist()) == 105
    assert objects.uploads("") == []


def test_an_answer_that_is_lost_at_the_end_is_no_failure(
    objects: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The object is there: another try finds no upload, and that it is as large as it should be."""
    complete, calls = objects.complete_upload, []

    def twice(key: str, upload: str, etags: Any) -> Any:
        calls.append(upload)
        complete(key, upload, etags)
        return complete(key, upload, etags)

    monkeypatch.setattr(objects, "complete_upload", twice)
    outcome = find("zip")(context(objects, tmp_path))
    assert outcome.output_file_size == len(stored(objects))


def test_a_task_that_is_not_wanted_ends(objects: Objects, tmp_path: Path) -> None:
    """At once, in its middle, as given back: the next attempt goes on."""
    given = context(objects, tmp_path)
    read = objects.read_part

    def read_part(key: str, start: int, length: int) -> Any:
        if key == "in/large.bin" and start > 12 * MB:
            given.cancelled.set()
        return read(key, start, length)

    objects.read_part = read_part  # type: ignore[method-assign]
    with pytest.raises(Cancelled):
        find("zip")(given)
    assert len(objects.uploads("")) == 1
    objects.read_part = read  # type: ignore[method-assign]
    find("zip")(context(objects, tmp_path))
    assert zipfile.ZipFile(io.BytesIO(stored(objects))).testzip() is None


def test_without_checkpoints_a_failure_leaves_nothing(objects: Objects, tmp_path: Path) -> None:
    """Nobody could go on with it."""
    objects.stop_after = 2
    with pytest.raises(Stopped):
        find("zip")(context(objects, tmp_path, CHECKPOINT_R2_KEY=""))
    assert objects.uploads("") == []


def test_an_upload_that_is_gone_is_no_failure_for_good(objects: Objects, tmp_path: Path) -> None:
    """Somebody has given it up: another try begins anew."""
    put = objects.put_part

    def put_part(key: str, upload: str, number: int, body: bytes) -> Any:
        if number == 3:
            objects.abort_upload(key, upload)
        return put(key, upload, number, body)

    objects.put_part = put_part  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="another try begins it anew"):
        find("zip")(context(objects, tmp_path))
    objects.put_part = put  # type: ignore[method-assign]
    find("zip")(context(objects, tmp_path))
    assert zipfile.ZipFile(io.BytesIO(stored(objects))).testzip() is None


def test_another_release_begins_anew(objects: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it makes is no continuation of what was uploaded."""
    objects.stop_after = 3
    with pytest.raises(Stopped):
        find("zip")(context(objects, tmp_path))
    objects.stop_after = None
    objects.stored.clear()
    monkeypatch.setattr(task, "FORMAT", 2)
    find("zip")(context(objects, tmp_path))
    assert sorted(objects.stored)[0][0] == 1
    assert objects.uploads("") == []


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"ARCHIVE_OPTIONS": "{"}, "ARCHIVE_OPTIONS is not valid"),
        ({"ARCHIVE_OPTIONS": '{"created_at": "2026-01-02T03:04:05Z", "codec": "x"}'}, "codec must be one of"),
        ({"ARCHIVE_OPTIONS": '{"created_at": "yesterday"}'}, "created_at must be a time"),
        ({"OUTPUT_R2_KEY": "../x"}, "is not allowed"),
        ({"INPUT_R2_KEY": "none"}, "404 Not Found"),
        ({"INPUT_R2_KEY": "in/000.bin"}, "Line 1 of the list is no member"),
    ],
)
def test_what_cannot_be_done_is_told(objects: Objects, tmp_path: Path, env: dict[str, str], words: str) -> None:
    """In one sentence, and not tried again."""
    with pytest.raises(BadInput, match=words):
        find("zip")(context(objects, tmp_path, **env))


def test_presigned_urls_do_not_do(tmp_path: Path) -> None:
    """Another machine may have keys."""
    with pytest.raises(Unavailable, match="keys of the object store"):
        find("zip")(context(object(), tmp_path))


@pytest.mark.parametrize(("expected", "part"), [(0, 16), (1 << 30, 16), (100 << 30, 32), (1 << 40, 256)])
def test_parts_are_as_few_as_a_store_takes(expected: int, part: int) -> None:
    """10,000 at most, all of one size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multipart, "PART_BYTES", 16 * MB)
        assert part_bytes(expected) == part * MB


@pytest.mark.parametrize("path", ["../x", "/x", "README.txt", "a\\b", "same"])
def test_paths_of_a_list_are_not_believed(objects: Objects, tmp_path: Path, path: str) -> None:
    """A list is data of somebody."""
    lines = [msgspec.json.encode(Member(key="in/000.bin", path=each, size=40_000)) for each in ("same", path)]
    objects.put("bad.jsonl", b"\n".join(lines), "application/jsonl")
    with pytest.raises(BadInput, match="Line 2 of the list has a path that is not safe, or is there before"):
        find("zip")(context(objects, tmp_path, INPUT_R2_KEY="bad.jsonl"))


# ---- members that bring a URL


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[KeepingServer]:
    """What is read from URLs; who tries again does not wait long."""
    monkeypatch.setattr(web, "FIRST_WAIT_S", 0.001)
    made = KeepingServer()
    yield made
    made.close()


FAR = {"a.txt": b"text " * 3000, "b.bin": random.Random(2).randbytes(3 * MB), "c": b"", "d.txt": b"d" * 9000}


def linked(objects: Objects, server: KeepingServer) -> None:
    """The same objects in the store and behind URLs, with a list for each."""
    server.objects |= FAR
    for name, more in (("keys", {}), ("urls", {"etag": "etag"})):
        lines = []
        for key, body in FAR.items():
            url = server.link(key) if more else ""
            member = Member(key=f"far/{key}", path=key, size=len(body), url=url, **more)
            lines.append(msgspec.json.encode(member))
        objects.put(name, b"\n".join(lines), "application/jsonl")
    for key, body in FAR.items():
        objects.put(f"far/{key}", body, "text/plain")
        os.utime(objects._path(f"far/{key}"), (MOMENT_S, MOMENT_S))


def test_urls_give_the_same_bytes(
    objects: Objects, server: KeepingServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As keys of the same objects, though the server fails now and then; what has a URL is not read by its key. No
    secret is in the archive, the checkpoint or the log."""
    caplog.set_level(logging.DEBUG)
    linked(objects, server)
    find("zip")(context(objects, tmp_path, INPUT_R2_KEY="keys"))
    expected = stored(objects)
    objects.reads.clear()
    server.faults.extend(["busy", "dropped", "leaves", "cut", "rude", "pieces"])
    objects.stop_after = 0
    with pytest.raises(Stopped):
        find("zip")(context(objects, tmp_path, INPUT_R2_KEY="urls"))
    checkpoint = task.state.unpacked(objects.read(CHECKPOINT, MB))
    objects.stop_after = None
    outcome = find("zip")(context(objects, tmp_path, INPUT_R2_KEY="urls"))
    assert stored(objects) == expected
    assert objects.reads == []
    with zipfile.ZipFile(io.BytesIO(expected)) as archive:
        texts = [archive.read(name).decode() for name in ("README.txt", "manifest.json")]
    told = "".join([*texts, repr(outcome), repr(checkpoint), caplog.text])
    assert not any(word in told for word in ("X-Amz", SECRET, server.url))


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("expired", "the object store answered 403 AccessDenied; its URL is not valid, or no longer"),
        ("changed", "it has changed since it was verified"),
        ("moved", "the object store answered 307 TemporaryRedirect: the server redirects, which is not followed"),
    ],
)
def test_a_url_that_does_not_do(
    objects: Objects, server: KeepingServer, tmp_path: Path, fault: Fault, reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Its file is left out, with a reason that does not show it."""
    caplog.set_level(logging.DEBUG)
    linked(objects, server)
    server.always = fault
    outcome = find("zip")(context(objects, tmp_path, INPUT_R2_KEY="urls"))
    left_out = {each["path"]: each["reason"] for each in outcome.performance["left_out"]}
    assert left_out == dict.fromkeys(FAR, reason)
    with zipfile.ZipFile(io.BytesIO(stored(objects))) as archive:
        told = archive.read("manifest.json").decode() + repr(outcome) + caplog.text
    assert not any(word in told for word in ("X-Amz", SECRET, server.url))


def test_a_server_that_is_away_is_no_reason_to_leave_a_file_out(
    objects: Objects, server: KeepingServer, tmp_path: Path
) -> None:
    """Another try may have it: the task fails, and does not say where it looked."""
    linked(objects, server)
    server.always = "busy"
    with pytest.raises(Unavailable) as caught:
        find("zip")(context(objects, tmp_path, INPUT_R2_KEY="urls"))
    assert str(caught.value) == "the object store answered 503 SlowDown"


def test_a_member_does_not_show_its_url() -> None:
    """In no message that has it."""
    assert "secret" not in repr(Member(key="k", path="p", size=1, url="https://x/?secret"))
