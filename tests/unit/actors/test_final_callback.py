"""What the receiver of the final callback answers, and what it means."""

from typing import Any, cast

import httpx
import pytest

from actors.channels.final_callback import TIMEOUT_S, FinalCallback, read_answer
from actors.errors import Unavailable
from actors.rules.batch import DELIVERY_MOST_MS
from actors.rules.model import Job, PhaseCount
from actors.rules.states import Delivery
from actors.store import Store

FIRST = Job(id="b", run=1)
LATER = Job(id="b", run=2, delivered_run=1)
ENQUEUED = '{"error": "Invalid batch state: enqueued"}'


@pytest.mark.parametrize("status", [200, 202, 204])
def test_any_2xx_is_delivered(status: int) -> None:
    """The receiver has the list."""
    assert read_answer(FIRST, 1, status, "").outcome == "delivered"


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_what_may_get_better_is_repeated(status: int) -> None:
    """Busy, too early or broken: behind a backoff, with its words kept."""
    told = read_answer(FIRST, 1, status, "later")
    assert (told.outcome, told.message) == ("retry", f"The receiver answered {status}: later")


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 409, 413, 422])
def test_what_cannot_get_better_is_refused(status: int) -> None:
    """Told once; an operator redelivers when the cause is gone."""
    assert read_answer(FIRST, 1, status, "no").outcome == "refused"


def test_enqueued_in_the_first_run_means_that_it_has_the_list() -> None:
    """The answer to an earlier request was lost: at least once is kept, and is not an error."""
    assert read_answer(FIRST, 1, 400, ENQUEUED).outcome == "delivered"


def test_enqueued_after_a_delivered_run_means_that_the_new_list_is_refused() -> None:
    """The receiver keeps the first list: the operator must know."""
    assert read_answer(LATER, 2, 400, ENQUEUED).outcome == "refused"


@pytest.mark.parametrize("earlier", [Delivery.SUPERSEDED, Delivery.GIVEN_UP])
def test_enqueued_after_a_run_whose_delivery_is_in_doubt_is_refused(earlier: Delivery) -> None:
    """It may have arrived although its answer did not: better a false alarm than a list that is not there."""
    after = Job(id="b", run=2, history=(PhaseCount("TIFF_CONVERSION", 1, 1, 0, 1, earlier),))
    assert read_answer(after, 2, 400, ENQUEUED).outcome == "refused"


@pytest.mark.parametrize("earlier", [Delivery.NONE, Delivery.REFUSED])
def test_enqueued_after_a_run_that_was_not_delivered_is_delivered(earlier: Delivery) -> None:
    """The receiver cannot have the list of a run that was cancelled or refused."""
    after = Job(id="b", run=2, history=(PhaseCount("TIFF_CONVERSION", 1, 1, 0, 1, earlier),))
    assert read_answer(after, 2, 400, ENQUEUED).outcome == "delivered"


def test_enqueued_after_redeliver_means_that_it_has_the_list() -> None:
    """The list that it has is this run's own."""
    assert read_answer(Job(id="b", run=2, delivered_run=2), 2, 400, ENQUEUED).outcome == "delivered"


class BrokenStore:
    """Cannot be read, or not at all in time."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def files(self, *_: object) -> list[Any]:
        raise self.error


@pytest.mark.parametrize("error", [Unavailable(), TimeoutError(), OSError()])
async def test_a_list_that_cannot_be_read_is_sent_later(error: Exception) -> None:
    """Whatever goes wrong on the way, the rules hear of it: they wait for the outcome."""

    async def takes(request: httpx.Request) -> httpx.Response:
        await request.aread()
        return httpx.Response(200)

    client = httpx.AsyncClient(transport=httpx.MockTransport(takes))
    told = await FinalCallback("http://w", cast(Store, BrokenStore(error)), client).send(FIRST, 1)
    assert (told.run, told.outcome) == (1, "retry")
    await client.aclose()


def test_a_receiver_that_is_not_ready_yet_is_asked_again() -> None:
    """Its batch is in another state than it must be: a small batch may end before the receiver knows of it."""
    assert read_answer(FIRST, 1, 400, '{"error": "Invalid batch state: uploading"}').outcome == "retry"


def test_the_answer_belongs_to_the_run_that_was_told() -> None:
    """So that a late answer does not end the delivery of a later run."""
    assert read_answer(LATER, 1, 200, "").run == 1


def test_a_request_ends_before_the_next_begins() -> None:
    """The rules do not begin another before; by then the request has timed out: never two at once."""
    assert TIMEOUT_S * 1000 < DELIVERY_MOST_MS
