"""Nodes that are to go, as somebody says who knows them; and that all parts are known by their names."""

from collections.abc import Collection

from actors.maintenance import drain
from actors.nodes import PARTS, is_engine_actor
from actors.ray_actors import SHELLS


class Nodes:
    """Actors on nodes; who is asked to leave goes, but for those that are gone already."""

    def __init__(self, *going: str, **actors: list[str]) -> None:
        self._going, self._actors = going, actors
        self.gone: set[str] = set()
        self.left: list[str] = []

    async def going(self) -> Collection[str]:
        return self._going

    async def actors_on(self, nodes: Collection[str]) -> list[str]:
        return [actor for node in nodes for actor in self._actors.get(node, [])]

    async def ask_to_leave(self, actor: str) -> None:
        if actor in self.gone:
            raise ConnectionError(actor)
        self.left.append(actor)


async def test_actors_of_a_node_that_goes_leave_it_and_whoever_asks_them_leaves_last() -> None:
    nodes = Nodes("a", "b", a=["maintenance", "batch:x"], b=["fleet"], c=["batches:0"])
    report = await drain.run_once(nodes, me="maintenance")
    assert nodes.left == ["batch:x", "fleet", "maintenance"]
    assert (report.done, report.failed) == (3, 0)


async def test_one_that_is_gone_meanwhile_holds_up_no_other() -> None:
    nodes = Nodes("a", a=["batch:x", "batch:y"])
    nodes.gone = {"batch:x"}
    report = await drain.run_once(nodes, me="maintenance")
    assert nodes.left == ["batch:y"]
    assert (report.done, report.failed) == (1, 1)


async def test_where_no_node_goes_nobody_is_looked_for() -> None:
    report = await drain.run_once(Nodes(a=["fleet"]), me="maintenance")
    assert (report.done, report.failed) == (0, 0)


def test_the_engine_s_actors_are_known_by_their_names() -> None:
    assert set(PARTS) == {*SHELLS, "machine"}
    assert all(is_engine_actor(name) for name in ("fleet", "batch:x:y", "batches:0"))
    assert not any(is_engine_actor(name) for name in ("SERVE_REPLICA::arke#front#x", "batchwise", ""))
