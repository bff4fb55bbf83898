"""Decoding and encoding in a child process, so that a decoder that crashes, hangs or is killed takes no callback with
it.

`Converter` owns one child (`worker.child`, which runs `worker.isolated`), which converts one file at a time and is kept
for the next; `Converters` shares a few of them between threads. The parent never loads libvips, and the child never
sees a key: its environment holds what libraries need.
"""

import contextlib
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from worker.child import DOES_NOT_START, Child, Conversation, Ended
from worker.errors import Cancelled, Unavailable
from worker.frames import Done, Failed
from worker.kinds.base import Measured
from worker.kinds.tiff import Converted, Options

STARTS: Final = 2
"""How often a child is started for one conversion before it is said that it does not start."""
CLOSE_WITHIN_S: Final = 5.0
LOOK_EVERY_S: Final = 0.05
"""How often one that waits for a converter looks whether it is still wanted."""


class Converter:
    """One child, started early (`warm`) and again after it ended; one conversion at a time.

    `memory_bytes` bounds what the child may allocate beyond what it has after its start; `timeout_s` is wall time for
    one conversion, waiting for memory not counted."""

    def __init__(self, *, memory_bytes: int | None, timeout_s: float) -> None:
        self._memory_bytes = memory_bytes
        self._timeout_s = timeout_s
        self._child: Child | None = None
        self._ended_cpu_s = 0.0
        self._busy = threading.Lock()
        self._starting = threading.Lock()
        self._closed = False

    def warm(self) -> None:
        """Begins to start the child, so that it loads its libraries while the download runs; returns at once."""
        if self._child is None:
            threading.Thread(target=self._warm, name="start-converter", daemon=True).start()

    def convert(self, source: Path, target: Path, options: Options) -> Converted:
        """What `tiff.convert` does, and raises, in the child. Its death is a BadInput where the decoder crashed, a
        LimitExceeded where memory or time ran out."""
        converted: Converted = self.measure(source, target, options).converted
        return converted

    def measure(self, source: Path, target: Path, options: Options) -> Measured:
        """`convert`, with what it took."""
        with self._busy:
            conversation, answer = self._answered(source, target, options)
            return conversation.measured(answer)

    def close(self) -> None:
        """Ends the child, and a conversion that may run in it (for whose caller it is cancelled)."""
        self._closed = True
        with self._starting:
            child = self._child
        if child is None:
            return
        child.kill()
        if self._busy.acquire(timeout=CLOSE_WITHIN_S):
            self._drop(child)
            self._busy.release()

    @property
    def cpu_s(self) -> float:
        """Processor seconds of all children so far, as far as they have told."""
        child = self._child
        return self._ended_cpu_s + (child.cpu_s if child is not None else 0.0)

    def _warm(self) -> None:
        # Where it does not start, the conversion says so.
        with contextlib.suppress(Unavailable, Cancelled):
            self._started()

    def _answered(self, source: Path, target: Path, options: Options) -> tuple[Conversation, Done | Failed]:
        """One conversion; a child that ended before it got so far as to be ready is started once more."""
        for starts_left in reversed(range(STARTS)):
            child = self._ready_child()
            conversation = Conversation(child, options, self._timeout_s, self._memory_bytes)
            try:
                return conversation, conversation.run(source, target)
            except Ended:
                self._drop(child)
                if self._closed:
                    raise Cancelled("the converter was closed") from None
                if child.was_ready or not starts_left:
                    raise conversation.verdict() from None
            except BaseException:
                self._drop(child)
                raise
        raise AssertionError("unreachable: the last start returns or raises")

    def _ready_child(self) -> Child:
        child = self._started()
        if child.has_ended():  # while it had nothing to do: no file's fault
            self._drop(child)
            child = self._started()
        return child

    def _started(self) -> Child:
        with self._starting:
            if self._closed:
                raise Cancelled("the converter is closed")
            if self._child is None:
                try:
                    self._child = Child(self._memory_bytes)
                except OSError as error:
                    raise Unavailable(f"{DOES_NOT_START}: {error.strerror}") from error
            return self._child

    def _drop(self, child: Child) -> None:
        with self._starting:
            child.end()
            if self._child is child:
                self._ended_cpu_s += child.cpu_s
                self._child = None


class Converters:
    """As many Converters as conversions may run at once, for any number of threads. The one used last is used next, so
    that only as many children are started as are needed at once."""

    def __init__(self, count: int, *, memory_bytes: int | None, timeout_s: float) -> None:
        self._all = [Converter(memory_bytes=memory_bytes, timeout_s=timeout_s) for _ in range(count)]
        self._idle: queue.LifoQueue[Converter] = queue.LifoQueue()
        for converter in self._all:
            self._idle.put(converter)

    def warm(self) -> None:
        """Begins to start the child that the next conversion will use, if one is idle."""
        with contextlib.suppress(queue.Empty):
            converter = self._idle.get_nowait()
            converter.warm()
            self._idle.put(converter)

    def measure(self, source: Path, target: Path, options: Options) -> Measured:
        """`Converter.measure`, once one is idle. Raises Cancelled when the task is cancelled while it waits."""
        with self._lent(options.cancelled) as converter:
            return converter.measure(source, target, options)

    def close(self) -> None:
        """Ends all children."""
        for converter in self._all:
            converter.close()

    @property
    def cpu_s(self) -> float:
        """Processor seconds of all children so far."""
        return sum(converter.cpu_s for converter in self._all)

    @contextmanager
    def _lent(self, cancelled: threading.Event) -> Iterator[Converter]:
        converter = self._wait(cancelled)
        try:
            yield converter
        finally:
            self._idle.put(converter)

    def _wait(self, cancelled: threading.Event) -> Converter:
        while not cancelled.is_set():
            with contextlib.suppress(queue.Empty):
                return self._idle.get(timeout=LOOK_EVERY_S)
        raise Cancelled("the task is no longer wanted")
