"""Memory and pixels, checked from a picture's header before the first pixel is decoded.

What every conversion needs is the coefficients that mozjpeg holds: 6.9 to 7.3 bytes a pixel beyond what a small picture
takes. Some need more: a picture that is turned, or goes to jpegli, is held as a whole beside them, and one that Pillow
decodes as well (measured: 9.2 turned, 10.3 by Pillow). Above the limit the error says what would do, so that a retry
can ask for a larger machine.
"""

import os
import re
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from worker.errors import BadInput, Cancelled, LimitExceeded

MAX_PIXELS = 268_402_689
"""The limit of sharp (0x3FFF squared)."""
MAX_SIDE = 65_535
"""The limit of JPEG, pixels."""
BYTES_PER_PIXEL = 7.5
WHOLE_BYTES_PER_PIXEL = 3.0
"""More, for a picture that is also held decoded: to be turned, or to be handed to jpegli."""
PILLOW_BYTES_PER_PIXEL = 3.5
"""More, for one that Pillow decodes."""
PROCESS_BYTES = 48 * 1024 * 1024
"""What the worker, and each converting process, needs without a picture."""
BASE_BYTES = 3 * PROCESS_BYTES
"""The worker and two converting processes."""
LEAST_BYTES = 64 * 1024 * 1024
"""For pictures, on the smallest machine."""
MB = 1024 * 1024
LOOK_EVERY_S = 0.1
"""How often one that waits looks whether it is still wanted."""
_NO_MEMORY = re.compile(
    r"out of memory|insufficient memory|cannot allocate memory|failed to allocate|bad_alloc|MemoryError", re.IGNORECASE
)
"""As libvips, libjpeg, the C library, GLib, C++ and Python say it."""


def check_dimensions(width: int, height: int) -> None:
    """Raises BadInput where JPEG or the pixel limit cannot hold the picture."""
    if width > MAX_SIDE or height > MAX_SIDE:
        raise BadInput(f"The image is {width} x {height} pixels; a JPEG has at most {MAX_SIDE} a side")
    if width * height > MAX_PIXELS:
        raise BadInput(f"The image has {width * height} pixels; the limit is {MAX_PIXELS}")


def tells_of_memory(text: str) -> bool:
    """Whether the message of a library says that it got no memory."""
    return _NO_MEMORY.search(text) is not None


def exhausted(pixels: int | None, limit_bytes: int | None, *, extra: float = 0.0, base_bytes: int = BASE_BYTES) -> str:
    """The sentence for a conversion that ran out of memory although the picture's size allowed it: twice the limit, or
    what so many pixels need if that is more, would do."""
    what = f"The image of {pixels} pixels" if pixels is not None else "The image"
    if limit_bytes is None:
        return f"{what} needs more memory than this machine has"
    need = max(2 * limit_bytes, _need_bytes(pixels or 0, extra)) + base_bytes
    return (
        f"{what} needs more than the {limit_bytes // MB} MB that this machine may use; "
        f"one with {_megabytes_above(need)} MB would do"
    )


def killed(pixels: int | None, *, extra: float = 0.0, base_bytes: int = BASE_BYTES) -> str:
    """The sentence for a converter that somebody killed: the kernel for want of memory, or a person. What would do is
    known from the pixels only."""
    what = "The converter was killed (SIGKILL), perhaps for want of memory"
    if pixels is None:
        return what
    need = _need_bytes(pixels, extra) + base_bytes
    return f"{what}: the image of {pixels} pixels needs a machine with {_megabytes_above(need)} MB"


class MemoryGate:
    """Lets conversions begin, in the order in which they ask, as long as the sum of what they need fits into
    `limit_bytes`. `base_bytes` is what the machine needs beside them."""

    def __init__(self, limit_bytes: int, *, base_bytes: int = BASE_BYTES) -> None:
        self.base_bytes = base_bytes
        self._limit = limit_bytes
        self._used = 0
        self._changed = threading.Condition()
        self._queue: deque[object] = deque()

    @contextmanager
    def hold(self, pixels: int, cancelled: threading.Event, *, extra: float = 0.0) -> Iterator[None]:
        """Waits until a picture of so many pixels fits, which takes `extra` bytes a pixel beyond what all do. Raises
        LimitExceeded where it never will, Cancelled when the task was cancelled while it waited."""
        need = _need_bytes(pixels, extra)
        if need > self._limit:
            would_do = _megabytes_above(need + self.base_bytes)
            raise LimitExceeded(
                f"The image has {pixels} pixels and needs {need // MB} MB to convert; this machine may use "
                f"{self._limit // MB} MB, one with {would_do} MB would do"
            )
        self._wait_for(need, cancelled)
        try:
            yield
        finally:
            with self._changed:
                self._used -= need
                self._changed.notify_all()

    def _wait_for(self, need: int, cancelled: threading.Event) -> None:
        """A large picture keeps its place: small ones that fit do not go before it, else it might wait for ever."""
        place = object()
        with self._changed:
            self._queue.append(place)
            try:
                while self._queue[0] is not place or self._used + need > self._limit:
                    self._changed.wait(timeout=LOOK_EVERY_S)
                    if cancelled.is_set():
                        raise Cancelled("cancelled while waiting for memory")
                self._used += need
            finally:
                self._queue.remove(place)
                self._changed.notify_all()


def base_bytes(conversions: int) -> int:
    """What the worker and so many converting processes need without a picture."""
    return (1 + conversions) * PROCESS_BYTES


def memory_for_pictures(memory_mb: int | None, conversions: int) -> int:
    """Bytes that so many conversions at once may use together: what was set, else the machine's, less the processes
    themselves."""
    total = memory_mb * MB if memory_mb else machine_memory()
    return max(total - base_bytes(conversions), LEAST_BYTES)


def cores() -> int:
    """Processor cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def _need_bytes(pixels: int, extra: float) -> int:
    return int(pixels * (BYTES_PER_PIXEL + extra))


def _megabytes_above(size: int) -> int:
    return -(-size // MB)


def machine_memory() -> int:
    """The physical memory, or the limit of the control group when that is less. Bytes."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        path = Path(name)
        if path.is_file() and (text := path.read_text().strip()).isdigit():
            sizes.append(int(text))
    return min(sizes)
