"""Where jobs live: the names of their actors. One place, since two answers would be two owners of a job."""

import zlib
from typing import Final

OWN_ACTOR: Final = "batch:"
SHARED_ACTOR: Final = "batches:"
EXPORTS_ACTOR: Final = "exports:"
EXPORTS_ACTORS: Final = 4


def shared_host(job_id: str, hosts: int) -> str:
    """The standing actor of a job that has none of its own."""
    return f"{SHARED_ACTOR}{zlib.crc32(job_id.encode()) % hosts}"


def exports_host(job_id: str) -> str:
    """The standing actor of an export, or of a batch of them: none has one of its own."""
    return f"{EXPORTS_ACTOR}{zlib.crc32(job_id.encode()) % EXPORTS_ACTORS}"
