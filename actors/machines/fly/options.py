"""What the provider is told of the service's settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

MEMORY_STEP_MB: Final = 256
MOST_MB: Final = {"shared": 2048, "performance": 8192}
"""Memory that a processor can have; Fly's documentation."""
LEAST_MB: Final = {"shared": 256, "performance": 2048}
CPUS: Final = {"shared": (1, 2, 4, 6, 8), "performance": (1, 2, 4, 6, 8, 10, 12, 14, 16)}
MOST_CPUS: Final = {"shared": 8, "performance": 16}


class Size(NamedTuple):
    """Processors and memory of a machine."""

    cpu_kind: str
    cpus: int
    memory_mb: int

    @property
    def name(self) -> str:
        """As MACHINE_PRICES spells it."""
        return f"{self.cpu_kind}-{self.cpus}x-{self.memory_mb}"

    @property
    def fault(self) -> str | None:
        """Why Fly has no such machine; None: it has."""
        if self.cpus not in CPUS[self.cpu_kind]:
            return f"a {self.cpu_kind} machine has one of {', '.join(map(str, CPUS[self.cpu_kind]))} processors"
        least_mb, most_mb = LEAST_MB[self.cpu_kind] * self.cpus, MOST_MB[self.cpu_kind] * self.cpus
        if not least_mb <= self.memory_mb <= most_mb or self.memory_mb % MEMORY_STEP_MB:
            return (
                f"a {self.cpu_kind} machine with {self.cpus} processors has {least_mb} to {most_mb} MB, in steps of "
                f"{MEMORY_STEP_MB}"
            )
        return None

    def with_memory(self, memory_mb: int | None) -> "Size":
        """The smallest machine of this kind, not below this one, that has so much, or as much as there is."""
        cpus, wanted_mb = self.cpus, max(self.memory_mb, memory_mb or 0)
        while wanted_mb > MOST_MB[self.cpu_kind] * cpus and cpus < MOST_CPUS[self.cpu_kind]:
            cpus *= 2
        if wanted_mb == self.memory_mb:
            return self
        whole_mb = -(-wanted_mb // MEMORY_STEP_MB) * MEMORY_STEP_MB
        return Size(self.cpu_kind, cpus, min(whole_mb, MOST_MB[self.cpu_kind] * cpus))


@dataclass(frozen=True, kw_only=True)
class FlyOptions:
    """`sizes` by kind of work, under "" that of all others; `kind_apps` and `kind_images` for kinds that have others
    than `apps` and `image`. `service` tells this service's machines from others' in the
    same apps. `creations_per_s` is what Fly permits in each app. `cpu_burst_s` and `cpu_rate`: what a shared vCPU may
    use before it is slowed down."""

    def size(self, kind: str, memory_mb: int | None) -> Size:
        """Of a machine for this kind of work that must have so much memory."""
        return (self.sizes.get(kind) or self.sizes[""]).with_memory(memory_mb)

    def apps_for(self, kind: str) -> tuple[str, ...]:
        """Where machines for this kind of work are made."""
        return self.kind_apps.get(kind) or self.apps

    def image_for(self, kind: str) -> str:
        """What they run."""
        return self.kind_images.get(kind) or self.image

    @property
    def all_apps(self) -> tuple[str, ...]:
        """Where there may be machines of this service."""
        return tuple(dict.fromkeys((*self.apps, *(app for apps in self.kind_apps.values() for app in apps))))

    api_url: str
    token: str = field(repr=False)
    apps: tuple[str, ...]
    regions: tuple[str, ...]
    image: str
    sizes: Mapping[str, Size]
    service: str
    creations_per_s: int = 1
    cpu_burst_s: float = 5.0
    cpu_rate: float = 0.0625
    kind_apps: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    kind_images: Mapping[str, str] = field(default_factory=dict)
