"""The duty that has prefixes read on, with a store that holds what a test has put into it."""

from actors.errors import Unavailable
from actors.maintenance import read_on
from actors.rules.model import Job


class Reading:
    """A store whose jobs all read a prefix."""

    def __init__(self, *jobs: Job) -> None:
        self.jobs = list(jobs)

    async def reading(self, *, limit: int = 50, cursor: str | None = None) -> tuple[list[Job], str | None]:
        first = int(cursor or 0)
        following = first + limit
        return self.jobs[first:following], str(following) if following < len(self.jobs) else None


async def test_all_prefixes_are_read_on() -> None:
    """A prefix may have lost its reader at its beginning or later; those of all pages are read on."""
    woken: list[str] = []

    async def activate(job_id: str) -> None:
        woken.append(job_id)

    store = Reading(Job(id="begun", source_cursor=""), Job(id="later", source_cursor="a/7.tif"))
    report = await read_on.run_once(store, activate, limit=1)
    assert woken == ["begun", "later"]
    assert report.failed == 0


async def test_one_that_cannot_be_woken_delays_no_other() -> None:
    """Its turn is the next round; the report says that there was one."""
    woken: list[str] = []

    async def activate(job_id: str) -> None:
        if job_id == "dead":
            raise Unavailable
        woken.append(job_id)

    store = Reading(Job(id="dead", source_cursor=""), Job(id="b", source_cursor=""))
    report = await read_on.run_once(store, activate)
    assert woken == ["b"]
    assert report.failed == 1
