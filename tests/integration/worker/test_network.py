"""Objects over a network that fails: what is tried again, what is not, and the sentence at the end."""

from pathlib import Path
from typing import Any

import pytest

from tests.stand_ins.presigned import Fault, PresignedServer
from worker import web
from worker.errors import BadInput, ObjectMissing, Unavailable
from worker.objects import from_environment
from worker.objects.base import ObjectStore

pytestmark = pytest.mark.usefixtures("quick")
BODY = b"II*\0" + bytes(range(256)) * 1000


@pytest.fixture
def store(presigned: PresignedServer) -> ObjectStore:
    """The store of a task with presigned URLs; its input exists."""
    presigned.objects["in.tif"] = BODY
    return from_environment(
        {"INPUT_URL": presigned.link("in.tif"), "OUTPUT_URL": presigned.link("out.jpg"), "INPUT_R2_KEY": "in.tif"}
    )


def failing_s3(presigned: PresignedServer) -> ObjectStore:
    """The same server as an S3 endpoint with the bucket `b`."""
    presigned.objects["b/in.tif"] = BODY
    return from_environment(
        {"R2_ENDPOINT_URL": presigned.url, "R2_BUCKET": "b", "R2_ACCESS_KEY_ID": "k", "R2_SECRET_ACCESS_KEY": "s"}
    )


@pytest.mark.parametrize("fault", ["busy", "cut", "reset", "stall"])
def test_download_is_tried_again(
    store: ObjectStore, presigned: PresignedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    """A busy server, an answer that breaks off, a connection that is dropped and one that says no more: the file is
    whole in the end."""
    monkeypatch.setattr(web, "TIMEOUT_S", 0.5)
    presigned.faults["GET"] = [fault, fault]
    store.get_file("in.tif", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == BODY
    assert presigned.requests == [("GET", "/in.tif?X-Amz-Signature=a%2Fb")] * 3


@pytest.mark.parametrize("fault", ["busy", "reset"])
def test_upload_is_tried_again(store: ObjectStore, presigned: PresignedServer, tmp_path: Path, fault: Fault) -> None:
    """The whole file is sent again."""
    (tmp_path / "file").write_bytes(BODY)
    presigned.faults["PUT"] = [fault]
    assert store.put_file("out.jpg", tmp_path / "file", "image/jpeg").etag == "etag"
    assert presigned.objects["out.jpg"] == BODY
    assert presigned.types["out.jpg"] == "image/jpeg"


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("busy", r"^503 Reduce your rate$"),
        ("cut", r"^the connection ended after \d+ of \d+ bytes$"),
        ("reset", r"^127\.0\.0\.1 did not answer: "),
    ],
)
def test_download_is_given_up_with_its_reason(
    store: ObjectStore, presigned: PresignedServer, tmp_path: Path, fault: Fault, sentence: str
) -> None:
    """After five tries the last reason is the sentence, and the task may be tried again."""
    presigned.faults["GET"] = [fault] * 9
    with pytest.raises(Unavailable, match=sentence):
        store.get_file("in.tif", tmp_path / "file")
    assert len(presigned.requests) == web.TRIES


def test_nobody_listens(presigned: PresignedServer, store: ObjectStore, tmp_path: Path) -> None:
    """A refused connection is Unavailable and names the host, not the signature."""
    presigned.close()
    with pytest.raises(Unavailable, match=r"^127\.0\.0\.1 did not answer: .*refused") as caught:
        store.get_file("in.tif", tmp_path / "file")
    assert "Signature" not in str(caught.value)


def test_expired_url_is_said_at_once(store: ObjectStore, presigned: PresignedServer, tmp_path: Path) -> None:
    """The same URL again cannot help: one request, the server's reason, and what it means."""
    presigned.faults["GET"] = ["expired"] * 9
    with pytest.raises(Unavailable, match=r"^403 Request has expired; the presigned URL is not valid, or no longer$"):
        store.get_file("in.tif", tmp_path / "file")
    assert len(presigned.requests) == 1


def test_missing_object(store: ObjectStore, presigned: PresignedServer, tmp_path: Path) -> None:
    """404 is final, in the originals' words."""
    del presigned.objects["in.tif"]
    with pytest.raises(ObjectMissing, match="404 Not Found"):
        store.get_file("in.tif", tmp_path / "file")
    assert len(presigned.requests) == 1


def test_full_disk_is_not_the_servers_fault(
    store: ObjectStore, presigned: PresignedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No space for the download: said so, not tried again."""

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("worker.web.shutil.copyfileobj", full)
    with pytest.raises(Unavailable, match=r"^the disk of this machine is full$"):
        store.get_file("in.tif", tmp_path / "file")
    assert len(presigned.requests) == 1


@pytest.mark.parametrize("fault", ["busy", "cut", "reset"])
def test_s3_download_is_tried_again(presigned: PresignedServer, tmp_path: Path, fault: Fault) -> None:
    """Over S3 as well, an answer that breaks off included, which boto3 does not try again."""
    presigned.faults["GET"] = [fault]
    failing_s3(presigned).get_file("in.tif", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == BODY
    assert len(presigned.requests) == 2


@pytest.mark.parametrize("lacking", ["R2_ACCESS_KEY_ID", "R2_SECRET_ACCESS_KEY"])
def test_no_keys_but_those_of_the_contract(lacking: str) -> None:
    """Without its keys the worker does not look for others on the machine."""
    env = {"R2_ACCOUNT_ID": "a", "R2_ACCESS_KEY_ID": "k", "R2_SECRET_ACCESS_KEY": "s"}
    with pytest.raises(BadInput, match=lacking):
        from_environment(env | {lacking: ""})


def test_account_names_the_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """R2_ACCOUNT_ID is Cloudflare's endpoint; R2_ENDPOINT_URL overrides it for any S3."""
    from worker.objects import s3

    made: list[tuple[str, str]] = []
    monkeypatch.setattr(s3, "S3Objects", lambda endpoint, bucket, **_: made.append((endpoint, bucket)))
    env = {"R2_ACCOUNT_ID": "a", "R2_ACCESS_KEY_ID": "k", "R2_SECRET_ACCESS_KEY": "s"}
    from_environment(env)
    from_environment(env | {"R2_ENDPOINT_URL": "https://s3.example", "R2_BUCKET": "b"})
    assert made == [("https://a.r2.cloudflarestorage.com", "arke-staging"), ("https://s3.example", "b")]
