"""Machines as the API shows them, and as the fleet sees them. Of what is shown only this is read; all of it may be
missing or null: a summary has neither configuration nor events."""

from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from actors.machines.base import MachineStatus

State = Literal["running", "exited", "gone"]
STATES: Final[dict[str, State]] = {
    # `created` is not booted yet, and a machine that is being destroyed may still work for a moment
    **dict.fromkeys(("created", "creating", "starting", "started", "stopping", "restarting", "suspending"), "running"),
    **dict.fromkeys(("updating", "replacing", "destroying"), "running"),
    **dict.fromkeys(("stopped", "suspended", "failed", "launch_failed"), "exited"),
    **dict.fromkeys(("destroyed", "replaced", "migrated"), "gone"),
}
"""One that is not here was introduced later: counted as running, until the machine's deadline."""
AT_WORK: Final = frozenset({"starting", "started"})
AT_REST: Final = frozenset(
    {"created", "stopped", "suspended", "failed", "launch_failed", "destroyed", "replaced", "migrated"}
)
"""What is to be stopped is so already: one that was made and not started cannot be stopped."""


class ExitEvent(msgspec.Struct, frozen=True):
    """How a program ended."""

    exit_code: int | None = None
    oom_killed: bool | None = None


class Monitored(msgspec.Struct, frozen=True):
    """Where older machines have it."""

    exit_event: ExitEvent | None = None


class Request(msgspec.Struct, frozen=True):
    exit_event: ExitEvent | None = None
    monitor: Monitored | None = msgspec.field(default=None, name="MonitorEvent")


class Event(msgspec.Struct, frozen=True):
    type: str | None = None
    timestamp: float | None = None
    request: Request | None = None


class Guest(msgspec.Struct, frozen=True):
    memory_mb: int | None = None


class Config(msgspec.Struct, frozen=True):
    metadata: dict[str, str] | None = None
    guest: Guest | None = None


class ImageRef(msgspec.Struct, frozen=True):
    """What the registry has given for the image."""

    digest: str | None = None


class Shown(msgspec.Struct, frozen=True):
    """One machine."""

    id: str
    name: str | None = None
    state: str | None = None
    instance_id: str | None = None
    config: Config | None = None
    image_ref: ImageRef | None = None
    events: list[Event] | None = None

    @property
    def metadata(self) -> dict[str, str]:
        """What its maker has written on it."""
        return (self.config.metadata if self.config is not None else None) or {}

    @property
    def exit(self) -> ExitEvent | None:
        """How its last program ended, where the events tell."""
        ends = [event for event in self.events or () if event.type == "exit" and event.request is not None]
        for event in sorted(ends, key=lambda event: event.timestamp or 0, reverse=True):
            assert event.request is not None
            monitor = event.request.monitor
            found = event.request.exit_event or (monitor.exit_event if monitor is not None else None)
            if found is not None:
                return found
        return None

    def status(self, app: str) -> MachineStatus:
        """As the fleet sees it."""
        state = STATES.get(self.state or "", "running")
        end = self.exit if state == "exited" else None
        guest = self.config.guest if self.config is not None else None
        return MachineStatus(
            name=self.name or self.id,
            provider_id=f"{app}/{self.id}",
            state=state,
            code=end.exit_code if end is not None else None,
            oom=bool(end is not None and end.oom_killed),
            memory_mb=guest.memory_mb if guest is not None else None,
        )


def machine(body: bytes) -> Shown | None:
    """The machine in an answer; None when it is none."""
    try:
        return msgspec.json.decode(body, type=Shown)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def machines(body: bytes) -> Sequence[Shown] | None:
    """The machines in an answer; None when it is no list of them."""
    try:
        return msgspec.json.decode(body, type=list[Shown])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
