"""A front over an engine without actors."""

from collections.abc import AsyncIterator

import httpx
import pytest

from actors.rules.model import Job, Task
from actors.rules.states import Delivery, JobState, TaskStatus
from orchestrator.app import create_app
from tests.unit.orchestrator.fakes import FakeEngine

JOB = Job(
    id="b1",
    state=JobState.RUNNING,
    tasks_total=3,
    tasks_completed=1,
    files_total=5,
    delivery=Delivery.PENDING,
    created_at=1_763_719_200_000,
    queued_at=1_763_719_200_090,
    started_at=1_763_719_200_120,
    updated_at=1_763_719_231_004,
)
TASK = Task(
    job_id="b1",
    phase=0,
    n=0,
    task_id="b1_tiff_0",
    status=TaskStatus.COMPLETED,
    attempt=2,
    input_r2_key="staging/b1/p.tif",
    output_r2_key="staging/b1/p.jpg",
    machine="m-1",
    started_at=1_763_719_200_120,
    completed_at=1_763_719_201_000,
    performance={"total_time_ms": 880},
)


@pytest.fixture
def engine() -> FakeEngine:
    """An engine that knows batch b1 with one task."""
    made = FakeEngine()
    made.store.jobs["b1"] = JOB
    made.store.rows["b1"] = [TASK]
    return made


@pytest.fixture
async def http(engine: FakeEngine) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application with the callback middleware in front."""
    transport = httpx.ASGITransport(create_app(engine))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client
