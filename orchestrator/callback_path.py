"""The way of what workers ask: callbacks, `POST /callback/{batch}/{task}` (of an export alone `/callback/{task}`), and
claims, answered before Serve's request path.

That costs more than everything else a callback needs, so `WorkerMiddleware` sits in the uvicorn server of each replica
and answers there; all else it passes on. The application has the same functions as ordinary routes, for places where
the middleware is not in front of it.

Decoded and checked here, signature included, so that a bad body fails alone and never the list it would
have travelled with (`actors.wire` gathers concurrent calls to one actor). The answer is sent after the
commit of the actor (invariant 1).
"""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from actors import telemetry
from actors.errors import ArkeError, Forbidden, InvalidInput, NotFound, TooLarge
from actors.signing import verify_task
from orchestrator import claim_path, errors
from orchestrator.routing import Engine, check_job_id, no_batch
from worker.contract import MAX_CALLBACK_BYTES, SINGLE, Callback, UnfitValue, check_value
from worker.errors import MAX_MESSAGE_CHARS

PREFIX: Final = "/callback/"
CLAIM: Final = ("", "")
MAX_NUMBER_DIGITS: Final = 9  # of run and attempt in the query: more is not ours, and int() of long text is slow

_decoder = msgspec.json.Decoder(Callback)
_encoder = msgspec.json.Encoder()

Answer = tuple[int, bytes, dict[str, str]]
"""Status, body, headers besides Content-Type and Content-Length."""


class Installed:
    """The engine of this process, where it is a replica. The middleware is made before anybody could hand it in."""

    engine: Engine | None = None


class WorkerMiddleware:
    """ASGI middleware that answers workers and passes on everything else; all, where there is no engine."""

    def __init__(self, app: ASGIApp, engine: Engine | None = None) -> None:
        self.app = app
        self.engine = engine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on."""
        engine = self.engine or Installed.engine
        target = _target(scope) if engine is not None else None
        if engine is None or target is None:
            await self.app(scope, receive, send)
            return
        is_claim = target == CLAIM
        try:
            body = await _read(receive, claim_path.MAX_CLAIM_BYTES if is_claim else MAX_CALLBACK_BYTES)
        except ArkeError as error:
            await _send(send, _refusal(error))
            return
        if body is None:  # the caller has gone
            return
        if is_claim:
            await _send(send, await answer_claim(engine, _authorization(scope), body))
        else:
            await _send(send, await answer(engine, *target, scope["query_string"], body))


async def answer_claim(engine: Engine, authorization: str | None, body: bytes) -> Answer:
    """What a claim is answered. Never raises, as `answer`."""
    try:
        tasks = await claim_path.take(engine, authorization, body)
        return (200, _encoder.encode({"tasks": tasks}), {}) if tasks else (204, b"", {})
    except ArkeError as error:
        return _refusal(error)
    except Exception:  # noqa: BLE001 - logged; the worker sends it again
        telemetry.fault("claim.failed")
        return 500, _encoder.encode(errors.INTERNAL), {}


def _authorization(scope: Scope) -> str | None:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == b"authorization"), None)


async def answer(engine: Engine, batch: str, task: str, query: bytes, body: bytes) -> Answer:
    """What a callback is answered. Never raises: what nobody expected is logged and becomes a 500."""
    try:
        return 200, _encoder.encode(await _deliver(engine, batch, task, query, body)), {}
    except ArkeError as error:
        return _refusal(error)
    except Exception:  # noqa: BLE001 - logged; the worker sends it again
        telemetry.fault("callback.failed", batch=batch, task=task)
        return 500, _encoder.encode(errors.INTERNAL), {}


async def _deliver(engine: Engine, batch: str, task: str, query: bytes, body: bytes) -> Any:
    if len(body) > MAX_CALLBACK_BYTES:
        raise _too_large(MAX_CALLBACK_BYTES)
    check_job_id(batch)
    callback = decode(body)
    if callback.batch_id != batch and not (batch == task and callback.batch_id == SINGLE):
        raise InvalidInput("batch_id is not the one of the address.", field="batch_id")
    if callback.task_id != task:
        raise InvalidInput("task_id is not the one of the address.", field="task_id")
    signed = _signed(engine, batch, task, query)
    if signed is None:
        await _tell_unknown(engine, batch, task)
        raise Forbidden("The signature is not valid: post to CALLBACK_URL exactly as it was given.")
    run, attempt = signed
    return await engine.call(
        batch,
        {"op": "callback", "job": batch, "run": run, "attempt": attempt, "body": _body(callback)},
    )


def _body(callback: Callback) -> dict[str, Any]:
    body: dict[str, Any] = msgspec.to_builtins(callback)
    metrics = body.pop("metrics", None)
    return body if metrics is None else body | {"performance": metrics}


def decode(body: bytes) -> Callback:
    """The callback in `body`, its error cut to MAX_MESSAGE_CHARS. Raises InvalidInput with the field named."""
    try:
        callback = _decoder.decode(body)
        check_value(callback.performance, "performance")
        check_value(callback.metrics, "metrics")
    except UnfitValue as error:
        raise InvalidInput(str(error), field=error.field) from error
    except RecursionError as error:
        raise InvalidInput("The body is nested too deeply.") from error
    except UnicodeDecodeError as error:
        raise InvalidInput("The body is not UTF-8.") from error
    except msgspec.DecodeError as error:
        raise errors.invalid_json(error) from error
    if callback.error is None or len(callback.error) <= MAX_MESSAGE_CHARS:
        return callback
    return msgspec.structs.replace(callback, error=callback.error[:MAX_MESSAGE_CHARS])


def _signed(engine: Engine, batch: str, task: str, query: bytes) -> tuple[int, int] | None:
    """Run and attempt of the address, where its signature is valid."""
    given = _parameters(query)
    run, attempt = given.get("run", ""), given.get("attempt", "")
    if not (_is_number(run) and _is_number(attempt)):
        return None
    if not verify_task(engine.secrets, batch, task, int(run), int(attempt), given.get("sig", "")):
        return None
    return int(run), int(attempt)


def _parameters(query: bytes) -> Mapping[str, str]:
    return dict(parse_qsl(query.decode("latin-1")))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= MAX_NUMBER_DIGITS


async def _tell_unknown(engine: Engine, batch: str, task: str) -> None:
    """Raise NotFound for an unknown batch or task, unless keys hide which ids there are."""
    if engine.settings.api_keys:
        return
    if await engine.store.job(batch) is None:
        raise no_batch(batch)
    if not await engine.store.tasks(batch, [task]):
        raise NotFound("The batch has no task with this id.")


def _target(scope: Scope) -> tuple[str, str] | None:
    """Batch and task, where the request is a callback (the same twice for an export alone); CLAIM, where a claim."""
    if scope["type"] != "http" or scope["method"] != "POST":
        return None
    if scope["path"] == claim_path.PATH:
        return CLAIM
    if not scope["path"].startswith(PREFIX):
        return None
    batch, slash, task = scope["path"][len(PREFIX) :].partition("/")
    if batch and not slash:
        return batch, batch
    return (batch, task) if batch and task and "/" not in task else None


async def _read(receive: Receive, limit: int) -> bytes | None:
    """The whole body; None where the caller has gone. Raises TooLarge while reading."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"The body has at most {limit} bytes.")


def _refusal(error: ArkeError) -> Answer:
    status, body, headers = errors.describe(error)
    return status, _encoder.encode(body), headers


async def _send(send: Send, given: Answer) -> None:
    status, body, headers = given
    raw = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))] if body else []
    raw += [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
