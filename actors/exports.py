"""Exports are taken in: a request becomes one row for the job and one for each entity, in one transaction.

Nothing is read first, so there is no intake to continue: what is answered is queued, and has its place.
"""

import secrets
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from actors import telemetry
from actors.bodies import as_object
from actors.clock import TimeSource
from actors.errors import InvalidInput
from actors.planning import task_id
from actors.rules.model import Job, JobKind, Task
from actors.rules.placement import standing_host
from actors.rules.states import JobState
from actors.store import Store
from worker.kinds.mods.entity import is_pi
from worker.kinds.mods.options import FORMATS, MODES, Format, Options, unknown

PHASE: Final = "METADATA_EXPORT"
KIND: Final = "mods"
MOST_PIS: Final = 10_000


class ExportRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller wants: the trees of `pis`, in one format. `is_batch`: together, though it may be only one."""

    format: Format
    pis: tuple[str, ...]
    options: Options
    is_batch: bool
    removes_after_download: bool
    unknown: tuple[str, ...] = ()
    """Options that mean nothing here. The originals ignore them, so they are told and no error."""


def understand(raw: bytes, format: str | None, *, is_batch: bool, removes_after_download: bool) -> ExportRequest:
    """The body of a creation; `format` None: the body names it. `removes_after_download` is the default.

    Raises:
        InvalidInput: with the field named.
    """
    body = as_object(raw)
    wanted = body.get("format", "mods") if format is None else format
    if wanted not in FORMATS:
        raise InvalidInput(f"format must be one of {', '.join(FORMATS)}.", field="format")
    removes = body.get("removeAfterDownload", removes_after_download)
    if type(removes) is not bool:
        raise InvalidInput("removeAfterDownload must be true or false.", field="removeAfterDownload")
    return ExportRequest(
        format=wanted,
        pis=_pis(body) if is_batch else (_pi(body.get("pi"), "pi"),),
        options=_options(body.get("options")),
        is_batch=is_batch,
        removes_after_download=removes,
        unknown=tuple(unknown(body.get("options"))),
    )


def _pis(body: dict[str, Any]) -> tuple[str, ...]:
    pis = body.get("pis")
    if not isinstance(pis, list) or not 1 <= len(pis) <= MOST_PIS:
        raise InvalidInput(f"pis must be a list of 1 to {MOST_PIS} entity ids.", field="pis")
    return tuple(_pi(pi, f"pis[{n}]") for n, pi in enumerate(pis))


def _pi(pi: object, field: str) -> str:
    if pi is None or pi == "":
        raise InvalidInput(f"Missing required field: {field}", field=field)
    if not isinstance(pi, str) or not is_pi(pi):
        raise InvalidInput(f"{field} must be an entity id: 26 of 0-9 and A-Z without I, L, O and U.", field=field)
    return pi


def _options(given: object) -> Options:
    try:
        return msgspec.convert({} if given is None else given, Options)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$.")
        field = f"options.{path.rstrip('`')}" if path else "options"
        more = f": one of {', '.join(MODES)}" if field == "options.cheimarrosMode" else ""
        raise InvalidInput(f"{field}: {text}{more}.", field=field) from error


class Exports:
    """Takes exports in. Any number of processes may."""

    def __init__(
        self, *, store: Store, clock: TimeSource, unfinished_ms: int, token: Callable[[], str] | None = None
    ) -> None:
        """`token` gives the eight hexadecimal digits at the end of an id; a simulation brings its own."""
        self._store, self._clock, self._unfinished_ms = store, clock, unfinished_ms
        self._token = token or (lambda: secrets.token_hex(4))

    async def create(self, wanted: ExportRequest, owner: str | None) -> tuple[Job, list[str]]:
        """The job, on disk and with its place, and the ids of its tasks, in the order of the entities."""
        now = self._clock.now()
        head = "batch" if wanted.is_batch else f"export_{wanted.format}"
        job_id = f"{head}_{now}_{self._token()}"
        kind: JobKind = "exports" if wanted.is_batch else "export"
        job = Job(
            id=job_id,
            kind=kind,
            state=JobState.QUEUED,
            phases=(PHASE,),
            placement=standing_host(kind, job_id),
            message={
                "format": wanted.format,
                "options": msgspec.to_builtins(wanted.options),
                "removeAfterDownload": wanted.removes_after_download,
            },
            tasks_total=len(wanted.pis),
            alarm_at=now,
            expires_at=now + self._unfinished_ms,
            owner=owner,
            created_at=now,
            queued_at=now,
            updated_at=now,
        )
        tasks = _tasks(job, wanted.pis)
        await self._store.take_in(job, tasks)
        telemetry.event("export.taken_in", export=job.id, entities=len(tasks))
        return job, [task.task_id for task in tasks]


def _tasks(job: Job, pis: Sequence[str]) -> list[Task]:
    """The one task of a single export has the job's id, since callers know no other."""
    ids = [job.id] if job.kind == "export" else [task_id(job.id, 0, KIND, n) for n in range(len(pis))]
    return [
        Task(
            job_id=job.id,
            phase=0,
            n=n,
            task_id=each,
            input_r2_key=pi,
            output_r2_key=f"exports/{each}/{pi}-collection.xml",
        )
        for n, (each, pi) in enumerate(zip(ids, pis, strict=True))
    ]
