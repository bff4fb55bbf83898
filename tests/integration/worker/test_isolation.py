"""Conversions in a child process: what ends the child becomes one sentence, and the next conversion works."""

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from worker import isolation
from worker.child import Child, Ended
from worker.errors import BadInput, Cancelled, LimitExceeded, Unavailable, WorkerError
from worker.frames import Convert, Ready
from worker.isolation import Converter, Converters
from worker.kinds import tiff
from worker.kinds.tiff import Options
from worker.limits import BYTES_PER_PIXEL, MB, PILLOW_BYTES_PER_PIXEL, WHOLE_BYTES_PER_PIXEL, MemoryGate

WAIT_S = 30
ROOT = Path(isolation.__file__).parents[1]


@pytest.fixture
def converter() -> Iterator[Converter]:
    """A converter with 256 MB and a generous time."""
    made = Converter(memory_bytes=256 * MB, timeout_s=60)
    yield made
    made.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one TIFF."""
    Image.linear_gradient("L").convert("RGB").save(tmp_path / "p.tif")
    return tmp_path


class Begun(MemoryGate):
    """A gate that tells the test when a conversion has begun."""

    def __init__(self) -> None:
        super().__init__(256 * MB)
        self.begun = threading.Event()

    @contextmanager
    def hold(self, pixels: int, cancelled: threading.Event, *, extra: float = 0.0) -> Iterator[None]:
        with super().hold(pixels, cancelled, extra=extra):
            self.begun.set()
            yield


def do(converter: Converter | Converters, folder: Path, deed: str, options: Options | None = None) -> tiff.Converted:
    """Has the stand-in for the decoder do something."""
    source = folder / f"{deed}.do"
    source.write_text(f"do: {deed}")
    made: tiff.Converted = converter.measure(source, folder / "out.jpg", options or Options()).converted
    return made


def wait_for_end(pid: int) -> None:
    """Until a process, not necessarily ours, is over."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        ready, _, _ = select.select([descriptor], [], [], WAIT_S)
        assert ready, "the process still runs"
    finally:
        os.close(descriptor)


def test_same_bytes_as_in_the_same_process(converter: Converter, folder: Path) -> None:
    """Isolation changes nothing about the result."""
    made = converter.convert(folder / "p.tif", folder / "child.jpg", Options())
    assert made == tiff.convert(folder / "p.tif", folder / "here.jpg", Options())
    assert (folder / "child.jpg").read_bytes() == (folder / "here.jpg").read_bytes()


def test_errors_of_the_decoder_are_raised_here(converter: Converter, folder: Path) -> None:
    """A file that is no picture is the same BadInput as without isolation, and the child lives on."""
    (folder / "bad.tif").write_bytes(b"II*\0 this is not a picture")
    with pytest.raises(BadInput) as here:
        tiff.convert(folder / "bad.tif", folder / "x.jpg", Options())
    with pytest.raises(BadInput) as there:
        converter.convert(folder / "bad.tif", folder / "x.jpg", Options())
    assert str(there.value) == str(here.value)


@pytest.mark.parametrize(
    ("deed", "kind", "sentence"),
    [
        ("segfault", BadInput, r"^The decoder crashed on this file \(segmentation fault\)$"),
        ("abort", BadInput, r"^The decoder crashed on this file \(aborted\)$"),
        ("exit", BadInput, r"^The decoder ended on this file without an answer \(exit code 7\)$"),
        ("killed", LimitExceeded, r"^The converter was killed \(SIGKILL\), perhaps for want of memory: .* 145 MB$"),
        ("no memory", LimitExceeded, r"^The image of 1000 pixels needs more than the 256 MB"),
        ("glib", LimitExceeded, r"^The image of 1000 pixels needs more than the 256 MB"),
        ("allocate", LimitExceeded, r"^The image of 1000 pixels needs more than the 256 MB"),
        ("processor", LimitExceeded, r"^The conversion took longer than 60 s, the limit$"),
        ("bug", WorkerError, r"^RuntimeError: odd$"),
    ],
)
def test_death_of_the_child_is_one_sentence(
    converter: Converter, folder: Path, decoder_stand_in: str, deed: str, kind: type[WorkerError], sentence: str
) -> None:
    """Whatever ends a conversion, the caller gets a WorkerError of the right class, and the next file converts."""
    with pytest.raises(kind, match=sentence) as caught:
        do(converter, folder, deed)
    assert type(caught.value) is kind
    converter.convert(folder / "p.tif", folder / "p.jpg", Options())
    assert (folder / "p.jpg").stat().st_size > 0


def test_hanging_decoder_is_ended_at_its_time(folder: Path, decoder_stand_in: str) -> None:
    """A decoder that hangs, even with the interpreter's lock, is killed; the sentence says the limit."""
    converter = Converter(memory_bytes=None, timeout_s=1)
    with pytest.raises(LimitExceeded, match=r"^The conversion took longer than 1 s, the limit$"):
        do(converter, folder, "hang")
    converter.close()


def test_cancelled_conversion_ends_at_once(converter: Converter, folder: Path, decoder_stand_in: str) -> None:
    """Cancelling kills a hanging conversion, and gives its memory back."""
    gate = Begun()
    options = Options(memory=gate)
    cancel = threading.Thread(target=lambda: gate.begun.wait(WAIT_S) and options.cancelled.set())
    cancel.start()
    with pytest.raises(Cancelled):
        do(converter, folder, "hang", options)
    cancel.join()
    with gate.hold(256 * MB // 8, threading.Event()):
        """Nearly all of it is free."""


def test_memory_is_asked_of_the_parent(converter: Converter, folder: Path) -> None:
    """The gate of the parent decides before the picture is decoded; what it refuses is its own sentence."""
    with pytest.raises(LimitExceeded, match="The image has 65536 pixels and needs 0 MB"):
        converter.convert(folder / "p.tif", folder / "x.jpg", Options(memory=MemoryGate(1000)))
    assert not (folder / "x.jpg").exists()


@pytest.mark.parametrize(
    ("mode", "how", "extra"),
    [
        ("L", {}, 0.0),
        ("RGB", {}, 0.0),
        ("CMYK", {}, 0.0),
        pytest.param("RGB", {"tiffinfo": {274: 6}}, WHOLE_BYTES_PER_PIXEL, id="turned"),
        pytest.param("RGB", {"compression": "zstd"}, PILLOW_BYTES_PER_PIXEL, id="by Pillow"),
    ],
)
def test_what_the_gate_lets_through_has_enough_memory(
    folder: Path, mode: str, how: dict[str, Any], extra: float
) -> None:
    """An ordinary picture that just fits by its pixels and what is done with them converts within the limit that the
    child sets itself, and is refused by less."""
    Image.linear_gradient("L").resize((3000, 2500)).convert(mode).save(folder / "just.tif", **how)
    limit = int(3000 * 2500 * (BYTES_PER_PIXEL + extra))
    with (
        closing(Converter(memory_bytes=limit, timeout_s=600)) as converter,
        pytest.raises(LimitExceeded, match="The image has 7500000 pixels and needs"),
    ):
        converter.convert(folder / "just.tif", folder / "just.jpg", Options(memory=MemoryGate(limit - 1)))
    with closing(Converter(memory_bytes=limit, timeout_s=600)) as converter:
        made = converter.convert(folder / "just.tif", folder / "just.jpg", Options(memory=MemoryGate(limit)))
    assert made.width * made.height == 3000 * 2500


def test_noise_that_needs_more_than_its_pixels_say_is_told(folder: Path) -> None:
    """Pure noise needs twice the memory of a scan for the encoder's drafts: an error that a larger machine mends, and
    not the end of the machine."""
    Image.effect_noise((3000, 2500), 60).convert("RGB").save(folder / "noise.tif")
    limit = int(3000 * 2500 * BYTES_PER_PIXEL)
    with (
        closing(Converter(memory_bytes=limit // 2, timeout_s=600)) as converter,
        pytest.raises(LimitExceeded, match=r"^The image of 7500000 pixels needs more than the 26 MB"),
    ):
        converter.convert(folder / "noise.tif", folder / "noise.jpg", Options(memory=MemoryGate(limit)))


def test_waiting_for_memory_can_be_cancelled(converter: Converter, folder: Path) -> None:
    """A conversion that waits for others to give memory back ends when it is no longer wanted."""
    gate = MemoryGate(65536 * 8)
    options = Options(memory=gate)
    waiting = threading.Event()
    begin, gate_hold = threading.Event(), gate.hold

    @contextmanager
    def told(pixels: int, cancelled: threading.Event, *, extra: float = 0.0) -> Iterator[None]:
        waiting.set()
        with gate_hold(pixels, cancelled, extra=extra):
            yield

    gate.hold = told  # type: ignore[method-assign]
    cancel = threading.Thread(target=lambda: waiting.wait(WAIT_S) and options.cancelled.set())
    cancel.start()
    with gate_hold(65536, begin), pytest.raises(Cancelled):
        converter.convert(folder / "p.tif", folder / "x.jpg", options)
    cancel.join()


def test_memory_is_free_again_after_each_outcome(converter: Converter, folder: Path, decoder_stand_in: str) -> None:
    """A success and a crash both release what they held."""
    gate = MemoryGate(65536 * 8)
    converter.convert(folder / "p.tif", folder / "x.jpg", Options(memory=gate))
    with pytest.raises(BadInput):
        do(converter, folder, "segfault", Options(memory=gate))
    with gate.hold(65536, threading.Event()):
        """All of it is free."""


def test_complaints_about_one_file_do_not_explain_another(
    converter: Converter, folder: Path, decoder_stand_in: str
) -> None:
    """A decoder that spoke of memory and went on, and then crashes on the next file: that is a crash."""
    do(converter, folder, "complain")
    with pytest.raises(BadInput, match="crashed"):
        do(converter, folder, "segfault")


def test_what_libraries_print_is_no_answer(converter: Converter, folder: Path, decoder_stand_in: str) -> None:
    """Output of Python and C on stdout goes elsewhere."""
    assert do(converter, folder, "print").size == 4


def test_child_sees_no_key(
    converter: Converter, folder: Path, decoder_stand_in: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that reads foreign files has neither keys nor tokens."""
    for name in ("R2_SECRET_ACCESS_KEY", "MACHINE_TOKEN", "INPUT_URL", "CALLBACK_URL", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "secret")
    names = do(converter, folder, "environment").notes
    assert "PATH" in names
    assert not [name for name in names if name.startswith(("R2_", "MACHINE_", "INPUT_", "CALLBACK_", "AWS_"))]


def test_child_leaves_no_core(converter: Converter, folder: Path, decoder_stand_in: str) -> None:
    """A crash writes no core file into a small machine's disk."""
    assert do(converter, folder, "core").notes == ("0",)


def test_kernel_ends_the_child_first(converter: Converter, folder: Path, decoder_stand_in: str) -> None:
    """Where the whole machine has no memory left the worker stays, and reports it."""
    assert int(do(converter, folder, "oom").notes[0]) >= 500


def test_current_folder_is_not_searched(converter: Converter, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with pictures may hold anything: none of it is taken for a module of the converter's process."""
    for name in ("worker", "msgspec", "pyvips", "resource"):
        (folder / f"{name}.py").write_text("import pathlib\npathlib.Path('executed').touch()\nraise SystemExit\n")
    monkeypatch.chdir(folder)
    assert converter.convert(folder / "p.tif", folder / "x.jpg", Options()).width == 256
    assert not (folder / "executed").exists()


@pytest.fixture
def ignored_children() -> Iterator[None]:
    """Whoever started this process ignores what becomes of children: the system keeps no status of them."""
    kept = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGCHLD, kept)


@pytest.mark.parametrize("deed", ["killed", "segfault"])
def test_lost_status_is_not_the_files_fault(
    converter: Converter, folder: Path, decoder_stand_in: str, ignored_children: None, deed: str
) -> None:
    """Nobody can tell a crash from the kernel's kill then: the task may be tried again, and no cause is made up."""
    with pytest.raises(Unavailable, match=r"^The converter's process ended, and the system does not say of what$"):
        do(converter, folder, deed)


def test_processor_time_of_a_killed_child_counts(folder: Path) -> None:
    """Also where it died before it was told to, and is still to be collected."""
    child = Child(None)
    while not isinstance(child.receive(WAIT_S), Ready):
        pass
    descriptor = os.pidfd_open(child._process.pid)
    os.kill(child._process.pid, signal.SIGKILL)
    assert select.select([descriptor], [], [], WAIT_S)[0]
    os.close(descriptor)
    child.end()
    assert child.status == -signal.SIGKILL
    assert child.cpu_s > 0


def test_child_leaves_signals_to_the_parent(converter: Converter, folder: Path, decoder_stand_in: str) -> None:
    """Ctrl-C and SIGTERM reach the whole group; the conversion goes on until the parent decides."""
    assert do(converter, folder, "ask to end").size == 4


def test_child_that_was_killed_while_idle_is_replaced(
    converter: Converter, folder: Path, decoder_stand_in: str
) -> None:
    """What happened before a file came is not that file's fault."""
    pid = int(do(converter, folder, "pid").notes[0])
    os.kill(pid, signal.SIGKILL)
    wait_for_end(pid)
    assert int(do(converter, folder, "pid").notes[0]) != pid


def test_child_is_kept_for_the_next(converter: Converter, folder: Path, decoder_stand_in: str) -> None:
    """Two files, one process."""
    assert do(converter, folder, "pid") == do(converter, folder, "pid")


def test_child_that_does_not_start_says_why(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a working interpreter the task may be tried elsewhere, and the last line of stderr tells."""
    program = folder / "python"
    program.write_text("#!/bin/sh\necho library is missing >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    converter = Converter(memory_bytes=None, timeout_s=60)
    with pytest.raises(Unavailable, match=r"^The converter's process does not start: library is missing$"):
        converter.convert(folder / "p.tif", folder / "x.jpg", Options())
    converter.close()


def test_what_a_child_said_that_ended_before_it_was_asked_is_heard(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pipe to it is broken by then: that is noticed by writing, before anything was read."""
    program = folder / "python"
    program.write_text("#!/bin/sh\necho library is missing >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    child = Child(None)
    os.waitid(os.P_PID, child._process.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(Ended):
        child.send(Convert("p.tif", "x.jpg", {}, 1))
    assert (child.complaints, child.status) == ("library is missing", 3)
    child.end()


def test_child_ends_with_its_parent(folder: Path, decoder_stand_in: str) -> None:
    """A parent that is killed in the middle of a conversion leaves nothing behind."""
    (folder / "sleep.do").write_text("do: sleep")
    (folder / "pid.do").write_text("do: pid")
    code = (
        "import pathlib\nfrom worker.isolation import Converter\nfrom worker.kinds.tiff import Options\n"
        "from worker.limits import MemoryGate\n"
        "class Gate(MemoryGate):\n"
        "    def hold(self, *what, **more):\n"
        "        print('begun', flush=True)\n"
        "        return super().hold(*what, **more)\n"
        "c = Converter(memory_bytes=None, timeout_s=600)\nout = pathlib.Path('out.jpg')\n"
        "print(c.convert(pathlib.Path('pid.do'), out, Options()).notes[0], flush=True)\n"
        "c.convert(pathlib.Path('sleep.do'), out, Options(memory=Gate(10**9)))\n"
    )
    env = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{decoder_stand_in}"}
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=folder, env=env)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert parent.stdout.readline() == "begun\n"
    parent.kill()
    parent.communicate(timeout=WAIT_S)
    wait_for_end(child)


def test_processor_time_is_the_conversions_own(converter: Converter, folder: Path, decoder_stand_in: str) -> None:
    """What the child worked is told per file, and stays counted when the child is gone."""
    (folder / "work.do").write_text("do: work")
    quiet = converter.measure(folder / "p.tif", folder / "x.jpg", Options())
    busy = converter.measure(folder / "work.do", folder / "x.jpg", Options())
    assert quiet.cpu_ms < 1000
    assert quiet.cpu_ms + busy.cpu_ms >= 700  # until the process has worked for 1 s, its start included
    assert busy.peak_bytes > 10 * MB
    converter.close()
    assert converter.cpu_s >= 1.0


def test_closed_while_it_converts_is_cancelled(converter: Converter, folder: Path, decoder_stand_in: str) -> None:
    """Closing ends a conversion in another thread."""
    gate = Begun()
    close = threading.Thread(target=lambda: gate.begun.wait(WAIT_S) and converter.close())
    close.start()
    with pytest.raises(Cancelled):
        do(converter, folder, "hang", Options(memory=gate))
    close.join()


def test_no_more_at_once_than_there_are_converters(folder: Path, decoder_stand_in: str) -> None:
    """While the only converter is busy another task waits, and gives up when it is cancelled."""
    pool = Converters(1, memory_bytes=None, timeout_s=60)
    gate = Begun()
    first, second = Options(memory=gate), Options()
    failures: list[BaseException] = []

    def convert() -> None:
        try:
            do(pool, folder, "hang", first)
        except Cancelled as error:
            failures.append(error)

    holder = threading.Thread(target=convert)
    holder.start()
    assert gate.begun.wait(WAIT_S)
    second.cancelled.set()
    with pytest.raises(Cancelled):
        pool.measure(folder / "p.tif", folder / "x.jpg", second)
    first.cancelled.set()
    holder.join(WAIT_S)
    assert len(failures) == 1
    pool.warm()
    assert pool.measure(folder / "p.tif", folder / "x.jpg", Options()).cpu_ms >= 0
    pool.close()
