"""What every provider of machines can do. Only the fleet calls them.

A provider keeps no truth: after the death of its process a new one finds the same machines by asking outside
(processes, actors, an API). Each method may be called again after an answer was lost.
"""

from collections.abc import Mapping
from typing import Literal, Protocol, runtime_checkable

import msgspec


class SpawnRefused(Exception):
    """The provider does not make this machine. `permanent`: asking again cannot help before somebody changes something.
    `hopeless`: nor can asking for any other, since the service itself is not let in.

    The message goes to the owner of the batch: it names no secret and no path.
    """

    def __init__(self, message: str, *, permanent: bool = False, hopeless: bool = False):
        super().__init__(message)
        self.message = message
        self.permanent = permanent or hopeless
        self.hopeless = hopeless


class ProviderUnavailable(Exception):
    """The provider cannot say at the moment; nothing follows about any machine."""


class MachineSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A machine to be made: the provider's name for it, the kind of work, its whole environment.

    `memory_mb`: it must have so much, where the provider can choose.
    """

    name: str
    kind: str
    env: dict[str, str]
    memory_mb: int | None = None


class MachineStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A machine as its provider sees it. `code` is None where the exit code is not known.

    `oom`: it is known to have run out of memory; `memory_mb` is what it has, where the provider tells.
    """

    name: str
    provider_id: str
    state: Literal["running", "exited", "gone"]
    code: int | None = None
    oom: bool = False
    memory_mb: int | None = None


class Provider(Protocol):
    """Makes, finds and ends machines."""

    @property
    def name(self) -> str:
        """As MACHINE_PROVIDER spells it."""
        ...

    @property
    def capacity(self) -> int | None:
        """The most machines at once; None: only MAX_MACHINES bounds it."""
        ...

    async def spawn(self, spec: MachineSpec) -> str:
        """Make the machine and return the provider's id. A name that exists is adopted, whatever its state.

        Raises SpawnRefused; after any other exception the machine may exist: inspect its name.
        """
        ...

    async def inspect(self, which: str) -> MachineStatus:
        """The machine of this provider's id or name; never an error for an unknown one: it is gone.

        Raises ProviderUnavailable.
        """
        ...

    async def list(self) -> "list[MachineStatus]":
        """All machines that run or have exited and were not destroyed yet; an exit code may be left out.

        Raises ProviderUnavailable.
        """
        ...

    async def destroy(self, which: str) -> None:
        """End the machine of this id or name and forget it. Returns when it is gone; gone already is success.

        Raises ProviderUnavailable.
        """
        ...


@runtime_checkable
class Pooling(Provider, Protocol):
    """A provider whose machines can be kept stopped, and started again: that is quicker than making one, and not
    limited by rate. A machine keeps the environment that it was made with, so one of a pool claims its work."""

    async def prepare(self, spec: MachineSpec) -> str:
        """As `spawn`, but the machine is not started."""
        ...

    async def start(self, which: str) -> MachineStatus:
        """Start a stopped machine; one that runs is let be. The answer is "running", or "gone" for an unknown one.

        Raises SpawnRefused where there is no place for it now, and ProviderUnavailable: then it may have been started.
        """
        ...

    async def stop(self, which: str) -> None:
        """Ask the machine to give back its tasks and to end, and do not wait for it. Gone already is success.

        Raises ProviderUnavailable.
        """
        ...

    async def wait(self, which: str, state: Literal["running", "exited", "gone"], *, within_s: float) -> MachineStatus:
        """The machine once it runs, has exited or is gone, or as it is when the time is up.

        Raises ProviderUnavailable.
        """
        ...

    def edition(self, kind: str) -> str:
        """All that machines of this kind are made of, by the settings: where it changes, prepared ones are outdated."""
        ...

    def grants(self, kind: str, within_s: float, beside: Mapping[str, int]) -> int:
        """How many machines of this kind could be made within that time, by the provider's rate limits, when those of
        `beside` (by kind) are made first; below zero: not all of these."""
        ...


def gone(which: str) -> MachineStatus:
    """The status of a machine that the provider does not know."""
    return MachineStatus(name=which, provider_id=which, state="gone")


def worker_environment(spec: MachineSpec, inherited: Mapping[str, str]) -> dict[str, str]:
    """The environment of a worker's process: its own, and of ours only what finding programs and texts needs.

    Secrets of the service (keys, database) never get into a machine this way.
    """
    return {name: inherited[name] for name in PASSED_ON if name in inherited} | spec.env


PASSED_ON = (
    "PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "HOME", "LD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "VIPS_CONCURRENCY",
)  # fmt: skip
