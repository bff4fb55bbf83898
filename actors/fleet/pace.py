"""How fast machines are asked for: no faster than the provider makes them."""

from collections import Counter
from typing import Final

from actors.machines.base import Pooling, Provider

PACE_S: Final = 2.0
"""How long a machine may wait for its turn with the provider. Its task is taken before: what would wait for longer is
left to the machines that run."""


class Pace:
    """The machines that the provider will be asked for in a moment, and for how many more it has turns."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider if isinstance(provider, Pooling) else None  # once: such a check takes 40 µs
        self._kinds: dict[str, str] = {}
        self._count: Counter[str] = Counter()

    def permits(self, kind: str) -> bool:
        """Whether one more of this kind would be made soon."""
        return self._provider is None or self._provider.grants(kind, PACE_S, self._count) > 0

    def begin(self, machine: str, kind: str) -> None:
        """It will be asked for."""
        self._kinds[machine] = kind
        self._count[kind] += 1

    def asked(self, machine: str) -> None:
        """It is asked for now, or will not be; told twice is told once."""
        if (kind := self._kinds.pop(machine, None)) is not None:
            self._count[kind] -= 1

    def kind(self, machine: str) -> str:
        """Of one that will be asked for; else empty."""
        return self._kinds.get(machine, "")
