"""What can be set: every duration, limit and rule of the stand-in, with the documented or observed value as default."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from tests.stand_ins.fly.chance import Duration

REGIONS: Final = frozenset({
    "ams", "arn", "atl", "bog", "bom", "bos", "cdg", "den", "dfw", "ewr", "eze", "fra", "gdl", "gig", "gru", "hkg",
    "iad", "jnb", "lax", "lhr", "mad", "mia", "nrt", "ord", "otp", "phx", "qro", "scl", "sea", "sin", "sjc", "syd",
    "waw", "yul", "yyz",
})  # fmt: skip


def always(seconds: float) -> Duration:
    """A duration that is the same each time."""
    return Duration("always", seconds)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Times in seconds."""

    apps: tuple[str, ...] = ("arke-tiff-worker",)
    token: str = "fly-stand-in"
    organisation: str = "personal"
    seed: int = 0
    limits: bool = True
    """The documented rate limits; without them everything is granted."""
    name_taken_status: int = 409
    """What a taken name is answered: 409, elsewhere seen as 422."""
    remember_s: float = 60.0
    """How long a destroyed machine is shown as such before it is not found."""

    # A machine's life
    hosts: int = 8
    """Hosts of a region; each pulls an image once, and creations wait for it."""
    pull: Duration = always(3.0)
    pull_always: bool = False
    """Each creation pulls, whatever its host holds."""
    boot: Duration = always(0.5)
    suspend: Duration = always(0.3)
    update: Duration = always(20.0)
    destroy: Duration = always(0.2)
    prepared_state: Literal["stopped", "created"] = "stopped"
    """Where a machine with skip_launch comes to rest. The documentation allows both; a start while it is still being
    prepared is refused, as observed."""
    stop_timeout_s: float = 5.0
    """From the stop's signal to the kill, where neither request nor stop_config says otherwise."""

    # Processors of shared machines, as documented for each vCPU
    cpu_quota: float = 0.0625
    cpu_burst_s: float = 5.0
    cpu_most_s: float = 500.0
    keep_balance: bool = True
    """A stopped machine has the same balance at its next start. Not documented: this is the harder of the two."""

    # What runs in it
    machines: Literal["simulated", "processes"] = "simulated"
    work: Duration = always(2.0)
    """A task from its environment to its callback, the processor's part included, on a machine that is not slowed."""
    cpu: Duration = always(1.0)
    """The processor's part of it."""
    command: tuple[str, ...] = (sys.executable, "-P", "-m", "worker")
    logs: Path | None = None
    """Folder of what real workers print; nowhere by default."""

    # Faults
    late: Duration = always(5.0)
    """How much too late a late callback comes."""
    unanswered_s: float = 60.0
    """How long a request whose answer is lost is left hanging before it gets a 504."""
    oom_cured_mb: int | None = None
    """Machines with so much memory never run out of it."""
