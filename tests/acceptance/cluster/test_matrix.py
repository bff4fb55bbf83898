"""A cluster on which any of its parts may die while batches run: nothing that was acknowledged is lost.

One cluster and one load for all tests of this file, in their order; the last one looks whether all is right. With each
change some of them are run, and all where no mark is left out.
"""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.acceptance.cluster import matrix, nodes
from tests.acceptance.cluster.faults import FAULTS, Scene, forgetful_head
from tests.acceptance.cluster.load import Load

LARGE = 500
STOPPED_S = 20.0
"""Longer than it takes until a node that answers nothing is given up."""
DOWN_S = 3.0
QUICK = frozenset(
    {"actors of batches killed", "a node killed", "the fleet killed", "a replica killed", "Postgres killed"}
)
"""What is tried with each change, in some two minutes with the start of the cluster."""


@pytest.fixture(scope="module")
def flow() -> Iterator[ExitStack]:
    """What ends the load: the last test closes it."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module")
def scene(picture: bytes, flow: ExitStack) -> Iterator[Scene]:
    """A cluster that remembers, and batches on it."""
    with nodes.running(remembers=True, MAX_RETRY_ATTEMPTS="100", MAX_ACTIVE_BATCHES="3") as cluster:
        load = Load(cluster, picture, large=LARGE)
        with flow:
            flow.enter_context(load.flowing())
            yield Scene(cluster, load, stopped_s=STOPPED_S, down_s=DOWN_S)


@pytest.mark.parametrize(
    "what", [pytest.param(one, marks=[] if one in QUICK else [pytest.mark.soak]) for one in FAULTS]
)
def test_all_goes_on(scene: Scene, recoveries: list[matrix.Recovery], what: str) -> None:
    """Each fault alone. Every batch that runs comes further, and new ones are taken."""
    recoveries.append((what, matrix.strike(scene, FAULTS[what])))


@pytest.mark.soak
def test_all_goes_on_in_a_new_cluster(scene: Scene, recoveries: list[matrix.Recovery]) -> None:
    """Without Redis the end of the head is the end of the cluster: it is started again as a whole, and goes on."""
    recoveries.append(("the head killed, without Redis", matrix.strike(scene, forgetful_head)))


def test_nothing_was_lost(scene: Scene, flow: ExitStack) -> None:
    """By the store, the bucket and the receiver, once the last batch is over."""
    flow.close()
    found = matrix.until_checked(scene)
    assert found.created
    matrix.tell(scene, found)
