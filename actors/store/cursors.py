"""Cursors: the key of a page's last row, which only this module reads."""

import base64
import binascii
from typing import Any, Final

import msgspec

from actors.errors import InvalidInput
from actors.store.standing import NEVER

FIRST: Final = -1
"""Before every number."""


def cursor_of(*key: int | str) -> str:
    """The cursor of a key."""
    return base64.urlsafe_b64encode(msgspec.json.encode(key)).decode().rstrip("=")


def key_of(cursor: str, types: tuple[type, ...]) -> tuple[Any, ...]:
    """The key inside a cursor. Raises InvalidInput for what this module has not made."""
    try:
        key = msgspec.json.decode(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)), type=tuple[Any, ...])
    except (ValueError, binascii.Error, msgspec.MsgspecError, RecursionError) as error:
        raise wrong() from error
    if tuple(map(type, key)) != types or any(type(part) is int and not FIRST <= part <= NEVER for part in key):
        raise wrong()
    return key


def wrong() -> InvalidInput:
    """What is told of a cursor that is none of the list's."""
    return InvalidInput("The cursor is not one of this list. Start without.", field="cursor")
