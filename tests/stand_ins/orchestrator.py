"""The orchestrator as a worker sees it: takes callbacks, answers claims, and remembers every request."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, Any]
WAIT_S = 20


class StandIn:
    """Remembers every request; answers by the test's script, else as the orchestrator does when all is well."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        self.script: list[Answer] = []
        self.work: list[dict[str, str]] = []
        self.on_callback: Callable[[dict[str, Any]], Answer | None] = lambda body: None
        self.on_claim: Callable[[], Answer] | None = None
        self._arrived = threading.Condition()
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, answer = stand_in._answer(self.path, body, dict(self.headers))
                payload = (
                    b"" if answer is None else answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                )
                self.send_response(status)
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, format: str, *args: Any) -> None:
                """Silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def callbacks(self) -> list[dict[str, Any]]:
        with self._arrived:
            return [body for path, body, _ in self.requests if path.startswith("/callback/")]

    def claims(self) -> list[dict[str, Any]]:
        with self._arrived:
            return [body for path, body, _ in self.requests if path == "/machines/claim"]

    def wait_for(self, condition: Callable[[], bool]) -> None:
        with self._arrived:
            assert self._arrived.wait_for(condition, WAIT_S), "what the test waits for did not happen"

    def _answer(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> Answer:
        with self._arrived:
            self.requests.append((path, body, headers))
            self._arrived.notify_all()
            if self.script:
                return self.script.pop(0)
            if path == "/machines/claim" and self.on_claim is None:
                return (200, {"tasks": [self.work.pop(0)]}) if self.work else (204, None)
        if path == "/machines/claim" and self.on_claim is not None:
            return self.on_claim()
        answer = self.on_callback(body)
        if answer is not None:
            return answer
        if body.get("accepts_next") and self.work:
            return 200, {"ok": True, "received": True, "next": self.work.pop(0)}
        return 200, {"ok": True, "received": True}
