"""What callers are told when something fails: `{"error": sentence, "code": name}`, and nothing else.

Every failure that a caller can act on is an `ArkeError` and carries its status. Anything else is our
fault: it is logged here with its trace, and the caller learns only that it happened.
"""

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import msgspec
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from actors import telemetry
from actors.errors import ArkeError, InvalidInput, NotFound, ProviderAway, Unauthorized, Unavailable

INTERNAL: Final = {
    "error": "The service failed on this request. Its log says why; send the request again later.",
    "code": "error",
}

_FIELD = re.compile(r" - at `\$(?P<path>[^`]*)`$")
_NAMED_FIELD = re.compile(r"`(?P<name>[^`]+)`$")


def describe(error: ArkeError) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, body and headers for one error."""
    if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR and not isinstance(error, Unavailable | ProviderAway):
        # Fenced, or a class without a status of its own: it is ours to understand, not the caller's.
        telemetry.fault("http.engine_error", raised=error)
        return HTTPStatus.INTERNAL_SERVER_ERROR, dict(INTERNAL), {}
    body: dict[str, Any] = {"error": error.message, "code": error.code}
    if error.field is not None:
        body["field"] = error.field
    return error.status, body, _headers(error)


def _headers(error: ArkeError) -> dict[str, str]:
    if isinstance(error, Unauthorized):
        return {"WWW-Authenticate": "Bearer"}
    if isinstance(error, Unavailable) or error.retry_after_s is not None:
        return {"Retry-After": str(error.retry_after_s or 1)}
    return {}


def invalid_json(error: msgspec.DecodeError) -> InvalidInput:
    """The 400 for a body that is not JSON, or whose fields have wrong types (`field` names the first one)."""
    if not isinstance(error, msgspec.ValidationError):
        return InvalidInput("The body is not valid JSON.")
    text = str(error)
    found = _FIELD.search(text)
    sentence = text[: found.start()] if found else text
    path = found["path"].lstrip(".") if found else ""
    missing = _NAMED_FIELD.search(sentence) if "required field" in sentence else None
    field = ".".join(part for part in (path, missing["name"] if missing else "") if part)
    where = f"`{path}`: " if path else ""
    return InvalidInput(f"{where}{sentence}.", field=field or None)


def install(app: FastAPI) -> None:
    """Give every failure of `app` the one shape."""
    app.add_exception_handler(ArkeError, _arke)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)


async def _arke(request: Request, error: Exception) -> Response:
    assert isinstance(error, ArkeError)
    return respond(*describe(error))


async def _validation(request: Request, error: Exception) -> Response:
    """FastAPI's 422 as our 400: the original clients expect 400."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    field = str(first["loc"][-1])
    return respond(*describe(InvalidInput(f"`{field}`: {first['msg']}.", field=field)))


async def _http(request: Request, error: Exception) -> Response:
    """Routing failures of Starlette: no such route, no such method."""
    assert isinstance(error, HTTPException)
    if error.status_code == HTTPStatus.NOT_FOUND:
        return respond(*describe(NotFound("There is nothing at this address. See /docs for what there is.")))
    status = HTTPStatus(error.status_code)
    body = {"error": f"{status.phrase}. See /docs.", "code": status.name.lower()}
    return respond(error.status_code, body, error.headers or {})


def respond(status: int, body: Any, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response, encoded by msgspec."""
    return Response(msgspec.json.encode(body), status, headers, media_type="application/json")


class CatchAll:
    """ASGI middleware: an exception that nobody expected is logged with its trace and becomes a bare 500."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and answer where the application could not. A response that has begun is cut off instead."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = False

        async def watch(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, watch)
        except Exception:
            telemetry.fault("http.failed", method=scope["method"], path=scope["path"])
            if begun:
                raise
            await respond(HTTPStatus.INTERNAL_SERVER_ERROR, INTERNAL)(scope, receive, send)
