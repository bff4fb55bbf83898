"""Objects in S3 or R2, by boto3, which is imported when the first store is made (0.2 s that others do not pay); those
that are small and many by `parts`."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from worker import space, web
from worker.errors import Unavailable
from worker.objects.base import ALWAYS, ObjectInfo, Opened, Part, check_key, too_large
from worker.objects.parts import S3Parts
from worker.objects.s3_errors import etag_of, translated
from worker.objects.s3_uploads import S3Uploads
from worker.until import Reading, Until

CHUNK_BYTES = 64 * 1024
"""A download is looked at so often: the client waits until a whole chunk is there."""
OPENED_CHUNK_BYTES = 1024 * 1024
MAX_ATTEMPTS = 5


class S3Objects(S3Uploads):
    """One bucket behind an S3 endpoint. Checksums beyond what S3 requires are off, since R2 refuses some of them."""

    def __init__(
        self, endpoint_url: str, bucket: str, *, access_key_id: str, secret: str, region: str = "auto"
    ) -> None:
        import boto3
        from botocore.config import Config

        self._bucket = bucket
        self._parts = S3Parts(endpoint_url, bucket, access_key_id=access_key_id, secret=secret, region=region)
        self._client: Any = boto3.session.Session().client(
            "s3",
            endpoint_url=endpoint_url,
            aws_access_key_id=access_key_id,
            aws_secret_access_key=secret,
            region_name=region,
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": "path"},
                retries={"mode": "standard", "max_attempts": MAX_ATTEMPTS},
                connect_timeout=10,
                read_timeout=60,
                max_pool_connections=80,
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def make_bucket(self) -> None:
        """Creates the bucket; used in development and by tests."""
        with translated():
            self._client.create_bucket(Bucket=self._bucket)

    def get_file(self, key: str, path: Path, until: Until = ALWAYS) -> ObjectInfo:
        return web.persist(lambda: self._stream(check_key(key), path, until), until)

    def read(self, key: str, limit: int) -> bytes:
        with translated():
            answer = self._client.get_object(Bucket=self._bucket, Key=check_key(key))
            with answer["Body"] as stream:
                if answer["ContentLength"] > limit:
                    raise too_large(key, answer["ContentLength"], limit)
                body: bytes = stream.read()
                return body

    def open(self, key: str, start: int = 0) -> Opened:
        more = {"Range": f"bytes={start}-"} if start else {}
        with translated():
            answer = self._client.get_object(Bucket=self._bucket, Key=check_key(key), **more)
        return Opened(
            size=start + answer["ContentLength"],
            etag=etag_of(answer),
            changed_s=answer["LastModified"].timestamp(),
            chunks=_chunks(answer["Body"]),
            close=answer["Body"].close,
        )

    def read_part(self, key: str, start: int, length: int) -> Part:
        return self._parts.read_part(key, start, length)

    def put_file(self, key: str, path: Path, content_type: str, until: Until = ALWAYS) -> ObjectInfo:
        with path.open("rb") as source:
            try:
                return self._put(key, Reading(source, until), path.stat().st_size, content_type)
            except Unavailable:
                until.check()  # boto wraps what its source raises
                raise

    def put(self, key: str, body: bytes, content_type: str) -> ObjectInfo:
        return self._put(key, body, len(body), content_type)

    def head(self, key: str) -> ObjectInfo:
        return self._parts.head(key)

    def delete(self, key: str) -> None:
        with translated():
            self._client.delete_object(Bucket=self._bucket, Key=check_key(key))

    def list(self, prefix: str, after: str | None = None, limit: int = 1000) -> list[ObjectInfo]:
        found: list[ObjectInfo] = []
        while len(found) < limit:
            wanted = min(limit - len(found), 1000)
            start = {"StartAfter": found[-1].key if found else after} if found or after else {}
            with translated():
                answer = self._client.list_objects_v2(Bucket=self._bucket, Prefix=prefix, MaxKeys=wanted, **start)
            page = answer.get("Contents", [])
            found += [ObjectInfo(item["Key"], item["Size"], etag_of(item)) for item in page]
            if not answer.get("IsTruncated") or not page:
                break
        return found

    def presign(self, method: str, key: str, expires_s: int, content_type: str | None = None) -> str:
        """A URL that allows one GET or PUT of the key for `expires_s` seconds, without handing out keys."""
        operation = {"GET": "get_object", "PUT": "put_object"}[method]
        parameters = {"Bucket": self._bucket, "Key": check_key(key)}
        if content_type is not None:
            parameters["ContentType"] = content_type
        url: str = self._client.generate_presigned_url(operation, Params=parameters, ExpiresIn=expires_s)
        return url

    def _stream(self, key: str, path: Path, until: Until) -> ObjectInfo:
        """boto tries a request again, but not an answer that breaks off: that is Interrupted."""
        with translated():
            answer = self._client.get_object(Bucket=self._bucket, Key=key)
        with closing(answer["Body"]) as body, _interrupted():
            size = space.save(until.each(body.iter_chunks(CHUNK_BYTES)), path)
            return ObjectInfo(key, size, etag_of(answer))

    def _put(self, key: str, body: bytes | Reading, size: int, content_type: str) -> ObjectInfo:
        with translated():
            answer = self._client.put_object(
                Bucket=self._bucket, Key=check_key(key), Body=body, ContentType=content_type, ContentLength=size
            )
            return ObjectInfo(key, size, etag_of(answer))


def _chunks(body: Any) -> Iterator[bytes]:
    try:
        with _interrupted():
            yield from body.iter_chunks(OPENED_CHUNK_BYTES)
    except web.Interrupted as error:
        raise Unavailable(str(error)) from error


@contextmanager
def _interrupted() -> Iterator[None]:
    """Turns what breaks a stream into an error that may be tried again."""
    from botocore.exceptions import BotoCoreError

    try:
        yield
    except BotoCoreError as error:
        raise web.Interrupted(f"the object store broke off: {type(error).__name__}") from error
