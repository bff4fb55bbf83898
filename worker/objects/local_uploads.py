"""Uploads in parts to a folder: each is a folder of its parts, beside the objects."""

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

from worker.errors import ObjectMissing, Unavailable
from worker.objects.base import ObjectInfo, check_key
from worker.objects.uploads import Uploaded

KEY: Final = "key"
_ID: Final = re.compile(r"[0-9a-f]{32}")
_PART: Final = re.compile(r"\d{5}")


class LocalUploads:
    """The part of `LocalObjects` that is `Uploads`. Metadata is not kept: files have none."""

    _begun: Path
    _put: Callable[[str, Callable[[IO[bytes]], str]], ObjectInfo]

    def begin_upload(self, key: str, content_type: str, metadata: Mapping[str, str]) -> str:
        """As `Uploads`."""
        upload = secrets.token_hex(16)
        try:
            folder = self._begun / upload
            folder.mkdir(parents=True)
            (folder / KEY).write_text(check_key(key), encoding="utf-8")
        except OSError as error:
            raise Unavailable(f"the object cannot be written: {error.strerror}") from error
        return upload

    def put_part(self, key: str, upload: str, number: int, body: bytes | bytearray) -> Uploaded:
        """As `Uploads`."""
        folder = self._folder(key, upload)
        draft = folder / f".{number:05}-{secrets.token_hex(4)}"
        try:
            with draft.open("xb") as target:
                target.write(body)
                target.flush()
                os.fsync(target.fileno())
            draft.replace(folder / f"{number:05}")
        except FileNotFoundError as error:  # it was given up meanwhile
            raise ObjectMissing from error
        except OSError as error:
            raise Unavailable(f"the object cannot be written: {error.strerror}") from error
        finally:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
        return Uploaded(len(body), _md5(body))

    def parts(self, key: str, upload: str) -> dict[int, Uploaded]:
        """As `Uploads`."""
        found = {}
        for path in sorted(self._folder(key, upload).iterdir()):
            if _PART.fullmatch(path.name):
                body = path.read_bytes()
                found[int(path.name)] = Uploaded(len(body), _md5(body))
        return found

    def complete_upload(self, key: str, upload: str, etags: Sequence[str]) -> ObjectInfo:
        """As `Uploads`."""
        folder = self._folder(key, upload)

        def fill(target: IO[bytes]) -> str:
            for number, etag in enumerate(etags, start=1):
                try:
                    part = (folder / f"{number:05}").read_bytes()
                except FileNotFoundError as error:
                    raise ObjectMissing from error
                if _md5(part) != etag:
                    raise Unavailable(f"part {number} of the object is another one than was stored")
                target.write(part)
            return f"{_md5(''.join(etags).encode())}-{len(etags)}"

        info = self._put(key, fill)
        shutil.rmtree(folder, ignore_errors=True)
        return info

    def abort_upload(self, key: str, upload: str) -> None:
        """As `Uploads`."""
        with suppress(ObjectMissing):
            shutil.rmtree(self._folder(key, upload), ignore_errors=True)

    def uploads(self, prefix: str) -> list[tuple[str, str]]:
        """As `Uploads`."""
        found = []
        with suppress(FileNotFoundError):
            for folder in self._begun.iterdir():
                with suppress(OSError):
                    found.append(((folder / KEY).read_text(encoding="utf-8"), folder.name))
        return sorted((key, upload) for key, upload in found if key.startswith(prefix))

    def _folder(self, key: str, upload: str) -> Path:
        """Raises ObjectMissing where it is no upload of that key."""
        folder = self._begun / upload
        try:
            if _ID.fullmatch(upload) and (folder / KEY).read_text(encoding="utf-8") == key:
                return folder
        except OSError as error:
            raise ObjectMissing from error
        raise ObjectMissing


def _md5(body: bytes | bytearray) -> str:
    return hashlib.md5(body, usedforsecurity=False).hexdigest()
