"""Signatures of callbacks and tokens of machines: HMAC-SHA256, compared in constant time."""

import hashlib
import hmac
import os
import secrets
from pathlib import Path

LEAST_SECRET_CHARS = 16


def sign_task(secret: str, batch: str, task: str, run: int, attempt: int) -> str:
    """The `sig` of a CALLBACK_URL; it names exactly one assignment."""
    return _digest(secret, f"task\n{batch}\n{task}\n{run}\n{attempt}")


def verify_task(accepted: tuple[str, ...], batch: str, task: str, run: int, attempt: int, signature: str) -> bool:
    """Whether `signature` was made with one of the accepted secrets (the former one counts during rotation)."""
    return any(
        hmac.compare_digest(sign_task(secret, batch, task, run, attempt).encode(), signature.encode())
        for secret in accepted
    )


def machine_token(secret: str, machine: str) -> str:
    """The MACHINE_TOKEN with which one machine claims work."""
    return _digest(secret, f"machine\n{machine}")


def verify_machine(accepted: tuple[str, ...], machine: str, token: str) -> bool:
    """Whether `token` is that machine's, under one of the accepted secrets."""
    return any(hmac.compare_digest(machine_token(secret, machine).encode(), token.encode()) for secret in accepted)


def sign_download(secret: str, export_id: str, until_ms: int) -> str:
    """The `sig` of a link that opens what an export has made, until that time."""
    return _digest(secret, f"download\n{export_id}\n{until_ms}")


def verify_download(accepted: tuple[str, ...], export_id: str, until_ms: int, signature: str) -> bool:
    """Whether `signature` is of that link, under one of the accepted secrets."""
    return any(
        hmac.compare_digest(sign_download(secret, export_id, until_ms).encode(), signature.encode())
        for secret in accepted
    )


def load_or_make_secret(path: Path) -> str:
    """The secret kept in `path` (mode 0600), made on first use. Safe when two processes start together.

    Raises ValueError for a file that holds no secret.
    """
    if not path.exists():  # else nothing is written: a part starts again on a full disk, too
        _make_secret(path)
    secret = path.read_text().strip()
    if len(secret) < LEAST_SECRET_CHARS:  # an empty key would let everybody sign
        raise ValueError(f"{path.name} is empty or too short. Delete it: a new one is made at the next start.")
    return secret


def _make_secret(path: Path) -> None:
    """Put a new secret in place as a whole. Raises OSError, and leaves nothing behind, where it cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(32))
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)  # fails where another process was first: its secret counts
    except FileExistsError:
        pass
    finally:
        draft.unlink()


def _digest(secret: str, text: str) -> str:
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()
