"""Metadata exports, measured: the walk, the records, memory, a burst of creations, a large download.

python -m bench.export [walk] [records] [memory] [burst] [download]      all, when none is named

Beside each figure of the exporter stands that of a straightforward one (`bench.sequential`), from the same run. The
schemas are those of ARKE_TEST_DATA, else the ones that `arke schemas fetch` brought.
"""

import argparse
import asyncio
import gc
import http.client
import io
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import psutil

from bench import sequential
from bench.service import CONNECTIONS, Broken, Service, cpu_seconds, request, scratch, table, wait_for
from tests.stand_ins.arke_api import Large, launched
from worker.kinds.mods import structure
from worker.kinds.mods.arke_api import ArkeApi
from worker.kinds.mods.crosswalk import Sites, record_of
from worker.kinds.mods.entity import Entity, manifest_of
from worker.kinds.mods.export import export
from worker.kinds.mods.ledger import Ledger
from worker.kinds.mods.options import Options
from worker.kinds.mods.record import Position
from worker.kinds.mods.schemas import Schemas, find
from worker.kinds.mods.writers import WRITERS
from worker.kinds.mods.xml import parsed

LATENCY_MS: Final = 20
ENTITIES: Final = 2_000
PEER_ENTITIES: Final = 100
AT_ONCE: Final = 10
ROUNDS: Final = 2
"""Of an entity: its manifest, then all its components side by side."""
RECORDS: Final = 3_000
BURST: Final = 1_000
LARGE_BYTES: Final = 2_000_000_000


def walk() -> None:
    """2,000 entities at 20 ms: the time over what the latency alone takes, and over the peer's, extrapolated."""
    with launched(["--entities", str(ENTITIES), "--latency-ms", str(LATENCY_MS)]) as url:
        begun = time.perf_counter()
        exported = asyncio.run(_exported(url, Large(ENTITIES).root))
        ours_s = time.perf_counter() - begun
    with launched(["--entities", str(PEER_ENTITIES), "--latency-ms", str(LATENCY_MS)]) as url:
        begun = time.perf_counter()
        sequential.export(url, Large(PEER_ENTITIES).root, io.BytesIO())
        peer_s = (time.perf_counter() - begun) * ENTITIES / PEER_ENTITIES
    ideal_s = ENTITIES * ROUNDS * LATENCY_MS / 1000 / AT_ONCE
    rows = [
        ["latency alone", f"{ideal_s:.1f} s", "1"],
        ["arke", f"{ours_s:.1f} s", f"{ours_s / ideal_s:.2f} (goal 1.3)"],
        [f"sequential, of {PEER_ENTITIES} entities", f"{peer_s:.0f} s", f"{peer_s / ideal_s:.0f}"],
    ]
    _say(f"{exported:,} entities at {LATENCY_MS} ms, {AT_ONCE} at once", ["", "time", "over the latency"], rows)


async def _exported(url: str, root: str) -> int:
    async with ArkeApi(url, url) as archive:
        metrics = await export(
            root, format="mods", options=Options(recursive=True, parallel_batch_size=AT_ONCE), archive=archive,
            sites=Sites(), schemas=_schemas(), target=io.BytesIO(),
        )  # fmt: skip
    return metrics.entities_exported


def records() -> None:
    """Crosswalk, markup, checks and validation of records that are in memory."""
    entities = _entities()
    gc.collect()
    gc.freeze()  # an export has one of them at a time: nothing looks through thousands
    schemas, rows = _schemas(), []
    for format, writer in WRITERS.items():
        begun = time.process_time()
        for entity in entities:
            position = Position(depth=1, path=(entities[0].manifest.pi, entity.manifest.pi))
            record = record_of(
                entity, position=position, parent_title="Box", options=Options(), sites=Sites(), ledger=Ledger()
            )
            element = parsed(writer.markup(record))
            faults = structure.faults(format, element) or (schemas.faults(format, element) if schemas else [])
            if faults:
                raise Broken(f"{format}: {faults[0]}")
        per_s = len(entities) / (time.process_time() - begun)
        rows.append([format, f"{per_s:,.0f}"])
    floor = _validations(entities)
    rows.append(["parsing and validating MODS alone", f"{floor:,.0f}"])
    begun = time.process_time()
    for entity in entities:
        sequential.element(entity.manifest, entity.pinax or {}, entity.description, entity.refs)
    rows.append(["sequential: elements of lxml, not checked", f"{len(entities) / (time.process_time() - begun):,.0f}"])
    _say("records per second of one core (goal 6,000)", ["", "records/s"], rows)


def _validations(entities: list[Entity]) -> float:
    """What libxml2 takes for itself."""
    schemas, writer = _schemas(), WRITERS["mods"]
    made = [
        writer.markup(
            record_of(each, position=None, parent_title=None, options=Options(), sites=Sites(), ledger=Ledger())
        )
        for each in entities
    ]
    begun = time.process_time()
    for markup in made:
        element = parsed(markup)
        if schemas is not None:
            schemas.faults("mods", element)
    return len(made) / (time.process_time() - begun)


def _entities() -> list[Entity]:
    archive, found = Large(RECORDS), []
    for number in range(RECORDS):
        pi = archive.pi(number)
        manifest = manifest_of(archive.entity(pi) or {}, pi)
        parts = {name: archive.component(cid) or b"" for name, cid in manifest.components.items()}
        refs = tuple((name, json.loads(body)) for name, body in parts.items() if name.endswith(".ref.json"))
        description = parts["description.md"].decode() if "description.md" in parts else None
        found.append(
            Entity(manifest=manifest, pinax=json.loads(parts["pinax.json"]), description=description, refs=refs)
        )
    return found


def memory() -> None:
    """The highest memory of a process that exports 1,000 and 10,000 entities."""
    rows = []
    for who in ("arke", "sequential"):
        small, large = (_peak_mb(who, size) for size in (1_000, 10_000))
        rows.append([who, f"{small:.0f} MB", f"{large:.0f} MB", f"{large / small:.2f}"])
    _say("peak memory (goal: 100 MB, 1.10)", ["", "1,000", "10,000", "ratio"], rows)


def _peak_mb(who: str, size: int) -> float:
    with launched(["--entities", str(size)]) as url, scratch() as folder:
        root, target = Large(size).root, str(folder / "out.xml")
        module = {"arke": "orchestrator.cli.main", "sequential": "bench.sequential"}[who]
        arguments = {"arke": ["export", root, "--recursive", "-o", target], "sequential": [url, root, target]}[who]
        env = {**os.environ, "ARKE_API_URL": url, "IPFS_GATEWAY": url, **_schemas_variable()}
        running = subprocess.Popen([sys.executable, "-m", module, *arguments], env=env, stderr=subprocess.DEVNULL)
        most_mb = 0.0
        while running.poll() is None:  # its own account would begin with that of this process, which has started it
            most_mb = max(most_mb, _highest_mb(running.pid))
            time.sleep(0.02)
        if running.returncode:
            raise Broken(f"{who} ended with {running.returncode}")
        return most_mb


def _highest_mb(pid: int) -> float:
    try:
        words = Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")[2].split()
    except OSError:
        return 0.0
    return int(words[0]) / 1024 if words else 0.0


def burst() -> None:
    """1,000 single exports at once: how long they take to be accepted, and to be done; what one costs."""
    with launched(["--entities", "100"]) as url, scratch() as folder:
        env = {"MACHINE_PROVIDER": "ray", "ARKE_API_URL": url, "IPFS_GATEWAY": url, **_schemas_variable()}
        with Service(folder, env) as service:
            body = {"pi": Large(100).pi(5)}
            # The actors of exports are started by the first one that each gets: that is not of the burst.
            _done(service, [_created(service, body) for _ in range(16)])
            before = cpu_seconds(_all(service))
            begun = time.perf_counter()
            ids = _all_created(service.port, body)
            accepted_s = time.perf_counter() - begun
            cost_ms = (cpu_seconds(_all(service)) - before) * 1000 / BURST
            _done(service, ids)
            done_s = time.perf_counter() - begun
            hosts = len(service.processes().get("HostActor", []))
    rows = [["accepted", f"{accepted_s:.1f} s (goal 5)"], ["done", f"{done_s:.1f} s"],
            ["processor of the service for each, until accepted", f"{cost_ms:.1f} ms"],
            ["actors of exports", f"{hosts} (goal: at most 4)"]]  # fmt: skip
    _say(f"{BURST:,} single exports in one burst", ["", ""], rows)


def _all(service: Service) -> list[psutil.Process]:
    return [process for group in service.processes().values() for process in group]


def _created(service: Service, body: dict[str, Any]) -> str:
    status, answer = service.call("POST", "/export/mods", body)
    if status != 202:
        raise Broken(f"POST /export/mods: {status} {answer}")
    return str(answer["task_id"])


def _all_created(port: int, body: dict[str, Any]) -> list[str]:
    """All of them over CONNECTIONS connections, each a thread."""
    raw = json.dumps(body)

    def some(count: int) -> list[str]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        found = []
        for _ in range(count):
            connection.request("POST", "/export/mods", raw, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 202:
                raise Broken(f"POST /export/mods: {answer.status} {text.decode(errors='replace')}")
            found.append(str(json.loads(text)["task_id"]))
        connection.close()
        return found

    shares = [BURST // CONNECTIONS + (number < BURST % CONNECTIONS) for number in range(CONNECTIONS)]
    with ThreadPoolExecutor(CONNECTIONS) as threads:
        return [task for found in threads.map(some, shares) for task in found]


def _done(service: Service, ids: list[str]) -> None:
    left = list(ids)

    def all_done() -> bool:
        while left:
            status = service.state(left[-1])["status"]
            if status == "error":
                raise Broken(f"{left[-1]} failed")
            if status != "success":
                return False
            left.pop()
        return True

    wait_for("the exports", all_done, 600)


def download() -> None:
    """A file of 2 GB through the service: speed, and how much memory the replicas grow by."""
    with launched(["--entities", "100"]) as url, scratch() as folder:
        env = {"MACHINE_PROVIDER": "ray", "ARKE_API_URL": url, "IPFS_GATEWAY": url}
        with Service(folder, env) as service:
            task = _created(service, {"pi": Large(100).pi(5)})
            _done(service, [task])
            key = service.state(task)["output_r2_key"]
            os.truncate(service.settings.objects_dir / service.settings.r2_bucket / key, LARGE_BYTES)
            replicas = [each for role, group in service.processes().items() if "eplica" in role for each in group]
            before = _rss_mb(replicas)
            begun = time.perf_counter()
            size, most_mb = _read_all(service.port, f"/download/{task}", replicas)
            took_s = time.perf_counter() - begun
            small = request(service.port, "GET", f"/status/{task}")[0]
    if size != LARGE_BYTES or small != 200:
        raise Broken(f"{size} bytes came")
    rows = [["speed", f"{size / 1e6 / took_s:.0f} MB/s (goal 100)"],
            ["memory of the replicas grew by at most", f"{most_mb - before:.0f} MB"]]  # fmt: skip
    _say("a download of 2 GB", ["", ""], rows)


def _read_all(port: int, path: str, watched: list[psutil.Process]) -> tuple[int, float]:
    import urllib.request

    size, most_mb, parts = 0, 0.0, 0
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
        while part := answer.read(1 << 20):
            size += len(part)
            parts += 1
            if parts % 100 == 0:
                most_mb = max(most_mb, _rss_mb(watched))
    return size, most_mb


def _rss_mb(processes: list[psutil.Process]) -> float:
    return sum(float(process.memory_info().rss) for process in processes) / 1e6


def _schemas() -> Schemas | None:
    return find({**os.environ, **_schemas_variable()})


def _schemas_variable() -> dict[str, str]:
    data = os.environ.get("ARKE_TEST_DATA")
    return {"ARKE_SCHEMAS": str(Path(data) / "schemas")} if data else {}


def _say(title: str, head: list[str], rows: list[list[str]]) -> None:
    print(f"\n{title}\n\n{table(head, rows)}", flush=True)


PARTS: Final = {"walk": walk, "records": records, "memory": memory, "burst": burst, "download": download}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="all, when none is named")
    for name in parser.parse_args().parts or PARTS:
        PARTS[name]()


if __name__ == "__main__":
    main()
