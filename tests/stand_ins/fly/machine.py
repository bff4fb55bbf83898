"""One machine: its states, events, and how it looks from outside. Nothing here waits or decides."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from tests.stand_ins.fly.bodies import Config, image_ref
from tests.stand_ins.fly.processor import Cores

MOVES: Final[Mapping[str, frozenset[str]]] = {
    "created": frozenset({
        "starting",    # its image is there, or somebody started a prepared one
        "stopped",     # skip_launch, and it is prepared
        "replacing",   # updated
        "destroying",
    }),
    "starting": frozenset({
        "started",     # its program runs
        "stopped",     # stopped before that
        "destroying",
    }),
    "started": frozenset({
        "stopping",    # somebody asked
        "stopped",     # its program ended
        "starting",    # its program ended, and the restart policy begins it again
        "restarting", "suspending", "replacing", "destroying",
        "destroyed",   # its host is gone
    }),
    "stopping": frozenset({"stopped", "destroying", "destroyed"}),
    "restarting": frozenset({"starting", "destroying", "destroyed"}),
    "suspending": frozenset({"suspended", "destroying"}),
    "stopped": frozenset({"starting", "replacing", "destroying"}),
    "suspended": frozenset({"starting", "stopped", "replacing", "destroying"}),
    "replacing": frozenset({"starting", "stopped", "destroying"}),
    "destroying": frozenset({"destroyed"}),
    "destroyed": frozenset(),
}  # fmt: skip
"""What may follow what, and what happened then."""


@dataclass(frozen=True, kw_only=True)
class Exit:
    """How a program ended. `vanished`: nobody saw it, its host is gone with it."""

    code: int
    signal: int = -1
    oom_killed: bool = False
    vanished: bool = False


KILLED: Final = Exit(code=137, signal=9)
OUT_OF_MEMORY: Final = Exit(code=137, signal=9, oom_killed=True)
VANISHED: Final = Exit(code=-1, vanished=True)


class Program(Protocol):
    """What runs in a machine, once."""

    async def run(self) -> Exit:
        """Until it ends; cancelled, it ends at once and leaves nothing behind."""
        ...

    def interrupt(self, signal: str) -> None:
        """Ask it to end."""
        ...

    def kill(self) -> None:
        """End it."""
        ...


@dataclass(eq=False, kw_only=True)
class Machine:
    """`config` is as it was sent, `settings` what it means."""

    id: str
    app: str
    name: str
    region: str
    host: int
    config: dict[str, Any]
    settings: Config
    instance_id: str
    cores: Cores
    digest: str
    lease_nonce: str | None = None
    lease_until: float = 0.0
    state: str = "created"
    events: list[dict[str, Any]] = field(default_factory=list)
    created_at: float = field(default_factory=time.time)
    updated_at: float = field(default_factory=time.time)
    starts: int = 0
    failures: int = 0
    """Exits with an error in a row, for the restart policy."""
    versions: int = 1
    is_cordoned: bool = False
    is_prepared: bool = False
    """Created with skip_launch, and ready to be started."""
    has_vanished: bool = False
    """Gone with its host: nobody finds it any more."""
    is_stop_requested: bool = False
    destroyed_at: float | None = None
    started_s: float = 0.0
    """Seconds in `started`, the present time not included."""
    program: Program | None = None
    life: asyncio.Task[None] | None = None
    """What takes it from state to state."""
    _since: float = field(default_factory=time.monotonic)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def become(self, state: str) -> None:
        """Raises AssertionError for a move that is not in the table."""
        assert state in MOVES[self.state], f"{self.name}: {self.state} -> {state}"
        now = time.monotonic()
        if self.is_billed:
            self.started_s += now - self._since
        self._since, self.state, self.updated_at = now, state, time.time()
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def happened(self, type_: str, status: str, source: str, request: dict[str, Any] | None = None) -> None:
        """An event of the machine's list."""
        event = {
            "id": f"{self.id}-{len(self.events) + 1}",
            "type": type_,
            "status": status,
            "source": source,
            "timestamp": round(time.time() * 1000),
        }
        self.events.insert(0, event if request is None else event | {"request": request})

    async def until(self, wanted: Callable[["Machine"], bool]) -> None:
        """Until it is so; looked at whenever the state changes."""
        while not wanted(self):
            await self._changed.wait()

    @property
    def is_billed(self) -> bool:
        """A machine costs from `started` until it has ended."""
        return self.state in ("started", "stopping", "suspending", "restarting")

    def machine_seconds(self) -> float:
        """Seconds that it has cost."""
        return self.started_s + (time.monotonic() - self._since if self.is_billed else 0.0)

    @property
    def private_ip(self) -> str:
        """Its address in the organisation's network."""
        return f"fdaa:0:18:a7b:{self.id[:4]}:{self.id[4:8]}:{self.id[8:12]}:2"

    def as_json(self, *, summary: bool = False) -> dict[str, Any]:
        """As the API shows it; newest event first."""
        shown: dict[str, Any] = {
            "id": self.id,
            "name": self.name,
            "state": self.state,
            "region": self.region,
            "instance_id": self.instance_id,
            "private_ip": self.private_ip,
            "image_ref": image_ref(self.settings.image, self.digest),
            "created_at": iso(self.created_at),
            "updated_at": iso(self.updated_at),
        }
        if not summary:
            shown |= {"config": self.config, "events": list(self.events)}
        return shown


def iso(seconds: float) -> str:
    """A time as the API writes it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
