"""Archives are taken in: a request becomes one row, whose list of files a standing actor then verifies.

The files are those that a user has by the catalog, those below a prefix, or those of a list of keys. Only exports from
the catalog have a row there.
"""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import quote
from uuid import UUID

import msgspec

from actors import telemetry
from actors.bodies import as_object
from actors.clock import TimeSource
from actors.errors import Conflict, InvalidInput, NotFound, Unavailable
from actors.rules.effects import Policy
from actors.rules.model import JOB_ID, Job
from actors.rules.placement import standing_host
from actors.rules.receiving import failed
from actors.rules.states import JobState
from actors.sources import keys as listed
from actors.sources import prefix
from actors.sources.base import Listing, check_key, check_value
from actors.sources.below import Below
from actors.sources.catalog import Catalogued
from actors.sources.keys import Keys
from actors.store import Store
from actors.store.catalog_rows import Catalog, CatalogExport, Selection, row_of, still_open
from worker import errors as worker_errors

PHASE: Final = "ARCHIVING"
TYPES: Final = ("full", "blog", "ivy", "category")
PRODUCTS: Final = ("blog", "ivy")
"""Types of which one is all files of the product of that name."""
MOST_TEXT: Final = 200
MOST_FILTER_BYTES: Final = 4096
LATEST_MS: Final = 253_402_300_799_999
"""The end of the year 9999: no archive tells a later time."""
LONGEST_NAME: Final = "1800000000000-export-1000000.zip.checkpoint"
NOBODY: Final = "_"
"""In keys, where no user is named."""
_SAFE: Final = "@:+=,~ !()"


class ArchiveRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller wants: one of `export_id` (a row of the catalog that waits), `user_id` with `export_type` (the
    catalog), `prefix` and `keys`."""

    export_id: str | None = None
    user_id: str | None = None
    export_type: str | None = None
    filter_params: dict[str, Any] = {}
    prefix: str | None = None
    keys: tuple[str, ...] | None = None
    name: str | None = None
    level: int | None = None
    codec: str | None = None
    alone: bool = False
    """Only while no other archive of the user is being made."""

    @property
    def is_catalogued(self) -> bool:
        """Whether the files are those of the catalog, and the export has a row there."""
        return self.prefix is None and self.keys is None


def understand(raw: bytes) -> ArchiveRequest:
    """The body of POST /export/zip; a large one takes seconds. Raises InvalidInput with the field named."""
    body = as_object(raw)
    ways = [name for name in ("export_id", "r2_prefix", "keys", "export_type") if body.get(name) is not None]
    if len(ways) != 1:
        raise InvalidInput(
            "Name the files in one way: user_id with export_type, export_id of a row that waits, r2_prefix, or keys.",
            field=ways[1] if ways else "export_type",
        )
    wanted = ArchiveRequest(
        export_id=_export_id(body.get("export_id")),
        user_id=user(body.get("user_id")),
        prefix=_prefix(body.get("r2_prefix")),
        keys=_keys(body.get("keys")),
        name=_text(body.get("name"), "name"),
        level=_level(body.get("level")),
        codec=_codec(body.get("codec")),
    )
    return of_type(wanted, body["export_type"], body.get("filter_params")) if ways == ["export_type"] else wanted


def of_type(
    wanted: ArchiveRequest,
    type_: object,
    filters: object,
    *,
    fields: tuple[str, str] = ("export_type", "filter_params"),
) -> ArchiveRequest:
    """The same, of a user's files of this type. `fields`: what the caller calls the two. Raises InvalidInput."""
    field, field_of_filters = fields
    if not isinstance(type_, str) or type_ not in TYPES:
        raise InvalidInput(f"{field} must be one of {', '.join(TYPES)}.", field=field)
    if wanted.user_id is None:
        raise InvalidInput("user_id is missing: whose files?", field="user_id")
    params = _filters(filters, field_of_filters)
    if type_ == "category" and not (isinstance(params.get("category"), str) and params["category"]):
        raise InvalidInput(f"{field_of_filters}.category must name a category.", field=f"{field_of_filters}.category")
    return msgspec.structs.replace(wanted, export_type=type_, filter_params=params)


def _filters(filters: object, field: str) -> dict[str, Any]:
    if filters is None:
        return {}
    if not isinstance(filters, dict):
        raise InvalidInput(f"{field} must be an object.", field=field)
    check_value(filters, field)
    if len(msgspec.json.encode(filters)) > MOST_FILTER_BYTES:
        raise InvalidInput(f"{field} must have at most {MOST_FILTER_BYTES} bytes.", field=field)
    return filters


def user(value: object, field: str = "user_id") -> str | None:
    """The id of a user, as the catalog has it. Raises InvalidInput."""
    found = _text(value, field)
    if found in (".", ".."):
        raise InvalidInput(f"{field} must not be '.' or '..'.", field=field)
    return found


def _text(value: object, field: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value.isprintable() or not 0 < len(value) <= MOST_TEXT:
        raise InvalidInput(
            f"{field} must be a text of 1 to {MOST_TEXT} characters, without control characters.", field=field
        )
    return value


def _export_id(value: object) -> str | None:
    if value is not None and (not isinstance(value, str) or not JOB_ID.fullmatch(value) or value == "batch"):
        raise InvalidInput("export_id must match [A-Za-z0-9_-]{1,64}.", field="export_id")
    return value


def _prefix(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidInput("r2_prefix must be a string.", field="r2_prefix")
    prefix.check(value)
    return value


def _keys(value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not value or any(not isinstance(key, str) for key in value):
        raise InvalidInput("keys must be a list of the keys of objects.", field="keys")
    for n, key in enumerate(value):
        check_key(key, f"keys[{n}]")
    return tuple(dict.fromkeys(value))


def _level(value: object) -> int | None:
    if value is not None and (type(value) is not int or not 0 <= value <= 9):
        raise InvalidInput("level must be a whole number from 0 (stored) to 9.", field="level")
    return value


def _codec(value: object) -> str | None:
    from worker.kinds.zip.codec import CODECS  # with it the codecs: nobody else here needs them

    if value is not None and (not isinstance(value, str) or value not in CODECS):
        raise InvalidInput(f"codec must be one of {', '.join(CODECS)}.", field="codec")
    return value


class Division(NamedTuple):
    """Where a new part begins: bytes of files, and files. And most files of one archive."""

    bytes: int
    files: int
    most: int = 5_000_000


class Objects(Protocol):
    """What this needs of the object store. Blocking: called on a thread."""

    def read(self, key: str, limit: int) -> bytes: ...
    def list(self, prefix: str, after: str | None = None, limit: int = 1000) -> Any: ...
    def open(self, key: str, start: int = 0) -> Any: ...
    def put(self, key: str, body: bytes, content_type: str) -> Any: ...
    def delete(self, key: str) -> None: ...


class Archives:
    """Takes archives in. Any number of processes may."""

    def __init__(
        self, *, store: Store, objects: Objects, catalog: Catalog, clock: TimeSource, timeout_ms: int,
        division: Division, token: Callable[[], str] | None = None,
    ) -> None:  # fmt: skip
        """`token` gives the eight hexadecimal digits at the end of an id; a simulation brings its own."""
        self._store, self._objects, self._catalog, self._clock = store, objects, catalog, clock
        self._timeout_ms, self._division = timeout_ms, division
        self._token = token or (lambda: secrets.token_hex(4))

    async def create(self, wanted: ArchiveRequest, owner: str | None) -> Job:
        """The job, on disk and with its place.

        Raises:
            NotFound: no row of the catalog has the id.
            Conflict: that row does not wait any more, or another archive of the user is being made.
            InvalidInput: the catalog takes no such row.
            Unavailable: the object store is away, where a list of keys has to be kept, or the catalog.
        """
        now = self._clock.now()
        row = None if wanted.export_id is None else await self._waiting_row(wanted.export_id)
        if row is not None:
            wanted = _of_row(wanted, row)
        if wanted.alone and wanted.user_id is not None:
            await self._check_alone(wanted.user_id)
        job = self._job(wanted, row.created_at if row is not None else now, now, owner)
        if wanted.keys is not None:
            await self._keep(job, wanted.keys)
        if row is None and not wanted.alone:  # listed from now on; one without a job can be started by its id
            await note(self._catalog, job, "pending")
        await self._begin(job, wanted.user_id if wanted.alone else None)
        if wanted.alone:  # only now: of those that come at once, one is let in, and the others leave no row
            await self._note_or_end(job)
        telemetry.event("archive.taken_in", archive=job.id)
        return job

    async def _note_or_end(self, job: Job) -> None:
        try:
            await note(self._catalog, job, "pending")
        except (InvalidInput, Unavailable) as refused:
            ended = failed(job, "catalog_refused", refused.message, Policy(), self._clock.now())
            await self._store.queue(ended)
            raise

    async def _begin(self, job: Job, alone: str | None) -> None:
        found, _ = await self._store.create(job, alone=alone)
        if found.body_digest != job.body_digest:  # else it is ours: the first answer may have been lost
            raise Conflict(f"The export {job.id} was started before.")

    async def _check_alone(self, user_id: str) -> None:
        """Before anything is written: the store looks again when it writes, for two that come at once."""
        other = await self._store.open_archive(user_id)
        if other is not None:
            raise Conflict(still_open(other))

    async def _keep(self, job: Job, keys: Sequence[str]) -> None:
        """Before the job is there: who verifies it may begin at once."""
        if len(keys) > self._division.most:
            raise InvalidInput(f"keys has more than {self._division.most} entries. Choose fewer.", field="keys")
        key = f"{job.message['folder']}{listed.OBJECT}"
        try:
            await asyncio.to_thread(lambda: self._objects.put(key, listed.encoded(keys), "application/json"))
        except worker_errors.Unavailable as error:
            raise Unavailable("The list of keys cannot be kept at the moment.") from error

    async def _waiting_row(self, export_id: str) -> CatalogExport:
        row = await self._catalog.export(export_id)
        if row is None:
            raise NotFound(f"The catalog has no export {export_id}.")
        if row.status != "pending":
            raise Conflict(f"The export {export_id} is {row.status}: it was started before.")
        return row

    def _uuid(self) -> str:
        """What the ids of a catalog may have to be."""
        return str(UUID("".join(self._token() for _ in range(4)), version=4))

    def _job(self, wanted: ArchiveRequest, created_at: int, now: int, owner: str | None) -> Job:
        job_id = wanted.export_id or (self._uuid() if wanted.is_catalogued else f"export_zip_{now}_{self._token()}")
        message = {
            "user_id": wanted.user_id,
            "export_type": wanted.export_type,
            "filter_params": wanted.filter_params,
            "r2_prefix": wanted.prefix,
            "name": wanted.name or _title(wanted),
            "level": wanted.level,
            "codec": wanted.codec,
            "source": "catalog" if wanted.is_catalogued else "prefix" if wanted.prefix is not None else "keys",
            "folder": _folder(wanted.user_id, job_id),
            "part_bytes": self._division.bytes,
            "part_files": self._division.files,
        }
        return Job(
            id=job_id,
            kind="archive",
            state=JobState.RECEIVING,
            phases=(PHASE,),
            placement=standing_host("archive", job_id),
            message={name: value for name, value in message.items() if value is not None},
            source_cursor="",
            alarm_at=now + self._timeout_ms,
            owner=owner,
            body_digest=self._token(),
            user_id=wanted.user_id,
            created_at=created_at,
            updated_at=now,
        )


def _of_row(wanted: ArchiveRequest, row: CatalogExport) -> ArchiveRequest:
    """What a row of the catalog asks for, which anybody may have written."""
    if not 0 < row.created_at <= LATEST_MS:
        raise InvalidInput("The created_at of the row is no time.", field="export_id")
    if not row.user_id:
        raise InvalidInput("The row has no user_id: whose files?", field="export_id")
    known = msgspec.structs.replace(wanted, user_id=user(row.user_id))
    return of_type(known, row.export_type, row.filter_params)


def _folder(user_id: str | None, job_id: str) -> str:
    folder = f"exports/{quote(user_id or NOBODY, safe=_SAFE)}/{job_id}/"
    check_key(f"{folder}{LONGEST_NAME}", "user_id")
    return folder


def _title(wanted: ArchiveRequest) -> str:
    if wanted.prefix is not None:
        return f"Archive of {wanted.prefix}"
    return "Archive" if wanted.user_id is None else f"Files of {wanted.user_id}"


def listing(job: Job, objects: Objects, catalog: Catalog) -> Listing:
    """Where the files of an archive are named."""
    told = job.message
    if told["source"] == "prefix":
        return Below(objects, told["r2_prefix"], told["folder"])
    if told["source"] == "keys":
        return Keys(objects, f"{told['folder']}{listed.OBJECT}")
    return Catalogued(catalog, _selection(told))


def _selection(told: dict[str, Any]) -> Selection:
    kind = told["export_type"]
    return Selection(
        user_id=told["user_id"],
        product=kind if kind in PRODUCTS else None,
        category=told["filter_params"]["category"] if kind == "category" else None,
    )


async def note(catalog: Catalog, job: Job, status: str) -> None:
    """Tell the catalog of an export that has begun, if it has a row there. May be done again. Raises InvalidInput where
    it takes no such row, and Unavailable."""
    if job.message["source"] != "catalog":
        return
    try:
        await catalog.put_export(msgspec.structs.replace(row_of(job, ()), status=status))
    except Conflict as refused:
        raise InvalidInput(refused.message) from refused
