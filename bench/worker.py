"""The worker beside what it replaces: node with sharp and the S3 client, in the same run.

    npm install --no-save --prefix .tools/peers sharp@0.35.5 @aws-sdk/client-s3
    NODE_PATH=.tools/peers/node_modules .venv/bin/python -m bench.worker [--quick]

| line | goal |
| --- | --- |
| processor time per large scan (20 megapixels), over sharp's | at most 1.05 |
| memory for a large scan, worker and converter together, over node's | at most 0.8 |
| two conversions at once, over one at a time | at least 1.8 |
| a scan of 100 megapixels: memory of worker and converter together | at most 1024 MB |
| start of the process to the first byte asked for with presigned URLs, over node with the S3 client | at most 0.6 |
| isolation: time per picture, and memory for one, in a child process over the same in one process | told |

Sides take turns; each number is a median.
"""

import argparse
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFilter

from worker.isolation import Converter, Converters
from worker.kinds.tiff import Options, convert
from worker.limits import MB

ROOT = Path(__file__).resolve().parent.parent
PEER = Path(__file__).with_name("sharp_peer.js")
SMALL, USUAL, LARGE, HUGE = (256, 256), (1634, 1224), (5000, 4000), (10_000, 10_000)
WORKER_TIME_S = 600


def draw_scan(path: Path, size: tuple[int, int], seed: int) -> Path:
    """A page as a scanner makes it: text-like strokes, soft edges, the paper's noise. Drawn in tiles, so that large
    pages are as dense as small ones."""
    width, height = size
    page = Image.new("RGB", size)
    tile = _tile(random.Random(seed))
    for top in range(0, height, tile.height):
        for left in range(0, width, tile.width):
            page.paste(tile, (left, top))
    page.save(path, compression="tiff_lzw")
    return path


def _tile(rng: random.Random) -> Image.Image:
    width, height = USUAL
    page = Image.new("RGB", USUAL, (238, 232, 218))
    pen = ImageDraw.Draw(page)
    for top in range(30, height - 30, 26):
        left = 40
        while left < width - 60:
            length = rng.randint(8, 60)
            pen.line((left, top, left + length, top + rng.randint(-3, 3)), fill=(40, 36, 30), width=rng.randint(3, 9))
            left += length + rng.randint(6, 16)
    noise = Image.effect_noise(USUAL, 18).convert("RGB")
    return Image.blend(page.filter(ImageFilter.GaussianBlur(0.8)), noise, 0.06)


# The sides


def sharp(paths: Sequence[Path]) -> list[dict[str, float]]:
    """Converts files with sharp in one node process."""
    out = subprocess.run(["node", str(PEER), "convert", *map(str, paths)], capture_output=True, text=True, check=True)
    return [json.loads(line) for line in out.stdout.splitlines()]


class Servers:
    """Objects by presigned URL and the orchestrator in one, for one worker at a time: remembers its report and, at that
    moment, the memory that the worker's own process needed at most."""

    def __init__(self, source: Path) -> None:
        self.report: dict[str, Any] = {}
        self.worker_mb = 0.0
        self.pid = 0
        servers = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(source.stat().st_size)
                with source.open("rb") as file:
                    shutil.copyfileobj(file, self.wfile)

            def do_PUT(self) -> None:
                left = int(self.headers["Content-Length"])
                while left:
                    left -= len(self.rfile.read(min(left, MB)))
                self._answer(0)

            def do_POST(self) -> None:
                servers.report = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                servers.worker_mb = peak_mb(servers.pid)
                self._answer(2)
                self.wfile.write(b"{}")

            def _answer(self, size: int) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(size))
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()


def worker_environment(url: str) -> dict[str, str]:
    """A machine with one task and presigned URLs."""
    task = {"TASK_ID": "t", "BATCH_ID": "b", "INPUT_R2_KEY": "p.tif", "CALLBACK_URL": f"{url}/callback/b/t"}
    urls = {"INPUT_URL": f"{url}/p.tif", "OUTPUT_URL": f"{url}/p.jpg", "WORKER_MEMORY_MB": "1024"}
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    return kept | task | urls | {"PYTHONPATH": str(ROOT)}


def worker_memory(source: Path) -> tuple[dict[str, Any], float]:
    """A whole task by `python -m worker`: its report, and the memory of both its processes at their highest, MB."""
    servers = Servers(source)
    try:
        worker = subprocess.Popen([sys.executable, "-m", "worker"], env=worker_environment(servers.url), cwd=ROOT)
        servers.pid = worker.pid
        worker.wait(WORKER_TIME_S)
    finally:
        servers.close()
    if servers.report.get("status") != "success":
        sys.exit(f"the worker failed: {servers.report}")
    return servers.report, servers.worker_mb + servers.report["performance"]["peak_memory_mb"]


def peak_mb(pid: int) -> float:
    """The most memory that a process had so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


def first_request_ms(command: Sequence[str], env: Callable[[str], dict[str, str]]) -> float:
    """From the start of a process until its first bytes arrive at a server."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        begun = time.perf_counter()
        process = subprocess.Popen(
            [part.replace("URL", url) for part in command], env=env(url), cwd=ROOT,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        connection, _ = server.accept()
        connection.recv(1)
        took = time.perf_counter() - begun
        process.kill()
        process.wait()
        connection.close()
    return took * 1000


# What is measured


def processor(paths: Sequence[Path], repetitions: int) -> tuple[float, float]:
    """Milliseconds per scan: the converter's, and sharp's. The first picture of each process is not counted."""
    ours, theirs = [], []
    converter = Converter(memory_bytes=None, timeout_s=WORKER_TIME_S)
    target = paths[0].with_suffix(".jpg")
    converter.convert(paths[0], target, Options())
    for _ in range(repetitions):
        ours += [converter.measure(path, target, Options()).cpu_ms for path in paths]
        theirs += [made["cpu_ms"] for made in sharp([paths[0], *paths])[1:]]
    converter.close()
    return statistics.median(ours), statistics.median(theirs)


def memory(path: Path, repetitions: int) -> tuple[float, float]:
    """MB for one scan: worker and converter, and node."""
    ours, theirs = [], []
    for _ in range(repetitions):
        ours.append(worker_memory(path)[1])
        theirs.append(sharp([path])[0]["peak_mb"])
    return statistics.median(ours), statistics.median(theirs)


def at_once(paths: Sequence[Path], count: int) -> float:
    """Seconds for all scans with so many converters."""
    pool = Converters(count, memory_bytes=None, timeout_s=WORKER_TIME_S)
    left = list(paths)

    def work() -> None:
        while left:
            path = left.pop()
            pool.measure(path, path.with_suffix(".jpg"), Options())

    def run() -> float:
        begun = time.perf_counter()
        threads = [threading.Thread(target=work) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - begun

    left[:] = paths[:count]
    run()  # starts the children
    left[:] = paths
    took = run()
    pool.close()
    return took


def start(repetitions: int) -> tuple[float, float]:
    """Milliseconds to the first byte asked for: the worker's, and node's."""
    ours, theirs = [], []
    for _ in range(repetitions):
        ours.append(first_request_ms([sys.executable, "-m", "worker"], worker_environment))
        theirs.append(first_request_ms(["node", str(PEER), "start", "URL"], lambda _: dict(os.environ)))
    return statistics.median(ours), statistics.median(theirs)


def isolation(path: Path, repetitions: int) -> tuple[float, float]:
    """Milliseconds per picture: in a child, and in this process."""
    there, here = [], []
    target = path.with_suffix(".jpg")
    with _closing(Converter(memory_bytes=None, timeout_s=WORKER_TIME_S)) as converter:
        sides: list[tuple[Callable[..., Any], list[float]]] = [(converter.convert, there), (convert, here)]
        for number in range(repetitions + 1):
            for do, times in sides:
                begun = time.perf_counter()
                do(path, target, Options())
                if number:
                    times.append((time.perf_counter() - begun) * 1000)
    return statistics.median(there), statistics.median(here)


def isolation_processor(path: Path, repetitions: int) -> tuple[float, float]:
    """Processor milliseconds per picture: of a child and for talking to it, and in this process."""
    target, there, here = path.with_suffix(".jpg"), [], []
    with _closing(Converter(memory_bytes=None, timeout_s=WORKER_TIME_S)) as converter:
        for number in range(repetitions + 1):
            begun = time.process_time()
            made = converter.measure(path, target, Options())
            asked = time.process_time()
            convert(path, target, Options())
            if number:
                there.append(made.cpu_ms + (asked - begun) * 1000)
                here.append((time.process_time() - asked) * 1000)
    return statistics.mean(there), statistics.mean(here)


ALONE = """
import sys; from pathlib import Path
import worker.loop, worker.objects.presigned
from worker.kinds.tiff import Options, convert
convert(Path(sys.argv[1]), Path(sys.argv[1]).with_suffix(".jpg"), Options())
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:")))
"""
"""What the worker would need if it converted in its own process."""


def isolation_memory(path: Path) -> tuple[float, float]:
    """MB for one picture: worker and converter, and all in one process."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    alone = subprocess.run(
        [sys.executable, "-c", ALONE, str(path)], capture_output=True, text=True, check=True, env=env
    )
    return worker_memory(path)[1], int(alone.stdout) / 1024


@contextmanager
def _closing(converter: Converter) -> Iterator[Converter]:
    try:
        yield converter
    finally:
        converter.close()


def say(what: str, ours: float, theirs: float, unit: str, goal: str) -> None:
    """One line."""
    print(f"{what:58} {ours:9.1f} {theirs:9.1f} {unit:3}  ratio {ours / theirs:6.3f}   {goal}", flush=True)


def main() -> None:
    """Prints every number with its goal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory(prefix="arke-bench-") as name:
        folder = Path(name)
        measure(folder, repetitions=1 if quick else 5, scans=8 if quick else 24)


def measure(folder: Path, *, repetitions: int, scans: int) -> None:
    """All of it."""
    large = [draw_scan(folder / f"large-{n}.tif", LARGE, n) for n in range(2)]
    usual = [draw_scan(folder / f"usual-{n}.tif", USUAL, n) for n in range(scans)]
    small = draw_scan(folder / "small.tif", SMALL, 0)
    say("start to first request", *start(2 * repetitions + 5), "ms", "at most 0.6")
    say("isolated, 256 x 256, wall time", *isolation(small, 20 * repetitions), "ms", "told")
    say("isolated, 256 x 256, processor", *isolation_processor(small, 40 * repetitions), "ms", "told")
    say("isolated, 2 megapixels, wall time", *isolation(usual[0], 4 * repetitions), "ms", "told")
    say("isolated, 2 megapixels, processor", *isolation_processor(usual[0], 4 * repetitions), "ms", "told")
    say("isolated, 2 megapixels, memory", *isolation_memory(usual[0]), "MB", "told")
    ones, twos = [], []
    for _ in range(min(repetitions, 3)):
        ones.append(at_once(usual, 1))
        twos.append(at_once(usual, 2))
    say("one at a time, over two at once", statistics.median(ones), statistics.median(twos), "s", "at least 1.8")
    say("processor for 20 megapixels", *processor(large, min(repetitions, 3)), "ms", "at most 1.05")
    say("isolated, 20 megapixels, memory", *isolation_memory(large[0]), "MB", "told")
    say("memory for 20 megapixels", *memory(large[0], min(repetitions, 3)), "MB", "at most 0.8")
    huge = draw_scan(folder / "huge.tif", HUGE, 0)
    report, needed = worker_memory(huge)
    say("memory for 100 megapixels, over 1 GB", needed, 1024, "MB", f"at most 1 ({report['output_file_size']} bytes)")


if __name__ == "__main__":
    main()
