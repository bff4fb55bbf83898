"""The nodes of a Ray cluster, and which actors of the engine are on them."""

import asyncio
from collections.abc import Collection
from typing import Any, Final

import ray
from ray._private import state, worker
from ray.exceptions import RayError

NAMESPACE: Final = "arke"
ASKED_WITHIN_S: Final = 3.0
PARTS: Final = ("store", "fleet", "maintenance", "batch", "batches", "exports", "archives", "machine")
"""What the names of the engine's actors begin with, up to a colon; `machine` are the warm workers."""


class RayNodes:
    """`actors.maintenance.drain.Nodes` by what GCS knows."""

    async def going(self) -> Collection[str]:
        """Nodes whose end somebody has announced: Ray itself at SIGTERM, the autoscaler, a person."""
        return await asyncio.to_thread(draining_nodes)

    async def actors_on(self, nodes: Collection[str]) -> list[str]:
        """Raises ConnectionError."""
        return [name for name in await asyncio.to_thread(named_actors, nodes) if is_engine_actor(name)]

    async def ask_to_leave(self, actor: str) -> None:
        """Raises ConnectionError where nobody has the name, or who has it does not answer."""
        try:
            found: Any = ray.get_actor(actor, namespace=NAMESPACE)
            await asyncio.wait_for(found.leave.remote(), ASKED_WITHIN_S)
        except (ValueError, TimeoutError, RayError) as error:
            raise ConnectionError(actor) from error


def is_engine_actor(name: str) -> bool:
    """Whether a name is that of one of the engine's actors, and not of Serve's."""
    return name.split(":")[0] in PARTS


def gcs() -> Any:
    """The client of this process, which is connected. Ray has no public one."""
    return vars(worker)["global_worker"].gcs_client


def draining_nodes() -> Collection[str]:
    """Ids of the nodes on which Ray starts nothing more. Raises ConnectionError."""
    try:
        found: dict[str, int] = gcs().get_draining_nodes(timeout=ASKED_WITHIN_S)
    except Exception as error:  # whatever it is, GCS does not answer now
        raise ConnectionError("GCS is away") from error
    return found.keys()


def named_actors(nodes: Collection[str]) -> list[str]:
    """Names of all actors with a name that run on these nodes. Raises ConnectionError."""
    try:
        alive = state.actors(actor_state_name="ALIVE").values()
    except Exception as error:
        raise ConnectionError("GCS is away") from error
    return [each["Name"] for each in alive if each["Name"] and each["Address"]["NodeID"] in nodes]
