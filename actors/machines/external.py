"""Nothing is spawned: workers come by themselves (`python -m worker --pull URL`) and claim."""

from actors.machines.base import MachineSpec, MachineStatus, SpawnRefused, gone


class ExternalMachines:
    """The provider without machines."""

    name = "external"
    capacity = 0

    async def spawn(self, spec: MachineSpec) -> str:
        """Always refused. The fleet never asks, since `capacity` is 0."""
        raise SpawnRefused(
            "No machine can be made with MACHINE_PROVIDER=external. Start `python -m worker --pull`.", permanent=True
        )

    async def inspect(self, which: str) -> MachineStatus:
        return gone(which)

    async def list(self) -> list[MachineStatus]:
        return []

    async def destroy(self, which: str) -> None:
        """There is nothing to end."""
