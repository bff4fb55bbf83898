"""Bodies of requests as what they should be."""

from typing import TypeVar

import msgspec

from actors.errors import InvalidInput
from orchestrator import errors

T = TypeVar("T")


def decode(body: bytes, kind: type[T]) -> T:
    """`body` as `kind`. Raises InvalidInput for what is not JSON or has wrong types, with the field named."""
    try:
        return msgspec.json.decode(body, type=kind)
    except UnicodeDecodeError as error:
        raise InvalidInput("The body is not UTF-8.") from error
    except msgspec.DecodeError as error:
        raise errors.invalid_json(error) from error
    except RecursionError as error:
        raise InvalidInput("The body is nested too deeply.") from error
