"""A node of a cluster that is to go gives up what it has, so that its end is noticed by nobody.

Ray is told first: it starts nothing more there. Then Serve starts replicas elsewhere and ends those here, and the
engine's actors leave (`actors.maintenance.drain`). Only then may Ray's own processes end.
"""

import contextlib
import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import ray
from ray.core.generated import autoscaler_pb2

from actors.nodes import NAMESPACE, gcs, is_engine_actor, named_actors

LOOK_S: Final = 0.5
CONNECT_S: Final = 15.0
STOP_S: Final = 10.0
SETTLE_S: Final = 2.0
"""The other nodes' HAProxy hears that a replica is gone after it is."""
OF_SERVE: Final = ("SERVE_REPLICA", "SERVE_PROXY_ACTOR")


def drain(within_s: float, tell: Callable[[str], None]) -> bool:
    """Have this node give up its actors and replicas. Whether all of it was given up in time.

    Needs the address and the token of the cluster in the environment, as `ray status` does. After `within_s` Ray ends
    the node by itself. Raises RuntimeError where the cluster refuses, ConnectionError where there is none.
    """
    ray.init(address="auto", namespace=NAMESPACE, log_to_driver=False, logging_level=logging.WARNING)
    try:
        node = ray.get_runtime_context().get_node_id()
        deadline = time.time() + within_s
        _announce(node, deadline)
        before: list[str] = []
        while (left := _to_be_given_up(node)) and time.time() < deadline:
            if left != before:
                tell(f"{len(left)} to go: {', '.join(left)}")
                before = left
            time.sleep(LOOK_S)
        if not left:
            time.sleep(SETTLE_S)
        return not left
    finally:
        ray.shutdown()


def _announce(node: str, deadline: float) -> None:
    reasons: Any = vars(autoscaler_pb2)["DrainNodeReason"]
    reason = reasons.Value("DRAIN_NODE_REASON_PREEMPTION")  # one that Ray does not refuse because the node is in use
    accepted, why = gcs().drain_node(node, reason, "It is to end.", int(deadline * 1000))
    if not accepted:
        raise RuntimeError(f"The cluster refuses: {why}")


def _to_be_given_up(node: str) -> list[str]:
    """The engine's actors, replicas, and last the proxy, which tells balancers that nobody shall come any more."""
    return sorted(
        name for name in named_actors([node]) if is_engine_actor(name) or any(each in name for each in OF_SERVE)
    )


def run(command: Sequence[str], within_s: float) -> int:
    """Run the command that is the node (`ray start … --block`) until it ends, or until SIGTERM or SIGINT. Then the node
    is drained first, and the command gets its SIGTERM after that.

    Its exit code; 0 where it ended because it was told to.
    """
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    node = subprocess.Popen(command, start_new_session=True)  # a terminal's Ctrl-C is for this process alone

    def wait() -> None:
        node.wait()
        over.set()

    threading.Thread(target=wait, daemon=True).start()
    over.wait()
    if node.poll() is not None:
        return node.returncode
    _drain_apart(within_s)
    node.terminate()
    try:
        node.wait(STOP_S)
    except subprocess.TimeoutExpired:
        node.kill()
    return 0


def _drain_apart(within_s: float) -> None:
    """In a process of its own: whatever Ray makes of a node that is half gone, the end of this one goes on."""
    command = [sys.executable, "-m", "orchestrator.cluster", "drain", f"{within_s:g}"]
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(command, timeout=within_s + CONNECT_S, check=False)
