"""A decoder that crashes, hangs or eats memory, as the file that it is given says; and servers that fail."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stand_ins.orchestrator import StandIn
from tests.stand_ins.presigned import PresignedServer
from worker import callback, web

SITE = """
import sys

if "worker.isolated" in sys.orig_argv:
    import ctypes, os, resource, signal, time
    import worker.kinds.tiff as tiff

    real, libc = tiff.convert, ctypes.CDLL(None)

    def convert(source, target, options):
        what = source.read_bytes()[:400].decode(errors="replace")
        if not what.startswith("do: "):
            return real(source, target, options)
        target.write_bytes(b"made")
        notes = ()
        with options.memory.hold(1000, options.cancelled):
            match what[4:]:
                case "segfault": ctypes.string_at(0)
                case "abort": os.abort()
                case "exit": os._exit(7)
                case "killed": os.kill(os.getpid(), signal.SIGKILL)
                case "no memory": raise MemoryError
                case "glib": os.write(2, b"GLib-ERROR: failed to allocate 99 bytes"); os.abort()
                case "allocate": bytearray(1 << 30)
                case "processor": os.kill(os.getpid(), signal.SIGXCPU)
                case "complain": os.write(2, b"out of memory, but it went on")
                case "bug": raise RuntimeError("odd")
                case "hang": ctypes.PyDLL(None).sleep(600)  # holds the interpreter's lock, as a decoder may
                case "sleep": time.sleep(600)
                case "print": print("noise", flush=True); libc.puts(b"noise"); libc.fflush(None)
                case "environment": notes = tuple(os.environ)
                case "pid": notes = (str(os.getpid()),)
                case "core": notes = (str(resource.getrlimit(resource.RLIMIT_CORE)[0]),)
                case "oom": notes = (open("/proc/self/oom_score_adj").read().strip(),)
                case "ask to end": os.kill(os.getpid(), signal.SIGTERM); os.kill(os.getpid(), signal.SIGINT)
                case wait if wait.startswith("wait "):
                    while not os.path.exists(wait[5:]): time.sleep(0.01)
                case "work":
                    while time.process_time() < 1.0: pass
        return tiff.Converted(size=4, width=1, height=1, pages=1, notes=notes)

    tiff.convert = convert
"""


@pytest.fixture
def decoder_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Replaces the decoder in converting processes, which find it on their path; the product has no switch for it.
    A file that begins with "do: " names the deed."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SITE)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return os.environ["PYTHONPATH"]


@pytest.fixture
def server() -> Iterator[StandIn]:
    """A stand-in for the orchestrator."""
    stand_in = StandIn()
    yield stand_in
    stand_in.close()


@pytest.fixture
def presigned() -> Iterator[PresignedServer]:
    """A server of presigned URLs."""
    stand_in = PresignedServer()
    yield stand_in
    stand_in.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeats come at once."""
    monkeypatch.setattr(callback, "BACKOFF_FIRST_S", 0.01)
    monkeypatch.setattr(web, "FIRST_WAIT_S", 0.01)
