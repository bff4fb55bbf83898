"""Objects over a network that fails: what is tried again, what is not, and the sentence at the end."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stand_ins.presigned import Fault, PresignedServer
from worker import web
from worker.errors import BadInput, Cancelled, ObjectMissing, Unavailable
from worker.objects import from_environment
from worker.objects.base import ObjectStore
from worker.objects.local import LocalObjects
from worker.until import Until

pytestmark = pytest.mark.usefixtures("quick")
WAIT_S = 30
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


def test_full_disk_is_not_the_servers_fault(store: ObjectStore, presigned: PresignedServer, tmp_path: Path) -> None:
    """No space for the download, or no place: said so without a path, not tried again; over S3 as well."""
    (tmp_path / "file").symlink_to("/dev/full")
    for each, key in ((store, "in.tif"), (failing_s3(presigned), "in.tif")):
        with pytest.raises(Unavailable, match=r"^the disk of this machine is full$"):
            each.get_file(key, tmp_path / "file")
        with pytest.raises(Unavailable, match=r"^a file cannot be written here: No such file or directory$"):
            each.get_file(key, tmp_path / "nowhere" / "file")
    assert len(presigned.requests) == 4


@pytest.fixture
def cancelled(presigned: PresignedServer) -> Iterator[threading.Event]:
    """Set when the first request has arrived."""
    event = threading.Event()
    watch = threading.Thread(target=lambda: presigned.arrived.wait(WAIT_S) and event.set())
    watch.start()
    yield event
    watch.join()


@pytest.mark.parametrize("over_s3", [False, True])
def test_an_unwanted_download_ends_while_it_drips(
    store: ObjectStore, presigned: PresignedServer, tmp_path: Path, cancelled: threading.Event, over_s3: bool
) -> None:
    """A body that comes in small parts for ever is given up when the task is."""
    presigned.faults["GET"] = ["drip"]
    with pytest.raises(Cancelled):
        (failing_s3(presigned) if over_s3 else store).get_file("in.tif", tmp_path / "file", Until(cancelled))
    assert presigned.hung_up.wait(WAIT_S)
    assert len(presigned.requests) == 1


def test_a_download_has_a_time_of_its_own(store: ObjectStore, presigned: PresignedServer, tmp_path: Path) -> None:
    """However often single bytes arrive: after its time it is over, and the task may be tried again."""
    presigned.faults["GET"] = ["drip"] * 9
    with pytest.raises(Unavailable, match=r"^it took longer than 0\.2 s, the limit$"):
        store.get_file("in.tif", tmp_path / "file", Until(seconds=0.2))
    assert presigned.hung_up.wait(WAIT_S)
    assert len(presigned.requests) == 1


def test_an_unwanted_task_does_not_wait_for_another_try(
    store: ObjectStore,
    presigned: PresignedServer,
    tmp_path: Path,
    cancelled: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The pause before the next try ends with the task."""
    monkeypatch.setattr(web, "FIRST_WAIT_S", 3600.0)
    monkeypatch.setattr(web, "MAX_WAIT_S", 3600.0)
    presigned.faults["GET"] = ["busy"]
    with pytest.raises(Cancelled):
        store.get_file("in.tif", tmp_path / "file", Until(cancelled))


@pytest.mark.parametrize("over_s3", [False, True])
def test_an_unwanted_upload_is_not_sent(
    store: ObjectStore, presigned: PresignedServer, tmp_path: Path, over_s3: bool
) -> None:
    """Nothing is stored of a task that was given up."""
    (tmp_path / "file").write_bytes(BODY)
    unwanted = threading.Event()
    unwanted.set()
    with pytest.raises(Cancelled):
        (failing_s3(presigned) if over_s3 else store).put_file(
            "out.jpg", tmp_path / "file", "image/jpeg", Until(unwanted)
        )
    assert not [key for key in presigned.objects if key.endswith("out.jpg")]


def test_local_objects_are_given_up_as_well(tmp_path: Path) -> None:
    """Both ways, and nothing half is left."""
    objects = LocalObjects(tmp_path / "objects", "b")
    objects.put("in.tif", BODY, "image/tiff")
    (tmp_path / "file").write_bytes(BODY)
    unwanted = threading.Event()
    unwanted.set()
    with pytest.raises(Cancelled):
        objects.get_file("in.tif", tmp_path / "copy", Until(unwanted))
    with pytest.raises(Cancelled):
        objects.put_file("out.jpg", tmp_path / "file", "image/jpeg", Until(unwanted))
    assert [each.key for each in objects.list("")] == ["in.tif"]


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
    with pytest.raises(Unavailable, match=lacking):
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


def test_what_the_server_says_is_cleaned(store: ObjectStore, presigned: PresignedServer, tmp_path: Path) -> None:
    """Its reason is passed on as one line without control characters and paths."""
    presigned.faults["GET"] = ["rude"]
    with pytest.raises(Unavailable, match=r"^403 No a/b for \[1m \(path\); the presigned URL"):
        store.get_file("in.tif", tmp_path / "file")


def test_redirect_of_a_download_is_followed(store: ObjectStore, presigned: PresignedServer, tmp_path: Path) -> None:
    """Up to three times, with the query that the redirect names and no other."""
    presigned.objects["there.tif"] = BODY
    presigned.location = "/there.tif?sig=2"
    presigned.faults["GET"] = ["moved"] * 3
    store.get_file("in.tif", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == BODY
    assert presigned.requests[1:] == [("GET", "/there.tif?sig=2")] * 3


@pytest.mark.parametrize(
    ("location", "sentence"),
    [
        ("/in.tif", "^the server redirects more than 3 times$"),
        ("file:///etc/passwd", "^the address to which the server redirects is not a valid URL"),
        ("/a b", "^the address to which the server redirects is not a valid URL$"),
        (None, "^the address to which the server redirects is not a valid URL"),
    ],
)
def test_redirect_that_leads_nowhere(
    store: ObjectStore, presigned: PresignedServer, tmp_path: Path, location: str | None, sentence: str
) -> None:
    """In a circle, to a file of this machine, or to nothing: final, at once."""
    presigned.location = location
    presigned.faults["GET"] = ["moved"] * 9
    with pytest.raises(BadInput, match=sentence):
        store.get_file("in.tif", tmp_path / "file")
    assert len(presigned.requests) == (4 if location == "/in.tif" else 1)


def test_redirect_of_an_upload_is_final(store: ObjectStore, presigned: PresignedServer, tmp_path: Path) -> None:
    """A PUT is not sent to another place than its URL names."""
    (tmp_path / "file").write_bytes(BODY)
    presigned.location = "/there"
    presigned.faults["PUT"] = ["moved"]
    with pytest.raises(
        BadInput, match=r"^307 Temporary Redirect: the server redirects, which an upload does not follow"
    ):
        store.put_file("out.jpg", tmp_path / "file", "image/jpeg")
    assert len(presigned.requests) == 1
