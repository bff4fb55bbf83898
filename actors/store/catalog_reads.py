"""What is read of the service's own catalog: one function per question, as in `actors.store.reads`."""

from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import bindparam, select, tuple_

from actors.store.catalog_rows import CatalogExport, CatalogFile
from actors.store.cursors import cursor_of, key_of
from actors.store.standing import NEVER
from actors.store.statements import Db, Sql
from actors.store.tables import CATALOG_FILES, EXPORTS
from actors.store.tables import storage_exports as exports
from actors.store.tables import storage_files as files


def _files_where(*conditions: Any) -> Sql:
    return Sql(
        select(*CATALOG_FILES.select)
        .where(
            files.c.user_id == bindparam("user_id"),
            *conditions,
            files.c.deleted_at.is_(None),
            files.c.id > bindparam("after"),
        )
        .order_by(files.c.id)
        .limit(bindparam("most"))
    )


_FILES = _files_where()
_FILES_OF_PRODUCT = _files_where(files.c.product == bindparam("product"))
_FILES_OF_CATEGORY = _files_where(files.c.category == bindparam("category"))
_EXPORT = Sql(select(*EXPORTS.select).where(exports.c.id == bindparam("id")))
_EXPORTS = Sql(
    select(*EXPORTS.select)
    .where(
        exports.c.user_id == bindparam("user_id"),
        tuple_(exports.c.created_at, exports.c.id) < tuple_(bindparam("before"), bindparam("before_id")),
    )
    .order_by(exports.c.created_at.desc(), exports.c.id.desc())
    .limit(bindparam("most"))
)


def storage_files(
    db: Db, user_id: str, product: str | None, category: str | None, after: str | None, limit: int
) -> list[CatalogFile]:
    """In the order of id. No id is empty, so that "" is before all."""
    sql = (
        _FILES if product is None and category is None else _FILES_OF_CATEGORY if product is None else _FILES_OF_PRODUCT
    )
    values = {"user_id": user_id, "product": product, "category": category, "after": after or "", "most": limit}
    return [CATALOG_FILES.struct_of(row) for row in db.rows(sql, values)]


def storage_export(db: Db, export_id: str) -> CatalogExport | None:
    row = db.row(_EXPORT, {"id": export_id})
    return None if row is None else EXPORTS.struct_of(row)


def storage_exports(db: Db, user_id: str, limit: int, cursor: str | None) -> tuple[list[CatalogExport], str | None]:
    """Newest first."""
    before, before_id = key_of(cursor, (int, str)) if cursor else (NEVER, "")
    values = {"user_id": user_id, "before": before, "before_id": before_id, "most": limit + 1}
    rows = db.rows(_EXPORTS, values)
    found = [EXPORTS.struct_of(row) for row in rows[:limit]]
    return found, cursor_of(found[-1].created_at, found[-1].id) if len(rows) > limit and found else None


QUESTIONS: Final[dict[str, Callable[..., Any]]] = {
    question.__name__: question for question in (storage_files, storage_export, storage_exports)
}
