"""Object stores: a local folder, S3 and R2, or two presigned URLs. All behave as `base.ObjectStore` says."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from worker import urls
from worker.errors import BadInput, Unavailable
from worker.objects.base import ObjectInfo, ObjectStore, check_key

DEFAULT_BUCKET = "arke-staging"
_ACCOUNT: Final = re.compile(r"[A-Za-z0-9-]{1,63}")
"""It becomes part of a host's name."""

__all__ = ["DEFAULT_BUCKET", "ObjectInfo", "ObjectStore", "check", "check_key", "endpoint", "from_environment"]


def from_environment(env: Mapping[str, str]) -> ObjectStore:
    """The store that a task's environment names: OUTPUT_URL, with INPUT_URL where it reads an object, else OBJECTS_DIR,
    else R2_*. Raises as `check` does."""
    check(env)
    bucket = env.get("R2_BUCKET") or DEFAULT_BUCKET
    if _is_presigned(env):
        from worker.objects.presigned import PresignedObjects

        input_url = env.get("INPUT_URL") or None
        return PresignedObjects(input_url, env["OUTPUT_URL"], input_key=env.get("INPUT_R2_KEY", ""))
    if env.get("OBJECTS_DIR"):
        from worker.objects.local import LocalObjects

        return LocalObjects(Path(env["OBJECTS_DIR"]), bucket)
    if env.get("R2_ENDPOINT_URL") or env.get("R2_ACCOUNT_ID"):
        from worker.objects.s3 import S3Objects

        return S3Objects(
            endpoint(env), bucket, access_key_id=env["R2_ACCESS_KEY_ID"], secret=env["R2_SECRET_ACCESS_KEY"]
        )
    raise AssertionError("unreachable: `check` refuses an environment that names no objects")


def endpoint(env: Mapping[str, str]) -> str:
    """The S3 server of an environment that names one: R2_ENDPOINT_URL, else that of R2_ACCOUNT_ID."""
    return env.get("R2_ENDPOINT_URL") or f"https://{env['R2_ACCOUNT_ID']}.r2.cloudflarestorage.com"


def check(env: Mapping[str, str]) -> None:
    """Raises BadInput, which names the variable, where one has a value that can be none; Unavailable where objects are
    not named, or their keys not: a machine's fault, so another may do the task."""
    if _is_presigned(env):
        if env.get("INPUT_URL"):
            urls.split(env["INPUT_URL"], "INPUT_URL")
        urls.split(env["OUTPUT_URL"], "OUTPUT_URL")
    elif not env.get("OBJECTS_DIR"):
        _check_s3(env)


def _is_presigned(env: Mapping[str, str]) -> bool:
    return bool(env.get("OUTPUT_URL") and (env.get("INPUT_URL") or not env.get("INPUT_R2_KEY")))


def _check_s3(env: Mapping[str, str]) -> None:
    if env.get("R2_ENDPOINT_URL"):
        urls.split(env["R2_ENDPOINT_URL"], "R2_ENDPOINT_URL")
    elif not env.get("R2_ACCOUNT_ID"):
        raise Unavailable("the environment names no objects: set OBJECTS_DIR, R2_ENDPOINT_URL or R2_ACCOUNT_ID")
    elif not _ACCOUNT.fullmatch(env["R2_ACCOUNT_ID"]):
        raise BadInput("R2_ACCOUNT_ID is not valid: it must be letters and digits")
    if not env.get("R2_ACCESS_KEY_ID") or not env.get("R2_SECRET_ACCESS_KEY"):
        # boto3 would look for others in this machine's files and metadata service.
        raise Unavailable("R2_ACCESS_KEY_ID and R2_SECRET_ACCESS_KEY must both be set to reach the object store")
