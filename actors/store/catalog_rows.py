"""The catalog that ZIP exports read: which files a user has, and the row that tells of each export.

Times are milliseconds since 1970 UTC, sizes bytes. No SQL is imported here.
"""

from collections.abc import Sequence
from typing import Any, Final, Protocol

import msgspec

from actors.rules import archive
from actors.rules.model import Job, Task

PENDING: Final = "pending"
PROCESSING: Final = "processing"
COMPLETED: Final = "completed"
FAILED: Final = "failed"


class StorageFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file as it is put into the service's own catalog."""

    id: str
    user_id: str
    r2_key: str
    filename: str
    mime_type: str | None = None
    size_bytes: int = 0
    product: str | None = None
    category: str | None = None
    created_at: int
    deleted_at: int | msgspec.UnsetType | None = msgspec.UNSET
    """Left out, a file that was deleted stays so; None brings it back."""


class CatalogFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that an export may take."""

    id: str
    r2_key: str
    filename: str
    size_bytes: int = 0
    product: str | None = None
    category: str | None = None


class CatalogExport(msgspec.Struct, frozen=True, kw_only=True):
    """The row of an export. `status` is PENDING, PROCESSING, COMPLETED or FAILED here; a foreign row may say more."""

    id: str
    user_id: str
    status: str = PENDING
    export_type: str
    filter_params: dict[str, Any] = {}
    r2_key: str | None = None
    size_bytes: int | None = None
    file_count: int | None = None
    created_at: int
    completed_at: int | None = None
    expires_at: int | None = None
    error_message: str | None = None


CHANGES: Final = ("status", "r2_key", "size_bytes", "file_count", "completed_at", "expires_at", "error_message")
"""What `put_export` changes of a row that exists. The rest is its creator's."""


ENDS: Final = (COMPLETED, FAILED)
"""What is over. It is never told again that such an export has begun: only another end is written over one."""


def row_of(job: Job, tasks: Sequence[Task]) -> CatalogExport:
    """The row of an archive, as its job and its parts say."""
    word = archive.word(job)
    is_whole = word == COMPLETED
    return CatalogExport(
        id=job.id,
        user_id=job.message["user_id"],
        status=word,
        export_type=job.message["export_type"],
        filter_params=job.message["filter_params"],
        r2_key=archive.result_key(job),
        size_bytes=archive.size_bytes(tasks) if is_whole else None,
        file_count=archive.file_count(tasks) if is_whole else None,
        created_at=job.created_at,
        completed_at=job.completed_at,
        expires_at=archive.expires_at(job) if is_whole else None,
        error_message=archive.error(job, tasks),
    )


def still_open(export_id: str) -> str:
    """Why a user gets no other export."""
    return f"The export {export_id} of this user is still in progress. Wait for its end, or cancel it."


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Which files: all of a user, or those of one product or of one category. Raises ValueError for both."""

    user_id: str
    product: str | None = None
    category: str | None = None

    def __post_init__(self) -> None:
        if self.product is not None and self.category is not None:
            raise ValueError("a selection is of a product or of a category")


class Catalog(Protocol):
    """Where files and exports are found. Everything raises Unavailable where there is no answer now; every write may
    be sent again."""

    async def files(self, selection: Selection, after: str | None, limit: int) -> list[CatalogFile]:
        """At most `limit` files that are not deleted, in the order of id, after the id `after`. Raises InvalidInput
        for an `after` that can be no id."""

    async def export(self, export_id: str) -> CatalogExport | None:
        """The row of an export."""

    async def exports(
        self, user_id: str, *, limit: int = 50, cursor: str | None = None
    ) -> tuple[list[CatalogExport], str | None]:
        """A page of the user's exports, newest first, and the cursor of the next one. Raises InvalidInput for a wrong
        cursor."""

    async def put_export(self, row: CatalogExport) -> None:
        """Insert the row; where it exists, write CHANGES only, and nothing where it is over and this is not (ENDS).
        Raises Conflict or InvalidInput for a row that the catalog cannot take."""

    async def close(self) -> None:
        """Let go of the catalog."""
