"""The API documentation: /openapi.json as FastAPI makes it, set right, and a page of it at /docs.

FastAPI's own page loads its script and style from a CDN, and is blank where there is no internet. The
package `fastapi-offline` brings the same files, and the page's policy (CSP) has a browser refuse whatever
is not from here, so that a later version of those files cannot bring the internet back unseen. There is no
/redoc: the script of that page has a picture fetched from its maker.
"""

import base64
import hashlib
import re
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles

INTRODUCTION: Final = """\
A failure answers `{"error": "a sentence that says what to do", "code": "a_stable_name"}`, with `field` where one
field of the request is wrong. Where the service has keys, send one as `Authorization: Bearer KEY`."""

_KEY: Final = {
    "type": "http",
    "scheme": "bearer",
    "description": "One of API_KEYS, or ADMIN_KEY; a machine's token, or one of WORKER_KEYS, to claim. "
    "A service that was started without keys asks for none.",
}
_ASSETS: Final = "docs/assets"  # relative, as all addresses in the page: it also works below a prefix
_OPTIONS: Final = {
    "validatorUrl": None,  # else swagger.io is told the address of the document, for a badge
    "defaultModelsExpandDepth": 0,
    "displayRequestDuration": True,
}
_INLINE_SCRIPT: Final = re.compile("<script>(.*?)</script>", re.DOTALL)


def install(app: FastAPI) -> None:
    """Serve the page and its files, and have the document set right. `app` has no page of FastAPI's own."""
    answer = _page(app.title)

    async def page(request: Request) -> Response:
        return answer

    app.add_route("/docs", page, include_in_schema=False)
    app.mount(f"/{_ASSETS}", StaticFiles(packages=[("fastapi_offline", "static")]))
    _set_document_right(app)


def _set_document_right(app: FastAPI) -> None:
    """When it is first asked for: making it takes longer than making the application."""
    made = app.openapi

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _right(made())
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _right(document: dict[str, Any]) -> dict[str, Any]:
    document["components"]["securitySchemes"] = {"key": _KEY}
    for path in document["paths"].values():
        for operation in path.values():
            _set_right(operation)
    return document


def _set_right(operation: dict[str, Any]) -> None:
    """Invalid input is 400 here, not FastAPI's 422; what answers 401 takes a key; a sentence says more than a name."""
    operation["responses"].pop("422", None)
    if "401" in operation["responses"]:
        operation["security"] = [{"key": []}]
    sentence, _, more = operation.pop("description", "").partition(". ")
    if sentence:  # else the name of its function has to do
        operation["summary"] = sentence.rstrip(".")
    if more:
        operation["description"] = more


def _page(title: str) -> Response:
    made = get_swagger_ui_html(
        openapi_url="openapi.json",
        title=title,
        swagger_js_url=f"{_ASSETS}/swagger-ui-bundle.js",
        swagger_css_url=f"{_ASSETS}/swagger-ui.css",
        swagger_favicon_url="data:,",
        swagger_ui_parameters=_OPTIONS,
    )
    html = bytes(made.body).decode()
    return HTMLResponse(html, headers={"Content-Security-Policy": _policy(html)})


def _policy(html: str) -> str:
    """Files and requests of this service only, and the page's inline script by its hash."""
    digests = [hashlib.sha256(script.encode()).digest() for script in _INLINE_SCRIPT.findall(html)]
    inline = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return (
        f"default-src 'none'; script-src 'self' {inline}; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
