"""Token buckets and pauses. Time is handed in."""

import random

import pytest

from actors.machines.fly.limits import MOST_PAUSE_S, SLACK_S, Buckets, pause_s
from tests.stand_ins.fly.limits import Limits
from tests.unit.actors.fly.bench import Fixed

CREATE = ("create", "one")


def turns(buckets: Buckets, key: tuple[str, str], number: int, now: float = 0.0) -> list[float]:
    """When each of so many that ask at once has its turn."""
    return [now + buckets.take(key, now) for _ in range(number)]


def test_three_at_once_then_one_a_second() -> None:
    """As documented for all actions but one."""
    assert turns(Buckets(), CREATE, 6) == pytest.approx([0, 0, 0, 1 + SLACK_S, 2 + SLACK_S, 3 + SLACK_S])


def test_getting_a_machine_has_more() -> None:
    """Ten at once, then five a second."""
    found = turns(Buckets(), ("get", "m1"), 12)
    assert found == pytest.approx([0] * 10 + [0.2 + SLACK_S, 0.4 + SLACK_S])


def test_a_rest_fills_the_bucket_and_no_more() -> None:
    """After an hour three go at once, not three thousand."""
    buckets = Buckets()
    turns(buckets, CREATE, 5)
    assert turns(buckets, CREATE, 4, now=3600.0) == pytest.approx([3600, 3600, 3600, 3601 + SLACK_S])


def test_buckets_do_not_share() -> None:
    """Neither two apps, nor two actions on one machine."""
    buckets = Buckets()
    turns(buckets, CREATE, 3)
    for key in (("create", "two"), ("list", "one"), ("start", "m1"), ("start", "m2"), ("stop", "m1")):
        assert buckets.wait_s(key, 0.0) == 0


def test_the_api_would_grant_every_turn() -> None:
    """Against the stand-in's own count, for whatever gaps between the questions."""
    rng = random.Random(1)
    buckets, asked, clock = Buckets(), 0.0, [0.0]
    limits = Limits(clock=lambda: clock[0])
    sent = []
    for _ in range(500):
        asked += rng.choice((0.0, 0.1, 0.5, 3.0))
        sent.append(asked + buckets.take(CREATE, asked))
    for clock[0] in sorted(sent):
        assert limits.take("create", "one") == 0


def test_the_app_with_a_token_goes_first() -> None:
    """Creations alternate once the bursts are used, so two apps are twice as fast."""
    buckets, keys = Buckets(), [("create", "one"), ("create", "two")]
    last = 0.0
    for _ in range(60):
        last = max(last, buckets.take(buckets.soonest(keys, 0.0), 0.0))
    alone = max(turns(Buckets(), CREATE, 60))
    assert (last, alone) == pytest.approx((27 + SLACK_S, 57 + SLACK_S))


def test_a_bucket_that_the_api_closed_gives_nothing_before() -> None:
    """Others use the same app: all who wait learn of the 429 that one of them got."""
    buckets = Buckets()
    buckets.close(CREATE, 10.0, 5.0)
    assert turns(buckets, CREATE, 2, now=10.0) == pytest.approx([15 + SLACK_S, 16 + SLACK_S])


@pytest.mark.parametrize(("taken", "within_s", "granted"), [(0, 0, 3), (0, 10, 13), (3, 0, 0), (5, 1.9, 0), (5, 4, 2)])
def test_what_is_granted_within_a_time(taken: int, within_s: float, granted: int) -> None:
    """What a fleet may begin without waiting for longer."""
    buckets = Buckets()
    turns(buckets, CREATE, taken)
    assert buckets.grants(CREATE, 0.0, within_s) == granted


def test_the_pause_is_drawn_from_a_growing_range() -> None:
    """Full jitter: from nothing to 0.5, 1, 2, … seconds, at most 8; on top of what Retry-After says."""
    assert [pause_s(n, Fixed(1.0)) for n in range(1, 8)] == [0.5, 1, 2, 4, 8, MOST_PAUSE_S, MOST_PAUSE_S]
    assert pause_s(3, Fixed(0.0)) == 0
    assert pause_s(2, Fixed(0.5), retry_after_s=7) == 7.5
    assert pause_s(10**6, Fixed(1.0)) == MOST_PAUSE_S


def test_a_limit_that_was_raised_is_of_creations_alone() -> None:
    """Fly raises it on request; it says nothing of lists."""
    raised = Buckets(creations_per_s=10)
    assert turns(raised, CREATE, 31) == pytest.approx([0] * 30 + [0.1 + SLACK_S])
    assert turns(raised, ("list", "one"), 4) == pytest.approx([0, 0, 0, 1 + SLACK_S])
