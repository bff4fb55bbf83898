"""Bodies of requests, before anybody knows what they should be."""

from typing import Any

import msgspec

from actors.errors import InvalidInput


def as_object(raw: bytes) -> dict[str, Any]:
    """A body that is a JSON object. Raises InvalidInput."""
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"The body is not valid JSON: {error}") from error
    if not isinstance(body, dict):
        raise InvalidInput("The body must be a JSON object.")
    return body
