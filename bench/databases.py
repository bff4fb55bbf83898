"""The service on SQLite and the same service on Postgres, in turn: `bench.callbacks --databases`.

Both run all the time, each with its own Ray, on the same machine; the server of Postgres has fsync and
synchronous_commit on, as they are by default. Ratios are Postgres / SQLite of the same repetition. A writing
transaction of Postgres is one that took a number (`pg_snapshot_xmax`), so reads are not counted; every fsync of the
log is counted by `fsync.c`, on both.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import psutil
import psycopg

from bench.callbacks import ENVIRONMENT, Bench, Measured
from bench.service import Broken, Fsyncs, Service, compiled, median, scratch, table
from tests.stand_ins import postgres

SETTINGS: Final = ("fsync=on", "shared_buffers=256MB", "max_connections=300")
NAMES: Final = {"sqlite": "SQLite", "postgres": "Postgres"}


class OnPostgres(Bench):
    """The bench, with the transactions that Postgres wrote."""

    def __init__(
        self, folder: Path, service: Service, fsyncs: Fsyncs, program: Path, server: postgres.Postgres
    ) -> None:
        children = psutil.Process(server.pid).children
        super().__init__(
            folder, service, fsyncs, program, "postgres", lambda: [psutil.Process(server.pid), *children()]
        )
        self._connection = psycopg.connect(server.url, autocommit=True)

    def written(self) -> int:
        """The number that the next transaction that writes will have."""
        row = self._connection.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint").fetchone()
        assert row is not None
        return int(row[0])


@contextmanager
def _benches(delay_ms: float) -> Iterator[dict[str, Bench]]:
    """Both services, each with its database, warm."""
    with ExitStack() as stack:
        folder = stack.enter_context(scratch())
        folder.chmod(0o711)  # the server is another user, who maps the file of the count
        fsyncs, program = Fsyncs(folder, delay_ms), compiled("load.c", folder)
        counted = fsyncs.environment("postgres")
        Path(counted["BENCH_FSYNC_FILE"]).chmod(0o666)
        server = stack.enter_context(postgres.serving(SETTINGS, counted))
        on_file = Service(folder, ENVIRONMENT | fsyncs.environment("sqlite"), at="sqlite")
        stack.enter_context(on_file)
        on_server = Service(folder, ENVIRONMENT | {"DATABASE_URL": server.url}, at="postgres")
        stack.enter_context(on_server)
        benches = {
            "sqlite": Bench(folder, on_file, fsyncs, program, "sqlite"),
            "postgres": OnPostgres(folder, on_server, fsyncs, program, server),
        }
        for bench in benches.values():
            bench.service_burst(1, 1000)  # warm: imports, connections, caches
        yield benches


def compared(repetitions: int, sizes: dict[str, tuple[int, int]], delay_ms: float) -> str:
    """The table. `sizes`: batches and tasks of each by title."""
    if postgres.programs() is None:
        raise Broken(postgres.MISSING)
    rows = []
    with _benches(delay_ms) as benches:
        for title, (batches, tasks) in sizes.items():
            turns = [_turn(benches, batches, tasks, backwards=bool(number % 2)) for number in range(repetitions)]
            rows += [_row(title, NAMES[name], [turn[name] for turn in turns]) for name in NAMES]
            ratios = [turn["postgres"].rate / turn["sqlite"].rate for turn in turns]
            each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
            rows.append([title, "**Postgres / SQLite**", f"**{median(ratios):.2f}** ({each})", "", "", "", "", ""])
    head = ["into", "on", "callbacks/s", "p50 ms", "p99 ms", "transactions a callback", "fsyncs a callback"]
    return table([*head, "processor s per 1,000"], rows)


def _turn(benches: dict[str, Bench], batches: int, tasks: int, *, backwards: bool) -> dict[str, Measured]:
    """One repetition: each once, in an order that turns."""
    return {name: benches[name].service_burst(batches, tasks) for name in sorted(benches, reverse=backwards)}


def _row(title: str, name: str, found: list[Measured]) -> list[str]:
    def middle(field: str, form: str) -> str:
        return format(median(getattr(one, field) for one in found), form)

    written = middle("written", ".3f") if any(one.written for one in found) else "as fsyncs"
    return [
        title, name, middle("rate", ",.0f"), middle("p50_ms", ".1f"), middle("p99_ms", ".1f"), written,
        middle("fsyncs", ".3f"), middle("cpu_s", ".3f"),
    ]  # fmt: skip
