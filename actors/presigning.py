"""URLs that allow one kind of request for one object, for workers that shall not have the keys to all of them."""

from typing import Final, Literal

from actors.clock import TimeSource
from worker.contract import Environment
from worker.objects.signing import LONGEST_S, Signer

__all__ = ["LONGEST_S", "Method", "Presigner"]

KEY: Final = "_R2_KEY"
URL: Final = "_URL"

Method = Literal["GET", "PUT"]


class Presigner:
    """Signs for one bucket. Its URLs are secrets: they go to the worker of the task and nowhere else."""

    def __init__(
        self, endpoint_url: str, bucket: str, *, access_key_id: str, secret: str, expires_s: int, clock: TimeSource
    ) -> None:
        """`expires_s`: seconds for which a URL is valid, at most LONGEST_S. `clock` must be that of the world, not
        one that stands still while the computer sleeps: the server compares it with its own."""
        self._signer = Signer(endpoint_url, bucket, access_key_id=access_key_id, secret=secret)
        self._expires_s, self._clock = expires_s, clock

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
        return self._signer.origin + self._signer.target(method, key, self._clock.now() // 1000, self._expires_s)
