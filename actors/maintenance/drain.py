"""Nodes that are to go: what of the engine is on them ends in order, and is started again on others."""

from collections.abc import Collection
from typing import Final, Protocol

from actors.maintenance.base import Report

DUTY: Final = "drain"
EVERY_S: Final = 1.0


class Nodes(Protocol):
    """The nodes of the cluster, as Ray knows them. All of it may raise ConnectionError."""

    async def going(self) -> Collection[str]:
        """Ids of the nodes that shall get nothing more, because they are about to end."""

    async def actors_on(self, nodes: Collection[str]) -> list[str]:
        """Names of the engine's actors that run there."""

    async def ask_to_leave(self, actor: str) -> None:
        """Have it end its process, after what it has begun. Asking again changes nothing."""


async def run_once(nodes: Nodes, *, me: str) -> Report:
    """Ask the actors of nodes that are to go to leave. Ray starts each again, and puts none of them on such a node.

    Whoever called one of them meanwhile asks again (`actors.directory`), and finds it where it is then: no request
    fails. Those that are still leaving at the next look are asked again. `me`, which runs this, is asked last.
    """
    going = await nodes.going()
    if not going:
        return Report(duty=DUTY)
    found = await nodes.actors_on(going)
    failed = 0
    for actor in sorted(found, key=lambda name: name == me):
        try:
            await nodes.ask_to_leave(actor)
        except ConnectionError:  # it has left
            failed += 1
    return Report(duty=DUTY, done=len(found) - failed, failed=failed)
