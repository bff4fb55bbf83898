"""From start to ready, memory at rest, and what idling costs, beside Ray and Serve with an empty application.

    python -m bench.startup [--quick] [--seconds 20] [--repetitions 3]

Both are started in turn with the same settings of Ray and Serve (two replicas, HAProxy, no dashboard); memory
is proportional (PSS). What the service uses beyond Ray and Serve is the difference.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Final

import msgspec

from bench.service import Broken, Service, cpu_seconds, median, pss_mb, scratch, table

ENGINE: Final = ("StoreActor", "FleetActor", "MaintenanceActor", "HostActor")


class Rest(msgspec.Struct):
    """One start and one rest."""

    start_s: float
    memory_mb: float
    idle: float  # per cent of a core
    idle_by_role: dict[str, float]
    memory_by_role: dict[str, float]


def measure(what: str, folder: Path, seconds: float) -> Rest:
    """Start it, let it come to rest, look at it for `seconds`."""
    with Service(folder, {}, what) as service:
        time.sleep(min(15.0, seconds))  # Ray's own start goes on for some seconds after `ready`
        processes = service.processes()
        before = {role: cpu_seconds(found) for role, found in processes.items()}
        begun = time.monotonic()
        time.sleep(seconds)
        passed = time.monotonic() - begun
        idle = {role: (cpu_seconds(found) - before[role]) / passed * 100 for role, found in processes.items()}
        memory = {role: pss_mb(found) for role, found in processes.items()}
        return Rest(service.start_s, sum(memory.values()), sum(idle.values()), idle, memory)


def report(results: dict[str, list[Rest]]) -> str:
    """Both tables."""
    service, empty = results["service"], results["empty"]
    rows = []
    for title, field, form in (
        ("start to ready, s", "start_s", "{:.1f}"),
        ("memory at rest, MB", "memory_mb", "{:.0f}"),
        ("idle, % of a core", "idle", "{:.2f}"),
    ):
        ours = median(getattr(one, field) for one in service)
        theirs = median(getattr(one, field) for one in empty)
        beyond = median(getattr(a, field) - getattr(b, field) for a, b in zip(service, empty, strict=True))
        rows.append([title, form.format(ours), form.format(theirs), form.format(beyond), f"{ours / theirs:.2f}"])
    engine = median(sum(one.idle_by_role.get(role, 0.0) for role in ENGINE) for one in service)
    rows.append(["of it the engine's actors, idle, %", f"{engine:.2f}", "-", "-", "-"])
    first = table(["", "service", "Ray and Serve, empty", "difference", "ratio"], rows)
    roles = sorted({role for one in (*service, *empty) for role in one.idle_by_role})
    detail = [[role, *(_of(found, role) for found in (service, empty))] for role in roles]
    return f"{first}\n\n{table(['process', 'service: idle %, MB', 'empty: idle %, MB'], detail)}"


def _of(found: list[Rest], role: str) -> str:
    with_it = [one for one in found if role in one.idle_by_role]
    if not with_it:
        return "-"
    return f"{median(one.idle_by_role[role] for one in with_it):.2f}, " + (
        f"{median(one.memory_by_role[role] for one in with_it):.0f}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.startup", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one repetition of 8 s")
    parser.add_argument("--seconds", type=float, default=None, help="how long to look at it idling; 20")
    parser.add_argument("--repetitions", type=int, default=None, help="3")
    options = parser.parse_args()
    seconds = options.seconds or (8.0 if options.quick else 20.0)
    repetitions = options.repetitions or (1 if options.quick else 3)
    results: dict[str, list[Rest]] = {"service": [], "empty": []}
    for number in range(repetitions):
        for what in ("service", "empty") if number % 2 == 0 else ("empty", "service"):
            with scratch() as folder:
                results[what].append(measure(what, folder, seconds))
    print(f"Medians of {repetitions}, idle for {seconds:.0f} s each\n")
    print(report(results))


if __name__ == "__main__":
    try:
        main()
    except Broken as error:
        sys.exit(f"bench.startup: {error}")
