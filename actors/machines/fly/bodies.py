"""What is sent to make a machine: its configuration, and the metadata by which it is known again. Pure."""

import json
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from actors.machines.base import MachineSpec
from actors.machines.fly.options import FlyOptions, Size

SERVICE: Final = "arke_service"
NAME: Final = "arke_name"
STOP_S: Final = 10
"""From SIGTERM to SIGKILL: a worker gives its tasks back in less."""


def creation(
    spec: MachineSpec, options: FlyOptions, region: str, *, launch: bool, digest: str | None = None
) -> dict[str, Any]:
    """The body of a creation. With restart policy "no", whatever its end, a program is run once. `digest` pins an image
    whose name has none.
    """
    size, image = options.size(spec.kind, spec.memory_mb), options.image_for(spec.kind)
    config = {
        "image": f"{image}@{digest}" if digest and "@" not in image else image,
        "env": allowance(size, options) | spec.env,
        "auto_destroy": False,
        "restart": {"policy": "no"},
        "guest": {"cpu_kind": size.cpu_kind, "cpus": size.cpus, "memory_mb": size.memory_mb},
        "metadata": metadata(spec, options.service),
        "stop_config": {"signal": "SIGTERM", "timeout": f"{STOP_S}s"},
    }
    body = {"name": spec.name, "region": region, "config": config}
    return body if launch else body | {"skip_launch": True}


def edition(kind: str, options: FlyOptions) -> str:
    """What `creation` makes of the settings, of whatever machine of this kind."""
    config = creation(MachineSpec(name="", kind=kind, env={}), options, "", launch=False)["config"]
    return json.dumps(config, sort_keys=True)


def allowance(size: Size, options: FlyOptions) -> dict[str, str]:
    """By which the worker retires before its shared processors are slowed down 16-fold; they share it."""
    if size.cpu_kind != "shared":
        return {}
    burst_s, rate = options.cpu_burst_s * size.cpus, options.cpu_rate * size.cpus
    return {"WORKER_CPU_BURST_S": f"{burst_s:g}", "WORKER_CPU_RATE": f"{rate:g}"}


def metadata(spec: MachineSpec, service: str) -> dict[str, str]:
    """Whose machine it is, and what for: what its environment tells."""
    query = parse_qs(urlsplit(spec.env.get("CALLBACK_URL", "")).query)
    machine = spec.env.get("MACHINE_NAME", "")
    told = {
        "arke_kind": spec.kind,
        "arke_machine": machine,
        "arke_epoch": machine.split("-")[1] if machine.count("-") == 2 else "",  # the fleet's: m-{epoch}-{number}
        "arke_batch": spec.env.get("BATCH_ID", ""),
        "arke_task": spec.env.get("TASK_ID", ""),
        "arke_run": query.get("run", [""])[0],
        "arke_attempt": query.get("attempt", [""])[0],
    }
    known = {key: value for key, value in told.items() if value}
    return known | {SERVICE: service, NAME: spec.name}


def by_name(name: str) -> dict[str, str]:
    """The query of a list that finds it: the API has no filter for names."""
    return {f"metadata.{NAME}": name}
