"""What crosses the wire between the orchestrator and a worker.

The shapes are those of the systems being replaced (docs/reference/protocol.md); fields are added,
never renamed. Decoding checks types and limits; what a caller can act on is a `ValueError` with
the field named.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal

import msgspec

IMAGE_JPEG: Final = "image/jpeg"
OCTET_STREAM: Final = "application/octet-stream"
SINGLE: Final = "single"
"""What workers give as the batch of an export that is in none."""
MAX_CALLBACK_BYTES: Final = 256 * 1024
MAX_CLAIM_FREE: Final = 256
"""The most tasks that one claim may ask for."""
MAX_CLAIM_WAIT_MS: Final = 30_000
"""The longest that a claim waits for work; one that asks for more waits so long."""
MAX_COUNT: Final = 2**53
"""The largest size, time or number of pages: what every JSON reader takes exactly, and every store holds."""
MAX_DEPTH: Final = 100
"""Of lists and objects inside each other, in what is passed back as it came."""

Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)]

Environment = dict[str, str]
"""The environment of one task, as a machine finds it: TASK_ID, BATCH_ID, INPUT_R2_KEY, CALLBACK_URL, …"""

CallbackStatus = Literal["success", "error", "running", "released"]


class FileRef(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One file of a batch, as manifests and the final callback carry it. Sizes in bytes.

    Size and type have factories because what has a plain default is omitted, and the receiver wants both.
    """

    r2_key: str
    logical_path: str
    file_name: str
    file_size: int = msgspec.field(default_factory=lambda: 0)
    content_type: str = msgspec.field(default_factory=lambda: OCTET_STREAM)
    cid: str | None = None
    processing_config: dict[str, Any] | None = None
    source_file: str | None = None
    preprocessor_tags: tuple[str, ...] = ()


class Callback(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The report of a worker on one task. Times inside `performance` are milliseconds.

    `retryable` is set to False by workers that know that another try cannot help. `throttled_ms`: how long the host has
    slowed down the machine since its last report. `metrics`: as the originals' exporters name what they have measured;
    it counts as `performance`.
    """

    task_id: str
    batch_id: str
    status: CallbackStatus
    output_r2_key: str | None = None
    output_file_name: str | None = None
    output_file_size: Count | None = None
    performance: dict[str, Any] | None = None
    metrics: dict[str, Any] | None = None
    error: str | None = None
    retryable: bool = True
    accepts_next: bool = False
    cpu_ms: Count | None = None
    pages: Count | None = None
    throttled_ms: Count | None = None
    notes: tuple[str, ...] = ()


class CallbackAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer to a callback. `next` is the environment of the worker's next task."""

    ok: bool
    received: bool = False
    stop: bool = False
    next: Environment | None = None


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """A worker asks for work. The same `claim` id again gets the same answer while its tasks are open."""

    machine: str
    claim: str
    kinds: tuple[str, ...] = ("tiff",)
    free: int = 1
    wait_ms: int = 5000


class ClaimAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """At most `free` environments."""

    tasks: tuple[Environment, ...]


class UnfitValue(ValueError):
    """A value that came as JSON cannot be kept; `field` says which one."""

    def __init__(self, field: str, fault: str) -> None:
        super().__init__(f"`{field}` {fault}.")
        self.field = field


def check_value(value: Any, field: str, depth: int = 0) -> None:
    """Refuse what JSON can say and MessagePack, or whoever reads it back, cannot. `field` names `value` in errors.

    Raises:
        UnfitValue: an integer has more than 64 bits, or MAX_DEPTH is exceeded.
    """
    if type(value) is int:
        if not -(2**63) <= value < 2**64:
            raise UnfitValue(field, "has more than 64 bits")
    elif isinstance(value, (dict, list)):
        if depth == MAX_DEPTH:
            raise UnfitValue(field.partition(".")[0].partition("[")[0], f"is nested more than {MAX_DEPTH} deep")
        for name, part in _parts(value, field):
            check_value(part, name, depth + 1)


def _parts(value: dict[str, Any] | list[Any], field: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        return ((f"{field}.{name}", part) for name, part in value.items())
    return ((f"{field}[{n}]", part) for n, part in enumerate(value))
