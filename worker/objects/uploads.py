"""Objects that are written in parts: nothing is there before the last step, and what is begun outlives the process.

As S3 and R2 have it: parts are numbered from 1, and all but the last are of one size.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from worker.objects.base import ObjectInfo

LEAST_PART_BYTES: Final = 5 * 1024 * 1024
MOST_PARTS: Final = 10_000


class Uploaded(NamedTuple):
    """A part that is there: size in bytes, and the ETag by which it is named in the end."""

    size: int
    etag: str


class Uploads(Protocol):
    """The operations. They raise what `ObjectStore` does, and ObjectMissing where there is no such upload any more."""

    def begin_upload(self, key: str, content_type: str, metadata: Mapping[str, str]) -> str:
        """The id of a new upload. `metadata` stays with the object where the store can keep it."""

    def put_part(self, key: str, upload: str, number: int, body: bytes | bytearray) -> Uploaded:
        """Store a part; on return it is durable. The same number again replaces it."""

    def parts(self, key: str, upload: str) -> dict[int, Uploaded]:
        """All that are there, by number."""

    def complete_upload(self, key: str, upload: str, etags: Sequence[str]) -> ObjectInfo:
        """Make the object of parts 1, 2, …; on return it is durable, and the upload is gone."""

    def abort_upload(self, key: str, upload: str) -> None:
        """Give it up; no error where there is none."""

    def uploads(self, prefix: str) -> list[tuple[str, str]]:
        """Key and id of all that are begun below a prefix, and neither completed nor given up."""
