"""A server of presigned URLs that fails as it is told: it hangs, cuts, refuses, and then does what it should."""

import threading
from collections import defaultdict
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

Fault = Literal["stall", "drip", "cut", "reset", "busy", "expired", "rude", "moved"]
RUDE = b"<Message>No a/b for\r\n\x1b[1m /var/lib/key</Message>"
EXPIRED = b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"


class PresignedServer:
    """Holds objects by path. `faults` are used up one a request, in order; `requests` remembers them all."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.types: dict[str, str] = {}
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        self.location: str | None = None
        """Where "moved" leads."""
        self.requests: list[tuple[str, str]] = []
        self.arrived = threading.Event()
        self.hung_up = threading.Event()
        self._over = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Lets go of those that hang, and stops."""
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def link(self, key: str) -> str:
        """The URL of an object, with a signature that must arrive as it is."""
        return f"{self.url}/{key}?X-Amz-Signature=a%2Fb"

    def next_fault(self, method: str, path: str) -> Fault | None:
        """Remembers a request; what is to go wrong with it."""
        self.requests.append((method, path))
        self.arrived.set()
        return self.faults[method].pop(0) if self.faults[method] else None

    def drip(self, send: Callable[[bytes], object]) -> None:
        """Small parts for ten seconds, or until the server is closed or, which is remembered, nobody listens."""
        try:
            for _ in range(1000):
                if self._over.wait(0.01):
                    return
                send(b"x" * 4096)
        except OSError:
            self.hung_up.set()

    def hang(self) -> None:
        """Until the server is closed."""
        self._over.wait(60)


def _handler(server: PresignedServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = server.objects.get(self.path.partition("?")[0][1:])
            fault = server.next_fault("GET", self.path)
            if body is None:
                self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
            elif not self._failed(fault, body):
                self._answer(200, body)

        def do_PUT(self) -> None:
            fault = server.next_fault("PUT", self.path)
            length = int(self.headers["Content-Length"])
            body = self.rfile.read(length)
            if len(body) < length:  # whoever sent it hung up: as in S3, nothing is stored
                self.close_connection = True
            elif not self._failed(fault, b""):
                key = self.path.partition("?")[0][1:]
                server.objects[key], server.types[key] = body, self.headers["Content-Type"]
                self._answer(200, b"")

        def _failed(self, fault: Fault | None, body: bytes) -> bool:
            if fault == "busy":
                self._answer(503, b"<Error><Code>SlowDown</Code><Message>Reduce your rate</Message></Error>")
            elif fault == "expired":
                self._answer(403, EXPIRED)
            elif fault == "drip":
                self._answer(200, b"", length=10**9)
                server.drip(self.wfile.write)
            elif fault == "rude":
                self._answer(403, RUDE)
            elif fault == "moved":
                self._answer(307, b"")
            elif fault in ("cut", "stall"):
                self._answer(200, body[: len(body) // 2], length=max(len(body), 2))
                self.wfile.flush()
                if fault == "stall":
                    server.hang()
            self.close_connection = fault is not None
            return fault is not None

        def _answer(self, status: int, body: bytes, length: int | None = None) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body) if length is None else length))
            self.send_header("ETag", '"etag"')
            if status == 307 and server.location is not None:
                self.send_header("Location", server.location)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Silent."""

    return Handler
