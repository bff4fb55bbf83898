"""The authority that signs the certificates of a cluster's nodes, as docs/how-to/deploy-a-cluster.md has it made."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

SCRIPT: Final = Path(__file__).parents[2] / "deploy/node_certificate.sh"


def make(folder: Path, environment: Mapping[str, str] | None = None) -> Path:
    """ca.crt and ca.key in a new folder, which is returned; `environment` besides that of this process."""
    folder.mkdir(parents=True)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=arke-cluster", "-keyout", str(folder / "ca.key"), "-out", str(folder / "ca.crt")],
        check=True, capture_output=True, env={**os.environ, **(environment or {})},
    )  # fmt: skip
    return folder


def sign(authority: Path, folder: Path, *addresses: str) -> None:
    """A node's certificate, by the script that each node has: ca.crt, tls.crt and tls.key in `folder`."""
    subprocess.run([str(SCRIPT), str(authority), str(folder), *addresses], check=True)
