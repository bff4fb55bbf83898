"""What is written about the service's own catalog: one function per operation, each of which may be sent again."""

from typing import Any, Final

import msgspec
from sqlalchemy import not_, or_

from actors.errors import Conflict
from actors.store.catalog_rows import CHANGES, ENDS, CatalogExport, StorageFile
from actors.store.statements import Db, Sql, is_duplicate, one_of, upsert
from actors.store.tables import EXPORTS, Codec, storage_exports, storage_files

_decode_files = msgspec.msgpack.Decoder(list[StorageFile]).decode
_decode_export = msgspec.msgpack.Decoder(CatalogExport).decode

_FILES: Final = Codec(StorageFile, storage_files)
_put_export = upsert(storage_exports)
_PUT_EXPORT = Sql(
    _put_export.on_conflict_do_update(
        index_elements=["id"],
        set_={name: _put_export.excluded[name] for name in CHANGES},
        where=or_(one_of(_put_export.excluded.status, ENDS), not_(one_of(storage_exports.c.status, ENDS))),
    ),
    EXPORTS.columns,
)


def _put_files(changes: list[str]) -> Sql:
    put = upsert(storage_files)
    replaced = {name: put.excluded[name] for name in changes}
    return Sql(put.on_conflict_do_update(index_elements=["id"], set_=replaced), _FILES.columns)


_PUT_FILE = _put_files([name for name in _FILES.columns if name != "id"])
_PUT_FILE_ROW = _PUT_FILE.picker(_FILES.columns)
_PUT_FILE_AS_DELETED = _put_files([name for name in _FILES.columns if name not in ("id", "deleted_at")])


def add_storage_files(db: Db, request: dict[str, Any]) -> None:
    """Insert or replace files. Whether one that exists is deleted changes only where its row says something of it."""
    for file in _decode_files(request["files"]):
        says_nothing = file.deleted_at is msgspec.UNSET
        row = msgspec.structs.replace(file, deleted_at=None) if says_nothing else file
        try:
            db.run_many(_PUT_FILE_AS_DELETED if says_nothing else _PUT_FILE, [_PUT_FILE_ROW(_FILES.row(row))])
        except Exception as error:
            if not is_duplicate(error):
                raise
            raise Conflict(f"Another file of the catalog has the key {file.r2_key}.") from error


def put_export(db: Db, request: dict[str, Any]) -> None:
    """Insert the row of an export. Of one that exists only what its progress changes is written."""
    db.run(_PUT_EXPORT, EXPORTS.values(_decode_export(request["export"])))


OPERATIONS: Final = {"add_storage_files": add_storage_files, "put_export": put_export}
