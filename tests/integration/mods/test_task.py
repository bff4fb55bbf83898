"""One task of the kind "mods", as the worker's loop runs it."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.mods.bench import records
from tests.stand_ins.arke_api import ROOT, launched, pi_of
from worker.errors import BadInput, Cancelled, Unavailable, WorkerError
from worker.kinds import find
from worker.kinds.base import Context
from worker.limits import MemoryGate
from worker.objects.local import LocalObjects
from worker.settings import missing_task_variables


@pytest.fixture(scope="module")
def archive() -> Iterator[str]:
    with launched(["--latency-ms", "5"]) as url:
        yield url


def context(folder: Path, url: str, cancelled: threading.Event | None = None, **env: str) -> Context:
    """A task that exports the sample archive, changed by `env`."""
    given = {
        "KIND": "mods", "TASK_ID": "t1", "BATCH_ID": "single", "PI": ROOT, "CALLBACK_URL": "http://127.0.0.1:1/",
        "ARKE_API_URL": url, "IPFS_GATEWAY": url, "EXPORT_OPTIONS": '{"recursive": true}',
        "XDG_CACHE_HOME": str(folder),
    }  # fmt: skip
    (folder / "work").mkdir(exist_ok=True)
    return Context(
        env=given | env, objects=LocalObjects(folder / "objects", "b"), folder=folder / "work",
        memory=MemoryGate(1 << 30), converters=None, cancelled=cancelled or threading.Event(),  # type: ignore[arg-type]
        tell=lambda progress: None,
    )  # fmt: skip


def test_it_is_found_by_its_name_and_stores_the_file(
    tmp_path: Path, archive: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Under OUTPUT_R2_KEY, else under the originals' key; what it has done is told as the contract names it."""
    run = find("mods")
    outcome = run(context(tmp_path, archive))
    assert outcome.output_r2_key == f"exports/t1/{ROOT}-collection.xml"
    assert outcome.output_file_name == f"{ROOT}-collection.xml"
    body = LocalObjects(tmp_path / "objects", "b").read(outcome.output_r2_key, 1 << 30)
    assert (len(records(body)), len(body)) == (242, outcome.output_file_size)
    assert outcome.performance["entities_exported"] == 242
    assert not outcome.performance["validated"]
    assert caplog.text.count("not validated: there are no schemas") == 1
    other = run(context(tmp_path, archive, OUTPUT_R2_KEY="a/b.xml", EXPORT_FORMAT="dc", EXPORT_OPTIONS=""))
    assert (other.output_r2_key, other.performance["entities_exported"]) == ("a/b.xml", 1)


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"PI": "nonsense"}, "PI is no entity id"), ({"EXPORT_FORMAT": "pdf"}, "EXPORT_FORMAT must be one of"),
        ({"EXPORT_OPTIONS": "{"}, "EXPORT_OPTIONS is not valid"), ({"EXPORT_OPTIONS": '{"maxDepth": 99}'},
        "EXPORT_OPTIONS"),
        ({"OUTPUT_R2_KEY": "../x"}, "is not allowed"), ({"PI": pi_of("nothing")},
        "Failed to fetch manifest: 404 Not Found"),
        ({"ARKE_SCHEMAS": "/nonexistent"}, "ARKE_SCHEMAS names a folder without"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_told_and_not_tried_again(
    tmp_path: Path, archive: str, env: dict[str, str], words: str
) -> None:
    """In one sentence; nothing is stored."""
    with pytest.raises(BadInput, match=words):
        find("mods")(context(tmp_path, archive, **env))
    assert LocalObjects(tmp_path / "objects", "b").list("") == []


def test_an_archive_that_is_away_may_be_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another try may help."""
    monkeypatch.setattr("worker.kinds.mods.arke_api.BASE_S", 0.001)
    with pytest.raises(Unavailable, match="the archive cannot be reached") as raised:
        find("mods")(context(tmp_path, "http://127.0.0.1:9"))
    assert raised.value.retryable


def test_a_task_that_is_not_wanted_any_more_ends_at_once(tmp_path: Path, archive: str) -> None:
    """Also amid a walk of hours."""
    cancelled = threading.Event()
    made = context(tmp_path, archive, cancelled, EXPORT_OPTIONS='{"recursive": true, "parallelBatchSize": 1}')
    failed: list[BaseException] = []

    def run() -> None:
        try:
            find("mods")(made)
        except WorkerError as error:
            failed.append(error)

    running = threading.Thread(target=run)
    running.start()
    cancelled.set()
    running.join(20)
    assert not running.is_alive()
    assert [type(error) for error in failed] == [Cancelled]


def test_a_store_that_refuses_the_file_is_told(tmp_path: Path, archive: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the step that failed."""
    made = context(tmp_path, archive, EXPORT_OPTIONS="{}")

    def refuses(*_: Any) -> Any:
        raise Unavailable("the object store answered 503")

    monkeypatch.setattr(LocalObjects, "put_file", refuses)
    with pytest.raises(Unavailable, match="Failed to upload the export: the object store answered 503"):
        find("mods")(made)


def test_its_variables_are_other_ones() -> None:
    """It reads an entity, not an object."""
    assert missing_task_variables({"KIND": "mods"}) == ["TASK_ID", "BATCH_ID", "PI", "CALLBACK_URL"]
    assert "INPUT_R2_KEY" in missing_task_variables({})


def test_it_runs_in_a_thread_without_an_event_loop(tmp_path: Path, archive: str) -> None:
    """As those of the worker do; a loop of its own is made and closed."""
    outcomes: list[Any] = []
    thread = threading.Thread(
        target=lambda: outcomes.append(find("mods")(context(tmp_path, archive, EXPORT_OPTIONS="{}")))
    )
    thread.start()
    thread.join(30)
    assert outcomes[0].performance["entities_exported"] == 1
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
