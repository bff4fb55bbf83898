"""A converting process as its parent sees it, and one conversion as a conversation with it (`worker.frames`).

Whatever ends the process becomes one sentence, and an error that says whether another try can help. Needs POSIX.
"""

import contextlib
import dataclasses
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from worker import errors
from worker.errors import BadInput, Cancelled, LimitExceeded, Unavailable, WorkerError
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
from worker.kinds.base import Measured
from worker.kinds.tiff import Converted, Options
from worker.limits import BASE_BYTES, exhausted, killed, tells_of_memory

log = logging.getLogger("worker.child")

DOES_NOT_START: Final = "The converter's process does not start"
LOOK_EVERY_S: Final = 0.05
"""How often a conversion is looked at: whether it is still wanted, and its time is not up."""
COMPLAINT_BYTES: Final = 4096
"""So much of the end of the child's stderr is kept."""
_HERE: Final = ("memory", "cancelled")
"""The options that stay in the parent."""
_PASSED_ON: Final = ("PATH", "HOME", "TMPDIR", "TZ", "LANG", "LC_", "LD_", "DYLD_", "PYTHON", "VIPS_", "MALLOC_")


class Ended(Exception):
    """The child ended without an answer."""


class Child:
    """The process, as the parent sees it."""

    def __init__(self, memory_bytes: int | None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "worker.isolated", str(memory_bytes or 0)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=_environment(os.environ),
        )
        self._stdin, self._stdout, self._stderr = _pipes(self._process)
        self._frames = Frames[ToParent](ToParent)
        self._ready = select.poll()
        self._ready.register(self._stdout, select.POLLIN)
        self._ready.register(self._stderr, select.POLLIN)
        self._ending = threading.Lock()
        self._complaints = b""
        self._watched = True
        self._is_status_lost = False
        self.was_ready = False
        self.cpu_s = 0.0

    def send(self, message: ToChild) -> None:
        """Raises Ended when nobody is there to read it."""
        try:
            self._stdin.write(framed(message))
        except BrokenPipeError:
            raise self._ended() from None

    def receive(self, timeout_s: float) -> "ToParent | None":
        """The next message, or None when there is none in time. Raises Ended."""
        message = self._frames.next()
        if message is not None:
            return message
        for descriptor, _ in self._ready.poll(timeout_s * 1000):
            if descriptor == self._stdout.fileno():
                self._take()
            else:
                self._listen()
        return self._frames.next()

    def has_ended(self) -> bool:
        """Whether the process is over."""
        return self._reap(os.WNOHANG)

    def kill(self) -> None:
        """Ends it, whatever it does. A process that is over already is not signalled again: its number may be
        another's by now. (Popen.kill would collect its status, and with it the processor time.)"""
        with self._ending:
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._process.pid, signal.SIGKILL)

    def end(self) -> None:
        """Ends it if it still runs, and closes the pipes; `cpu_s` and `verdict` are final then."""
        self.kill()
        self._reap(0)
        for pipe in (self._stdin, self._stdout, self._stderr):
            pipe.close()

    @property
    def status(self) -> int | None:
        """As subprocess's: minus the signal, or the exit code. None: it is lost, or the process still runs."""
        return None if self._is_status_lost else self._process.returncode

    @property
    def complaints(self) -> str:
        """The last that it wrote to stderr."""
        return self._complaints.decode(errors="replace").strip()

    def forget_complaints(self) -> None:
        """What was said about one file must not explain the end of another."""
        if self.was_ready:
            self._complaints = b""

    def _take(self) -> None:
        part = os.read(self._stdout.fileno(), READ_BYTES)
        if not part:
            raise self._ended()
        self._frames.feed(part)

    def _ended(self) -> Ended:
        """It closed its end: it is over or will never say more. What it said last is heard."""
        self.kill()
        self._reap(0)
        while self._listen():
            pass
        return Ended()

    def _listen(self) -> bool:
        """Keeps what came on stderr; False at its end."""
        part = os.read(self._stderr.fileno(), READ_BYTES)
        self._complaints = (self._complaints + part)[-COMPLAINT_BYTES:]
        if not part and self._watched:
            self._watched = False
            self._ready.unregister(self._stderr)
        return bool(part)

    def _reap(self, flags: int) -> bool:
        """Collects the exit status, with the processor time of the whole life."""
        with self._ending:
            if self._process.returncode is not None:
                return True
            try:
                pid, status, usage = os.wait4(self._process.pid, flags)
            except ChildProcessError:  # somebody ignores SIGCHLD in this process: the status is lost
                self._process.returncode = 0
                self._is_status_lost = True
                return True
            if pid == 0:
                return False
            self._process.returncode = os.waitstatus_to_exitcode(status)
            self.cpu_s = usage.ru_utime + usage.ru_stime
            return True


class Conversation:
    """One conversion: what is said between the two until there is an answer."""

    def __init__(self, child: Child, options: Options, timeout_s: float, memory_bytes: int | None) -> None:
        self._child = child
        self._options = options
        self._timeout_s = timeout_s
        self._memory_bytes = memory_bytes
        self._deadline = time.monotonic() + timeout_s
        self._asked: Hold | None = None

    def run(self, source: Path, target: Path) -> Done | Failed:
        """The child's answer. Raises Cancelled, LimitExceeded where the time is up, or Ended; after each of them the
        child must be ended."""
        self._child.forget_complaints()
        self._child.send(Convert(str(source), str(target), _plain(self._options), round(2 * self._timeout_s) + 10))
        with ExitStack() as held:
            while True:
                match self._next():
                    case Ready(cpu_s):
                        self._child.was_ready = True
                        self._child.cpu_s += cpu_s
                    case Hold() as wish:
                        self._child.send(self._granted(wish, held))
                    case Release():
                        held.close()
                    case Done() | Failed() as answer:
                        self._child.cpu_s += answer.cpu_s
                        return answer

    def measured(self, answer: Done | Failed) -> Measured:
        """What was made. Raises the error that the child reported."""
        if isinstance(answer, Failed):
            raise self._error(answer)
        converted = msgspec.convert(answer.converted, Converted)
        return Measured(converted=converted, cpu_ms=round(answer.cpu_s * 1000), peak_bytes=answer.peak_bytes)

    def verdict(self) -> WorkerError:
        """Why a child ended without an answer."""
        status, complaints = self._child.status, self._child.complaints
        if tells_of_memory(complaints):
            return self._exhausted()
        if status == -signal.SIGKILL:
            return self._killed()
        if status == -signal.SIGXCPU:
            return self._too_long()
        if status is None:
            return Unavailable("The converter's process ended, and the system does not say of what")
        if not self._child.was_ready:
            last = complaints.splitlines()[-1:] or [f"exit code {status}"]
            return Unavailable(f"{DOES_NOT_START}: {last[0]}")
        if status < 0:
            return BadInput(f"The decoder crashed on this file ({_signal_name(-status)})")
        return BadInput(f"The decoder ended on this file without an answer (exit code {status})")

    def _next(self) -> ToParent:
        while True:
            if self._options.cancelled.is_set():
                raise Cancelled("the task is no longer wanted")
            left_s = self._deadline - time.monotonic()
            if left_s <= 0:
                raise self._too_long()
            message = self._child.receive(min(LOOK_EVERY_S, left_s))
            if message is not None:
                return message

    def _granted(self, wish: Hold, held: ExitStack) -> Go:
        """Waits until the picture fits into the memory, which does not count as time of the conversion."""
        self._asked = wish
        memory = self._options.memory
        if memory is None:
            return Go()
        begun = time.monotonic()
        try:
            held.enter_context(memory.hold(wish.pixels, self._options.cancelled, extra=wish.extra))
        except LimitExceeded as error:
            return Go(refusal=str(error))
        self._deadline += time.monotonic() - begun
        return Go()

    def _error(self, answer: Failed) -> WorkerError:
        if answer.error == MEMORY:
            return self._exhausted()
        if answer.error == UNEXPECTED:
            log.error("[Worker] the conversion failed unexpectedly:\n%s", answer.trace)
            return WorkerError(answer.sentence)
        known: type[WorkerError] = getattr(errors, answer.error)
        return known(answer.sentence)

    def _exhausted(self) -> LimitExceeded:
        pixels, extra = self._wish()
        return LimitExceeded(exhausted(pixels, self._memory_bytes, extra=extra, base_bytes=self._base_bytes()))

    def _killed(self) -> LimitExceeded:
        pixels, extra = self._wish()
        return LimitExceeded(killed(pixels, extra=extra, base_bytes=self._base_bytes()))

    def _wish(self) -> tuple[int | None, float]:
        """The picture's pixels, None where its header was not read yet, and what each needs beyond the usual."""
        return (self._asked.pixels, self._asked.extra) if self._asked is not None else (None, 0.0)

    def _base_bytes(self) -> int:
        return self._options.memory.base_bytes if self._options.memory is not None else BASE_BYTES

    def _too_long(self) -> LimitExceeded:
        return LimitExceeded(f"The conversion took longer than {self._timeout_s:g} s, the limit")


def _plain(options: Options) -> dict[str, Any]:
    """The options that the child needs."""
    names = [field.name for field in dataclasses.fields(options) if field.name not in _HERE]
    return {name: getattr(options, name) for name in names}


def _signal_name(number: int) -> str:
    return (signal.strsignal(number) or f"signal {number}").lower()


def _environment(env: Mapping[str, str]) -> dict[str, str]:
    """The child's: what libraries need, this package's place, and no key."""
    kept = {name: value for name, value in env.items() if name.startswith(_PASSED_ON)}
    path = [str(Path(__file__).resolve().parents[1]), *filter(None, [env.get("PYTHONPATH")])]
    return kept | {"PYTHONPATH": os.pathsep.join(path)}


def _pipes(process: "subprocess.Popen[bytes]") -> tuple[IO[bytes], IO[bytes], IO[bytes]]:
    """Its stdin, stdout and stderr."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    return process.stdin, process.stdout, process.stderr
