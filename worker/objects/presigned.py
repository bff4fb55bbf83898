"""Two presigned URLs instead of a store: the worker starts twice as fast and holds no keys."""

import tempfile
from pathlib import Path

from worker import web
from worker.errors import Unavailable
from worker.objects.base import ALWAYS, ObjectInfo, Opened, Part, too_large
from worker.until import Until


class PresignedObjects:
    """Reads what INPUT_URL names and writes what OUTPUT_URL names; nothing else exists. What fails on the way is tried
    again; a refusal (an expired URL) is not, since only the next attempt at the task brings another URL."""

    def __init__(self, input_url: str | None, output_url: str, *, input_key: str = "") -> None:
        self._input_url = input_url
        self._output_url = output_url
        self._input_key = input_key

    def get_file(self, key: str, path: Path, until: Until = ALWAYS) -> ObjectInfo:
        url = self._checked_input(key)
        return ObjectInfo(key, *web.persist(lambda: web.download(url, path, until), until))

    def read(self, key: str, limit: int) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "object"
            size = self.get_file(key, path).size
            if size > limit:
                raise too_large(key, size, limit)
            return path.read_bytes()

    def open(self, key: str, start: int = 0) -> Opened:
        raise Unavailable("a presigned URL is not read in parts")

    def read_part(self, key: str, start: int, length: int) -> Part:
        raise Unavailable("a presigned URL is not read in parts")

    def put_file(self, key: str, path: Path, content_type: str, until: Until = ALWAYS) -> ObjectInfo:
        return ObjectInfo(key, *web.persist(lambda: web.upload(self._output_url, path, content_type, until), until))

    def put(self, key: str, body: bytes, content_type: str) -> ObjectInfo:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "object"
            path.write_bytes(body)
            return self.put_file(key, path, content_type)

    def head(self, key: str) -> ObjectInfo:
        raise Unavailable("a presigned URL has no HEAD")

    def delete(self, key: str) -> None:
        raise Unavailable("a presigned URL cannot delete")

    def list(self, prefix: str, after: str | None = None, limit: int = 1000) -> list[ObjectInfo]:
        raise Unavailable("a presigned URL cannot list")

    def _checked_input(self, key: str) -> str:
        if self._input_url is None or (self._input_key and key != self._input_key):
            raise Unavailable("there is no presigned URL for this key")
        return self._input_url
