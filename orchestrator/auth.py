"""Who may do what: bearer keys for people and programs, tokens for machines.

Routes of batches ask for one of API_KEYS when there are any. /admin asks for ADMIN_KEY when it is set
(it opens the batch routes too), else for one of API_KEYS. Claims carry the machine's own token or one of
WORKER_KEYS. Callbacks need their signature only (`callback_path`).
"""

import hashlib
import hmac
from collections.abc import Iterable
from typing import Final

from actors.errors import Forbidden, Unauthorized
from actors.signing import verify_download, verify_machine
from orchestrator.routing import Engine, FrontSettings

LONGEST_TIME: Final = 18
"""Digits of a time in milliseconds."""


def bearer(header: str | None) -> str:
    """The key of an Authorization header. Raises Unauthorized where there is none."""
    scheme, _, key = (header or "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise Unauthorized
    return key.strip()


def require_api_key(settings: FrontSettings, header: str | None) -> str | None:
    """The owner that the key stands for; None where no keys are configured. Raises Unauthorized."""
    if not settings.api_keys:
        return None
    key = bearer(header)
    if is_one_of(key, settings.api_keys) or _is_admin(settings, key):
        return owner_of(key)
    raise Unauthorized("This key is not valid here.")


def require_admin(settings: FrontSettings, header: str | None) -> None:
    """Raises Unauthorized without a key, or with an unknown one; Forbidden with a key that is not the admin's."""
    if settings.admin_key is None:
        require_api_key(settings, header)
        return
    key = bearer(header)
    if _is_admin(settings, key):
        return
    if is_one_of(key, settings.api_keys):
        raise Forbidden("This key does not open /admin: use ADMIN_KEY.")
    raise Unauthorized("This key is not valid here.")


def require_any_key(settings: FrontSettings, header: str | None) -> None:
    """ADMIN_KEY or one of API_KEYS, as far as any is configured. Raises Unauthorized."""
    if settings.api_keys:
        require_api_key(settings, header)
    elif settings.admin_key is not None:
        require_admin(settings, header)


def require_machine(engine: Engine, machine: str, header: str | None) -> bool:
    """Whether the claim comes from a machine of ours (else from a pull worker). Raises Unauthorized."""
    token = bearer(header)
    if verify_machine(engine.secrets, machine, token):
        return True
    if is_one_of(token, engine.settings.worker_keys):
        return False
    raise Unauthorized("Neither this machine's token nor one of the worker keys.")


def is_link(engine: Engine, export_id: str, until: str, signature: str) -> bool:
    """Whether this is the query of a link to what the export has made, and still valid."""
    if not until.isascii() or not until.isdigit() or len(until) > LONGEST_TIME or int(until) <= engine.now():
        return False
    return verify_download(engine.secrets, export_id, int(until), signature)


def owner_of(key: str) -> str:
    """A name for the holder of a key that does not give the key away."""
    return "key-" + hashlib.sha256(key.encode()).hexdigest()[:16]


def is_one_of(key: str, keys: Iterable[str]) -> bool:
    """Membership in constant time: every key is compared, whichever one matches."""
    return bool(sum(hmac.compare_digest(key.encode(), other.encode()) for other in keys))


def _is_admin(settings: FrontSettings, key: str) -> bool:
    return settings.admin_key is not None and is_one_of(key, [settings.admin_key])
