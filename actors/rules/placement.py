"""Where jobs live: the names of their actors. One place, since two answers would be two owners of a job."""

import zlib
from typing import Final

OWN_ACTOR: Final = "batch:"
SHARED_ACTOR: Final = "batches:"
EXPORTS_ACTOR: Final = "exports:"
EXPORTS_ACTORS: Final = 4
ARCHIVES_ACTOR: Final = "archives:"
ARCHIVES_ACTORS: Final = 2


def shared_host(job_id: str, hosts: int) -> str:
    """The standing actor of a job that has none of its own."""
    return f"{SHARED_ACTOR}{zlib.crc32(job_id.encode()) % hosts}"


def standing_host(kind: str, job_id: str) -> str:
    """The standing actor of an export, of a batch of them, or of an archive: none has one of its own."""
    name, hosts = (ARCHIVES_ACTOR, ARCHIVES_ACTORS) if kind == "archive" else (EXPORTS_ACTOR, EXPORTS_ACTORS)
    return f"{name}{zlib.crc32(job_id.encode()) % hosts}"
