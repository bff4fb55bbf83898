"""`make soak`: whatever may happen to a cluster, in any order, for as long as MATRIX_S says (1800 s).

Every choice follows from MATRIX_SEED, which is printed: the same seed makes the same choices again.
"""

import logging
import os
import random
import secrets
import time
from typing import Final

import pytest

from tests.acceptance.cluster import matrix, nodes
from tests.acceptance.cluster.faults import FAULTS, Scene, forgetful_head
from tests.acceptance.cluster.load import Load

MATRIX_S: Final = float(os.environ.get("MATRIX_S", "1800"))
MATRIX_SEED: Final = os.environ.get("MATRIX_SEED") or secrets.token_hex(4)
LARGE: Final = 500
STOPPED_S: Final = 60.0
DOWN_S: Final = 10.0

log = logging.getLogger("matrix")


@pytest.mark.soak
def test_random_faults(picture: bytes, recoveries: list[matrix.Recovery]) -> None:
    """Whatever happens in whatever order: nothing that was acknowledged is lost. At the end also the cluster is."""
    log.setLevel(logging.INFO)
    rng = random.Random(MATRIX_SEED)
    with nodes.running(remembers=True, MAX_RETRY_ATTEMPTS="100", MAX_ACTIVE_BATCHES="3") as cluster:
        load = Load(cluster, picture, large=LARGE)
        scene = Scene(cluster, load, stopped_s=STOPPED_S, down_s=DOWN_S)
        with load.flowing():
            begun = time.monotonic()
            while time.monotonic() - begun < MATRIX_S:
                what = rng.choice(list(FAULTS))
                log.info("MATRIX_SEED=%s: %s", MATRIX_SEED, what)
                recoveries.append((what, matrix.strike(scene, FAULTS[what])))
                log.info("all goes on after %.1f s", recoveries[-1][1])
            recoveries.append(("the head killed, without Redis", matrix.strike(scene, forgetful_head)))
        matrix.tell(scene, matrix.until_checked(scene, within_s=600))
