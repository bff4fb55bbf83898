"""What a worker reads from its environment, and how it shares memory between tasks."""

import math
import threading

import pytest

from worker.allowance import Allowance
from worker.errors import BadInput, Cancelled, LimitExceeded, ObjectMissing, sentence
from worker.kinds import find
from worker.limits import (
    BYTES_PER_PIXEL,
    MB,
    WHOLE_BYTES_PER_PIXEL,
    MemoryGate,
    base_bytes,
    check_dimensions,
    exhausted,
    memory_for_pictures,
    tells_of_memory,
)
from worker.settings import InvalidSetting, WorkerSettings, missing_task_variables, task_environment
from worker.urls import place


def test_defaults_are_the_contracts() -> None:
    """An empty environment gives the documented defaults."""
    settings = WorkerSettings.load({})
    assert (settings.concurrency, settings.idle_s, settings.max_tasks, settings.max_age_s) == (2, 5, 1000, 3600)
    assert settings.allowance == Allowance()
    assert WorkerSettings.load({"WORKER_IDLE_S": "inf"}).idle_s == math.inf


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WORKER_CONCURRENCY", "0"),
        ("WORKER_IDLE_S", "soon"),
        ("WORKER_MAX_TASKS", "nan"),
        ("WORKER_PRESIGNED", "maybe"),
    ],
)
def test_invalid_values_name_the_variable(name: str, value: str) -> None:
    """A wrong value stops the worker before anything starts, with its name in the message."""
    with pytest.raises(InvalidSetting, match=name):
        WorkerSettings.load({name: value})


def test_a_rate_of_processor_time_needs_something_to_begin_with() -> None:
    """With nothing to begin with a machine would be spent before its first task."""
    with pytest.raises(InvalidSetting, match="WORKER_CPU_RATE needs WORKER_CPU_BURST_S"):
        WorkerSettings.load({"WORKER_CPU_RATE": "0.5"})
    both = WorkerSettings.load({"WORKER_CPU_RATE": "0.5", "WORKER_CPU_BURST_S": "60"})
    assert both.allowance == Allowance(burst_s=60, rate=0.5)


def test_missing_task_variables_are_listed() -> None:
    """An empty variable is a missing one."""
    assert missing_task_variables({"TASK_ID": "t", "BATCH_ID": "", "CALLBACK_URL": "u"}) == ["BATCH_ID", "INPUT_R2_KEY"]


def test_tasks_bring_their_own_variables_only() -> None:
    """The former task leaves nothing behind, and a task cannot change whose keys and objects are used."""
    machine = {"OBJECTS_DIR": "/o", "TASK_ID": "old", "INPUT_URL": "old", "R2_BUCKET": "b", "WORKER_IDLE_S": "1"}
    task = {"TASK_ID": "new", "OBJECTS_DIR": "/evil", "R2_SECRET_ACCESS_KEY": "x", "WORKER_IDLE_S": "9"}
    assert task_environment(machine, task) == {
        "OBJECTS_DIR": "/o", "R2_BUCKET": "b", "WORKER_IDLE_S": "1", "TASK_ID": "new",
    }  # fmt: skip


def test_memory_gate_lets_in_what_fits() -> None:
    """Two pictures that fit run together; a third waits until one is done, or until it is cancelled."""
    gate = MemoryGate(int(20 * BYTES_PER_PIXEL))
    cancelled = threading.Event()
    inside = threading.Event()

    def third() -> None:
        with gate.hold(10, threading.Event()):
            inside.set()

    with gate.hold(10, cancelled):
        with gate.hold(10, cancelled):
            waiting = threading.Thread(target=third)
            waiting.start()
            assert not inside.is_set()
            cancelled.set()
            with pytest.raises(Cancelled), gate.hold(10, cancelled):
                pass
        assert inside.wait(5)
        waiting.join(5)


def test_memory_gate_keeps_the_order() -> None:
    """Behind a large picture that waits, a small one that would fit waits too: else the large one might for ever."""
    gate = MemoryGate(int(20 * BYTES_PER_PIXEL))
    let_in: list[int] = []

    def convert(pixels: int) -> None:
        with gate.hold(pixels, threading.Event()):
            let_in.append(pixels)

    threads = [threading.Thread(target=convert, args=(pixels,)) for pixels in (20, 1)]
    with gate.hold(10, threading.Event()):
        for place, thread in enumerate(threads, 1):
            thread.start()
            while len(gate._queue) < place and thread.is_alive():
                thread.join(0.01)
    for thread in threads:
        thread.join(5)
    assert let_in == [20, 1]


def test_one_that_gives_up_frees_its_place() -> None:
    """A large picture that is no longer wanted does not keep back those behind it."""
    gate = MemoryGate(int(20 * BYTES_PER_PIXEL))
    unwanted = threading.Event()
    unwanted.set()
    with gate.hold(10, threading.Event()):
        with pytest.raises(Cancelled), gate.hold(20, unwanted):
            pass
        with gate.hold(10, threading.Event()):
            """It fits."""


def test_memory_gate_counts_what_else_is_held() -> None:
    """A picture that is turned, or decoded by Pillow, needs more for each of its pixels; the machine that would do has
    room for its processes too."""
    gate = MemoryGate(int(1000 * BYTES_PER_PIXEL), base_bytes=base_bytes(4))
    with gate.hold(1000, threading.Event()):
        pass
    with (
        pytest.raises(LimitExceeded, match="one with 241 MB would do"),
        gate.hold(1000, threading.Event(), extra=WHOLE_BYTES_PER_PIXEL),
    ):
        pass


def test_limits_are_said_with_numbers() -> None:
    """What is over a limit names its size, the limit, and what would do."""
    with (
        pytest.raises(LimitExceeded, match="1000000000 pixels and needs 7152 MB"),
        MemoryGate(10).hold(10**9, threading.Event()),
    ):
        pass
    with pytest.raises(BadInput, match="268402689"):
        check_dimensions(20_000, 20_000)


def test_memory_is_the_machines_unless_set() -> None:
    """A set limit counts, less the worker and as many processes as convert at once; without one there is some."""
    assert memory_for_pictures(1024, 2) == (1024 - 3 * 48) * MB
    assert memory_for_pictures(1024, 7) == (1024 - 8 * 48) * MB
    assert memory_for_pictures(None, 2) > 0


def test_sentences() -> None:
    """Errors that we know speak for themselves, others carry their class; none grows without bound."""
    assert sentence(ObjectMissing()) == "404 Not Found"
    assert sentence(RuntimeError("odd")) == "RuntimeError: odd"
    assert len(sentence(BadInput("x" * 9999))) == 2000


@pytest.mark.parametrize("kind", ["nothing", "base", "../tiff", "Tiff", ""])
def test_unknown_kinds(kind: str) -> None:
    """Only modules of kinds are found by name."""
    with pytest.raises(BadInput):
        find(kind)


def test_logged_urls_hold_no_signature() -> None:
    """Query and user name stay out of logs."""
    assert place("https://u:p@h.example:8/callback/b/t?sig=s") == "https://h.example:8/callback/b/t"


def test_machine_keeps_how_pictures_are_encoded() -> None:
    """Quality and encoder are the machine's, for tasks that come by claim as well."""
    machine = {"JPEG_QUALITY": "80", "JPEG_ENCODER": "jpegli", "STRICT_SHARP": "1"}
    assert task_environment(machine, {"TASK_ID": "t", "JPEG_QUALITY": "1"}) == machine | {"TASK_ID": "t"}


def test_exhausted_memory_says_what_would_do() -> None:
    """Twice the limit, or what the pixels need if that is more; without a limit only that it was not enough."""
    assert exhausted(10**6, 100 * MB).endswith("may use; one with 344 MB would do")
    assert exhausted(10**8, 100 * MB).endswith("one with 860 MB would do")
    assert exhausted(None, None) == "The image needs more memory than this machine has"


@pytest.mark.parametrize(
    "text",
    ["vips_tracked: out of memory --- size == 4MB", "Insufficient memory (case 4)", "std::bad_alloc",
     "GLib-ERROR **: failed to allocate 9 bytes", "Cannot allocate memory"],
)  # fmt: skip
def test_want_of_memory_is_recognised(text: str) -> None:
    """As the libraries say it."""
    assert tells_of_memory(text)
    assert not tells_of_memory("bad data in strip 4")
