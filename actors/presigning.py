"""URLs that allow one kind of request for one object, for workers that shall not have the keys to all of them.

They are signed as S3 wants it (Signature Version 4, in the query), and here rather than by boto3, which takes 0.4 ms
for each: with two of them a thousand tasks a second would cost most of a core. Here it is 0.01 ms.
"""

import hashlib
import hmac
import time
from typing import Final, Literal
from urllib.parse import SplitResult, quote, urlsplit

from actors.clock import TimeSource
from worker.contract import Environment

LONGEST_S: Final = 7 * 86_400
"""S3 takes no URL that is valid for longer."""
KEY: Final = "_R2_KEY"
URL: Final = "_URL"
_ALGORITHM: Final = "AWS4-HMAC-SHA256"
_REGION: Final = "auto"
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}

Method = Literal["GET", "PUT"]


class Presigner:
    """Signs for one bucket. Its URLs are secrets: they go to the worker of the task and nowhere else."""

    def __init__(
        self, endpoint_url: str, bucket: str, *, access_key_id: str, secret: str, expires_s: int, clock: TimeSource
    ) -> None:
        """`expires_s`: seconds for which a URL is valid, at most LONGEST_S. `clock` must be that of the world, not
        one that stands still while the computer sleeps: the server compares it with its own."""
        parts = urlsplit(endpoint_url)
        self._host = _host(parts)
        self._origin = f"{parts.scheme}://{self._host}"
        self._root = f"{parts.path.rstrip('/')}/{bucket}/"
        self._access_key_id = quote(access_key_id, safe="-_.~")
        self._secret, self._clock = secret, clock
        self._expires_s = max(1, min(expires_s, LONGEST_S))
        self._key_of: tuple[str, bytes] = "", b""

    def with_urls(self, env: Environment) -> Environment:
        """A task's environment and, beside each object key `X_R2_KEY`, its URL as `X_URL`: for GET where the name
        begins with INPUT, else for PUT. A kind that reads and writes one object names it twice."""
        urls = {
            name.removesuffix(KEY) + URL: self.url("GET" if name.startswith("INPUT") else "PUT", key)
            for name, key in env.items()
            if name.endswith(KEY) and key
        }
        return env | urls

    def url(self, method: Method, key: str) -> str:
        """A URL that allows this method for this key, as often as wanted, until it expires."""
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._clock.now() // 1000))
        day = moment[:8]
        scope = f"{day}/{_REGION}/s3/aws4_request"
        path = self._root + quote(key, safe="/-_.~")
        query = (
            f"X-Amz-Algorithm={_ALGORITHM}&X-Amz-Credential={self._access_key_id}%2F{scope.replace('/', '%2F')}"
            f"&X-Amz-Date={moment}&X-Amz-Expires={self._expires_s}&X-Amz-SignedHeaders=host"
        )
        request = f"{method}\n{path}\n{query}\nhost:{self._host}\n\nhost\nUNSIGNED-PAYLOAD"
        text = f"{_ALGORITHM}\n{moment}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
        return f"{self._origin}{path}?{query}&X-Amz-Signature={_hmac(self._signing_key(day), text).hex()}"

    def _signing_key(self, day: str) -> bytes:
        """It is the same for a whole day, and to make it is most of the work."""
        if self._key_of[0] != day:
            key = f"AWS4{self._secret}".encode()
            for part in (day, _REGION, "s3", "aws4_request"):
                key = _hmac(key, part)
            self._key_of = day, key
        return self._key_of[1]


def _host(parts: SplitResult) -> str:
    """What a client sends as Host, which the signature covers: without the scheme's own port and without a user."""
    name = parts.hostname or ""
    name = f"[{name}]" if ":" in name else name
    return name if parts.port in (None, _DEFAULT_PORTS.get(parts.scheme)) else f"{name}:{parts.port}"


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")
