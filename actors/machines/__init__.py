"""Providers of machines, one file each. `open_provider` imports only the one that is asked for."""

from pathlib import Path
from typing import TYPE_CHECKING

from actors.machines.base import Provider

if TYPE_CHECKING:
    from actors.machines.fly import FlyOptions


def open_provider(
    name: str, *, run_dir: Path, log_dir: Path, workers: int, cluster: bool = False, fly: "FlyOptions | None" = None
) -> Provider:  # fmt: skip
    """The provider that MACHINE_PROVIDER names.

    `run_dir` holds the register of processes, `log_dir` their output; `workers` is the number of warm actors,
    `cluster` whether they are on several nodes; `fly` is what Fly.io's provider is told.
    """
    if name == "subprocess":
        from actors.machines.subprocess import SubprocessMachines

        return SubprocessMachines(run_dir / "machines", log_dir)
    if name == "ray":
        from actors.machines.ray_workers import RayMachines

        return RayMachines(workers, cores=1 if cluster else 0, log_dir=log_dir)
    if name == "external":
        from actors.machines.external import ExternalMachines

        return ExternalMachines()
    if name == "fly" and fly is not None:
        from actors.machines.fly import FlyMachines

        return FlyMachines(fly)
    raise ValueError(f"MACHINE_PROVIDER is {name!r}; allowed: ray, subprocess, fly, external.")
