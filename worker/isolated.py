"""`python -m worker.isolated BYTES`: the child of a converter (`worker.isolation`): decodes and encodes, nothing else.

It bounds its own memory and processor time, and ends when its stdin does, whatever ended the parent.
(PR_SET_PDEATHSIG would fire when the *thread* ends that started the child.)
"""

import contextlib
import os
import queue
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

import msgspec

from worker import vips
from worker.errors import LimitExceeded, WorkerError, sentence
from worker.frames import (
    MEMORY,
    READ_BYTES,
    UNEXPECTED,
    Convert,
    Done,
    Failed,
    Frames,
    Go,
    Hold,
    Ready,
    Release,
    ToChild,
    ToParent,
    framed,
)
from worker.kinds import tiff
from worker.kinds.tiff import Options
from worker.limits import MB, MemoryGate, tells_of_memory

WORKING_BYTES: Final = 64 * MB
"""Beside the picture: stacks of threads, which count in full, and buffers of decoder and encoder."""

OOM_SCORE: Final = 500
"""Added, of 1000, to what Linux reckons when it chooses a process to end."""


class _Asking(MemoryGate):
    """The child's memory gate: the parent decides."""

    def __init__(self, inbox: "queue.SimpleQueue[ToChild]", say: Callable[[ToParent], None]) -> None:
        self._inbox = inbox
        self._say = say

    @contextmanager
    def hold(self, pixels: int, cancelled: threading.Event, *, extra: float = 0.0) -> Iterator[None]:
        """Raises LimitExceeded with the parent's refusal."""
        self._say(Hold(pixels, extra))
        answer = self._inbox.get()
        if isinstance(answer, Go) and answer.refusal is not None:
            raise LimitExceeded(answer.refusal)
        try:
            yield
        finally:
            self._say(Release())


def main() -> None:
    """Converts what the parent asks for until stdin ends. The argument: bytes that conversions may allocate, 0 for as
    many as there are."""
    _leave_signals_to_the_parent()
    _be_ended_first()
    out = _private_stdout()
    inbox: queue.SimpleQueue[ToChild] = queue.SimpleQueue()
    threading.Thread(target=_read_stdin, args=(inbox,), daemon=True).start()

    def say(message: ToParent) -> None:
        out.write(framed(message))

    vips.load()
    _limit_memory(int(sys.argv[1]))
    say(Ready(time.process_time()))
    gate = _Asking(inbox, say)
    while True:
        request = inbox.get()
        assert isinstance(request, Convert)
        say(_answer(request, gate))


def _answer(request: Convert, gate: _Asking) -> Done | Failed:
    _limit_cpu(request.cpu_s)
    _forget_peak()
    begun = time.process_time()
    try:
        options = Options(**request.options, memory=gate)
        made = tiff.convert(Path(request.source), Path(request.target), options)
        return Done(msgspec.to_builtins(made), time.process_time() - begun, _peak_bytes())
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent is told
        name, trace = _classified(error)
        return Failed(name, sentence(error), time.process_time() - begun, trace)


def _classified(error: Exception) -> tuple[str, str | None]:
    """The name of an error for the parent, and where it happened if nobody expected it."""
    if isinstance(error, LimitExceeded):
        return type(error).__name__, None
    if isinstance(error, MemoryError) or tells_of_memory(str(error)):
        return MEMORY, None
    if isinstance(error, WorkerError):
        return type(error).__name__, None
    return UNEXPECTED, "".join(traceback.format_exception(error))


def _leave_signals_to_the_parent() -> None:
    """A terminal and some providers signal the whole group; the parent gives its tasks back first."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _be_ended_first() -> None:
    """Where the machine runs out of memory the kernel shall end this process and not the parent, which reports it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))


def _private_stdout() -> IO[bytes]:
    """The pipe to the parent; what libraries print goes to stderr."""
    private = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(private, "wb", buffering=0)


def _read_stdin(inbox: "queue.SimpleQueue[ToChild]") -> None:
    """Ends this process, in the midst of a conversion if need be, when the parent is gone."""
    frames = Frames[ToChild](ToChild)
    while part := os.read(0, READ_BYTES):
        frames.feed(part)
        while (message := frames.next()) is not None:
            inbox.put(message)
    os._exit(0)


def _limit_memory(for_pictures: int) -> None:
    """No core files, and at most so many bytes of data beyond those there are now. Data and not address space is
    limited, since the C library reserves far more addresses for each thread than it uses."""
    _set_limit(resource.RLIMIT_CORE, 0)
    if for_pictures:
        _set_limit(resource.RLIMIT_DATA, _data_bytes() + for_pictures + WORKING_BYTES)


def _limit_cpu(seconds: int) -> None:
    """The kernel's own watchdog, for a child that hangs and whose parent is gone: so much more processor time."""
    _set_limit(resource.RLIMIT_CPU, int(time.process_time()) + seconds)


def _set_limit(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    resource.setrlimit(which, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _data_bytes() -> int:
    """Writable private memory of this process; 0 where the system does not say."""
    with contextlib.suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    return 0


def _forget_peak() -> None:
    """Makes Linux count the highest memory anew."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_bytes() -> int:
    """The most memory since `_forget_peak`; elsewhere than on Linux since the start."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
