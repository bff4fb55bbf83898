"""What the provider is told of the service's settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class Size(NamedTuple):
    """Processors and memory of a machine."""

    cpu_kind: str
    cpus: int
    memory_mb: int


@dataclass(frozen=True, kw_only=True)
class FlyOptions:
    """`sizes` by kind of work, under "" that of all others. `service` tells this service's machines
    from others' in the same apps. `cpu_burst_s` and `cpu_rate`: what a shared vCPU may use before it is slowed down."""

    api_url: str
    token: str = field(repr=False)
    apps: tuple[str, ...]
    regions: tuple[str, ...]
    image: str
    sizes: Mapping[str, Size]
    service: str
    cpu_burst_s: float = 5.0
    cpu_rate: float = 0.0625
