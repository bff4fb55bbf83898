"""One fault after the other, what it took to go on, and the check at the end."""

import sys
import time
from collections.abc import Iterable, Mapping
from typing import Final

import psycopg

from tests.acceptance.cluster import audit, checker
from tests.acceptance.cluster.faults import MOVED_S, Fault, Scene
from tests.acceptance.cluster.load import Standing
from tests.acceptance.service import eventually

PATIENCE_S: Final = 180.0
Recovery = tuple[str, float]


def strike(scene: Scene, fault: Fault) -> float:
    """Have it happen, and wait until all goes on, and everything stands again. How many seconds the first took."""
    before = scene.load.open()
    begun = time.monotonic()
    with fault(scene):
        until_all_go_on(scene, before, begun)
        took = time.monotonic() - begun
    return took


def until_all_go_on(scene: Scene, before: Mapping[str, Standing], begun: float) -> None:
    """Every batch that ran has come further, a new one was taken, and the service says that it is well."""
    waited_for = dict(before)

    def go_on() -> bool:
        try:
            now = scene.load.standing()
        except psycopg.Error:
            return False
        for job, was in before.items():
            if job in now and (now[job].over or now[job].completed > was.completed):
                waited_for.pop(job, None)
        taken = any(at > begun for at in scene.load.acknowledged_at.copy().values())
        return not waited_for and taken and scene.cluster.is_well()

    try:
        eventually(go_on, "all goes on", PATIENCE_S)
    except AssertionError as error:
        rows = [line for job in waited_for for line in audit.standing_still(scene.cluster.database.url, job)]
        raise AssertionError("\n".join([f"{error}; still where they were: {waited_for}", *rows])) from error


def until_checked(scene: Scene, within_s: float = PATIENCE_S) -> checker.Evidence:
    """Wait for the end of all batches, and check everything. The load must flow no more."""
    scene.load.until_over(within_s)
    cluster = scene.cluster
    posts = cluster.receiver.everything()
    found = checker.collect(cluster.database.url, cluster.objects, posts, scene.load.created, scene.load.hands.reports)
    said = checker.faults(found)
    assert not said, "\n".join(said[:50])
    return found


def tell(scene: Scene, found: checker.Evidence) -> None:
    """How much was checked."""
    moved = audit.by_other_clocks(scene.cluster.database.url, MOVED_S)
    epochs = max(one.epoch for one in found.owners)
    sys.stdout.write(
        f"{len(found.created)} batches of {len(found.tasks)} tasks; {scene.load.refused} creations were refused first; "
        f"{len(found.owners)} commits in up to {epochs} epochs, {moved} of them by a clock that was moved; "
        f"{len(found.reports)} callbacks of our own and {len(found.posts)} final ones\n"
    )


def table(recoveries: Iterable[Recovery]) -> list[str]:
    """Lines for people: of each fault how often it happened, and the least and the most that it took to go on."""
    by_name: dict[str, list[float]] = {}
    for name, took in recoveries:
        by_name.setdefault(name, []).append(took)
    lines = [f"{'what happened':<36}{'times':>6}{'all goes on after':>20}"]
    for name, times in by_name.items():
        span = f"{min(times):.1f} s" if len(times) == 1 else f"{min(times):.1f} to {max(times):.1f} s"
        lines.append(f"{name:<36}{len(times):>6}{span:>20}")
    return lines
