"""A store that keeps connections, answers GETs with ranges and HEADs as S3 does, and fails as it is told."""

import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import unquote

from worker.objects.signing import Signer

BUCKET, ID, SECRET = "bucket", "the-id", "the-secret-key"
MOMENT, MOMENT_S = "Tue, 14 Nov 2023 22:13:20 GMT", 1_700_000_000.0
Fault = Literal[
    "busy", "slow", "dropped", "leaves", "cut", "expired", "changed", "whole", "pieces", "rude", "elsewhere",
    "moved", "sizeless", "no bucket", "endless",
]  # fmt: skip


class KeepingServer:
    """Objects by key. `faults` are used up one a request, in order; `always` is there when none is left."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.faults: deque[Fault] = deque()
        self.always: Fault | None = None
        self.requests: list[tuple[str, str]] = []
        self.connections = 0
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def link(self, key: str) -> str:
        """A URL that allows a GET of the object."""
        signer = Signer(self.url, BUCKET, access_key_id=ID, secret=SECRET)
        return signer.origin + signer.target("GET", key, int(MOMENT_S), 60)

    def next_fault(self, method: str, path: str) -> Fault | None:
        """Remembers a request; what is to go wrong with it."""
        self.requests.append((method, path))
        return self.faults.popleft() if self.faults else self.always


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever hangs up may."""


def _handler(server: KeepingServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            server.connections += 1

        def do_HEAD(self) -> None:
            self._do("HEAD")

        def do_GET(self) -> None:
            self._do("GET")

        def _do(self, method: str) -> None:
            fault = server.next_fault(method, self.path)
            body = server.objects.get(unquote(self.path.partition("?")[0]).removeprefix(f"/{BUCKET}/"))
            if "X-Amz-Signature=" not in self.path:
                self._refuse(403, "AccessDenied")
            elif fault is not None and self._failed(fault, body or b""):
                return
            elif body is None:
                self._refuse(404, "NoSuchKey")
            else:
                self._give(body, fault)

        def _failed(self, fault: Fault, body: bytes) -> bool:
            refusals: dict[str, tuple[int, str]] = {
                "busy": (503, "SlowDown"), "slow": (400, "RequestTimeout"), "expired": (403, "AccessDenied"),
                "moved": (307, "TemporaryRedirect"), "no bucket": (404, "NoSuchBucket"),
            }  # fmt: skip
            if fault in refusals:
                self._refuse(*refusals[fault])
            elif fault == "cut":
                first, last = self._asked()
                part = body if first is None else body[first : last + 1]
                self._answer(
                    206, part[: len(part) // 2], len(part), {"Content-Range": _range(first or 0, part, len(body))}
                )
            elif fault == "elsewhere":
                self._answer(206, body, len(body), {"Content-Range": _range(1, body, len(body) + 1)})
            elif fault == "rude":
                self.wfile.write(f"No {self.path} for you\r\n\r\n".encode())
            elif fault == "endless":
                self.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000)
            elif fault != "dropped":
                return False
            self.close_connection = fault in ("cut", "rude", "dropped", "endless")
            return True

        def _give(self, body: bytes, fault: Fault | None) -> None:
            first, last = self._asked()
            if fault in ("whole", "sizeless"):
                first = None
            if first is not None and first >= len(body):
                self._refuse(416, "InvalidRange")
                return
            part = body if first is None else body[first : last + 1]
            more = {} if first is None else {"Content-Range": _range(first, part, len(body))}
            etag = "changed" if fault == "changed" else "etag"
            length = None if fault in ("sizeless", "pieces") else len(part)
            self._answer(200 if first is None else 206, part, length, more, etag, in_pieces=fault == "pieces")
            self.close_connection = fault in ("leaves", "sizeless")

        def _asked(self) -> tuple[int | None, int]:
            first, _, last = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
            return (int(first), int(last)) if first else (None, 0)

        def _refuse(self, status: int, code: str) -> None:
            """As the rudest servers do: the answer repeats what was asked."""
            self._answer(status, f"<Error><Code>{code}</Code><Resource>{self.path}</Resource></Error>".encode())

        def _answer(
            self, status: int, body: bytes, length: int | None = -1, more: Any = None, etag: str = "etag", *,
            in_pieces: bool = False,
        ) -> None:  # fmt: skip
            self.send_response(status)
            if length is not None:
                self.send_header("Content-Length", str(len(body) if length < 0 else length))
            if in_pieces:
                self.send_header("Transfer-Encoding", "chunked")
            for name, value in {"ETag": f'"{etag}"', "Last-Modified": MOMENT, **(more or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(b"%x\r\n%b\r\n0\r\nX: y\r\n\r\n" % (len(body), body) if in_pieces else body)

        def log_message(self, format: str, *args: object) -> None:
            """Silent."""

    return Handler


def _range(first: int, part: bytes, size: int) -> str:
    return f"bytes {first}-{first + len(part) - 1}/{size}"
