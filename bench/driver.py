"""The process that holds Ray, for measurements: the service, or Ray and Serve with an empty application.

python -m bench.driver service|empty DATA_DIR PORT       settings else as usual from the environment
"""

import logging
import os
import sys
from typing import Any

from actors.settings import Settings
from orchestrator import serve


class EmptyFront:
    """A replica that answers everything with nothing."""

    def __init__(self, settings: Any, connect: str) -> None:
        self.settings = settings

    def __serve_build_asgi_app__(self) -> Any:
        """What Serve runs."""
        return empty_app


async def empty_app(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI application without content."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


def no_actors(_settings: Any) -> None:
    """The engine of the empty service."""


def main() -> int:
    """Serve until SIGTERM."""
    what, data_dir, port = sys.argv[1:4]
    settings = Settings.load(os.environ, data_dir=data_dir, port=int(port))
    settings.prepare()
    logging.basicConfig(level="WARNING")
    if what == "empty":
        from bench import driver

        serve.Front = driver.EmptyFront  # type: ignore[misc, assignment]
        return serve.run(settings, start="bench.driver:no_actors", connect="bench.driver:no_actors")
    return serve.run(settings, start="actors.ray_actors:start", connect="actors.ray_actors:connect")


if __name__ == "__main__":
    sys.exit(main())
