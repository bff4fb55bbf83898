"""The hop from the front to an actor, by each way that there is for it, in one run.

    python -m bench.hop [--quick] [--repetitions 5]

One process asks, in lists as `orchestrator.routing` makes them (one list is out, what gathers meanwhile goes with the
next); another, an actor of Ray, answers each callback with what a batch answers. Nothing is stored: this is the hop
alone, and what it costs beside the rest `bench/callbacks` says. The ways take turns; medians of the repetitions, and
ratios to the unix socket of the same repetition. Ray runs with its own TLS where TLS is measured.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from bench.service import median, table

SECRET: Final = "a secret of the benchmark"
ACTOR: Final = "batch:bench"
HOST: Final = "127.0.0.1"
SCRIPT: Final = Path(__file__).parents[1] / "deploy/node_certificate.sh"
CALLBACK: Final = {
    "op": "callback", "job": "bench", "run": 1, "attempt": 1,
    "body": {"task_id": "bench_tiff_1", "batch_id": "bench", "status": "success", "output_r2_key": "bench/1.jpg",
             "output_file_size": 123_456, "metrics": {"download_ms": 12, "convert_ms": 345, "upload_ms": 23}},
}  # fmt: skip
AT_ONCE: Final = (1, 64)
WAYS: Final = ("unix socket", "TCP", "TCP with TLS", "Ray call", "Ray call with TLS")

Ask = Callable[[dict[str, Any]], Awaitable[Any]]


def certificates(folder: Path) -> dict[str, str]:
    """Ray's variables for a cluster of this computer."""
    authority, made = folder / "ca", folder / "tls"
    authority.mkdir()
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=ca", "-keyout", str(authority / "ca.key"), "-out", str(authority / "ca.crt")],
        check=True, capture_output=True,
    )  # fmt: skip
    subprocess.run([str(SCRIPT), str(authority), str(made), HOST], check=True)
    return {
        "RAY_TLS_SERVER_CERT": str(made / "tls.crt"),
        "RAY_TLS_SERVER_KEY": str(made / "tls.key"),
        "RAY_TLS_CA_CERT": str(made / "ca.crt"),
    }


class Answering:
    """The actor: it listens everywhere, and answers Ray calls too."""

    async def listen(self, folder: str) -> dict[str, tuple[str, int]]:
        """The addresses by way."""
        from actors import wire
        from actors.network import Network, Tls

        await wire.serve(Path(folder) / "a.sock", self.handle)
        tls = Tls.of_ray({**os.environ, "RAY_USE_TLS": "1"})
        self.servers = {way: await Network([SECRET], tls=with_tls).listen(HOST, ACTOR, self.handle)
                        for way, with_tls in (("TCP", None), ("TCP with TLS", tls))}  # fmt: skip
        return {way: tuple(server.address) for way, server in self.servers.items()}

    async def handle(self, requests: list[Any]) -> list[Any]:
        """What a batch says to each."""
        return [{"ok": True, "received": True} for _ in requests]


class Gathered:
    """Ray calls as the frames are sent: one list is out, what gathers meanwhile goes with the next."""

    def __init__(self, actor: Any) -> None:
        self._actor, self._waiting, self._task = actor, [], None  # type: ignore[var-annotated]

    async def call(self, request: dict[str, Any]) -> Any:
        """The answer."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, answer))
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._send())
        return await answer

    async def _send(self) -> None:
        while self._waiting:
            out, self._waiting = self._waiting, []
            replies = await self._actor.handle.remote([request for request, _ in out])
            for (_, answer), reply in zip(out, replies, strict=True):
                answer.set_result(reply)


async def rate(ask: Ask, at_once: int, count: int) -> float:
    """Callbacks per second, by so many who each wait for an answer before the next."""

    async def one() -> None:
        for _ in range(count // at_once):
            await ask(CALLBACK)

    begun = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(at_once)))
    return count // at_once * at_once / (time.perf_counter() - begun)


class Asking:
    """The front: a process of its own, as the actor is."""

    async def measure(
        self, actor: Any, folder: str, addresses: dict[str, Any], counts: dict[int, int], turn: int
    ) -> Any:
        """Callbacks/s by way and by how many ask at once. Without addresses only Ray calls are measured. Each turn
        begins with another way."""
        from actors import wire
        from actors.network import Address, Network, Tls

        tls = Tls.of_ray({**os.environ, "RAY_USE_TLS": "1"})
        clients = {way: wire.Client(Network([SECRET], tls=tls if "TLS" in way else None).way(ACTOR, Address(*address)))
                   for way, address in addresses.items()}  # fmt: skip
        if addresses:
            clients["unix socket"] = wire.Client(Path(folder) / "a.sock")
        asks: dict[str, Ask] = {way: client.call for way, client in clients.items()}
        asks["Ray call"] = Gathered(actor).call
        names = [*asks][turn % len(asks) :] + [*asks][: turn % len(asks)]
        for ask in asks.values():
            await rate(ask, 8, 400)  # connections, imports
        found = {way: {n: await rate(asks[way], n, count) for n, count in counts.items()} for way in names}
        for client in clients.values():
            await client.close()
        return found


def run_ray(folder: Path, counts: dict[int, int], repetitions: int, *, with_tls: bool) -> list[Any]:
    """In a Ray of its own: what `measure` finds, so many times."""
    import ray

    ray.init(address="local", include_dashboard=False, num_cpus=2, log_to_driver=False, _node_ip_address=HOST,
             _temp_dir=str(folder / "r"), logging_level="ERROR")  # fmt: skip
    try:
        actor = ray.remote(Answering).options(num_cpus=0).remote()
        asking = ray.remote(Asking).options(num_cpus=0).remote()
        addresses = {} if with_tls else ray.get(actor.listen.remote(str(folder)))
        return [
            ray.get(asking.measure.remote(actor, str(folder), addresses, counts, turn)) for turn in range(repetitions)
        ]
    finally:
        ray.shutdown()


def part(options: argparse.Namespace) -> None:
    """In a process of its own, since Ray reads its settings once: prints what was found."""
    import msgspec

    counts = {n: (2_000 if n == 1 else 20_000) // (4 if options.quick else 1) for n in AT_ONCE}
    found = run_ray(Path(options.folder), counts, options.repetitions, with_tls=options.part == "tls")
    sys.stdout.buffer.write(msgspec.json.encode(found))


def found_by(kind: str, folder: Path, environment: dict[str, str], options: argparse.Namespace) -> list[Any]:
    """What a part has found."""
    import msgspec

    command = [sys.executable, "-m", "bench.hop", "--part", kind, "--folder", str(folder),
               "--repetitions", str(options.repetitions), *(["--quick"] if options.quick else [])]  # fmt: skip
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    more = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0", **environment}
    done = subprocess.run(command, env=clean | more, check=True, capture_output=True, timeout=600)
    return msgspec.json.decode(done.stdout, type=list[dict[str, dict[int, float]]])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.hop", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a quarter of the callbacks")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--part", choices=("plain", "tls"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        part(options)
        return
    with tempfile.TemporaryDirectory(prefix="hop-", ignore_cleanup_errors=True) as name:
        ray_tls = certificates(Path(name))
        plain = found_by("plain", Path(name), ray_tls, options)
        guarded = found_by("tls", Path(name), {**ray_tls, "RAY_USE_TLS": "1"}, options)
    for turn, more in zip(plain, guarded, strict=True):
        turn["Ray call with TLS"] = more["Ray call"]
    heads = [[f"callbacks/s, {n} at once", "of the unix socket's"] for n in AT_ONCE]
    print(table(["way", *(head for pair in heads for head in pair)], _rows(plain)))


def _rows(turns: list[Any]) -> list[list[str]]:
    return [[way, *(cell for n in AT_ONCE for cell in _cells(turns, way, n))] for way in WAYS]


def _cells(turns: list[Any], way: str, n: int) -> tuple[str, str]:
    ratio = median(turn[way][n] / turn["unix socket"][n] for turn in turns)
    return f"{median(turn[way][n] for turn in turns):,.0f}", f"{ratio:.2f}"


if __name__ == "__main__":
    main()
