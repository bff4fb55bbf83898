"""Stand-ins that end with their test."""

import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.integration.stand_ins.bench import Flies
from tests.stand_ins.orchestrator import StandIn


@pytest.fixture
async def make_fly() -> AsyncIterator[Flies]:
    async with contextlib.AsyncExitStack() as stack:
        yield Flies(stack)


@pytest.fixture
def orchestrator() -> Iterator[StandIn]:
    stand_in = StandIn()
    yield stand_in
    stand_in.close()
