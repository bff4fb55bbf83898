"""Object stores: a local folder, S3 and R2, or two presigned URLs. All behave as `base.ObjectStore` says."""

from collections.abc import Mapping
from pathlib import Path

from worker.errors import BadInput
from worker.objects.base import ObjectInfo, ObjectStore, check_key

DEFAULT_BUCKET = "arke-staging"

__all__ = ["DEFAULT_BUCKET", "ObjectInfo", "ObjectStore", "check_key", "from_environment"]


def from_environment(env: Mapping[str, str]) -> ObjectStore:
    """The store that a task's environment names: INPUT_URL with OUTPUT_URL, else OBJECTS_DIR, else R2_*. Raises
    BadInput when it names none."""
    bucket = env.get("R2_BUCKET") or DEFAULT_BUCKET
    if env.get("INPUT_URL") and env.get("OUTPUT_URL"):
        from worker.objects.presigned import PresignedObjects

        return PresignedObjects(env["INPUT_URL"], env["OUTPUT_URL"], input_key=env.get("INPUT_R2_KEY", ""))
    if env.get("OBJECTS_DIR"):
        from worker.objects.local import LocalObjects

        return LocalObjects(Path(env["OBJECTS_DIR"]), bucket)
    if env.get("R2_ENDPOINT_URL") or env.get("R2_ACCOUNT_ID"):
        from worker.objects.s3 import S3Objects

        endpoint = env.get("R2_ENDPOINT_URL") or f"https://{env['R2_ACCOUNT_ID']}.r2.cloudflarestorage.com"
        key, secret = env.get("R2_ACCESS_KEY_ID"), env.get("R2_SECRET_ACCESS_KEY")
        if not key or not secret:
            # boto3 would look for others in this machine's files and metadata service.
            raise BadInput("R2_ACCESS_KEY_ID and R2_SECRET_ACCESS_KEY must both be set to reach the object store")
        return S3Objects(endpoint, bucket, access_key_id=key, secret=secret)
    raise BadInput("the environment names no objects: set OBJECTS_DIR, R2_ENDPOINT_URL or R2_ACCOUNT_ID")
