"""Uploads in parts to S3 or R2."""

from collections.abc import Mapping, Sequence
from typing import Any

from worker.errors import ObjectMissing
from worker.objects.base import ObjectInfo, check_key
from worker.objects.s3_errors import etag_of, translated
from worker.objects.uploads import Uploaded


class S3Uploads:
    """The part of `S3Objects` that is `Uploads`."""

    _bucket: str
    _client: Any

    def begin_upload(self, key: str, content_type: str, metadata: Mapping[str, str]) -> str:
        """As `Uploads`."""
        with translated():
            answer = self._client.create_multipart_upload(
                Bucket=self._bucket, Key=check_key(key), ContentType=content_type, Metadata=dict(metadata)
            )
            return str(answer["UploadId"])

    def put_part(self, key: str, upload: str, number: int, body: bytes | bytearray) -> Uploaded:
        """As `Uploads`."""
        with translated():
            answer = self._client.upload_part(
                Bucket=self._bucket, Key=check_key(key), UploadId=upload, PartNumber=number, Body=body,
                ContentLength=len(body),
            )  # fmt: skip
            return Uploaded(len(body), etag_of(answer))

    def parts(self, key: str, upload: str) -> dict[int, Uploaded]:
        """As `Uploads`."""
        with translated():
            pages = self._client.get_paginator("list_parts").paginate(
                Bucket=self._bucket, Key=check_key(key), UploadId=upload
            )
            return {
                part["PartNumber"]: Uploaded(part["Size"], etag_of(part))
                for page in pages
                for part in page.get("Parts", ())
            }

    def complete_upload(self, key: str, upload: str, etags: Sequence[str]) -> ObjectInfo:
        """As `Uploads`."""
        parts = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, start=1)]
        with translated():
            self._client.complete_multipart_upload(
                Bucket=self._bucket, Key=check_key(key), UploadId=upload, MultipartUpload={"Parts": parts}
            )
            answer = self._client.head_object(Bucket=self._bucket, Key=key)
            return ObjectInfo(key, answer["ContentLength"], etag_of(answer))

    def abort_upload(self, key: str, upload: str) -> None:
        """As `Uploads`."""
        try:
            with translated():
                self._client.abort_multipart_upload(Bucket=self._bucket, Key=check_key(key), UploadId=upload)
        except ObjectMissing:
            return

    def uploads(self, prefix: str) -> list[tuple[str, str]]:
        """As `Uploads`."""
        with translated():
            pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket, Prefix=prefix)
            return [(each["Key"], each["UploadId"]) for page in pages for each in page.get("Uploads", ())]
