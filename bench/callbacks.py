"""Durable callbacks per second, beside two floors, in the same run.

    python -m bench.callbacks [--quick] [--repetitions 3] [--fsync-delay-ms 2] [--flat | --databases]

64 connections post the reports of workers, each task's once, all tasks assigned before; each 200 means that
the report is on disk. Into one batch, and into sixteen batches (an actor each), in turn with the floors of
`bench/floor.py`: one behind an ordinary route of FastAPI, and the bare ASGI callable. Medians over the repetitions;
ratios are service / floor of the same repetition. Beside rates and latencies: fsyncs of the database for a callback,
and processor seconds of all processes of the service for 1,000. `--databases`: the service on SQLite beside the
service on Postgres instead (`bench/databases.py`).
"""

import argparse
import asyncio
import contextlib
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec
import psutil

from actors import wire
from bench.service import (
    Broken,
    Fsyncs,
    Process,
    Service,
    callback_body,
    compiled,
    cpu_seconds,
    median,
    post,
    request,
    scratch,
    send,
    settle,
    table,
    wait_for,
)  # fmt: skip

TAKEN_AT_ONCE: Final = 256
ENVIRONMENT: Final = {
    "MAX_ACTIVE_BATCHES": "32",
    "TASK_TIMEOUT_TIFF_CONVERSION": "3600000",  # what was taken before the load began is not overdue during it
    "TASK_MAX_MS_TIFF": "36000000",
    "HIBERNATE_AFTER_S": "3600",
}


class Measured(msgspec.Struct):
    """One burst of callbacks."""

    rate: float
    p50_ms: float
    p99_ms: float
    fsyncs: float  # for a callback
    cpu_s: float  # for 1,000 callbacks
    written: float = 0.0  # transactions of the database for a callback, where they are counted


class Bench:
    """The service under test and what measuring needs."""

    def __init__(
        self,
        folder: Path,
        service: Service,
        fsyncs: Fsyncs,
        program: Path,
        who: str = "service",
        beside: Callable[[], list[psutil.Process]] = list,
    ) -> None:
        """`who`: under which name its fsyncs are counted. `beside`: the processes of its database, if any."""
        self.folder, self.service, self.fsyncs, self.program = folder, service, fsyncs, program
        self._who, self._beside = who, beside
        self._numbers = itertools.count()

    def service_burst(self, batches: int, tasks: int) -> Measured:
        """Reports of `tasks` tasks of each of `batches` new batches, in turn."""
        names = [f"bench-{next(self._numbers)}" for _ in range(batches)]
        for name in names:
            self.service.create(name, tasks + 1)  # the last one stays open, so that no actor exits uncounted
        for name in names:
            wait_for(f"{name} running", lambda name=name: self.service.state(name)["state"] == "running")
        taken = asyncio.run(self._take(names))
        *most, last = [list(turn) for turn in zip(*taken, strict=True)]
        everybody = [one for group in self.service.processes().values() for one in group] + self._beside()
        settle(everybody)
        measured = self._measure(self._who, self.service.port, [one for turn in most for one in turn], everybody)
        send(self.program, self.service.port, last, self.folder)
        for name in names:
            wait_for(f"{name} done", lambda name=name: self.service.state(name)["state"] == "done")
            if self.service.state(name)["progress"]["tasks_completed"] != tasks + 1:
                raise Broken(f"{name}: {self.service.state(name)}")
        return measured

    def floor_burst(self, kind: str, batches: int, tasks: int) -> Measured:
        """The same of a new floor, `asgi` or `route`."""
        with running_floor(kind, self.folder, self.fsyncs, batches, tasks) as (port, process):
            requests = [
                post(f"/callback/{batch}/{batch}_tiff_{n}", callback_body(batch, f"{batch}_tiff_{n}", n))
                for n in range(tasks)
                for batch in (f"b{number}" for number in range(batches))
            ]
            return self._measure("floor", port, requests, [process])

    def _measure(self, who: str, port: int, requests: list[bytes], processes: list[psutil.Process]) -> Measured:
        fsyncs, written = self.fsyncs.count(who), self.written()
        cpu = {process: cpu_seconds([process]) for process in processes}
        result = send(self.program, port, requests, self.folder)
        count = len(requests)
        return Measured(
            rate=count / result["seconds"],
            p50_ms=result["p50_ms"],
            p99_ms=result["p99_ms"],
            fsyncs=(self.fsyncs.count(who) - fsyncs) / count,
            cpu_s=sum(cpu_seconds([one]) - before for one, before in cpu.items() if one.is_running()) / count * 1000,
            written=(self.written() - written) / count,
        )

    def written(self) -> int:
        """Writing transactions of the database so far; not counted where its log's fsyncs say the same."""
        return 0

    async def _take(self, names: list[str]) -> list[list[bytes]]:
        """Assign all tasks of the batches, as a machine would; their prepared callbacks."""
        return [await self._take_of(name) for name in names]

    async def _take_of(self, name: str) -> list[bytes]:
        client = wire.Client(wire.socket_path(self.service.settings.run_dir, f"batch:{name}"))
        found: list[bytes] = []
        try:
            for turn in itertools.count():
                wish = {"op": "take", "job": name, "machine": "bench", "claim": f"c{turn}", "free": TAKEN_AT_ONCE}
                reply = await client.call({**wish, "kind": "tiff"})
                if not reply["tasks"]:
                    return found
                found += [_prepared(name, task["env"]) for task in reply["tasks"]]
        finally:
            await client.close()
        raise Broken("unreachable")


def _prepared(batch: str, env: dict[str, str]) -> bytes:
    task = env["TASK_ID"]
    path = "/" + env["CALLBACK_URL"].split("/", 3)[3]
    return post(path, callback_body(batch, task, int(task.rpartition("_")[2])))


@contextlib.contextmanager
def running_floor(
    kind: str, folder: Path, fsyncs: Fsyncs, batches: int, tasks: int
) -> Iterator[tuple[int, psutil.Process]]:
    """A floor with new rows: its port and process."""
    from bench.service import free_port

    port = free_port()
    arguments = [str(port), str(folder / "floor.db"), str(batches), str(tasks), kind]
    process = Process("bench.floor", arguments, fsyncs.environment("floor"), folder / "floor.log")
    try:
        wait_for("the floor", lambda: answers(port))
        yield port, psutil.Process(process.popen.pid)
    finally:
        process.stop()


def answers(port: int) -> bool:
    """Whether something serves there."""
    try:
        return request(port, "GET", "/")[0] == 200
    except OSError:
        return False


FLOORS: Final = {"route": "floor, FastAPI route", "asgi": "floor, bare ASGI"}


def compare(bench: Bench, repetitions: int, sizes: dict[str, tuple[int, int]]) -> str:
    """The table of service and floors, alternating."""
    rows = []
    for title, (batches, tasks) in sizes.items():
        turns = [_turn(bench, batches, tasks, number) for number in range(repetitions)]
        rows += _rows(title, turns)
    head = ["into", "", "callbacks/s", "p50 ms", "p99 ms", "fsyncs a callback", "processor s per 1,000"]
    return table(head, rows)


def _turn(bench: Bench, batches: int, tasks: int, number: int) -> dict[str, Measured]:
    """One repetition: each of the three once, in an order that turns from one repetition to the next."""
    names = ["service", *FLOORS]
    shift = number % len(names)
    return {
        name: bench.service_burst(batches, tasks) if name == "service" else bench.floor_burst(name, batches, tasks)
        for name in names[shift:] + names[:shift]
    }


def _rows(title: str, turns: list[dict[str, Measured]]) -> list[list[str]]:
    rows = [_row(title, "service", [turn["service"] for turn in turns])]
    for name, label in FLOORS.items():
        rows.append(_row(title, label, [turn[name] for turn in turns]))
    for name, label in FLOORS.items():
        ratios = [turn["service"].rate / turn[name].rate for turn in turns]
        each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        rows.append([title, f"**service / {label}**", f"**{median(ratios):.2f}** ({each})", "", "", "", ""])
    return rows


def _row(title: str, name: str, found: list[Measured]) -> list[str]:
    forms = {"rate": "{:,.0f}", "p50_ms": "{:.1f}", "p99_ms": "{:.1f}", "fsyncs": "{:.3f}", "cpu_s": "{:.3f}"}
    return [title, name, *(form.format(median(getattr(one, field) for one in found)) for field, form in forms.items())]


def flat(bench: Bench, repetitions: int, sizes: tuple[int, ...]) -> str:
    """The rate by the size of the batch. Small ones are repeated until they are as long as a large one."""
    rates: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(repetitions):
        for size in sizes:
            several = max(1, min(5, 20_000 // size))
            rates[size].append(median(bench.service_burst(1, size).rate for _ in range(several)))
    first = median(rates[sizes[0]])
    return table(
        ["tasks in the batch", "callbacks/s", "of the smallest's"],
        [[f"{size:,}", f"{median(found):,.0f}", f"{median(found) / first:.2f}"] for size, found in rates.items()],
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.callbacks", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a quarter of the callbacks, two repetitions")
    parser.add_argument("--repetitions", type=int, default=None, help="3; 2 with --quick")
    parser.add_argument("--fsync-delay-ms", type=float, default=0.0, help="make every fsync that much slower")
    parser.add_argument("--flat", action="store_true", help="the rate from 1,000 to 100,000 tasks instead")
    parser.add_argument("--databases", action="store_true", help="the service on SQLite and on Postgres instead")
    options = parser.parse_args()
    repetitions = options.repetitions or (2 if options.quick else 3)
    scale = 4 if options.quick else 1
    sizes = {"one batch": (1, 20_000 // scale), "sixteen": (16, 20_000 // 16 // scale)}
    begun = time.monotonic()
    text = _databases(options, repetitions, sizes) if options.databases else _service(options, repetitions, sizes)
    delay = f", every fsync {options.fsync_delay_ms:g} ms slower" if options.fsync_delay_ms else ""
    print(f"64 connections, medians of {repetitions}{delay}; {time.monotonic() - begun:.0f} s\n")
    print(text)


def _databases(options: argparse.Namespace, repetitions: int, sizes: dict[str, tuple[int, int]]) -> str:
    from bench.databases import compared

    return compared(repetitions, sizes, options.fsync_delay_ms)


def _service(options: argparse.Namespace, repetitions: int, sizes: dict[str, tuple[int, int]]) -> str:
    with scratch() as folder:
        fsyncs = Fsyncs(folder, options.fsync_delay_ms)
        program = compiled("load.c", folder)
        with Service(folder, ENVIRONMENT | fsyncs.environment("service")) as service:
            bench = Bench(folder, service, fsyncs, program)
            bench.service_burst(1, 1000)  # warm: imports, connections, caches
            if options.flat:
                return flat(bench, repetitions, (1_000, 10_000, 25_000 if options.quick else 100_000))
            return compare(bench, repetitions, sizes)


if __name__ == "__main__":
    try:
        main()
    except Broken as error:
        sys.exit(f"bench.callbacks: {error}")
