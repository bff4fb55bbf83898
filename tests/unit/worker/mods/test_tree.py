"""The walk: order, cycles, bounds, failures; fetches come back in whatever order the test wants."""

import asyncio
import random
from collections.abc import Mapping, Sequence

import pytest

from worker.errors import BadInput, Unavailable
from worker.kinds.mods import tree as tree_module
from worker.kinds.mods.entity import Entity, Manifest
from worker.kinds.mods.tree import AHEAD, Found, Walk

Tree = Mapping[str, Sequence[str]]


class Archive:
    """Entities by name. `rng` lets answers overtake each other; `merged` gives another name."""

    def __init__(
        self, tree: Tree, *, rng: random.Random | None = None, merged: Mapping[str, str] | None = None
    ) -> None:
        self._tree, self._rng, self._merged = tree, rng, merged or {}
        self.asked: list[str] = []
        self.at_once = self.most_at_once = 0

    async def fetch(self, pi: str) -> Entity:
        self.asked.append(pi)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            for _ in range(self._rng.randrange(12) if self._rng else 0):
                await asyncio.sleep(0)
        finally:
            self.at_once -= 1
        name = self._merged.get(pi, pi)
        if name not in self._tree:
            raise BadInput("404 Not Found")
        return Entity(manifest=Manifest(pi=name, components={}, children=tuple(self._tree[name])))


async def walked(archive: Archive, *, at_once: int = 4, max_depth: int = 10) -> list[Found]:
    walk = Walk("r", archive.fetch, at_once=at_once, max_depth=max_depth)
    return [found async for found in walk.each()]


async def order(tree: Tree, *, max_depth: int = 10, **more: Mapping[str, str]) -> str:
    """The names in the order of the walk."""
    return " ".join(found.pi for found in await walked(Archive(tree, **more), max_depth=max_depth))


BUSHY = {
    "r": ["a", "b", "c"], "a": ["a1", "a2"], "b": [], "c": ["c1"], "a1": ["a11"], "a2": [], "a11": [], "c1": ["c11"],
    "c11": [],
}  # fmt: skip


async def test_the_order_is_depth_first() -> None:
    """Children as their parent lists them."""
    assert await order(BUSHY) == "r a a1 a11 a2 b c c1 c11"


@pytest.mark.parametrize("seed", range(25))
async def test_the_order_does_not_depend_on_who_answers_first(seed: int) -> None:
    """A random graph with shared children and cycles: the same as a plain recursive walk, within both bounds."""
    rng = random.Random(seed)
    names = [f"n{n}" for n in range(60)]
    tree = {name: rng.sample(names, rng.randrange(4)) for name in names} | {"r": names[:3]}
    expected: list[str] = []

    def plain(name: str, depth: int) -> None:
        if name not in expected:
            expected.append(name)
            for child in tree[name] if depth < 6 else ():
                plain(child, depth + 1)

    plain("r", 0)
    for at_once in (1, 3, 20):
        archive = Archive(tree, rng=random.Random(seed))
        found = await walked(archive, at_once=at_once, max_depth=6)
        assert [each.pi for each in found] == expected
        assert archive.most_at_once <= at_once + 1


async def test_places_in_the_tree() -> None:
    """Depth from the root, which is 0, and the way down."""
    places = {found.pi: found.position for found in await walked(Archive(BUSHY))}
    assert (places["r"].depth, places["r"].parent, places["r"].path) == (0, None, ("r",))
    assert (places["a11"].depth, places["a11"].parent, places["a11"].path) == (3, "a1", ("r", "a", "a1", "a11"))


@pytest.mark.parametrize(("depth", "names"), [(0, "r"), (1, "r a b c"), (2, "r a a1 a2 b c c1")])
async def test_the_depth_is_bounded(depth: int, names: str) -> None:
    """What is below is not even asked for."""
    assert await order(BUSHY, max_depth=depth) == names


@pytest.mark.parametrize(
    ("tree", "names"),
    [
        ({"r": ["r"]}, "r"), ({"r": ["a"], "a": ["b"], "b": ["a", "r", "c"], "c": []}, "r a b c"),
        ({"r": ["a", "b"], "a": ["s"], "b": ["s"], "s": ["t"], "t": []}, "r a s t b"),
        ({"r": ["b", "a"], "a": ["s"], "b": ["a"], "s": []}, "r b a s"), ({"r": ["a", "a"], "a": []}, "r a"),
    ],
)  # fmt: skip
async def test_an_entity_comes_once(tree: Tree, names: str) -> None:
    """At its first place in the order, whatever else leads to it."""
    assert await order(tree) == names


async def test_what_was_merged_is_the_other_one() -> None:
    """Which comes once; that something was left out is counted."""
    tree = {"r": ["old", "new", "older"], "new": ["n"], "n": []}
    merged = {"old": "new", "older": "new"}
    archive = Archive(tree, merged=merged)
    walk = Walk("r", archive.fetch, at_once=2, max_depth=9)
    assert [found.pi async for found in walk.each()] == ["r", "new", "n"]
    assert walk.repeated == 1  # `older`; `new` itself is no second entity


async def test_a_failure_is_a_place_in_the_order_too() -> None:
    """With the reason; what comes after is not touched."""
    found = await walked(Archive({"r": ["gone", "b"], "b": []}))
    assert [(each.pi, each.entity is None) for each in found] == [("r", False), ("gone", True), ("b", False)]
    assert str(found[1].fault) == "404 Not Found"


async def test_memory_does_not_grow_with_the_tree() -> None:
    """While nobody takes what comes, only so much is fetched ahead, of however many children."""
    archive = Archive({"r": [f"c{n}" for n in range(1000)]} | {f"c{n}": [] for n in range(1000)})
    walk = Walk("r", archive.fetch, at_once=4, max_depth=9).each()
    await anext(walk)
    for _ in range(200):
        await asyncio.sleep(0)
    assert len(archive.asked) <= 1 + 4 * AHEAD
    await walk.aclose()


async def test_a_walk_that_is_left_ends_its_fetches() -> None:
    """Nothing goes on in the background."""
    begun, ended = asyncio.Event(), asyncio.Event()

    async def fetch(pi: str) -> Entity:
        if pi == "r":
            return Entity(manifest=Manifest(pi="r", components={}, children=("a",)))
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise Unavailable

    walk = Walk("r", fetch, at_once=4, max_depth=9).each()
    await anext(walk)
    await begun.wait()
    await walk.aclose()
    await asyncio.wait_for(ended.wait(), 5)


async def test_large_entities_are_not_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is fetched ahead while too many bytes wait; the walk goes on all the same."""
    monkeypatch.setattr(tree_module, "HELD_BYTES", 100)
    asked: list[str] = []

    async def fetch(pi: str) -> Entity:
        asked.append(pi)
        children = tuple(f"c{n}" for n in range(20)) if pi == "r" else ()
        return Entity(manifest=Manifest(pi=pi, components={}, children=children), size=0 if pi == "r" else 60)

    walk = Walk("r", fetch, at_once=2, max_depth=9).each()
    await anext(walk)
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(asked) <= 1 + 3
    rest = [found.pi async for found in walk]
    assert rest == [f"c{n}" for n in range(20)]
