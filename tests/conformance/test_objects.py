"""One suite for every object store: a local folder, and S3 against a real server (SeaweedFS, from a wheel)."""

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.stand_ins import seaweed
from tests.stand_ins.seaweed import ACCESS_KEY, BUCKET, SECRET
from worker.errors import BadInput, ObjectMissing, Unavailable
from worker.objects import ObjectStore, from_environment
from worker.objects.local import LocalObjects
from worker.objects.s3 import S3Objects


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A SeaweedFS server on loopback that checks signatures."""
    with seaweed.serving(tmp_path_factory.mktemp("seaweed")) as endpoint:
        yield endpoint


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Each implementation, made as a worker makes it from its environment."""
    if request.param == "local":
        return from_environment({"OBJECTS_DIR": str(tmp_path / "objects"), "R2_BUCKET": BUCKET})
    endpoint = request.getfixturevalue("s3_endpoint")
    return from_environment(
        {"R2_ENDPOINT_URL": endpoint, "R2_BUCKET": BUCKET, "R2_ACCESS_KEY_ID": ACCESS_KEY,
         "R2_SECRET_ACCESS_KEY": SECRET}
    )  # fmt: skip


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    """A prefix that no other test uses."""
    return f"staging/{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:16]}/"


def test_what_is_put_is_read(store: ObjectStore, prefix: str, tmp_path: Path) -> None:
    """A file that was put comes back byte for byte, with its size and the MD5 of its bytes as ETag."""
    body = os.urandom(3_000_000)
    (tmp_path / "in").write_bytes(body)
    put = store.put_file(f"{prefix}a b/ü.tif", tmp_path / "in", "image/tiff")
    got = store.get_file(f"{prefix}a b/ü.tif", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == body
    assert put == got == store.head(f"{prefix}a b/ü.tif")._replace(etag=put.etag)
    assert (put.size, put.etag) == (len(body), hashlib.md5(body, usedforsecurity=False).hexdigest())


def test_put_replaces(store: ObjectStore, prefix: str) -> None:
    """The last put wins, and the ETag changes."""
    first = store.put(f"{prefix}k", b"one", "text/plain")
    second = store.put(f"{prefix}k", b"two", "text/plain")
    assert store.read(f"{prefix}k", 10) == b"two"
    assert first.etag != second.etag


def test_empty_object(store: ObjectStore, prefix: str, tmp_path: Path) -> None:
    """No bytes are an object too."""
    assert store.put(f"{prefix}empty", b"", "text/plain").size == 0
    assert store.get_file(f"{prefix}empty", tmp_path / "out").size == 0
    assert store.read(f"{prefix}empty", 0) == b""


def test_missing_objects_say_404(store: ObjectStore, prefix: str, tmp_path: Path) -> None:
    """Reading what is not there is ObjectMissing with the originals' words."""
    for action in (
        lambda: store.get_file(f"{prefix}none", tmp_path / "out"),
        lambda: store.read(f"{prefix}none", 10),
        lambda: store.head(f"{prefix}none"),
    ):
        with pytest.raises(ObjectMissing, match="404 Not Found"):
            action()


def test_an_object_is_read_from_any_byte_on(store: ObjectStore, prefix: str) -> None:
    """In chunks, with its whole size and an ETag that tells versions apart; closed it may be at any time, and twice."""
    body = os.urandom(2_500_000)
    store.put(f"{prefix}k", body, "application/xml")
    etags = set()
    for start in (0, 1, 1_048_576, len(body) - 1):
        opened = store.open(f"{prefix}k", start)
        assert (opened.size, b"".join(opened.chunks)) == (len(body), body[start:])
        assert abs(opened.changed_s - time.time()) < 3600
        etags.add(opened.etag)
        opened.close()
        opened.close()
    (etag,) = etags
    left = store.open(f"{prefix}k")
    next(left.chunks)
    left.close()
    store.put(f"{prefix}k", b"other", "application/xml")
    other = store.open(f"{prefix}k")
    other.close()
    assert other.etag not in ("", etag)
    with pytest.raises(ObjectMissing):
        store.open(f"{prefix}none")


def test_no_folder_is_left_of_what_was_deleted(tmp_path: Path) -> None:
    """A put into one that is being removed at that moment makes it again."""
    store = LocalObjects(tmp_path, BUCKET)
    store.put("exports/a/x.xml", b"x", "application/xml")
    store.put("exports/b/x.xml", b"x", "application/xml")
    store.delete("exports/a/x.xml")
    assert [path.name for path in (tmp_path / BUCKET / "exports").iterdir()] == ["b"]
    store.delete("exports/b/x.xml")
    assert list((tmp_path / BUCKET).iterdir()) == []
    ended = threading.Event()

    def delete() -> None:
        while not ended.is_set():
            store.delete("exports/c/d/x.xml")

    deleting = threading.Thread(target=delete)
    deleting.start()
    try:
        for _ in range(300):
            store.put("exports/c/d/y.xml", b"y", "application/xml")
            store.delete("exports/c/d/y.xml")
    finally:
        ended.set()
        deleting.join()


def test_read_has_a_limit(store: ObjectStore, prefix: str) -> None:
    """An object over the limit is refused with its size; one at the limit is read."""
    store.put(f"{prefix}ten", b"0123456789", "text/plain")
    assert store.read(f"{prefix}ten", 10) == b"0123456789"
    with pytest.raises(BadInput, match="10 bytes"):
        store.read(f"{prefix}ten", 9)


def test_parts_of_an_object(store: ObjectStore, prefix: str) -> None:
    """So many bytes from there on, fewer at its end, none beyond; HEAD has the same size and ETag."""
    body = os.urandom(200_000)
    store.put(f"{prefix}k", body, "text/plain")
    store.put(f"{prefix}empty", b"", "text/plain")
    info = store.head(f"{prefix}k")
    for start, length in ((0, 1), (0, 200_000), (1, 300_000), (199_999, 1), (200_000, 5), (900_000, 5)):
        part = store.read_part(f"{prefix}k", start, length)
        assert part.body == body[start : start + length]
        assert (part.size, part.etag) == (info.size, info.etag)
        assert abs(part.changed_s - time.time()) < 3600
    assert store.read_part(f"{prefix}empty", 0, 10)[:2] == (b"", 0)
    store.put(f"{prefix}k", b"other", "text/plain")
    assert store.read_part(f"{prefix}k", 0, 1).etag == store.head(f"{prefix}k").etag != info.etag
    with pytest.raises(ObjectMissing):
        store.read_part(f"{prefix}none", 0, 1)


def test_delete(store: ObjectStore, prefix: str) -> None:
    """Deleting removes; deleting again is no error."""
    store.put(f"{prefix}k", b"x", "text/plain")
    store.delete(f"{prefix}k")
    store.delete(f"{prefix}k")
    with pytest.raises(ObjectMissing):
        store.head(f"{prefix}k")


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../b", "a/./b", "a\0b", "x" * 1025, "\ud800"])
def test_keys_that_are_not_allowed(store: ObjectStore, key: str, tmp_path: Path) -> None:
    """Absolute keys, ones with dots for parts, empty parts and too long ones reach no store."""
    (tmp_path / "in").write_bytes(b"x")
    for action in (
        lambda: store.put(key, b"x", "text/plain"),
        lambda: store.put_file(key, tmp_path / "in", "text/plain"),
        lambda: store.get_file(key, tmp_path / "out"),
        lambda: store.head(key),
        lambda: store.delete(key),
        lambda: store.read(key, 1),
    ):
        with pytest.raises(BadInput):
            action()


NAMES = ["a.txt", "a/b", "a/c/d", "a0", "b", "ba", "z/é", "z/z"]


def test_list_says_keys_and_sizes(store: ObjectStore, prefix: str) -> None:
    """Every key below the prefix is there once, with its size."""
    for name in reversed(NAMES):
        store.put(prefix + name, name.encode(), "text/plain")
    found = {info.key.removeprefix(prefix): info.size for info in store.list(prefix)}
    assert found == {name: len(name.encode()) for name in NAMES}


def test_local_list_is_in_byte_order(tmp_path: Path) -> None:
    """A folder lists keys as S3 does, in the order of their bytes: `a.txt` before `a/b` before `a0`. (The S3 server of
    these tests sorts `a/b` first, so the order is not part of the common suite.)"""
    store = LocalObjects(tmp_path, BUCKET)
    for name in reversed(NAMES):
        store.put(name, b"x", "text/plain")
    assert [info.key for info in store.list("")] == sorted(NAMES, key=str.encode)
    assert [info.key for info in store.list("", "a/x", 1)] == ["a0"]


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8, 9])
def test_list_in_pages(store: ObjectStore, prefix: str, limit: int) -> None:
    """Pages of any size, each after the last key of the one before, give all keys once."""
    for name in NAMES:
        store.put(prefix + name, b"x", "text/plain")
    found: list[str] = []
    while page := store.list(prefix, found[-1] if found else None, limit):
        assert len(page) <= limit
        found += [info.key for info in page]
    assert sorted(found) == sorted(prefix + name for name in NAMES)
    assert found == [info.key for info in store.list(prefix)]


def test_list_by_part_of_a_name(store: ObjectStore, prefix: str) -> None:
    """A prefix need not end at a slash, and the key after which to begin need not exist any more."""
    for name in NAMES:
        store.put(prefix + name, b"x", "text/plain")
    assert [info.key for info in store.list(f"{prefix}a/")] == [f"{prefix}a/b", f"{prefix}a/c/d"]
    assert [info.key for info in store.list(f"{prefix}b")] == [f"{prefix}b", f"{prefix}ba"]
    store.delete(f"{prefix}a0")
    assert [info.key for info in store.list(prefix, f"{prefix}a0", 1)] == [f"{prefix}b"]
    assert store.list(f"{prefix}nothing") == []


def test_presigned_urls_need_no_keys(s3_endpoint: str, prefix: str, tmp_path: Path) -> None:
    """With INPUT_URL and OUTPUT_URL a worker reads and writes without holding keys; the missing input is a 404."""
    store = S3Objects(s3_endpoint, BUCKET, access_key_id=ACCESS_KEY, secret=SECRET)
    store.put(f"{prefix}in.tif", b"input", "image/tiff")
    env = {
        "INPUT_R2_KEY": f"{prefix}in.tif",
        "INPUT_URL": store.presign("GET", f"{prefix}in.tif", 60),
        "OUTPUT_URL": store.presign("PUT", f"{prefix}out.jpg", 60, "image/jpeg"),
    }
    presigned = from_environment(env)
    assert presigned.get_file(f"{prefix}in.tif", tmp_path / "file").size == 5
    presigned.put_file(f"{prefix}out.jpg", tmp_path / "file", "image/jpeg")
    assert store.read(f"{prefix}out.jpg", 10) == b"input"
    gone = from_environment(
        env | {"INPUT_R2_KEY": f"{prefix}gone", "INPUT_URL": store.presign("GET", f"{prefix}gone", 60)}
    )
    with pytest.raises(ObjectMissing):
        gone.get_file(f"{prefix}gone", tmp_path / "file")


def test_wrong_secret_is_no_missing_object(s3_endpoint: str, prefix: str, tmp_path: Path) -> None:
    """Refused keys are an error that may pass, not a 404, and the secret is not in the message."""
    store = S3Objects(s3_endpoint, BUCKET, access_key_id=ACCESS_KEY, secret="wrong-secret")
    with pytest.raises(Unavailable, match="403") as caught:
        store.get_file(f"{prefix}k", tmp_path / "out")
    assert "wrong-secret" not in str(caught.value)


def test_local_put_is_whole_or_nothing(tmp_path: Path) -> None:
    """A put that fails in the middle leaves the former object and no draft."""
    store = LocalObjects(tmp_path, BUCKET)
    store.put("k", b"old", "text/plain")
    with pytest.raises(Unavailable):
        store.put_file("k", tmp_path / "not-there", "text/plain")
    assert store.read("k", 10) == b"old"
    assert list((tmp_path / ".incoming").iterdir()) == []
    assert store.list("") == [store.head("k")._replace(etag="")]


def test_local_files_dropped_in_are_objects(tmp_path: Path) -> None:
    """What a person copies into the folder is listed and read; a key in the way of another is refused clearly."""
    (tmp_path / BUCKET / "scans").mkdir(parents=True)
    (tmp_path / BUCKET / "scans" / "p.tif").write_bytes(b"tiff")
    store = LocalObjects(tmp_path, BUCKET)
    assert [info.key for info in store.list("scans/")] == ["scans/p.tif"]
    with pytest.raises(BadInput, match="in its way"):
        store.put("scans/p.tif/below", b"x", "text/plain")
    with pytest.raises(BadInput, match="in its way"):
        store.put("scans", b"x", "text/plain")


def test_no_store_named() -> None:
    """An environment without any store says which variables would name one."""
    with pytest.raises(Unavailable, match="OBJECTS_DIR"):
        from_environment({})


def test_local_pipes_and_devices_are_no_objects(tmp_path: Path) -> None:
    """What is no regular file is missing, and is not opened: a pipe would wait for a writer."""
    store = LocalObjects(tmp_path, BUCKET)
    store.put("k", b"x", "text/plain")
    os.mkfifo(tmp_path / BUCKET / "pipe")
    (tmp_path / BUCKET / "zero").symlink_to("/dev/zero")
    for key in ("pipe", "zero"):
        for action in (
            lambda key=key: store.get_file(key, tmp_path / "file"), lambda key=key: store.read(key, 10),
            lambda key=key: store.head(key),
        ):  # fmt: skip
            with pytest.raises(ObjectMissing, match="404 Not Found"):
                action()
    assert [info.key for info in store.list("")] == ["k"]


PART_BYTES = 5 * 1024 * 1024


def test_an_object_in_parts(store: LocalObjects | S3Objects, prefix: str) -> None:
    """In any order, one of them twice; it appears whole, and the upload is gone."""
    key, bodies = f"{prefix}k.zip", [os.urandom(PART_BYTES), os.urandom(PART_BYTES), os.urandom(10)]
    upload = store.begin_upload(key, "application/zip", {"export-id": "e1"})
    assert store.parts(key, upload) == {}
    etags = {n: store.put_part(key, upload, n, body).etag for n, body in ((2, b"x"), (1, bodies[0]))}
    etags |= {n: store.put_part(key, upload, n, body).etag for n, body in ((3, bodies[2]), (2, bodies[1]))}
    listed = {n: (part.size, part.etag) for n, part in store.parts(key, upload).items()}
    expected = {n: (len(body), etags[n]) for n, body in enumerate(bodies, start=1)}
    if isinstance(store, S3Objects):  # SeaweedFS keeps both of number 2, and lists either; S3 and R2 the last one
        assert listed.keys() == expected.keys()
        listed[2] = expected[2]
    assert listed == expected
    with pytest.raises(ObjectMissing):
        store.head(key)
    assert store.list(prefix) == []
    assert store.uploads(prefix) == [(key, upload)]
    made = store.complete_upload(key, upload, [etags[n] for n in (1, 2, 3)])
    whole = b"".join(bodies)
    assert (made.size, store.read(key, 1 << 30)) == (len(whole), whole)
    assert store.uploads(prefix) == []
    with pytest.raises(ObjectMissing):
        store.put_part(key, upload, 1, b"x")


def test_an_upload_that_is_given_up(store: LocalObjects | S3Objects, prefix: str) -> None:
    """Leaves nothing; given up again it is no error. Of none nothing can be asked."""
    key = f"{prefix}k.zip"
    upload = store.begin_upload(key, "application/zip", {})
    store.put_part(key, upload, 1, b"x")
    store.abort_upload(key, upload)
    store.abort_upload(key, upload)
    assert store.uploads(prefix) == []
    assert store.list(prefix) == []
    for action in (
        lambda: store.parts(key, upload),
        lambda: store.put_part(key, upload, 2, b"x"),
        lambda: store.complete_upload(key, upload, ["x"]),
    ):
        with pytest.raises(ObjectMissing):
            action()
