"""The ingest worker of the originals, as far as the final callback sees it: strict, and it remembers everything.

By hand: `python -m tests.stand_ins.receiver --port 8799`, and WORKER_URL=http://127.0.0.1:8799 for the service.
It prints one line per request. It answers as docs/reference/protocol.md says (final callback):

    200  {"success": true, ...}                                        taken
    400  Invalid batch state: enqueued, expected preprocessing         was taken before
    400  Invalid batch state: uploading, expected preprocessing        too early (`uploading` names the batch)
    400  about the files, the key, or a missing entity tracking field  never right
    404  Batch not found                                               not this address
    500                                                                as often as `fail_next` says
"""

import argparse
import json
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

ADDRESS: Final = re.compile(r"/api/batches/([A-Za-z0-9_-]{1,64})/enqueue-processed")
REQUIRED: Final[Mapping[str, type]] = {
    "r2_key": str, "logical_path": str, "file_name": str, "file_size": int, "content_type": str,
}  # fmt: skip
Answer = tuple[int, dict[str, Any]]


@dataclass(frozen=True)
class Post:
    """One request as it came, and the status that it was answered."""

    batch: str
    key: str
    body: Any
    status: int


class Receiver:
    """Listens on `host` from construction until `close`. `told` is called with each request, once answered."""

    def __init__(self, port: int = 0, *, host: str = "127.0.0.1", told: Callable[[Post], None] | None = None) -> None:
        self.uploading: set[str] = set()
        self.required_fields: dict[str, frozenset[str]] = {}
        self._failures: Counter[str] = Counter()
        self._taken: set[str] = set()
        self._posts: list[Post] = []
        self._told = told or (lambda _: None)
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer((host, port), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://{host}:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def wait(self) -> None:
        """Until somebody closes it."""
        self._thread.join()

    def fail_next(self, batch: str, times: int) -> None:
        """Answer the next requests for this batch 500."""
        with self._lock:
            self._failures[batch] += times

    def posts(self, batch: str) -> list[Post]:
        """What came for this batch, in order."""
        with self._lock:
            return [post for post in self._posts if post.batch == batch]

    def everything(self) -> list[Post]:
        """What came for all batches, in order."""
        with self._lock:
            return list(self._posts)

    def accepted(self, batch: str) -> list[Post]:
        """What was taken for this batch."""
        return [post for post in self.posts(batch) if post.status == 200]

    def answer(self, path: str, key: str | None, raw: bytes) -> Answer:
        """The whole conduct of the receiver."""
        found = ADDRESS.fullmatch(path)
        if found is None:
            return 404, {"error": "Batch not found"}
        batch = found[1]
        with self._lock:
            status, answer, body = self._judge(batch, key, raw)
            if status == 200:
                self._taken.add(batch)
            post = Post(batch, key or "", body, status)
            self._posts.append(post)
        self._told(post)
        return status, answer

    def _judge(self, batch: str, key: str | None, raw: bytes) -> tuple[int, dict[str, Any], Any]:
        try:
            body = json.loads(raw)
        except ValueError:
            return 400, {"error": "Body is not JSON"}, None
        if self._failures[batch] > 0:
            self._failures[batch] -= 1
            return 500, {"error": "Internal error"}, body
        complaint = self._complaint(batch, key, body)
        if complaint:
            return 400, {"error": complaint}, body
        return 200, {"success": True, "batch_id": batch, "status": "enqueued", "files": len(body["files"])}, body

    def _complaint(self, batch: str, key: str | None, body: Any) -> str | None:
        if not key or not re.fullmatch(rf"{batch}:[1-9][0-9]*", key):
            return "Idempotency-Key is not {batch_id}:{run}"
        if batch in self.uploading:
            return "Invalid batch state: uploading, expected preprocessing"
        if batch in self._taken:
            return "Invalid batch state: enqueued, expected preprocessing"
        missing = self.required_fields.get(batch, frozenset()) - (body.keys() if isinstance(body, dict) else set())
        if missing:
            return f"Missing entity tracking fields: {', '.join(sorted(missing))}"
        return _complaint_about_files(body)


def _complaint_about_files(body: Any) -> str | None:
    files = body.get("files") if isinstance(body, dict) else None
    if not isinstance(files, list) or not files:
        return "files must be a non-empty list"
    for n, file in enumerate(files):
        for field, kind in REQUIRED.items():
            if not isinstance(file, dict) or type(file.get(field)) is not kind or file[field] in ("", 0):
                return f"files[{n}].{field} is missing or not valid"
    keys = [file["r2_key"] for file in files]
    return None if len(set(keys)) == len(keys) else "files: an r2_key is there twice"


def _handler(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            if (body := self._body()) is None:  # its sender was killed amid it
                self.close_connection = True
                return
            status, answer = receiver.answer(self.path, self.headers.get("Idempotency-Key"), body)
            encoded = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(encoded)))
            self.end_headers()
            self.wfile.write(encoded)

        def _body(self) -> bytes | None:
            """The body of the request, None where it ends too early."""
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                size = int(self.headers.get("Content-Length", "0"))
                return body if len(body := self.rfile.read(size)) == size else None
            parts = []
            while line := self.rfile.readline():
                parts.append(self.rfile.read(int(line.split(b";")[0], 16)))
                self.rfile.readline()
                if not parts[-1]:
                    return b"".join(parts)
            return None

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: `told` is there for that."""

    return Handler


def main() -> None:
    """Listen until Ctrl-C."""
    parser = argparse.ArgumentParser("python -m tests.stand_ins.receiver", description=__doc__)
    parser.add_argument("--port", type=int, default=8799)
    receiver = Receiver(parser.parse_args().port, told=_say)
    sys.stdout.write(f"Receiver at {receiver.url}\n")
    try:
        receiver.wait()
    except KeyboardInterrupt:
        receiver.close()


def _say(post: Post) -> None:
    files = post.body.get("files", ()) if isinstance(post.body, dict) else ()
    sys.stdout.write(f"{post.batch} {post.key}: {len(files)} files, answered {post.status}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
