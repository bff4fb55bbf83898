"""What a worker process reads from its environment, once, before anything starts.

| variable | unit | default | meaning |
| --- | --- | --- | --- |
| CLAIM_URL | | none | where to ask for more work; without it one task is done |
| MACHINE_NAME, MACHINE_TOKEN | | none | who asks, and its bearer token |
| WORKER_CONCURRENCY | tasks | 2 | tasks at once |
| WORKER_CONVERSIONS | tasks | cores | converted at once; the others are downloaded or reported meanwhile |
| WORKER_IDLE_S | s | 5 | how long to ask for work before exiting (`inf`: for ever) |
| WORKER_MAX_TASKS | tasks | 1000 | retire after as many |
| WORKER_MAX_AGE_S | s | 3600 | retire after this time |
| WORKER_CPU_BURST_S | s | unlimited | processor seconds that it may use: spent before a task would exceed them |
| WORKER_CPU_RATE | cores | 0 | so many more for each second of its age; only with WORKER_CPU_BURST_S |
| WORKER_CALLBACK_S | s | 120 | how long a callback is tried: longer than a restart of the service takes |
| WORKER_HEARTBEAT_S | s | 15 | a task that runs longer says so at this interval: a quarter of the task time-out |
| WORKER_MEMORY_MB | MB | the machine's | memory that conversions may use together |
| WORKER_TASK_MAX_S | s | 600 | the longest conversion, download and upload; the service's TASK_MAX_MS_TIFF |
| WORKER_PRESIGNED | | false | each task brings INPUT_URL and OUTPUT_URL: claims without an access of its own |
| WORKER_KINDS | | tiff | kinds of task to claim, separated by commas: tiff, mods |
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from worker.allowance import Allowance
from worker.limits import cores

TASK_VARIABLES = ("TASK_ID", "BATCH_ID", "INPUT_R2_KEY", "CALLBACK_URL")
EXPORT_VARIABLES = ("TASK_ID", "BATCH_ID", "PI", "CALLBACK_URL")
"""Of a task of the kind "mods", which reads an entity of the archive and no object."""
MACHINE_VARIABLES = frozenset(
    {"CLAIM_URL", "MACHINE_NAME", "MACHINE_TOKEN", "OBJECTS_DIR", "STRICT_SHARP", "JPEG_QUALITY", "JPEG_ENCODER",
     "TMPDIR", "ARKE_API_URL", "IPFS_GATEWAY", "ARKE_SCHEMAS", "R2_ACCOUNT_ID", "R2_ENDPOINT_URL", "R2_ACCESS_KEY_ID",
     "R2_SECRET_ACCESS_KEY"}
)  # fmt: skip


class InvalidSetting(ValueError):
    """A variable of the environment has a value that is not allowed; the message names both."""


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """The settings of one worker process. Times in seconds, memory in MB."""

    claim_url: str | None = None
    machine_name: str = "worker"
    machine_token: str | None = None
    concurrency: int = 2
    conversions: int = 1
    idle_s: float = 5.0
    max_tasks: int = 1000
    max_age_s: float = 3600.0
    allowance: Allowance = Allowance()
    callback_s: float = 120.0
    heartbeat_s: float = 15.0
    memory_mb: int | None = None
    task_max_s: float = 600.0
    presigned: bool = False
    kinds: tuple[str, ...] = ("tiff",)

    @classmethod
    def load(cls, env: Mapping[str, str]) -> "WorkerSettings":
        """Reads `env`. Raises InvalidSetting."""
        kinds = tuple(part.strip() for part in env.get("WORKER_KINDS", "tiff").split(",") if part.strip())
        burst_s, rate = _optional(env, "WORKER_CPU_BURST_S"), _optional(env, "WORKER_CPU_RATE")
        if rate is not None and burst_s is None:
            raise InvalidSetting("WORKER_CPU_RATE needs WORKER_CPU_BURST_S: without it the machine is spent at once")
        concurrency = int(_number(env, "WORKER_CONCURRENCY", 2, least=1, most=256))
        return cls(
            claim_url=env.get("CLAIM_URL") or None,
            machine_name=env.get("MACHINE_NAME") or "worker",
            machine_token=env.get("MACHINE_TOKEN") or None,
            concurrency=concurrency,
            conversions=min(concurrency, int(_number(env, "WORKER_CONVERSIONS", cores(), least=1, most=256))),
            idle_s=_number(env, "WORKER_IDLE_S", 5),
            max_tasks=int(_number(env, "WORKER_MAX_TASKS", 1000, least=1, most=10**9)),
            max_age_s=_number(env, "WORKER_MAX_AGE_S", 3600),
            allowance=Allowance(burst_s=burst_s, rate=rate or 0.0),
            callback_s=_number(env, "WORKER_CALLBACK_S", 120),
            heartbeat_s=_number(env, "WORKER_HEARTBEAT_S", 15, least=0.01),
            memory_mb=None if (megabytes := _optional(env, "WORKER_MEMORY_MB")) is None else int(megabytes),
            task_max_s=_number(env, "WORKER_TASK_MAX_S", 600, least=0.01, most=10**6),
            presigned=_flag(env, "WORKER_PRESIGNED"),
            kinds=kinds or ("tiff",),
        )


def missing_task_variables(env: Mapping[str, str]) -> list[str]:
    """The names of the four variables of a task that `env` lacks."""
    needed = EXPORT_VARIABLES if env.get("KIND") == "mods" else TASK_VARIABLES
    return [name for name in needed if not env.get(name)]


def task_environment(machine: Mapping[str, str], task: Mapping[str, str]) -> dict[str, str]:
    """The environment of a task that came by claim or `next`: the machine's own settings, which the orchestrator
    cannot change from afar, and the task's variables."""
    kept = {name: value for name, value in machine.items() if _is_machine_variable(name) or name == "R2_BUCKET"}
    return kept | {name: value for name, value in task.items() if not _is_machine_variable(name)}


def _is_machine_variable(name: str) -> bool:
    return name in MACHINE_VARIABLES or name.startswith("WORKER_")


def _flag(env: Mapping[str, str], name: str) -> bool:
    text = env.get(name) or "false"
    if text not in ("true", "false"):
        raise InvalidSetting(f"{name} must be true or false, not {text!r}")
    return text == "true"


def _optional(env: Mapping[str, str], name: str) -> float | None:
    return _number(env, name, 0) if env.get(name) else None


def _number(env: Mapping[str, str], name: str, default: float, *, least: float = 0, most: float = math.inf) -> float:
    text = env.get(name)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        upper = "" if math.isinf(most) else f" and at most {most:g}"
        raise InvalidSetting(f"{name} must be a number of at least {least:g}{upper}, not {text!r}")
    return value
