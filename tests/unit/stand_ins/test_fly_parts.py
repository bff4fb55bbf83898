"""The stand-in's small parts: rate limits, draws, and what bodies may say."""

import statistics

import msgspec
import pytest

from tests.stand_ins.fly import bodies
from tests.stand_ins.fly.chance import Chance, Duration
from tests.stand_ins.fly.errors import Refusal
from tests.stand_ins.fly.faults import Faults
from tests.stand_ins.fly.limits import Limits
from tests.stand_ins.fly.settings import REGIONS


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(("action", "burst", "per_s"), [("create", 3, 1), ("start", 3, 1), ("get", 10, 5)])
def test_a_burst_is_granted_then_so_many_a_second(action: str, burst: int, per_s: int) -> None:
    clock = Clock()
    limits = Limits(clock=clock)
    assert [limits.take(action, "a") for _ in range(burst)] == [0.0] * burst
    assert limits.take(action, "a") == pytest.approx(1 / per_s)
    clock.now = 1.0
    assert [limits.take(action, "a") for _ in range(per_s)] == [0.0] * per_s
    assert limits.take(action, "a") > 0


def test_actions_and_identifiers_are_counted_apart() -> None:
    limits = Limits(clock=Clock())
    for _ in range(4):
        limits.take("create", "a")
    assert limits.take("create", "a") > 0
    assert limits.take("list", "a") == 0
    assert limits.take("create", "b") == 0


def test_a_thousand_creations_take_a_thousand_seconds_less_the_burst() -> None:
    clock, created = Clock(), 0
    limits = Limits(clock=clock)
    while created < 1000:
        wait_s = limits.take("create", "a")
        created += wait_s == 0
        clock.now += wait_s
    assert clock.now == pytest.approx(997)


def test_the_same_subject_draws_the_same_in_any_order() -> None:
    one, other = Chance(7), Chance(7)
    first = [one.fraction("x", n) for n in range(10)]
    assert [other.fraction("x", n) for n in reversed(range(10))] == first[::-1]
    assert Chance(8).fraction("x", 0) != first[0]


@pytest.mark.parametrize(("text", "mean"), [("3", 3.0), ("2..4", 3.0), ("exp:2", 2.0), ("log:2,0", 2.0)])
def test_durations_have_the_mean_that_they_say(text: str, mean: float) -> None:
    chance, duration = Chance(1), Duration.parse(text)
    assert statistics.fmean(chance.seconds(duration, n) for n in range(4000)) == pytest.approx(mean, rel=0.05)


@pytest.mark.parametrize("text", ["", "x", "-1", "1..x", "log:0,1", "log:1", "nan", "inf", "exp:-1"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Duration.parse(text)


def test_a_rate_is_the_part_that_is_hit_and_a_region_can_have_its_own() -> None:
    faults = Faults(Chance(1), {"error": 0.25, "no_capacity@ord": 1.0})
    assert sum(faults.hits("error", n) for n in range(4000)) == pytest.approx(1000, rel=0.1)
    assert faults.hits("no_capacity", 1, region="ord")
    assert not faults.hits("no_capacity", 1, region="iad")


@pytest.mark.parametrize("rates", [{"nonsense": 0.1}, {"error": 1.1}, {"error": -0.1}, {"error": float("nan")}])
def test_unknown_faults_and_impossible_rates_are_refused(rates: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"."):
        Faults(Chance(1), rates)


def guest(cpu_kind: str, cpus: int, memory_mb: int) -> int:
    """The status that a creation of this size gets."""
    size = bodies.Guest(cpu_kind=cpu_kind, cpus=cpus, memory_mb=memory_mb)
    body = bodies.CreateMachine(config=bodies.Config(image="alpine", guest=size))
    try:
        bodies.checked(body, REGIONS)
    except Refusal as refusal:
        return refusal.status
    return 200


@pytest.mark.parametrize(
    ("size", "status"),
    [
        (("shared", 2, 1024), 200), (("shared", 1, 256), 200), (("shared", 2, 4096), 200), (("shared", 2, 4352), 422),
        (("shared", 2, 256), 422), (("shared", 3, 1024), 422), (("shared", 1, 300), 422), (("dedicated", 1, 256), 422),
        (("performance", 2, 4096), 200), (("performance", 2, 1024), 422), (("performance", 16, 131072), 200),
    ],
)  # fmt: skip
def test_sizes_are_those_that_fly_has(size: tuple[str, int, int], status: int) -> None:
    assert guest(*size) == status


@pytest.mark.parametrize(
    ("image", "parts"),
    [
        ("alpine", {"registry": "registry-1.docker.io", "repository": "alpine", "digest": "d"}),
        ("registry.fly.io/a/b:v1", {"registry": "registry.fly.io", "repository": "a/b", "tag": "v1", "digest": "d"}),
        (
            f"localhost:5000/w@sha256:{'a' * 64}",
            {"registry": "localhost:5000", "repository": "w", "digest": f"sha256:{'a' * 64}"},
        ),
    ],
)
def test_an_image_is_taken_apart(image: str, parts: dict[str, str]) -> None:
    assert bodies.image_ref(image, "d") == parts


@pytest.mark.parametrize(("text", "expected"), [("", 7.0), ("30", 30.0), ("1m30s", 90.0), ("0.5s", 0.5)])
def test_durations_of_requests_are_those_of_go(text: str, expected: float) -> None:
    assert bodies.seconds(text, 7.0) == expected


@pytest.mark.parametrize(
    ("raw", "status", "named"),
    [
        (b"{", 400, "truncated"),
        (b"[]", 400, "object"),
        (b'{"nmae": "x"}', 400, "nmae"),
        (b'{"config": {"env": {"A": 1}}}', 400, "env"),
        (b'{"config": {"guest": {"cpus": "2"}}}', 400, "cpus"),
        (b'{"config": {"restart": {"policy": "never"}}}', 400, "policy"),
        (b"{}", 422, "image"),
        (b'{"config": {"image": "UPPER CASE"}}', 422, "image"),
        (b'{"region": "moon", "config": {"image": "a"}}', 422, "region"),
        (b'{"name": "a b", "config": {"image": "a"}}', 422, "name"),
        (b'{"config": {"image": "a", "stop_config": {"signal": "SIGX"}}}', 400, "signal"),
        (b'{"config": {"image": "a", "stop_config": {"timeout": "soon"}}}', 400, "duration"),
    ],
)
def test_bodies_that_are_not_valid_are_refused_by_name(raw: bytes, status: int, named: str) -> None:
    with pytest.raises(Refusal, match=named) as refused:
        bodies.checked(bodies.decode(raw, bodies.CreateMachine), REGIONS)
    assert refused.value.status == status


def test_an_empty_body_has_all_defaults() -> None:
    assert bodies.decode(b"", bodies.StopMachine) == msgspec.convert({}, bodies.StopMachine)
