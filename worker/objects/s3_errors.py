"""What boto says, as this project's errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from worker.errors import ObjectMissing, Unavailable, one_line

MISSING: Final = ("404", "NoSuchKey", "NotFound", "NoSuchUpload")


def etag_of(answer: dict[str, Any]) -> str:
    """Without its quotes."""
    return str(answer.get("ETag", "")).strip('"')


@contextmanager
def translated() -> Iterator[None]:
    """Turns boto's errors into ours. A key is never part of the message; the bucket's answer is."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code in MISSING:
            raise ObjectMissing() from error
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", "")
        raise Unavailable(f"the object store answered {status} {one_line(code)}".strip()) from error
    except BotoCoreError as error:
        raise Unavailable(f"the object store did not answer: {type(error).__name__}") from error
