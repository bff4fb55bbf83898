"""What tasks share: cores, memory and the way to the objects."""

import threading
from pathlib import Path

import pytest

from tests.stand_ins.orchestrator import WAIT_S, StandIn
from tests.stand_ins.presigned import PresignedServer
from worker import loop


def task(server: StandIn, presigned: PresignedServer, number: int) -> dict[str, str]:
    """The variables of a task with presigned URLs; its input is `in-{number}.tif`."""
    return {
        "TASK_ID": f"b_tiff_{number}",
        "BATCH_ID": "b",
        "INPUT_R2_KEY": f"in-{number}.tif",
        "CALLBACK_URL": f"{server.url}/callback/b/b_tiff_{number}",
        "INPUT_URL": presigned.link(f"in-{number}.tif"),
        "OUTPUT_URL": presigned.link(f"out-{number}.jpg"),
    }


def test_next_download_overlaps_with_a_conversion(
    server: StandIn, presigned: PresignedServer, decoder_stand_in: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With two tasks and one conversion at a time, the second is downloaded while the first keeps the only converter,
    and its own conversion begins once that is free."""
    presigned.objects = {"in-1.tif": b"do: wait " + str(tmp_path / "go").encode(), "in-2.tif": b"do: pid"}
    server.work = [task(server, presigned, 2)]
    machine = {
        "CLAIM_URL": f"{server.url}/machines/claim",
        "WORKER_IDLE_S": "0",
        "WORKER_CONCURRENCY": "2",
        "WORKER_CONVERSIONS": "1",
    }
    downloads = threading.Event()
    remember = presigned.next_fault

    def next_fault(method: str, path: str) -> object:
        fault = remember(method, path)
        if sum(method == "GET" for method, _ in presigned.requests) == 2:
            downloads.set()
        return fault

    monkeypatch.setattr(presigned, "next_fault", next_fault)
    codes: list[int] = []
    env = machine | task(server, presigned, 1)
    thread = threading.Thread(target=lambda: codes.append(loop.run(env, stop=threading.Event())))
    thread.start()
    assert downloads.wait(WAIT_S), "the second download waited for the first conversion"
    assert server.callbacks() == []
    (tmp_path / "go").touch()
    thread.join(WAIT_S)
    assert codes == [0]
    assert [report["status"] for report in server.callbacks()] == ["success", "success"]
    assert presigned.objects.keys() >= {"out-1.jpg", "out-2.jpg"}
