"""Before the first frame between nodes: both sides prove that they know the secret, and which actor is meant.

    caller                                  actor
    hello:   version, nonce            →
                                       ←    hello:   version, nonce
    claim:   actor, proof              →
                                       ←    verdict: accepted or not, proof

A proof is an HMAC over the version, the side that makes it, the actor, what it says, and the nonces of both sides. So
a conversation that somebody has heard is of no use later, an answer is not a claim sent back, and another actor that
has got the port of a former one knows that it is not meant. The caller proves first: a stranger learns that somebody
is here, and nothing else. All messages have a fixed length: none can announce more.

It keeps out who has no secret. Who can change what is on its way between two nodes is kept out by TLS (`network`).
Bytes in and out; no connection is known here.
"""

import hashlib
import hmac
import secrets
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

VERSION: Final = 1
NONCE_BYTES: Final = 32
DIGEST_BYTES: Final = 32

ACCEPTED: Final = b"\1"
OTHER: Final = b"\2"
_REFUSED: Final = b"\0" * (1 + DIGEST_BYTES)

_HELLO: Final = struct.Struct(f">4sB{NONCE_BYTES}s")
_MAGIC: Final = b"arke"
HELLO_BYTES: Final = _HELLO.size
CLAIM_BYTES: Final = 2 * DIGEST_BYTES
VERDICT_BYTES: Final = 1 + DIGEST_BYTES


class Mismatch(Exception):
    """The other side is not one of ours, or not the one that is meant. The message says why, without secrets."""


class NotMeant(Mismatch):
    """It is one of ours, and another actor: an address that is no longer true."""


class Nonces(NamedTuple):
    """Of one conversation."""

    caller: bytes
    actor: bytes


def new_nonce() -> bytes:
    """Never the same twice."""
    return secrets.token_bytes(NONCE_BYTES)


def key_of(secret: str) -> bytes:
    """The key of these proofs. It tells nothing of the secret, and signs nothing else."""
    return hmac.digest(secret.encode(), b"arke: frames between nodes", hashlib.sha256)


def hello(nonce: bytes) -> bytes:
    """The first message of either side."""
    return _HELLO.pack(_MAGIC, VERSION, nonce)


def nonce_of(message: bytes) -> tuple[int, bytes]:
    """Version and nonce of a hello. Raises Mismatch where it is none."""
    magic, version, nonce = _HELLO.unpack(message)
    if magic != _MAGIC:
        raise Mismatch("it speaks another protocol")
    return version, nonce


def check_version(version: int) -> None:
    """Raises Mismatch where it is not ours."""
    if version != VERSION:
        raise Mismatch(f"it speaks version {version}, not {VERSION}")


def claim(key: bytes, actor: str, nonces: Nonces) -> bytes:
    """What the caller sends: which actor it means, and that it may ask."""
    meant = _digest(actor)
    return meant + _proof(key, b"caller", meant, nonces)


def verdict(keys: Sequence[bytes], actor: str, message: bytes, nonces: Nonces) -> tuple[bytes, Mismatch | None]:
    """The answer to a claim, and why it is a refusal (None: it is not one). `keys` are all that are accepted.

    Who has proved nothing gets no proof either.
    """
    meant, proof = message[:DIGEST_BYTES], message[DIGEST_BYTES:]
    for key in keys:
        if hmac.compare_digest(_proof(key, b"caller", meant, nonces), proof):
            said = ACCEPTED if hmac.compare_digest(meant, _digest(actor)) else OTHER
            refusal = None if said == ACCEPTED else NotMeant("it means another actor")
            return said + _proof(key, b"actor" + said, meant, nonces), refusal
    return _REFUSED, Mismatch("it does not know the secret")


def check_verdict(key: bytes, actor: str, message: bytes, nonces: Nonces) -> None:
    """Raises Mismatch unless the other side has accepted us and is the actor that is meant."""
    said, proof = message[:1], message[1:]
    if message == _REFUSED:
        raise Mismatch("it does not accept our secret")
    if not hmac.compare_digest(_proof(key, b"actor" + said, _digest(actor), nonces), proof):
        raise Mismatch("it does not know the secret")
    if said != ACCEPTED:
        raise NotMeant("it is another actor")


def _proof(key: bytes, side: bytes, meant: bytes, nonces: Nonces) -> bytes:
    text = b"%d\n%s\n%s%s%s" % (VERSION, side, meant, nonces.caller, nonces.actor)
    return hmac.digest(key, text, hashlib.sha256)


def _digest(actor: str) -> bytes:
    return hashlib.sha256(actor.encode()).digest()
