"""What the measurement of fleets makes of a journal, and its picture."""

from xml.etree import ElementTree

from bench.curves import Curve, drawn
from bench.fleet import FLEETS, Measured

LOG = [
    {"what": "start", "machine": "a", "at": 1.0},
    {"what": "start", "machine": "b", "at": 2.0},
    {"what": "callback", "machine": "a", "at": 3.0, "status": 200},
    {"what": "callback", "machine": "a", "at": 3.5, "status": 503},
    {"what": "exit", "machine": "a", "at": 4.0},
    {"what": "destroy", "machine": "a", "at": 5.0},
    {"what": "claim", "machine": "b", "at": 6.0},
]


def measured(name: str, seconds: float, tasks: int, created: int) -> Measured:
    fleet = next(fleet for fleet in FLEETS if fleet.name == name)
    return Measured(
        fleet=fleet, seconds=seconds, tasks=tasks, created=created, started=0, machine_s=1.0, throttled_s=0.0,
        cpu_s=1.0, log=LOG,
    )  # fmt: skip


def test_curves_follow_the_journal() -> None:
    """A machine that has exited is gone once; a refused callback ends no task."""
    machines, tasks = measured("shared", 9.0, 2, 2).curves()
    assert machines.points == [(0.0, 0), (1.0, 1), (2.0, 2), (4.0, 1), (5.0, 1)]
    assert tasks.points == [(0.0, 0), (3.0, 1)]


def test_what_was_asked_and_missed_is_said() -> None:
    """Nobody has to compare; and what was reckoned from a part says from which."""
    assert "MISSED" not in " ".join(measured("shared", 114.0, 1000, 100).cells())
    assert "116.0 s MISSED" in measured("shared", 116.0, 1000, 100).cells()
    each = measured("each", 41.0, 40, 40).cells()
    assert each[1] == "1001.0 s (from 40 in 41 s)"
    assert each[2] == "1,000"


def test_the_picture_is_well_formed_and_holds_every_curve() -> None:
    """A panel without a point as well; titles are escaped."""
    text = drawn([("a < b", [Curve("machines", [(0, 0), (2, 5)]), Curve("tasks", [(0, 0), (4, 9)])]), ("none", [])])
    root = ElementTree.fromstring(text)
    paths = [path.get("d") for path in root.iter("{http://www.w3.org/2000/svg}path")]
    assert "M0.0 200.0H230.0V0.0" in paths
    assert "M0.0 200.0H460.0V0.0" in paths
    assert "a < b" in [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
