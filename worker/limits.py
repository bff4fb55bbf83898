"""Memory and pixels, checked from a picture's header before the first pixel is decoded.

What a conversion needs is the coefficients that mozjpeg holds: 7.3 bytes a pixel above 31 MB. Above the limit the error
says what would do, so that a retry can ask for a larger machine.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from worker.errors import BadInput, Cancelled, LimitExceeded

MAX_PIXELS = 268_402_689
"""The limit of sharp (0x3FFF squared)."""
MAX_SIDE = 65_535
"""The limit of JPEG, pixels."""
BYTES_PER_PIXEL = 7.5
BASE_BYTES = 64 * 1024 * 1024
MB = 1024 * 1024
LOOK_EVERY_S = 0.1
"""How often one that waits looks whether it is still wanted."""


def check_dimensions(width: int, height: int) -> None:
    """Raises BadInput where JPEG or the pixel limit cannot hold the picture."""
    if width > MAX_SIDE or height > MAX_SIDE:
        raise BadInput(f"The image is {width} x {height} pixels; a JPEG has at most {MAX_SIDE} a side")
    if width * height > MAX_PIXELS:
        raise BadInput(f"The image has {width * height} pixels; the limit is {MAX_PIXELS}")


class MemoryGate:
    """Lets conversions begin as long as the sum of what they need fits into `limit_bytes`."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._used = 0
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, pixels: int, cancelled: threading.Event) -> Iterator[None]:
        """Waits until a picture of so many pixels fits. Raises LimitExceeded where it never will, Cancelled when the
        task was cancelled while it waited."""
        need = int(pixels * BYTES_PER_PIXEL)
        if need > self._limit:
            would_do = -(-(need + BASE_BYTES) // MB)
            raise LimitExceeded(
                f"The image has {pixels} pixels and needs {need // MB} MB to convert; this machine may use "
                f"{self._limit // MB} MB, one with {would_do} MB would do"
            )
        with self._changed:
            while self._used + need > self._limit:
                self._changed.wait(timeout=LOOK_EVERY_S)
                if cancelled.is_set():
                    raise Cancelled("cancelled while waiting for memory")
            self._used += need
        try:
            yield
        finally:
            with self._changed:
                self._used -= need
                self._changed.notify_all()


def memory_for_pictures(memory_mb: int | None) -> int:
    """Bytes that conversions may use together: what was set, else the machine's, less the process itself."""
    total = memory_mb * MB if memory_mb else _machine_memory()
    return max(total - BASE_BYTES, BASE_BYTES)


def _machine_memory() -> int:
    """The physical memory, or the limit of the control group when that is less. Bytes."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        path = Path(name)
        if path.is_file() and (text := path.read_text().strip()).isdigit():
            sizes.append(int(text))
    return min(sizes)
