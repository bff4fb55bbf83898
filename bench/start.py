"""How soon a batch begins, and a thousand small ones.

    python -m bench.start [--quick] [--batches 1000]

1. From POST /batches to the first spawn: the time at which the fleet asks the provider for a machine, which
   is the next thing after its row and the task's were written. In an actor of the batch's own, and in a
   standing one that runs already. The provider is `subprocess`.
2. Batches of one task each, created at once by several callers. Simulated workers claim and report at once, as pull
   workers would: the time from the first POST until all are DONE, and the most actors of batches alive.
"""

import argparse
import asyncio
import collections
import itertools
import json
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx

from actors import wire
from bench.service import WORKER_KEY, Broken, Service, median, scratch, table, wait_for

LOOK_EVERY_S: Final = 0.002
WITHIN_S: Final = 30.0
CALLERS: Final = 16
TRIES: Final = 20
WORKERS: Final = 8
TASKS_AT_ONCE: Final = 64
OWN_LIMIT_S: Final = 0.6
STANDING_LIMIT_S: Final = 0.1
ALL_LIMIT_S: Final = 15.0


def body(batch: str) -> dict[str, Any]:
    """A batch of one TIFF, listed inline."""
    return {"batch_id": batch, "files": [
        {"r2_key": f"staging/{batch}/p.tif", "logical_path": "/p.tif", "file_name": "p.tif", "file_size": 1}
    ]}  # fmt: skip


# --- POST to first spawn --------------------------------------------------------------------------


async def first_spawn(service: Service, client: httpx.AsyncClient, fleet: wire.Client) -> float:
    """Seconds from POST to the first machine that the provider was asked for."""
    batch = f"start-{uuid.uuid4().hex[:12]}"
    begun = time.time()
    posted = asyncio.create_task(client.post("/batches", json=body(batch)))
    try:
        async with asyncio.timeout(WITHIN_S):
            while True:
                rows = await fleet.call({"op": "list"})
                mine = next((row for row in rows if row["job_id"] == batch and row["state"] != "planned"), None)
                if mine is not None:
                    took = time.time() - begun
                    break
                await asyncio.sleep(LOOK_EVERY_S)
    except TimeoutError as error:
        raise Broken(f"no spawn within {WITHIN_S:.0f} s") from error
    (await posted).raise_for_status()
    await _ended(client, batch)
    return took


async def _ended(client: httpx.AsyncClient, batch: str) -> None:
    """Wait for its end: it fails at once, since its object is missing."""
    async with asyncio.timeout(60):
        while (await client.get(f"/status/{batch}")).json()["state"] not in ("done", "failed"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def spawns(service: Service, times: int) -> list[float]:
    """The same several times; the first is warm-up."""
    fleet = wire.Client(wire.socket_path(service.settings.run_dir, "fleet"))
    async with _client(service) as client:
        try:
            return [await first_spawn(service, client, fleet) for _ in range(times + 1)][1:]
        finally:
            await fleet.close()


def _client(service: Service) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{service.port}", timeout=60, trust_env=False)


# --- a thousand batches of one task ---------------------------------------------------------------


async def worker(client: httpx.AsyncClient, name: str, done: asyncio.Event, counts: collections.Counter[str]) -> None:
    """Claim, report success for each task at once, claim again; until `done`."""
    headers = {"Authorization": f"Bearer {WORKER_KEY}"}
    for number in itertools.count():
        if done.is_set():
            return
        wish = {"machine": name, "claim": f"{name}-{number}", "kinds": ["tiff"], "free": TASKS_AT_ONCE, "wait_ms": 500}
        answer = await patient_post(client, "/machines/claim", counts, json=wish, headers=headers)
        counts[f"claim {answer.status_code}"] += 1
        if answer.status_code == 200:
            await asyncio.gather(*(report(client, env, counts) for env in answer.json()["tasks"]))


async def patient_post(client: httpx.AsyncClient, path: str, counts: collections.Counter[str], **more: Any) -> Any:
    """POST as a worker does: a connection that broke is no answer, and all that is posted here may be repeated."""
    for _ in range(TRIES):
        try:
            answer = await client.post(path, **more)
        except httpx.TransportError as error:
            counts[f"{path.split('/')[1]} {type(error).__name__}"] += 1
            await asyncio.sleep(0.05)
            continue
        if answer.status_code < 500:
            return answer
        counts[f"{path.split('/')[1]} {answer.status_code}"] += 1
        await asyncio.sleep(0.05)
    raise Broken(f"POST {path}: no answer in {TRIES} tries; {dict(counts)}")


async def report(client: httpx.AsyncClient, env: dict[str, str], counts: collections.Counter[str]) -> None:
    """The callback of one task."""
    result = {"task_id": env["TASK_ID"], "batch_id": env["BATCH_ID"], "status": "success",
              "output_r2_key": env["OUTPUT_R2_KEY"], "output_file_name": "p.jpg", "output_file_size": 1}  # fmt: skip
    path = "/" + env["CALLBACK_URL"].split("/", 3)[3]
    answer = await patient_post(client, path, counts, json=result)
    counts[f"callback {answer.status_code}"] += 1


async def create(client: httpx.AsyncClient, names: Iterator[str], counts: collections.Counter[str]) -> None:
    """One caller: the next batch, until there are none."""
    for name in names:
        answer = await patient_post(client, "/batches", counts, json=body(name))
        if answer.status_code not in (200, 202):  # 200: repeated
            raise Broken(f"POST /batches: {answer.status_code} {answer.text}")


async def thousand(service: Service, batches: int, folder: Path) -> dict[str, Any]:
    """All of them: seconds, the most actors, what was answered."""
    done = asyncio.Event()
    counts: collections.Counter[str] = collections.Counter()
    most = 0
    async with _client(service) as client, _client(service) as workers:
        hired = [asyncio.create_task(worker(workers, f"bench-{n}", done, counts)) for n in range(WORKERS)]
        names = iter([f"small-{n}" for n in range(batches)])
        begun = time.monotonic()
        creating = asyncio.gather(*(create(client, names, counts) for _ in range(CALLERS)))
        await creating
        created = time.monotonic() - begun
        try:
            async with asyncio.timeout(180):
                while await _open(client, batches):
                    most = max(most, await asyncio.to_thread(_actors, service))
                    await asyncio.sleep(0.1)
        except TimeoutError as error:
            left = (await client.get("/batches?state=running&limit=3")).text
            raise Broken(f"not all were DONE within 180 s: {counts}, {left}") from error
        seconds = time.monotonic() - begun
        most = max(most, await asyncio.to_thread(_actors, service))
        done.set()
        await asyncio.gather(*hired)
    return {"seconds": seconds, "created": created, "actors": most, "answers": json.dumps(dict(counts))}


async def _open(client: httpx.AsyncClient, batches: int) -> bool:
    """Whether any is not DONE. Looks for open ones first; counts all only when there are none."""
    for state in ("queued", "running", "receiving"):
        if (await client.get(f"/batches?state={state}&limit=1")).json()["items"]:
            return True
    found, cursor = 0, ""
    while True:
        page = (await client.get(f"/batches?state=done&limit=1000{cursor}")).json()
        found += len(page["items"])
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    if found != batches:
        raise Broken(f"{found} of {batches} are DONE, and none is open")
    return False


def _actors(service: Service) -> int:
    """Processes of actors that run batches."""
    return len(service.processes().get("HostActor", []))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.start", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="3 starts of each kind instead of 7, 200 batches")
    parser.add_argument("--batches", type=int, default=None, help="batches of one task: 1000")
    options = parser.parse_args()
    batches = options.batches or (200 if options.quick else 1000)
    times = 3 if options.quick else 7
    rows = []
    # With room for one actor only, which a batch without workers holds, all others go to a standing one.
    for title, limit, own in (("own actor", OWN_LIMIT_S, True), ("standing actor", STANDING_LIMIT_S, False)):
        environment = {"MACHINE_PROVIDER": "subprocess", "MAX_ACTIVE_BATCHES": "16" if own else "1"}
        environment |= {"SHARED_HOSTS": "1", "MAX_MACHINES": "4", "TASK_TIMEOUT_TIFF_CONVERSION": "3600000"}
        with scratch() as folder, Service(folder, environment) as service:
            if not own:
                occupy(service)
            took = asyncio.run(spawns(service, times))
        rows.append([f"POST to first spawn, {title}", f"{median(took):.3f} s", f"{min(took):.3f} to {max(took):.3f}",
                     f"{limit} s"])  # fmt: skip
    with scratch() as folder, Service(folder, {"LOG_LEVEL": "ERROR"}) as service:
        result = asyncio.run(thousand(service, batches, folder))
        limit = service.settings.max_active_batches + service.settings.shared_hosts
    rows.append([f"{batches} batches of one task, all DONE", f"{result['seconds']:.1f} s",
                 f"all created after {result['created']:.1f} s", f"{ALL_LIMIT_S:.0f} s"])  # fmt: skip
    rows.append(["most actors of batches alive", str(result["actors"]), result["answers"], str(limit)])
    print(table(["", "median", "", "limit"], rows))


def occupy(service: Service) -> None:
    """One batch has the only slot and keeps it: its tasks are taken here, and never reported on."""
    service.create("occupant", 64)
    wait_for("the occupant running", lambda: service.state("occupant")["state"] == "running")
    asyncio.run(_take_all(service, "occupant"))


async def _take_all(service: Service, batch: str) -> None:
    client = wire.Client(wire.socket_path(service.settings.run_dir, f"batch:{batch}"))
    wish = {"op": "take", "job": batch, "machine": "bench", "claim": "all", "free": 64, "kind": "tiff"}
    await client.call(wish)
    await client.close()


if __name__ == "__main__":
    try:
        main()
    except Broken as error:
        sys.exit(f"bench.start: {error}")
