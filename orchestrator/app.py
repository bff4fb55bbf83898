"""The FastAPI application, made for one engine."""

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator import errors
from orchestrator.callback_path import WorkerMiddleware
from orchestrator.routes import (
    admin,
    archives,
    batches,
    documentation,
    downloads,
    exports,
    fleet,
    health,
    jobs,
    machines,
)
from orchestrator.routing import Engine

CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, POST, OPTIONS",
    "Access-Control-Allow-Headers": "Content-Type, Authorization, Range",
}


def create_app(engine: Engine, *, callbacks_in_front: bool = True) -> FastAPI:
    """The application. `callbacks_in_front=False` leaves callbacks to the ordinary route."""
    app = FastAPI(
        title="Arke orchestrator",
        summary="Batches of files through phases, exports of metadata, archives of files. Each task has a machine.",
        description=documentation.INTRODUCTION,
        version="1",
        docs_url=None,  # `documentation` serves a page that needs no internet
        redoc_url=None,
    )
    app.state.engine = engine
    for group in (batches, exports, archives, downloads, jobs, machines, fleet, admin, health):
        app.include_router(group.router)
    documentation.install(app)
    errors.install(app)
    app.add_middleware(errors.CatchAll)
    app.add_middleware(Cors)
    if callbacks_in_front:
        app.add_middleware(WorkerMiddleware, engine=engine)
    return app


class Cors:
    """ASGI middleware: pages of any origin may use the API, but not read the environment of a task.

    The headers are sent whether or not the request names its origin, as the originals do.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer OPTIONS; add the headers to all else."""
        if scope["type"] != "http" or scope["path"].endswith("/env"):
            await self.app(scope, receive, send)
            return
        if scope["method"] == "OPTIONS":
            await Response(status_code=204, headers=CORS)(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(CORS)
            await send(message)

        await self.app(scope, receive, with_headers)
