"""What sources share: the objects they read, and the check of one file entry."""

from typing import Any, Final, Protocol

import msgspec

from actors.errors import InvalidInput
from worker.contract import FileRef

MAX_KEY_BYTES: Final = 1024  # S3's and R2's limit


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


def check_key(key: str, field: str) -> None:
    """Refuse keys that could leave their folder.

    Raises:
        InvalidInput: with `field` named.
    """
    if not key or len(key.encode("utf-8", "surrogatepass")) > MAX_KEY_BYTES:
        raise InvalidInput(f"{field} must have 1 to {MAX_KEY_BYTES} bytes.", field=field)
    if key.startswith("/") or "\\" in key or any(part in ("..", ".") for part in key.split("/")):
        raise InvalidInput(f"{field} must be a relative key without '..', '.' or backslashes.", field=field)
    if any(ord(character) < 32 or 0xD800 <= ord(character) < 0xE000 for character in key):
        raise InvalidInput(f"{field} must not contain control characters.", field=field)


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
    if file.file_size < 0:
        raise InvalidInput(f"{field}.file_size must not be negative.", field=f"{field}.file_size")
    return file
