"""Where jobs live: the names of their actors. One place, since two answers would be two owners of a job."""

import zlib
from typing import Final

OWN_ACTOR: Final = "batch:"
SHARED_ACTOR: Final = "batches:"


def shared_host(job_id: str, hosts: int) -> str:
    """The standing actor of a job that has none of its own."""
    return f"{SHARED_ACTOR}{zlib.crc32(job_id.encode()) % hosts}"
