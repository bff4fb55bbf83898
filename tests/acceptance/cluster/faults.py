"""What may happen to a cluster, each alone.

A fault is a context: inside the block it has happened, and all must go on, be it that others take over or that what
has ended was started again by whoever supervises it. At the end of the block everything stands as before.
"""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Final, NamedTuple

import psutil
import psycopg

from tests.acceptance.cluster import audit, clocks, disks
from tests.acceptance.cluster.load import Load
from tests.acceptance.cluster.machine import Node
from tests.acceptance.cluster.nodes import Cluster
from tests.acceptance.service import eventually

BACK_S: Final = 120.0
HOUR_S: Final = 3600
MOVED_S: Final = 600
"""No clock is that wrong by itself."""
AGAIN_S: Final = 8.0
LOOK_S: Final = 2.5 * clocks.LOOK_S
"""After this every process has seen what the time is now."""
ENGINE: Final = ("HostActor", "FleetActor", "MaintenanceActor")
OF_SERVICE: Final = (*ENGINE, "WarmWorker", "ServeReplica:arke:front")


class Scene(NamedTuple):
    """Where it happens. `stopped_s`: how long a node stands still; `down_s`: how long the database is away or full."""

    cluster: Cluster
    load: Load
    stopped_s: float
    down_s: float


Fault = Callable[[Scene], AbstractContextManager[None]]


def _kill_role(role: str) -> Fault:
    """SIGKILL to all actors of a kind, on all nodes at once."""

    @contextlib.contextmanager
    def happens(scene: Scene) -> Iterator[None]:
        killed = eventually(lambda: _kill(scene.cluster.nodes, role), f"a {role} runs", BACK_S)
        assert killed
        yield

    return happens


def _kill(nodes: list[Node], *roles: str) -> int:
    pids = [pid for node in nodes for role, pids in node.roles().items() if role in roles for pid in pids]
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            psutil.Process(pid).kill()
    return len(pids)


@contextlib.contextmanager
def _replica(scene: Scene) -> Iterator[None]:
    """SIGKILL to one replica of the front."""
    roles = [(node, node.roles().get("ServeReplica:arke:front", [])) for node in scene.cluster.nodes]
    psutil.Process(next(pids[0] for _, pids in roles if pids)).kill()
    yield


@contextlib.contextmanager
def _node(scene: Scene) -> Iterator[None]:
    """SIGKILL to all of the node that has most of the service; then it is started again."""
    victim = busiest(scene.cluster)
    victim.kill()
    yield
    start_again(victim)


@contextlib.contextmanager
def _drained_node(scene: Scene) -> Iterator[None]:
    """SIGTERM to the node that has most of the service. It gives all of it up before it ends, and no request fails."""
    victim, load = busiest(scene.cluster), scene.load
    refused, reported = load.refused, len(load.hands.reports)
    victim.tell_to_end()
    eventually(lambda: not victim.runs(), "the node has given up all that it had", BACK_S)
    assert load.refused == refused
    assert [report for report in load.hands.reports[reported:] if report.status != 200] == []
    yield
    start_again(victim)


@contextlib.contextmanager
def _stopped_node(scene: Scene) -> Iterator[None]:
    """SIGSTOP to all of the node that has most of the service, for a while. What wakes then is out of date: Ray has
    given the node up, and its place was taken. It ends, and is started again."""
    victim = busiest(scene.cluster)
    begun = time.monotonic()
    victim.place.signal(signal.SIGSTOP)
    try:
        yield
        _pause(scene.stopped_s - (time.monotonic() - begun))
    finally:
        victim.place.signal(signal.SIGCONT)
    eventually(lambda: not victim.runs(), "Ray ends on a node that it has given up", BACK_S)
    start_again(victim)


@contextlib.contextmanager
def _head(scene: Scene) -> Iterator[None]:
    """SIGKILL to all of the head. Who supervises it starts it again."""
    before = scene.cluster.restarts
    scene.cluster.head.kill()
    yield
    eventually(lambda: scene.cluster.restarts > before, "the head is started again")


@contextlib.contextmanager
def forgetful_head(scene: Scene) -> Iterator[None]:
    """The same, where it forgets with its end: from now on there is no Redis. So the whole cluster is a new one."""
    scene.cluster.forget()
    with _head(scene):
        yield


@contextlib.contextmanager
def _database(scene: Scene) -> Iterator[None]:
    """SIGKILL to Postgres; after a while it is started again, and recovers."""
    scene.cluster.database.kill()
    _pause(scene.down_s)
    scene.cluster.database.start()
    yield


@contextlib.contextmanager
def _full_database(scene: Scene) -> Iterator[None]:
    """The disk of Postgres is full until it has refused something, and then for a while. Where that has ended it, it is
    started again."""
    database = scene.cluster.database
    known = len(database.log())
    disks.fill(database.data)
    try:
        eventually(lambda: "No space left on device" in database.log()[known:], "Postgres finds its disk full", BACK_S)
        _pause(scene.down_s)
    finally:
        disks.free(database.data)
    if not database.runs() or not _answers(database.url):
        database.kill()
        database.start()
    yield


@contextlib.contextmanager
def _full_bucket(scene: Scene) -> Iterator[None]:
    """The disk of the objects is full for a while."""
    folder = scene.cluster.settings.objects_dir
    disks.fill(folder)
    try:
        _pause(scene.down_s)
    finally:
        disks.free(folder)
    yield


def _clock(seconds: int) -> Fault:
    """It is another time on the busiest node, for what runs and for what is started there meanwhile; then it is the
    right time again. Whatever runs there is killed both times, since a process counts from the time of its start."""

    @contextlib.contextmanager
    def happens(scene: Scene) -> Iterator[None]:
        clocks.require()
        victim = busiest(scene.cluster)
        assert clocks.can_be_moved(victim.place.processes(), OF_SERVICE)
        clocks.move(victim.folder, seconds)
        try:
            _pause(LOOK_S)
            _kill([victim], *OF_SERVICE)
            eventually(_until_written_there(scene, victim), "a batch is written by the clock that was moved", BACK_S)
            yield
        finally:
            clocks.move(victim.folder, 0)
        _pause(LOOK_S)
        _kill([victim], *OF_SERVICE)

    return happens


def _until_written_there(scene: Scene, node: Node) -> Callable[[], bool]:
    """Whether a batch was written by a clock that is wrong. While it was not, actors of batches are killed now and then
    that are elsewhere: Ray starts them on one node or another."""
    url = scene.cluster.database.url
    before, killed_at = audit.by_other_clocks(url, MOVED_S), time.monotonic()

    def is_written() -> bool:
        nonlocal killed_at
        if audit.by_other_clocks(url, MOVED_S) > before:
            return True
        if time.monotonic() > killed_at + AGAIN_S:
            _kill([other for other in scene.cluster.nodes if other is not node], "HostActor")
            killed_at = time.monotonic()
        return False

    return is_written


FAULTS: Final[Mapping[str, Fault]] = {
    "actors of batches killed": _kill_role("HostActor"),
    "a node is to go": _drained_node,
    "a node killed": _node,
    "the fleet killed": _kill_role("FleetActor"),
    "maintenance killed": _kill_role("MaintenanceActor"),
    "workers killed": _kill_role("WarmWorker"),
    "a replica killed": _replica,
    "Postgres killed": _database,
    "a node stopped": _stopped_node,
    "Postgres' disk full": _full_database,
    "the bucket's disk full": _full_bucket,
    "an hour later on a node": _clock(HOUR_S),
    "the head killed": _head,
    "an hour earlier on a node": _clock(-HOUR_S),
}
"""In this order a node that was started again has time until another one is needed."""


def busiest(cluster: Cluster) -> Node:
    """The node beside the head on which most of the service is, once all of them stand: so one is left."""
    eventually(lambda: all(node.stands() for node in cluster.nodes), "all nodes stand", BACK_S)
    return max(cluster.workers, key=lambda node: sum(len(node.roles().get(role, [])) for role in OF_SERVICE))


def start_again(node: Node) -> None:
    """As systemd does. Nobody waits for it."""
    node.kill()
    node.start()


def _answers(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=2).close()
    except psycopg.Error:
        return False
    return True


def _pause(seconds: float) -> None:
    """So long it lasts: the time itself is what is tried."""
    time.sleep(max(0.0, seconds))
