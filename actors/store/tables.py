"""All tables. Columns are the fields of the structs in `actors.rules.model`, by the same names.

Times are milliseconds since 1970 UTC, sizes bytes. Dictionaries and tuples are JSON text.
"""

from collections.abc import Sequence
from enum import Enum
from typing import Any, Final, Generic, TypeVar, get_args, get_type_hints

import msgspec
from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, Table

from actors.rules.costs import Charge
from actors.rules.model import Job, Machine, Task
from actors.store.catalog_rows import CatalogExport, CatalogFile
from actors.store.migrations.types import BIG_COUNT, TEXT

metadata: Final = MetaData()

jobs: Final = Table(
    "jobs",
    metadata,
    Column("id", TEXT, primary_key=True, nullable=False),
    Column("kind", TEXT, nullable=False),
    Column("state", TEXT, nullable=False),
    Column("phases", TEXT, nullable=False),
    Column("phase", Integer, nullable=False),
    Column("run", Integer, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("placement", TEXT),
    Column("alarm_at", BigInteger),
    Column("tasks_total", Integer, nullable=False),
    Column("tasks_completed", Integer, nullable=False),
    Column("tasks_failed", Integer, nullable=False),
    Column("tasks_in_flight", Integer, nullable=False),
    Column("files_total", Integer, nullable=False),
    Column("history", TEXT, nullable=False),
    Column("error", TEXT),
    Column("code", TEXT),
    Column("refused_since", BigInteger),
    Column("delivery", TEXT, nullable=False),
    Column("delivery_tries", Integer, nullable=False),
    Column("delivery_at", BigInteger),
    Column("delivery_error", TEXT),
    Column("delivered_run", Integer, nullable=False),
    Column("body_digest", TEXT),
    Column("message", TEXT, nullable=False),
    Column("source_cursor", TEXT),
    Column("owner", TEXT),
    Column("created_at", BigInteger, nullable=False),
    Column("queued_at", BigInteger),
    Column("started_at", BigInteger),
    Column("updated_at", BigInteger, nullable=False),
    Column("completed_at", BigInteger),
    Column("delivery_since", BigInteger),
    Column("list_digest", TEXT),  # of the manifest whose files these are, while they are received
    Column("deleting", TEXT),  # what goes, slice by slice: "list" (files and tasks of earlier runs), "job" (all)
    Column("retries", Integer, nullable=False, server_default="0"),
    Column("throttled_ms", BigInteger, nullable=False, server_default="0"),
    Column("removed_since", BigInteger),
    Column("expires_at", BigInteger),
    Column("files_missing", Integer, nullable=False, server_default="0"),
    Column("bytes_total", BigInteger, nullable=False, server_default="0"),
    Column("user_id", TEXT),
)
OF_THE_STORE: Final = ("list_digest", "deleting")
"""Columns that are in no struct: only `actors.store.batches` reads and writes them."""
Index("jobs_alarm", jobs.c.alarm_at)
Index("jobs_created", jobs.c.created_at, jobs.c.id)
Index("jobs_state", jobs.c.state, jobs.c.created_at, jobs.c.id)
Index("jobs_placement", jobs.c.state, jobs.c.placement, jobs.c.created_at)
Index("jobs_delivery", jobs.c.delivery, jobs.c.delivery_at)
Index("jobs_completed", jobs.c.completed_at)
Index("jobs_user", jobs.c.user_id, jobs.c.state)

tasks: Final = Table(
    "tasks",
    metadata,
    Column("job_id", TEXT, primary_key=True, nullable=False),
    Column("phase", Integer, primary_key=True, nullable=False),
    Column("n", Integer, primary_key=True, nullable=False),
    Column("task_id", TEXT, nullable=False),
    Column("run", Integer, nullable=False),
    Column("status", TEXT, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("input_r2_key", TEXT, nullable=False),
    Column("output_r2_key", TEXT, nullable=False),
    Column("not_before", BigInteger, nullable=False),
    Column("machine", TEXT),
    Column("claim", TEXT),
    Column("assigned_at", BigInteger),
    Column("heard_at", BigInteger),
    Column("deadline_at", BigInteger),
    Column("started_at", BigInteger),
    Column("completed_at", BigInteger),
    Column("error", TEXT),
    Column("output_file_name", TEXT),
    Column("output_file_size", BigInteger),
    Column("performance", TEXT),
    Column("cpu_ms", BigInteger),
    Column("pages", BIG_COUNT),
    Column("notes", TEXT, nullable=False),
    Column("memory_mb", Integer),
)
# The order in which pending tasks are taken; also lists and counts by status, whatever the run.
Index("tasks_status", tasks.c.job_id, tasks.c.status, tasks.c.phase, tasks.c.run, tasks.c.not_before, tasks.c.n)
Index("tasks_task_id", tasks.c.job_id, tasks.c.task_id, unique=True)
Index("tasks_output", tasks.c.job_id, tasks.c.output_r2_key)

files: Final = Table(
    "files",
    metadata,
    Column("job_id", TEXT, primary_key=True, nullable=False),
    Column("phase", Integer, primary_key=True, nullable=False),  # the phase whose input the file is
    Column("n", Integer, primary_key=True, nullable=False),
    Column("doc", TEXT, nullable=False),
    Column("r2_key", TEXT, nullable=False),
)
Index("files_key", files.c.job_id, files.c.r2_key)

machines: Final = Table(
    "machines",
    metadata,
    Column("id", TEXT, primary_key=True, nullable=False),
    Column("name", TEXT),
    Column("provider", TEXT, nullable=False),
    Column("provider_id", TEXT),
    Column("kind", TEXT, nullable=False),
    Column("state", TEXT, nullable=False),
    Column("job_id", TEXT),
    Column("task_id", TEXT),
    Column("attempt", Integer, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("started_at", BigInteger),
    Column("seen_at", BigInteger),
    Column("ended_at", BigInteger),
    Column("reason", TEXT),
    Column("pool", TEXT),
    Column("price", BigInteger),
    Column("charged_at", BigInteger),
)
Index("machines_state", machines.c.state, machines.c.ended_at)

costs: Final = Table(
    "costs",
    metadata,
    Column("job_id", TEXT, primary_key=True, nullable=False),
    Column("machines", Integer, nullable=False),
    Column("spawns", Integer, nullable=False),
    Column("starts", Integer, nullable=False),
    Column("machine_ms", BigInteger, nullable=False),
    Column("nano_usd", BigInteger, nullable=False),
)

singletons: Final = Table(
    "singletons",
    metadata,
    Column("name", TEXT, primary_key=True, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("seq", BigInteger, nullable=False),
)

storage_files: Final = Table(
    "storage_files",
    metadata,
    Column("id", TEXT, primary_key=True, nullable=False),
    Column("user_id", TEXT, nullable=False),
    Column("r2_key", TEXT, nullable=False),
    Column("filename", TEXT, nullable=False),
    Column("mime_type", TEXT),
    Column("size_bytes", BigInteger, nullable=False),
    Column("product", TEXT),
    Column("category", TEXT),
    Column("parent_id", TEXT),
    Column("metadata", TEXT),
    Column("created_at", BigInteger, nullable=False),
    Column("deleted_at", BigInteger),
)
# Each of what a selection may ask for, in the order of its pages, without the deleted: a page steps over none.
_is_kept = storage_files.c.deleted_at.is_(None)
_KEPT: Final[dict[str, Any]] = {"sqlite_where": _is_kept, "postgresql_where": _is_kept}
Index("storage_files_key", storage_files.c.r2_key, unique=True)
Index("storage_files_user", storage_files.c.user_id, storage_files.c.id, **_KEPT)
Index(
    "storage_files_product",
    storage_files.c.user_id, storage_files.c.product, storage_files.c.id, **_KEPT,
)  # fmt: skip
Index(
    "storage_files_category",
    storage_files.c.user_id, storage_files.c.category, storage_files.c.id, **_KEPT,
)  # fmt: skip

storage_exports: Final = Table(
    "storage_exports",
    metadata,
    Column("id", TEXT, primary_key=True, nullable=False),
    Column("user_id", TEXT, nullable=False),
    Column("status", TEXT, nullable=False),
    Column("export_type", TEXT, nullable=False),
    Column("filter_params", TEXT, nullable=False),
    Column("r2_key", TEXT),
    Column("size_bytes", BigInteger),
    Column("file_count", BigInteger),
    Column("created_at", BigInteger, nullable=False),
    Column("completed_at", BigInteger),
    Column("expires_at", BigInteger),
    Column("error_message", TEXT),
)
Index("storage_exports_user", storage_exports.c.user_id, storage_exports.c.created_at, storage_exports.c.id)

S = TypeVar("S", bound=msgspec.Struct)
_to_json: Final = msgspec.json.Encoder().encode
_from_json: Final = msgspec.json.Decoder().decode


class Codec(Generic[S]):
    """Between a struct and its row. Rows have their values in the order of the struct's fields."""

    def __init__(self, struct: type[S], table: Table) -> None:
        self.struct = struct
        self.columns = list(struct.__struct_fields__)
        self.select = [table.c[name] for name in self.columns]
        hints = get_type_hints(struct)
        self._enums = [i for i, name in enumerate(self.columns) if _is_enum(hints[name])]
        self._json = [i for i, name in enumerate(self.columns) if _is_json(hints[name])]

    def row(self, value: S) -> tuple[Any, ...]:
        """The row of a struct."""
        row = list(msgspec.structs.astuple(value))
        for i in self._enums:
            row[i] = row[i].value
        for i in self._json:
            if row[i] is not None:
                row[i] = _to_json(row[i]).decode()
        return tuple(row)

    def values(self, value: S) -> dict[str, Any]:
        """The row of a struct, by column."""
        return dict(zip(self.columns, self.row(value), strict=True))

    def struct_of(self, row: Sequence[Any]) -> S:
        """The struct of a row."""
        values = dict(zip(self.columns, row, strict=True))
        for i in self._json:
            text = row[i]
            if text is not None:
                values[self.columns[i]] = _from_json(text)
        return msgspec.convert(values, self.struct)


def _is_enum(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Enum)


def _is_json(hint: Any) -> bool:
    return any(getattr(part, "__origin__", part) in (dict, tuple) for part in (hint, *get_args(hint)))


JOBS: Final = Codec(Job, jobs)
TASKS: Final = Codec(Task, tasks)
MACHINES: Final = Codec(Machine, machines)
COSTS: Final = Codec(Charge, costs)
CATALOG_FILES: Final = Codec(CatalogFile, storage_files)
EXPORTS: Final = Codec(CatalogExport, storage_exports)
