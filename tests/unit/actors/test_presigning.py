"""Presigned URLs: the same as boto3's, valid for long enough, and no key in what a machine is given."""

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from actors import assembly
from actors.clock import Clock
from actors.presigning import LONGEST_S, Method, Presigner
from actors.settings import Settings
from worker.objects.s3 import S3Objects

ID, SECRET = "AK/ID+1", "the-secret-key"
S3 = {"R2_ACCOUNT_ID": "acc", "R2_ACCESS_KEY_ID": ID, "R2_SECRET_ACCESS_KEY": SECRET}
DAY_MS = 86_400_000
MOMENT_MS = 1_700_000_000_000


class Stopped:
    """A clock that is set by hand."""

    def __init__(self, now_ms: int = MOMENT_MS) -> None:
        self.now_ms = now_ms

    def now(self) -> int:
        return self.now_ms


def presigner(clock: Stopped, endpoint: str = "https://acc.example", expires_s: int = 60) -> Presigner:
    return Presigner(endpoint, "bucket", access_key_id=ID, secret=SECRET, expires_s=expires_s, clock=clock)


def asked(url: str) -> dict[str, str]:
    """The query of a URL."""
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query, strict_parsing=True).items()}


@pytest.mark.parametrize("method", ["GET", "PUT"])
@pytest.mark.parametrize("key", ["a/p.tif", "a b/ü+%2F~(1)?&=#,'!*.tif", "x" * 1024, "日本/語.tiff"])
@pytest.mark.parametrize(
    "endpoint", ["https://acc.r2.cloudflarestorage.com", "http://127.0.0.1:8333", "http://[::1]:1"]
)
def test_urls_are_those_of_boto3(endpoint: str, key: str, method: Method) -> None:
    """Byte for byte, at one moment."""
    theirs = S3Objects(endpoint, "bucket", access_key_id=ID, secret=SECRET).presign(method, key, 60)
    moment = datetime.strptime(asked(theirs)["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    assert presigner(Stopped(round(moment.timestamp() * 1000)), endpoint).url(method, key) == theirs


def test_each_day_has_its_key() -> None:
    """The key that is kept for a day is not used on the next one."""
    clock = Stopped()
    kept = presigner(clock)
    today = kept.url("GET", "a")
    clock.now_ms += DAY_MS
    assert kept.url("GET", "a") == presigner(clock).url("GET", "a") != today


def test_what_the_signature_covers() -> None:
    """The scheme's own port is not sent, so it is not signed; a user in the address goes nowhere."""
    clock = Stopped()
    plain = presigner(clock, "https://acc.example").url("GET", "a")
    assert presigner(clock, "https://user:pass@ACC.example:443/").url("GET", "a") == plain
    assert presigner(clock).url("PUT", "a") != plain


def test_every_key_of_an_object_gets_its_url() -> None:
    """Whatever the kind calls them: what is read for GET, what is written for PUT; the rest stays as it is."""
    env = {
        "TASK_ID": "t", "R2_BUCKET": "b", "INPUT_R2_KEY": "in.tif", "INPUT_LIST_R2_KEY": "list",
        "OUTPUT_R2_KEY": "out.jpg", "CHECKPOINT_R2_KEY": "state", "EMPTY_R2_KEY": "",
    }  # fmt: skip
    before, signs = dict(env), presigner(Stopped())
    assert signs.with_urls(env) == before | {
        "INPUT_URL": signs.url("GET", "in.tif"),
        "INPUT_LIST_URL": signs.url("GET", "list"),
        "OUTPUT_URL": signs.url("PUT", "out.jpg"),
        "CHECKPOINT_URL": signs.url("PUT", "state"),
    }
    assert env == before


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ({}, 60 + 60 + 3 * 600),
        ({"TASK_MAX_MS_TIFF": "1000", "BOOT_TIMEOUT_MS": "2000", "TASK_TIMEOUT_TIFF_CONVERSION": "4000"}, 9),
        ({"TASK_MAX_MS_TIFF": str(7 * DAY_MS)}, LONGEST_S),
    ],
)
def test_urls_outlive_their_task(tmp_path: Path, given: dict[str, str], seconds: int) -> None:
    """A boot, a silence, and the longest download, conversion and upload; S3 takes at most seven days."""
    settings = Settings.load(S3 | {"WORKER_PRESIGNED": "true"} | given, data_dir=tmp_path)
    signs = assembly.presigner(settings)
    assert signs is not None
    url = signs.url("GET", "a")
    assert url.startswith("https://acc.r2.cloudflarestorage.com/arke-staging/a?")
    assert asked(url)["X-Amz-Expires"] == str(seconds)


def environment_of_a_machine(settings: Settings) -> dict[str, str]:
    """As the fleet makes it."""
    nothing: Any = SimpleNamespace(call=None, capacity=None)
    return dict(assembly.fleet(settings, nothing, nothing, Clock(), nothing)._making._base_env("m", "tiff"))


@pytest.mark.parametrize("provider", ["ray", "subprocess", "fly"])
def test_machines_have_no_keys(tmp_path: Path, provider: str) -> None:
    """Neither the keys nor the place; the worker is told that its tasks bring URLs."""
    settings = Settings.load(S3 | {"WORKER_PRESIGNED": "true", "MACHINE_PROVIDER": provider}, data_dir=tmp_path)
    env = environment_of_a_machine(settings)
    assert env["WORKER_PRESIGNED"] == "true"
    assert not {ID, SECRET, "acc"} & set(env.values())
    assert {name for name in env if name.startswith("R2_")} == {"R2_BUCKET"}


def test_without_the_setting_machines_have_the_keys(tmp_path: Path) -> None:
    """The original workers know nothing else."""
    settings = Settings.load(S3, data_dir=tmp_path)
    env = environment_of_a_machine(settings)
    assert (env["R2_ACCESS_KEY_ID"], env["R2_SECRET_ACCESS_KEY"]) == (ID, SECRET)
    assert "WORKER_PRESIGNED" not in env
    assert assembly.presigner(settings) is None
