"""The manifest object of the originals: directories with files."""

import asyncio
import hashlib
from typing import Any, Final

import msgspec

from actors.errors import InvalidInput, Unavailable
from actors.sources.base import Objects, check_key, checked_file
from worker import errors as worker_errors
from worker.contract import FileRef

MAX_BYTES: Final = 1 << 30
FIELD: Final = "manifest_r2_key"


async def read(objects: Objects, key: str) -> tuple[list[FileRef], str]:
    """The files of the manifest under `key`, in its order, each with the processing_config of its directory; and the
    SHA-256 of what was read, in hexadecimal: it tells another manifest under the same key.

    Raises:
        InvalidInput: it is not there, is no JSON, or an entry is not valid; the entry is named.
        Unavailable: the object store did not answer.
    """
    check_key(key, FIELD)
    try:
        raw = await asyncio.to_thread(objects.read, key, MAX_BYTES)
    except worker_errors.ObjectMissing as error:
        raise InvalidInput(f"The manifest {key} does not exist: upload it first.", field=FIELD) from error
    except worker_errors.BadInput as error:
        raise InvalidInput(f"The manifest cannot be read: {error}.", field=FIELD) from error
    except worker_errors.Unavailable as error:
        raise Unavailable("The object store does not answer. Send the same request again.") from error
    return await asyncio.to_thread(lambda: (_parse(raw), hashlib.sha256(raw).hexdigest()))


def _parse(raw: bytes) -> list[FileRef]:
    try:
        manifest: Any = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"The manifest is not valid JSON: {error}", field=FIELD) from error
    directories = manifest.get("directories") if isinstance(manifest, dict) else None
    if not isinstance(directories, list):
        raise InvalidInput("The manifest must have a list 'directories'.", field=FIELD)
    files: list[FileRef] = []
    for d, directory in enumerate(directories):
        entries = directory.get("files") if isinstance(directory, dict) else None
        if not isinstance(entries, list):
            raise InvalidInput(f"The manifest's directories[{d}] must have a list 'files'.", field=FIELD)
        config = directory.get("processing_config")
        for f, entry in enumerate(entries):
            if isinstance(entry, dict) and config is not None:
                entry = {"processing_config": config} | entry
            files.append(checked_file(entry, f"directories[{d}].files[{f}]"))
    return files
