"""A conversation with a converting process, on a clock of the test's own."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from worker import child
from worker.child import Conversation
from worker.errors import LimitExceeded
from worker.frames import Done, Frames, Go, Hold, Ready, Release, ToChild, ToParent, framed
from worker.kinds.tiff import Options
from worker.limits import MemoryGate


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


class Scripted:
    """A child that says what the test wrote down: messages, and seconds that pass."""

    cpu_s = 0.0
    was_ready = False

    def __init__(self, clock: Clock, *script: ToParent | float) -> None:
        self.heard: list[ToChild] = []
        self._clock = clock
        self._script = list(script)

    def send(self, message: ToChild) -> None:
        self.heard.append(message)

    def forget_complaints(self) -> None:
        """It has none."""

    def receive(self, timeout_s: float) -> ToParent | None:
        said = self._script.pop(0)
        if isinstance(said, float):
            self._clock.now += said
            return None
        return said


class SlowGate(MemoryGate):
    """Memory that is free after an hour."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.held = self.most = 0

    @contextmanager
    def hold(self, pixels: int, cancelled: threading.Event, *, extra: float = 0.0) -> Iterator[None]:
        self._clock.now += 3600
        self.held += 1
        self.most = max(self.most, self.held)
        try:
            yield
        finally:
            self.held -= 1


DONE = Done({"size": 4, "width": 1, "height": 1, "pages": 1, "notes": ["turned"]}, 0.25, 1000)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time that conversations see."""
    made = Clock()
    monkeypatch.setattr(child, "time", made)
    return made


def run(script: Scripted, options: Options) -> Any:
    """A conversation with a limit of 10 s."""
    conversation = Conversation(script, options, 10.0, None)  # type: ignore[arg-type]
    return conversation.measured(conversation.run(Path("a"), Path("b")))


def test_waiting_for_memory_is_no_time_of_the_conversion(clock: Clock) -> None:
    """An hour at the gate does not end a conversion that has ten seconds; what it held is given back."""
    gate = SlowGate(clock)
    script = Scripted(clock, Ready(), 9.0, Hold(100), Release(), DONE)
    made = run(script, Options(memory=gate))
    assert (made.cpu_ms, made.peak_bytes, made.converted.notes) == (250, 1000, ("turned",))
    assert script.heard[-1] == Go()
    assert gate.held == 0


def test_time_before_and_after_the_gate_counts(clock: Clock) -> None:
    """Nine seconds before and two after are more than ten; the memory is given back then as well."""
    gate = SlowGate(clock)
    with pytest.raises(LimitExceeded, match="longer than 10 s"):
        run(Scripted(clock, Ready(), 9.0, Hold(100), 2.0, DONE), Options(memory=gate))
    assert gate.held == 0


def test_second_decoder_does_not_hold_twice(clock: Clock) -> None:
    """What the first decoder held is given back before the second asks, else it would wait for itself."""
    gate = SlowGate(clock)
    run(Scripted(clock, Ready(), Hold(100), Release(), Hold(100), Release(), DONE), Options(memory=gate))
    assert gate.most == 1


def test_messages_survive_being_cut_anywhere() -> None:
    """Frames that arrive byte by byte are the messages that were sent."""
    frames = Frames[ToParent](ToParent)
    sent = [Ready(), Hold(5), DONE]
    got = []
    for byte in b"".join(framed(message) for message in sent):
        frames.feed(bytes([byte]))
        message = frames.next()
        if message is not None:
            got.append(message)
    assert got == sent
