"""The official schemas are brought from their addresses into a folder, each checked by its SHA-256 where that is known.

The sums are those of copies that others have published. They were never compared with what is at the addresses.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import httpx

from worker.errors import BadInput, Unavailable, WorkerError

MOST_BYTES: Final = 4 * 1024 * 1024
TIMEOUT_S: Final = 30.0
HTTP_OK: Final = 200


class Official(NamedTuple):
    """A file, where it is published, and its SHA-256 in hexadecimal; None: no copy is known to be as published."""

    name: str
    url: str
    sha256: str | None


FILES: Final = (
    Official(
        "mods-3-8.xsd",
        "https://www.loc.gov/standards/mods/v3/mods-3-8.xsd",
        "40a290dd6d4cdbe0d7447540fa98480030a34af720c9d4399ad44593909d8d40",
    ),
    Official(
        "xlink.xsd",
        "https://www.loc.gov/standards/xlink/xlink.xsd",
        "f1f5bb6003165cdd8f6c1fcc32f8fd1f965e1681010f3b9806d9460bcffa8a3c",
    ),
    Official(
        "xml.xsd",
        "https://www.loc.gov/mods/xml.xsd",
        "8ef35874d6947cfd6dc2de1667ac9b70cdee666c3571dd05cfcc7881576f73ae",
    ),
    Official(
        "MARC21slim.xsd",
        "https://www.loc.gov/standards/marcxml/schema/MARC21slim.xsd",
        "00618de56c5628f5d8faa4528c1c0fbe6783fc21225c98e5ef47331393254879",
    ),
    Official(
        "simpledc20021212.xsd",
        "https://www.dublincore.org/schemas/xmls/simpledc20021212.xsd",
        "06eefe3bcdbdb26929589bc2b3551fe437a9e5dffb62ab6085f16130ee8bcc23",
    ),
    Official("oai_dc.xsd", "https://www.openarchives.org/OAI/2.0/oai_dc.xsd", None),
)

Tell = Callable[[str], None]


class WrongSum(WorkerError):
    """A file is not the one that is known."""

    retryable = False


def fetch(folder: Path, tell: Tell, *, client: httpx.Client | None = None, files: tuple[Official, ...] = FILES) -> None:
    """Bring all files into `folder`. Each appears whole or not at all, so a run that was stopped is continued by the
    next; a file that is there and has its sum is left as it is.

    Raises:
        WrongSum: what came is not what is known; both sums are named.
        Unavailable: an address did not answer, or not with a file.
        BadInput: the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with client or httpx.Client(timeout=TIMEOUT_S, follow_redirects=True) as opened:
            for file in files:
                _one(file, folder, opened, tell)
    except OSError as error:
        raise BadInput(f"The folder for the schemas cannot be written to: {error.strerror}") from error


def _one(file: Official, folder: Path, client: httpx.Client, tell: Tell) -> None:
    path = folder / file.name
    if file.sha256 is not None and path.is_file() and _sum(path.read_bytes()) == file.sha256:
        tell(f"{file.name}: is there")
        return
    body = _download(file, client)
    found = _sum(body)
    if file.sha256 is not None and found != file.sha256:
        raise WrongSum(
            f"{file.url} is not the file that is known: its SHA-256 is {found}, not {file.sha256}. Nothing of it was "
            f"kept. If you trust it, put it into a folder as {file.name} and name that with ARKE_SCHEMAS"
        )
    draft = path.with_name(f".{file.name}.{os.getpid()}")
    draft.write_bytes(body)
    draft.replace(path)
    told = "SHA-256 as known" if file.sha256 else f"not checked, no sum is known; its SHA-256 is {found}"
    tell(f"{file.name}: {len(body)} bytes, {told}")


def _download(file: Official, client: httpx.Client) -> bytes:
    try:
        with client.stream("GET", file.url) as answer:
            if answer.status_code != HTTP_OK:
                raise Unavailable(f"{file.url} answered {answer.status_code}: try again later")
            parts: list[bytes] = []
            size = 0
            for part in answer.iter_bytes():
                size += len(part)
                if size > MOST_BYTES:
                    raise Unavailable(f"{file.url} sends more than a schema can have")
                parts.append(part)
    except httpx.HTTPError as error:
        raise Unavailable(f"{file.url} cannot be reached ({type(error).__name__}): is there a network?") from error
    return b"".join(parts)


def _sum(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
