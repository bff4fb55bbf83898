"""What a simulated worker tells the orchestrator: results, errors, signs of life, and what is wrong on purpose."""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from tests.stand_ins.fly.delivery import Delivery, Refused, Undelivered, read
from tests.stand_ins.fly.journal import task_of
from tests.stand_ins.fly.world import Http, Unreachable
from worker.settings import WorkerSettings

ERRORS: Final[Mapping[str, dict[str, Any]]] = {
    "bad_input": {"error": "Invalid TIFF: stand-in", "retryable": False},
    "error": {"error": "Failed to download TIFF: 503 Service Unavailable"},
}
GARBAGE: Final = (
    b"",
    b"\x00\xff\xfe",
    b'{"task_id": ',
    b"[]",
    b"null",
    b"{}",
    b'{"task_id": "x", "batch_id": "y", "status": "success"}',
    b'{"task_id": 1e999, "status": []}',
    b"<html>502</html>" * 100,
)
REQUEST_S: Final = 15.0


class Reports:
    """Those of one machine. `note` writes down what was sent and how it was answered."""

    def __init__(self, http: Http, delivery: Delivery, settings: WorkerSettings, note: Callable[..., None]) -> None:
        self._http = http
        self._delivery = delivery
        self._settings = settings
        self._note = note

    async def is_unwanted(self, env: Mapping[str, str]) -> bool:
        """Gives a sign of life; whether the answer says that nobody wants the task any more."""
        body = self._callback(env, {"status": "running"})
        try:
            status, answer = await self._http.post(env["CALLBACK_URL"], body, timeout_s=5.0)
        except Unreachable:
            return False
        self._note("sign_of_life", **task_of(env), status=status)
        return status < 300 and read(answer).get("stop") is True

    async def send(
        self, env: Mapping[str, str], told: dict[str, Any], give_up_s: float | None = None
    ) -> dict[str, Any]:
        """Delivers a callback as the worker does; a worker of the originals tries once. Raises Undelivered."""
        if give_up_s is None:
            give_up_s = self._settings.callback_s if self._settings.claim_url else 0.0
        status, answer = await self._delivery.persist(
            env["CALLBACK_URL"], self._callback(env, told), {}, REQUEST_S, give_up_s
        )
        self._note("callback", **task_of(env), sent=told["status"], status=status)
        if status >= 300:
            raise Refused(f"the callback was answered {status}")
        return read(answer)

    async def _again(self, env: Mapping[str, str], told: dict[str, Any]) -> dict[str, Any]:
        try:
            return await self.send(env, told)
        except Undelivered:
            return {}

    async def send_twice(
        self, env: Mapping[str, str], told: dict[str, Any], between: Callable[[], None]
    ) -> dict[str, Any]:
        """Byte for byte; `between` is called once the first is answered. Raises Undelivered where that is not."""
        first = await self.send(env, told)
        between()
        return self._both(first, await self._again(env, told))

    def _both(self, first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
        """Of the answers to the same callback, the one with a task; a second task is lost, and written down."""
        if first.get("next") and second.get("next") and first["next"] != second["next"]:
            self._note("next_lost", **task_of(second["next"]))
        return first if first.get("next") else second

    async def send_garbage(self, env: Mapping[str, str], fraction: float) -> None:
        """In place of a callback; which garbage, `fraction` decides (from 0 to below 1)."""
        number = int(fraction * len(GARBAGE))
        try:
            status, _ = await self._http.post(env["CALLBACK_URL"], GARBAGE[number], timeout_s=REQUEST_S)
        except Unreachable:
            status = 0
        self._note("garbage", **task_of(env), status=status)

    def _callback(self, env: Mapping[str, str], told: dict[str, Any]) -> bytes:
        return json.dumps({"task_id": env["TASK_ID"], "batch_id": env["BATCH_ID"], **told}).encode()


def outcome(env: Mapping[str, str], fault: str | None, cpu_ms: int) -> dict[str, Any]:
    """What a callback tells of a task that was done, or met a fault that is an error."""
    if fault is not None and fault in ERRORS:
        return {"status": "error", **ERRORS[fault]}
    key = env.get("OUTPUT_R2_KEY") or _output_key(env["INPUT_R2_KEY"])
    return {
        "status": "success",
        "output_r2_key": key,
        "output_file_name": key.rpartition("/")[2],
        "output_file_size": 1000 + len(key),
        "performance": {"total_time_ms": cpu_ms, "conversion_time_ms": cpu_ms},
        "cpu_ms": cpu_ms,
        "pages": 1,
    }


def _output_key(key: str) -> str:
    stem, dot, suffix = key.rpartition(".")
    return f"{stem}.jpg" if dot and suffix.lower() in ("tif", "tiff") else f"{key}.jpg"
