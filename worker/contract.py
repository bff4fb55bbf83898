"""What crosses the wire between the orchestrator and a worker.

The shapes are those of the systems being replaced (docs/reference/protocol.md); fields are added,
never renamed. Decoding checks types and limits; what a caller can act on is a `ValueError` with
the field named.
"""

from typing import Any, Final, Literal

import msgspec

IMAGE_JPEG: Final = "image/jpeg"
OCTET_STREAM: Final = "application/octet-stream"
MAX_CALLBACK_BYTES: Final = 256 * 1024

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

    `retryable` is set to False by workers that know that another try cannot help.
    """

    task_id: str
    batch_id: str
    status: CallbackStatus
    output_r2_key: str | None = None
    output_file_name: str | None = None
    output_file_size: int | None = None
    performance: dict[str, Any] | None = None
    error: str | None = None
    retryable: bool = True
    accepts_next: bool = False
    cpu_ms: int | None = None
    pages: int | None = None
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
