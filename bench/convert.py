"""What the engine costs: 200 scans of 2 megapixels through the whole service, over a bare loop with the same encoder.

    python bench/convert.py                 # starts a service of its own in a temporary folder
    python bench/convert.py --scans 40      # quicker

Both sides run as many conversions at once as there are cores. The service is warmed with a small batch first, so that
the start of processes is not counted; `bench/start` counts that. Goal: a ratio of at most 1.15.
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from PIL import Image, ImageDraw, ImageFilter  # noqa: E402

from worker.kinds.tiff import Options, convert  # noqa: E402

BUCKET = "arke-staging"
WIDTH, HEIGHT = 1634, 1224  # two megapixels
DIFFERENT = 8
"""So many pictures are drawn; the rest are copies under other names."""
GOAL = 1.15
READY_S = 120
POLL_S = 0.1


def draw_scans(folder: Path, count: int) -> list[Path]:
    """Pages as a scanner makes them: text-like strokes, soft edges, a little noise of the paper."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"scan-{number:04}.tif" for number in range(count)]
    for number, path in enumerate(paths):
        if number < DIFFERENT:
            _draw(random.Random(number)).save(path, compression="tiff_lzw")
        else:
            shutil.copyfile(paths[number % DIFFERENT], path)
    return paths


def _draw(rng: random.Random) -> Image.Image:
    page = Image.new("RGB", (WIDTH, HEIGHT), (238, 232, 218))
    pen = ImageDraw.Draw(page)
    for top in range(60, HEIGHT - 60, 26):
        left = 80
        while left < WIDTH - 100:
            width = rng.randint(8, 60)
            pen.line((left, top, left + width, top + rng.randint(-3, 3)), fill=(40, 36, 30), width=rng.randint(3, 9))
            left += width + rng.randint(6, 16)
    noise = Image.effect_noise((WIDTH, HEIGHT), 18).convert("RGB")
    return Image.blend(page.filter(ImageFilter.GaussianBlur(0.8)), noise, 0.06)


def _convert_one(path: str) -> int:
    target = Path(path).with_suffix(".bare.jpg")
    size = convert(Path(path), target, Options()).size
    target.unlink()
    return size


def bare(paths: list[Path], processes: int) -> float:
    """Seconds of a plain pool of processes over the files; their start is not counted."""
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        pool.map(_convert_one, [str(path) for path in paths[: 2 * processes]], chunksize=1)
        begun = time.perf_counter()
        pool.map(_convert_one, [str(path) for path in paths], chunksize=1)
        return time.perf_counter() - begun


def ask(url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """One request; the JSON of its answer."""
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, content, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        decoded: dict[str, Any] = json.load(answer)
        return decoded


def run_batch(url: str, batch_id: str, prefix: str) -> float:
    """Seconds from the request to DONE. Ends the program when the batch does not succeed."""
    begun = time.perf_counter()
    ask(f"{url}/batches", {"batch_id": batch_id, "r2_prefix": prefix})
    while (status := ask(f"{url}/status/{batch_id}"))["status"] not in ("DONE", "ERROR"):
        time.sleep(POLL_S)
    took = time.perf_counter() - begun
    if status["status"] != "DONE" or status["progress"]["tasks_failed"]:
        sys.exit(f"the batch did not succeed: {status}")
    return took


@contextmanager
def service(data_dir: Path) -> Iterator[str]:
    """A service of our own on a free port; its address, once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arke = Path(sys.executable).parent / "arke"
    program = [str(arke)] if arke.exists() else [sys.executable, "-m", "orchestrator.cli.main"]
    command = [*program, "serve", "--port", str(port), "--data-dir", str(data_dir), "--no-dashboard"]
    with (data_dir / "bench.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}
        )
        try:
            _wait_until_ready(f"http://127.0.0.1:{port}", process, data_dir / "bench.log")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def _wait_until_ready(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            ask(f"{url}/health")
            return
        except (urllib.error.URLError, OSError, ValueError):
            time.sleep(0.2)
    sys.exit(f"the service did not get ready:\n{log.read_text(errors='replace')[-2000:]}")


def main() -> None:
    """Prints both times and their ratio; exit code 1 above the goal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, default=200)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="arke-bench-") as name:
        data_dir = Path(name)
        staging = data_dir / "objects" / BUCKET / "staging"
        paths = draw_scans(staging / "scans", options.scans)
        draw_scans(staging / "warm", 2 * options.processes)
        bare_s = bare(paths, options.processes)
        with service(data_dir) as url:
            run_batch(url, "bench-warm", "staging/warm/")
            engine_s = run_batch(url, "bench-convert", "staging/scans/")
    ratio = engine_s / bare_s
    print(f"{options.scans} scans of {WIDTH * HEIGHT / 1e6:.1f} megapixels, {options.processes} at once")
    print(f"bare loop  {bare_s:7.2f} s  {options.scans / bare_s:6.1f} scans/s")
    print(f"service    {engine_s:7.2f} s  {options.scans / engine_s:6.1f} scans/s")
    print(f"ratio      {ratio:7.3f}    goal: at most {GOAL}")
    sys.exit(ratio > GOAL)


if __name__ == "__main__":
    main()
