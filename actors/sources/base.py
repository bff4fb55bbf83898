"""What sources share: the objects they read, and the check of one file entry."""

from typing import Any, NamedTuple, Protocol

import msgspec

from actors.errors import InvalidInput
from worker import contract
from worker.contract import FileRef
from worker.objects.base import key_fault


class ObjectInfo(Protocol):
    """What a listing tells of an object."""

    @property
    def key(self) -> str: ...
    @property
    def size(self) -> int: ...


class Objects(Protocol):
    """The object store, as far as intake needs it. Blocking: called on a thread."""

    def read(self, key: str, limit: int) -> bytes: ...
    def list(self, prefix: str, after: str | None = None, limit: int = 1000) -> Any: ...
    def open(self, key: str, start: int = 0) -> Any: ...
    def delete(self, key: str) -> None: ...


class Named(NamedTuple):
    """An object that shall be in an archive. `cursor` is where to go on behind it; `size` in bytes, as far as its list
    says; `path` is the one that it should have in the archive."""

    cursor: str
    key: str
    path: str
    size: int
    filename: str
    product: str | None = None
    category: str | None = None


class Listing(Protocol):
    """Names the objects of an archive, in pages."""

    async def page(self, after: str) -> list[Named]:
        """The next ones behind the cursor `after`, "" at first; none at the end. Raises what stores do."""


def check_key(key: str, field: str) -> None:
    """Refuse the keys that no store takes (`worker.objects.base.key_fault`).

    Raises:
        InvalidInput: with `field` named.
    """
    fault = key_fault(key)
    if fault is not None:
        raise InvalidInput(f"{field} {fault}.", field=field)


def check_value(value: Any, field: str) -> None:
    """Refuse numbers and nesting that cannot be kept (`worker.contract.check_value`).

    Raises:
        InvalidInput: with the value named.
    """
    try:
        contract.check_value(value, field)
    except contract.UnfitValue as error:
        raise InvalidInput(str(error), field=error.field) from error


def checked_file(entry: Any, field: str) -> FileRef:
    """One entry of a list: an object as manifests have it, or only its key.

    Raises:
        InvalidInput: with the place in the list named.
    """
    if isinstance(entry, str):
        entry = {"r2_key": entry}
    if not isinstance(entry, dict) or not isinstance(entry.get("r2_key"), str):
        raise InvalidInput(f"{field} must be an object with an r2_key.", field=field)
    key: str = entry["r2_key"]
    check_key(key, f"{field}.r2_key")
    name = key.rsplit("/", 1)[-1]
    try:
        file = msgspec.convert({"logical_path": f"/{key}", "file_name": name} | entry, FileRef)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"{field}: {error}", field=field) from error
    if not 0 <= file.file_size <= contract.MAX_COUNT:
        raise InvalidInput(
            f"{field}.file_size must not be negative, nor over {contract.MAX_COUNT}.", field=f"{field}.file_size"
        )
    if file.processing_config is not None:
        check_value(file.processing_config, f"{field}.processing_config")
    return file
