"""Archives, measured: text and mixed files on one core and on two, what is stored against a plain copy.

python -m bench.zip [text] [mix] [copy] [small]      all, when none is named

Beside each figure of the writer stand those of zipstream-ng and Info-ZIP, from the same run; all read from and write to
files of the same disk. Ours also computes each file's SHA-256. `small` reads objects that are far away.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import psutil

from bench.service import Broken, scratch, table
from worker.kinds.zip.archive import write
from worker.kinds.zip.codec import CodecName, codec
from worker.kinds.zip.folder import Folder
from worker.kinds.zip.manifest import About
from worker.kinds.zip.names import Names

TEXTS: Final = 10_000
MIX_BYTES: Final = 1_100_000_000
ROUNDS: Final = 3
MB: Final = 1_000_000
AWAY_MS: Final = 20
FAR: Final = {
    "zipstream-ng by boto3": "boto3", "zipstream-ng by httpx": "httpx", "arke, with keys": "keys",
    "arke, with URLs": "urls",
}  # fmt: skip
"""Who reads objects that are far away, as `bench.distant` names them."""
ABOUT: Final = About(title="Measured", created_at="2026-01-01T00:00:00Z")

Packs = Callable[[Path, Path], object]


class File:
    """A file as a sink."""

    def __init__(self, path: Path) -> None:
        self._opened = path.open("wb")
        self.write = self._opened.write

    def mark(self, *state: object) -> None:
        """Nobody goes on."""

    def restart(self) -> None:
        """No file changes here."""
        raise Broken("a file has changed")

    def close(self) -> None:
        self._opened.close()


def ours(name: CodecName, threads: int) -> Packs:
    """The writer, with so many threads."""

    def pack(source: Path, target: Path) -> None:
        folder, sink = Folder(source), File(target)
        members = folder.members(Names())
        write(lambda: members, folder, sink, about=ABOUT, codec=codec(name), threads=threads)
        sink.close()

    return pack


def zipstream(source: Path, target: Path) -> None:
    """zipstream-ng at level 6."""
    from zipfile import ZIP_DEFLATED

    from zipstream import ZipStream

    stream = ZipStream.from_path(source, compress_type=ZIP_DEFLATED, compress_level=6)
    with target.open("wb") as opened:
        opened.writelines(stream)


def info_zip(source: Path, target: Path) -> None:
    """Info-ZIP at level 6."""
    subprocess.run(["zip", "-6", "-r", "-q", str(target), "."], cwd=source, check=True)


def copy(source: Path, target: Path) -> None:
    """All files one after the other into one."""
    with target.open("wb") as opened:
        for path in sorted(source.rglob("*")):
            if path.is_file():
                with path.open("rb") as part:
                    shutil.copyfileobj(part, opened, MB)


def text(folder: Path) -> None:
    """Compressible files of 6 to 14 KB: goals 1.6 and 1.7 times with one core, 2.6 and 2.9 with two."""
    source = folder / "text"
    _texts(source, TEXTS, random.Random(1))
    peers = [("zipstream-ng", zipstream, 1), ("Info-ZIP -6", info_zip, 1)]
    _compare(f"{TEXTS:,} texts of 6 to 14 KB", source, folder, peers)


def mix(folder: Path) -> None:
    """Photographs, texts, raw pictures, logs, films: goal 4 times zipstream-ng with one core."""
    source, rng = folder / "mix", random.Random(2)
    _texts(source, 2_000, rng)
    for n in range(1_000):
        (source / f"photo-{n}.jpg").write_bytes(rng.randbytes(rng.randint(200_000, 900_000)))
    for n in range(20):
        row = bytes(rng.randrange(256) for _ in range(3_000))
        (source / f"scan-{n}.tif").write_bytes(
            b"".join(bytes((b + k) % 256 for b in row[:300]) * 10 for k in range(2_000))
        )
    for n in range(10):
        (source / f"film-{n}.mp4").write_bytes(rng.randbytes(40_000_000))
    _compare("a mixed gigabyte", source, folder, [("zipstream-ng", zipstream, 1), ("Info-ZIP -6", info_zip, 1)])


def stored(folder: Path) -> None:
    """What is packed already: goal half of a plain copy."""
    source, rng = folder / "stored", random.Random(3)
    source.mkdir()
    for n in range(20):
        (source / f"film-{n}.mp4").write_bytes(rng.randbytes(50_000_000))
    _compare("a gigabyte of films", source, folder, [("plain copy", copy, 1)])


def small(folder: Path) -> None:
    """Objects of 6 to 14 KB, 20 ms away: goal 15 MB/s with two cores, which the store shares, in less than 150 MB."""
    source, whole = folder / "far", os.sched_getaffinity(0)
    _texts(source, TEXTS, random.Random(4))
    size = sum(path.stat().st_size for path in source.iterdir())
    os.sched_setaffinity(0, sorted(whole)[:2])
    try:
        with _distant("serve", source, AWAY_MS) as store:
            port, rows = int(store.stdout.readline()), []  # type: ignore[union-attr]
            for title, who in FAR.items():
                seconds, used_s, memory, store_s = min(_far(store, who, source, port, folder) for _ in range(ROUNDS))
                rows.append(
                    [title, *(f"{each:.1f}" for each in (size / MB / seconds, used_s, store_s)), f"{memory:.0f}"]
                )
    finally:
        os.sched_setaffinity(0, whole)
    sys.stdout.write(
        f"\n{TEXTS:,} objects of 6 to 14 KB, {AWAY_MS} ms away, {size / MB:.0f} MB; MB/s of input, best of {ROUNDS}\n"
        f"{min(2, len(whole))} cores, of which the stand-in of the store takes its part\n\n"
        f"{table(['', 'MB/s', 'processor s', 'that of the store', 'memory, MB'], rows)}\n"
    )
    shutil.rmtree(source)


@contextlib.contextmanager
def _distant(*words: object) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "bench.distant", *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def _far(store: "subprocess.Popen[str]", who: str, source: Path, port: int, folder: Path) -> tuple[float, ...]:
    """Seconds, processor seconds, memory in MB, and the store's processor seconds."""
    before, target = sum(psutil.Process(store.pid).cpu_times()[:2]), folder / "made"
    with _distant(who, source, port, target) as reader:
        told = reader.communicate()[0]
    if reader.returncode:
        raise Broken(f"{who} has failed")
    shutil.rmtree(target)
    return *json.loads(told.splitlines()[-1]), sum(psutil.Process(store.pid).cpu_times()[:2]) - before


def _texts(source: Path, count: int, rng: random.Random) -> None:
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 11))) for _ in range(3_000)]
    source.mkdir(parents=True)
    for n in range(count):
        length = rng.randint(6_000, 14_000)
        (source / f"text-{n:05}.txt").write_text(" ".join(rng.choices(words, k=length // 6))[:length])


def _compare(title: str, source: Path, folder: Path, peers: list[tuple[str, Packs, int]]) -> None:
    size = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
    many = len(os.sched_getaffinity(0))
    runs: list[tuple[str, Packs, int]] = [*peers, ("arke, 1 core", ours("zlib-ng", 1), 1)]
    if many > 1:
        runs.append((f"arke, {many} cores", ours("zlib-ng", many), many))
    runs.append(("arke, isal, 1 core", ours("isal", 1), 1))
    measured = {name: _best(pack, source, folder / "out.zip", cores) for name, pack, cores in runs}
    rows = []
    for name, (seconds, packed) in measured.items():
        ratios = [f"{measured[peer][0] / seconds:.2f}" for peer, _, _ in peers]
        rows.append([name, f"{size / MB / seconds:.0f}", f"{packed / size:.3f}", *ratios])
    peer_names = [f"over {name}" for name, _, _ in peers]
    sys.stdout.write(f"\n{title}, {size / MB:.0f} MB; MB/s of input, best of {ROUNDS}\n\n")
    sys.stdout.write(f"{table(['', 'MB/s', 'size', *peer_names], rows)}\n")
    shutil.rmtree(source)


def _best(pack: Packs, source: Path, target: Path, cores: int) -> tuple[float, int]:
    """Of the rounds the shortest, on so many cores; and the size of the archive."""
    whole = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(whole)[:cores])
    try:
        took = []
        for _ in range(ROUNDS):
            target.unlink(missing_ok=True)
            begun = time.perf_counter()
            pack(source, target)
            took.append(time.perf_counter() - begun)
    finally:
        os.sched_setaffinity(0, whole)
    return min(took), target.stat().st_size


MEASURES: Final[dict[str, Callable[[Path], Any]]] = {"text": text, "mix": mix, "copy": stored, "small": small}


def main() -> None:
    """Measure what is named."""
    parser = argparse.ArgumentParser(prog="bench.zip", description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("which", nargs="*", choices=[*MEASURES, []], help="default: all")
    which = parser.parse_args().which or list(MEASURES)
    with scratch() as folder:
        for name in which:
            MEASURES[name](folder)


if __name__ == "__main__":
    main()
