"""A Python client of the service. It needs httpx only and imports nothing else of this project.

    with ArkeClient("http://127.0.0.1:8787") as arke:
        batch = arke.create({"r2_prefix": "staging/x/"})
        print(arke.status(batch["batch_id"])["status"])

Every request may be repeated, because the service answers a repeated one the same way: so what is
temporary (no connection, 502, 503, 504, and a 404 that does not come from the service but from the
proxy in front of it while that restarts) is tried again until `patience_s` is over. A creation
without `batch_id` is given one here, so that its repetition does not make a second batch.
"""

import random
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any, Self
from urllib.parse import quote

import httpx

TEMPORARY = frozenset({502, 503, 504})
IS_IT_THERE = "Is the service running there?"
FIRST_WAIT_S = 0.2
LONGEST_WAIT_S = 3.0

Object = dict[str, Any]


class ClientError(Exception):
    """The request failed; the text is one sentence for a person."""


class Unreachable(ClientError):
    """The service could not be reached, or stayed unavailable, for as long as the client was patient."""


class Refused(ClientError):
    """The service answered with an error: `status` (HTTP), `code` (stable name) and `field`, where it names one."""

    def __init__(self, message: str, *, status: int, code: str | None = None, field: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.field = field


class ArkeClient:
    """Talks to one service. `api_key` and `admin_key` are sent where they are needed; both may be None.

    `patience_s` bounds the repetition of one call; `sleep`, `clock` and `transport` are there for tests.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        admin_key: str | None = None,
        patience_s: float = 30.0,
        timeout_s: float = 30.0,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = url.rstrip("/")
        self._api_key = api_key
        self._admin_key = admin_key
        self._patience_s = patience_s
        self._sleep = sleep
        self._clock = clock
        self._http = httpx.Client(timeout=timeout_s, transport=transport, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def health(self) -> Object:
        """What GET /health says."""
        return self._call("GET", "/health")

    def create(self, body: Mapping[str, Any]) -> Object:
        """Create a batch from a queue message, `{"files": […]}` (objects with an `r2_key`, or keys alone) or
        `{"r2_prefix": …}`; its status object.
        """
        return self._call("POST", "/batches", body={"batch_id": new_id(), **body})

    def export(self, pi: str, *, format: str = "mods", options: Mapping[str, Any] | None = None) -> Object:
        """Start an export of an entity: `{"task_id", "status", "message"}`. Where an answer is lost a second one may be
        started, which expires by itself.
        """
        return self._call("POST", "/export", body={"pi": pi, "format": format, "options": dict(options or {})})

    def archive(self, body: Mapping[str, Any]) -> Object:
        """Have an archive made of `{"user_id", "export_type"}`, `{"r2_prefix"}` or `{"keys"}`: `{"export_id", "status",
        "message"}`. Where an answer is lost a second one may be made, which expires by itself.
        """
        return self._call(
            "POST", "/export/zip", body={name: value for name, value in body.items() if value is not None}
        )

    def download(self, task: str, target: IO[bytes]) -> int:
        """Write the file of a finished export to `target`; how many bytes. Of `batch/ID` the ZIP of a batch, of
        `ID/2` the second part of an archive. One that breaks off goes on where it was, if the file is still the same.

        Raises Refused where it is not ready, Unreachable where it breaks off for good.
        """
        path = "/download/" + "/".join(map(_part, task.split("/")))
        coming = _Coming(target)
        give_up_at = self._clock() + self._patience_s
        while True:
            before = coming.written
            try:
                self._go_on(path, coming)
                return coming.written
            except httpx.TransportError as error:
                if coming.written > before:
                    give_up_at = self._clock() + self._patience_s
                if coming.etag is None or self._clock() + LONGEST_WAIT_S > give_up_at:
                    raise Unreachable(f"The download from {self.url} broke off. Start it again.") from error
            self._sleep(LONGEST_WAIT_S)

    def _go_on(self, path: str, coming: "_Coming") -> None:
        """What is left of a download. Raises httpx.TransportError where it breaks off, or the service is away."""
        key = self._api_key or self._admin_key
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        if coming.written:
            headers |= {"Range": f"bytes={coming.written}-", "If-Range": coming.etag or ""}
        with self._http.stream("GET", self.url + path, headers=headers) as answer:
            if coming.written and answer.status_code in TEMPORARY:
                raise httpx.ReadError("The service is away.")
            if coming.written and answer.status_code == 200:
                raise Unreachable("The file has changed while it was downloaded. Start it again.")
            if not answer.is_success:
                answer.read()
                raise _refused(answer.status_code, _decode(answer))
            coming.etag = answer.headers.get("ETag")
            for part in answer.iter_bytes():
                coming.written += coming.target.write(part)

    def status(self, batch: str) -> Object:
        """The status object of one batch."""
        return self._call("GET", f"/status/{_part(batch)}")

    def batches(
        self, *, status: str | None = None, state: str | None = None, limit: int = 50, cursor: str | None = None
    ) -> Object:
        """One page of status objects, newest first: `{"items": […], "next": cursor or None}`."""
        return self._call("GET", "/batches", query={"status": status, "state": state, "limit": limit, "cursor": cursor})

    def tasks(self, batch: str, *, status: str | None = None, limit: int = 100, cursor: str | None = None) -> Object:
        """One page of a batch's tasks: `{"items": […], "next": cursor or None}`."""
        query = {"status": status, "limit": limit, "cursor": cursor}
        return self._call("GET", f"/batches/{_part(batch)}/tasks", query=query)

    def all_tasks(self, batch: str, *, status: str | None = None) -> Iterator[Object]:
        """Every task of a batch, page by page."""
        cursor: str | None = None
        while True:
            page = self.tasks(batch, status=status, limit=1000, cursor=cursor)
            yield from page["items"]
            cursor = page.get("next")
            if cursor is None:
                return

    def cancel(self, batch: str, reason: str | None = None) -> Object:
        """End a batch; what has not begun never begins."""
        return self._call("POST", f"/batches/{_part(batch)}/cancel", body={"reason": reason} if reason else {})

    def retry(self, batch: str) -> Object:
        """Open a new run of the failed tasks."""
        return self._call("POST", f"/batches/{_part(batch)}/retry", body={})

    def redeliver(self, batch: str) -> Object:
        """Send the final callback again, under the same key."""
        return self._call("POST", f"/batches/{_part(batch)}/redeliver", body={})

    def reset(self, batch: str) -> Object:
        """Set a batch to ERROR as an administrator; needs the admin key where the service has one."""
        return self._call("POST", f"/admin/reset/{_part(batch)}", body={}, admin=True)

    def machines(self) -> Object:
        """The machines that there are: `{"items": […]}`; needs the admin key where the service has one."""
        return self._call("GET", "/admin/machines", admin=True)

    def pool(self) -> Object:
        """The pools of stopped machines: `{"pools": {kind: counts}}`; needs the admin key."""
        return self._call("GET", "/admin/machines/pool", admin=True)

    def sweep(self, *, dry_run: bool = False) -> Object:
        """Destroy machines that are nobody's; with `dry_run` only tell which those are. Needs the admin key."""
        return self._call("POST", "/admin/machines/sweep", body={"dry_run": dry_run}, admin=True)

    def task_environment(self, batch: str, task: str) -> dict[str, str]:
        """The signed environment of one task, for running a worker by hand."""
        environment = self._call("GET", f"/batches/{_part(batch)}/tasks/{_part(task)}/env")
        return {str(name): str(value) for name, value in environment.items()}

    def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        admin: bool = False,
    ) -> Object:
        """The decoded answer. Raises Refused, or Unreachable after `patience_s`."""
        key = (self._admin_key if admin else None) or self._api_key or self._admin_key
        request = self._http.build_request(
            method,
            self.url + path,
            params={name: value for name, value in (query or {}).items() if value is not None},
            json=body,
            headers={"Authorization": f"Bearer {key}"} if key else {},
        )
        give_up_at = self._clock() + self._patience_s
        wait_s = FIRST_WAIT_S
        while True:
            answer, trouble, asked_s = self._try(request)
            if answer is not None:
                return answer
            pause_s = max(asked_s, random.uniform(wait_s / 2, wait_s))
            if self._clock() + pause_s > give_up_at:
                raise Unreachable(trouble)
            self._sleep(pause_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    def _try(self, request: httpx.Request) -> tuple[Object | None, str, float]:
        """One try: the answer, or None with a sentence of what was wrong and how many seconds the service asks to wait.
        The sentence is the service's own, where it is the service that answered."""
        try:
            response = self._http.send(request)
        except httpx.TimeoutException:
            return None, f"{self.url} did not answer in time. {IS_IT_THERE}", 0.0
        except httpx.TransportError:
            return None, f"{self.url} cannot be reached. {IS_IT_THERE}", 0.0
        answer = _decode(response)
        if (answer or {}).get("code") == "provider_unavailable":  # the service is well; to ask again does not help it
            raise _refused(response.status_code, answer)
        if response.status_code in TEMPORARY or (response.status_code == 404 and answer is None):
            nobody = f"{self.url} is not available (HTTP {response.status_code}). {IS_IT_THERE}"
            sentence = (answer or {}).get("error")
            return None, sentence if isinstance(sentence, str) else nobody, _retry_after_s(response)
        if response.is_success and answer is not None:
            return answer, "", 0.0
        raise _refused(response.status_code, answer)


class _Coming:
    """A download so far: the bytes that are written, and by what the file is known again."""

    def __init__(self, target: IO[bytes]) -> None:
        self.target = target
        self.written = 0
        self.etag: str | None = None


def new_id() -> str:
    """A batch id that nobody else has."""
    return uuid.uuid4().hex


def _part(name: str) -> str:
    """A name as one part of a path, whatever is in it."""
    return quote(name, safe="")


def _decode(response: httpx.Response) -> Object | None:
    """The JSON object in the body, or None when the body is not one: then it is not the service that answered."""
    try:
        answer = response.json()
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def _retry_after_s(response: httpx.Response) -> float:
    text = response.headers.get("Retry-After", "")
    return min(float(text), 60.0) if text.isascii() and text.isdigit() else 0.0


def _refused(status: int, answer: Object | None) -> Refused:
    answer = answer or {}
    sentence = answer.get("error")
    message = sentence if isinstance(sentence, str) else f"The service answered HTTP {status} without saying why."
    return Refused(message, status=status, code=answer.get("code"), field=answer.get("field"))
