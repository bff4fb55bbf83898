"""A cluster on which any of its parts may die, and what must be true afterwards."""

from collections.abc import Iterator

import pytest

from tests.acceptance.cluster import nodes
from tests.acceptance.service import eventually


@pytest.fixture(scope="module")
def cluster() -> Iterator[nodes.Cluster]:
    """A cluster that remembers, for all tests of this file."""
    with nodes.running(remembers=True) as made:
        yield made


def test_a_batch_is_converted(cluster: nodes.Cluster, tiff: bytes) -> None:
    """The service is on three nodes with a network between them, and converts."""
    for number in range(30):
        cluster.put(f"first/p{number:02}.tif", tiff)
    assert cluster.http.post("/batches", json={"batch_id": "first", "r2_prefix": "first/"}).status_code == 202
    eventually(lambda: cluster.http.get("/status/first").json()["completed_at"], "the batch is over")
    status = cluster.http.get("/status/first").json()
    assert (status["status"], status["progress"]["tasks_completed"]) == ("DONE", 30)
    assert len(list((cluster.objects / "first").glob("*.jpg"))) == 30
    assert len({node.address for node in cluster.nodes if node.roles()["raylet"]}) == 3
