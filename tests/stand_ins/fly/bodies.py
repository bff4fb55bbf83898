"""Request bodies: their shapes as in Fly's OpenAPI document, and what the API refuses beyond that.

A body of another shape is answered 400, as is a field that the document does not have (the real API lets those pass,
which hides typing errors); one that makes no sense is answered 422. Parts of a configuration that no worker needs
(services, checks, mounts, …) are checked to be objects or lists, not further.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeVar

import msgspec

from tests.stand_ins.fly.errors import Refusal

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
IMAGE: Final = re.compile(
    r"(?:(?P<registry>[a-z0-9.-]+\.[a-z0-9.-]+(?::\d+)?|localhost(?::\d+)?)/)?"
    r"(?P<repository>[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
SIZES: Final[Mapping[str, frozenset[int]]] = {
    "shared": frozenset({1, 2, 4, 6, 8}),
    "performance": frozenset({1, 2, 4, 6, 8, 10, 12, 14, 16}),
}
MEMORY_MB: Final[Mapping[str, tuple[int, int]]] = {"shared": (256, 2048), "performance": (2048, 8192)}
"""For each vCPU, the least and the most."""
GUEST: Final[Mapping[str, Any]] = {"cpu_kind": "shared", "cpus": 1, "memory_mb": 256}
SIGNALS: Final = frozenset({
    "SIGABRT", "SIGALRM", "SIGFPE", "SIGHUP", "SIGILL", "SIGINT", "SIGKILL", "SIGPIPE", "SIGQUIT", "SIGSEGV", "SIGTERM",
    "SIGTRAP", "SIGUSR1",
})  # fmt: skip
DURATION: Final = re.compile(r"(?:(?P<m>\d+)m)?(?:(?P<s>\d+(?:\.\d+)?)s)?|(?P<bare>\d+)")

Anything = dict[str, Any]


class Body(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """An object with known fields only."""


class Guest(Body):
    cpu_kind: str = "shared"
    cpus: int = 1
    memory_mb: int = 256
    gpu_kind: str = ""
    host_dedication_id: str = ""
    kernel_args: list[str] = []


class Init(Body):
    cmd: list[str] = []
    entrypoint: list[str] = []
    exec: list[str] = []
    kernel_args: list[str] = []
    swap_size_mb: int = 0
    tty: bool = False


class Restart(Body):
    policy: Literal["no", "always", "on-failure"] = "on-failure"
    max_retries: int = 10


class StopConfig(Body):
    signal: str = "SIGINT"
    timeout: str = ""


class Config(Body):
    image: str = ""
    env: dict[str, str] = {}
    auto_destroy: bool = False
    restart: Restart = msgspec.field(default_factory=Restart)
    guest: Guest = msgspec.field(default_factory=Guest)
    metadata: dict[str, str] = {}
    init: Init = msgspec.field(default_factory=Init)
    stop_config: StopConfig = msgspec.field(default_factory=StopConfig)
    checks: dict[str, Anything] = {}
    disable_machine_autostart: bool = False
    dns: Anything = {}
    files: list[Anything] = []
    metrics: Anything = {}
    mounts: list[Anything] = []
    processes: list[Anything] = []
    schedule: str = ""
    services: list[Anything] = []
    size: str = ""
    standbys: list[str] = []
    statics: list[Anything] = []


class CreateMachine(Body):
    config: Config = msgspec.field(default_factory=Config)
    name: str = ""
    region: str = ""
    lease_ttl: int = 0
    lsvd: bool = False
    skip_launch: bool = False
    skip_service_registration: bool = False


class UpdateMachine(CreateMachine):
    current_version: str = ""


class StopMachine(Body):
    signal: str = ""
    timeout: str = ""


class CreateLease(Body):
    description: str = ""
    ttl: int = 0


B = TypeVar("B", bound=Body)


def decode(raw: bytes, shape: type[B]) -> B:
    """The body as this shape; an empty one has all defaults. Raises Refusal 400."""
    try:
        return msgspec.json.decode(raw or b"{}", type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refusal(400, f"invalid_argument: {error}") from error


def checked(body: CreateMachine, regions: frozenset[str]) -> None:
    """Raises Refusal 422 for what has the right shape and cannot be made."""
    if body.name and not NAME.fullmatch(body.name):
        raise Refusal(422, f"invalid_argument: invalid machine name {body.name!r}")
    if body.region and body.region not in regions:
        raise Refusal(422, f"invalid_argument: unknown region {body.region!r}")
    config = body.config
    if not config.image:
        raise Refusal(422, "invalid_argument: config.image is required")
    if not IMAGE.fullmatch(config.image):
        raise Refusal(422, f"invalid_argument: invalid image identifier {config.image!r}")
    _check_guest(config.guest)
    stop_signal(config.stop_config.signal)
    seconds(config.stop_config.timeout, 0.0)


def stop_signal(name: str) -> str:
    """Raises Refusal 400 for a signal that there is not."""
    if name and name not in SIGNALS:
        raise Refusal(400, f"invalid_argument: unknown signal {name!r}")
    return name


def seconds(text: str, default: float) -> float:
    """A Go duration such as 1m30s, or a number of seconds. Raises Refusal 400."""
    found = DURATION.fullmatch(text)
    if found is None:
        raise Refusal(400, f"invalid_argument: invalid duration {text!r}")
    if not text:
        return default
    return float(found["bare"] or 0) + 60 * float(found["m"] or 0) + float(found["s"] or 0)


def image_ref(image: str, digest: str) -> dict[str, str]:
    """An image's parts as a machine shows them; `digest` is what a tag stands for now."""
    found = IMAGE.fullmatch(image)
    assert found is not None, image
    parts = {name: found[name] for name in ("repository", "tag") if found[name]}
    return {"registry": found["registry"] or "registry-1.docker.io", **parts, "digest": found["digest"] or digest}


def _check_guest(guest: Guest) -> None:
    if guest.cpu_kind not in SIZES:
        raise Refusal(
            422, f"invalid_argument: config.guest.cpu_kind {guest.cpu_kind!r} is neither shared nor performance"
        )
    if guest.cpus not in SIZES[guest.cpu_kind]:
        raise Refusal(
            422, f"invalid_argument: config.guest.cpus: there is no {guest.cpu_kind} machine with {guest.cpus}"
        )
    least, most = (each * guest.cpus for each in MEMORY_MB[guest.cpu_kind])
    if not least <= guest.memory_mb <= most or guest.memory_mb % 256:
        raise Refusal(
            422,
            f"invalid_argument: config.guest.memory_mb: {guest.memory_mb} is not a multiple of 256 from {least} to "
            f"{most} MiB, which is what a {guest.cpu_kind} machine with {guest.cpus} cpus has",
        )
