"""One machine of a cluster on this computer, and what runs on it."""

import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from orchestrator import serve
from tests.acceptance.cluster import network


class Node:
    """One machine of the cluster: its processes, from `start` to `kill`."""

    def __init__(self, place: network.Place, folder: Path) -> None:
        self.place, self.folder = place, folder
        self.address = place.address
        self._environment: Mapping[str, str] = {}
        self._command: Sequence[str] = ()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.RLock()

    def settle(self, environment: Mapping[str, str], command: Sequence[str]) -> None:
        """What it is started with, from the next start."""
        self._environment, self._command = environment, command

    def start(self) -> None:
        """Start Ray there. Returns at once.

        A head is not started where Ray remembers one of its address and sees a process that knows it. On a machine
        of its own it would not see those of the other nodes.
        """
        (self.folder / "r/ray_current_cluster").unlink(missing_ok=True)
        with self._lock, (self.folder / "ray.log").open("ab") as log:
            self._process = subprocess.Popen(
                self.place.command(self._command), env=self._environment, cwd=self.folder,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def kill(self) -> None:
        """SIGKILL to all that runs there."""
        with self._lock:
            self.place.kill()
            if self._process is not None:
                self._process.wait(10)

    def tell_to_end(self) -> None:
        """SIGTERM to its command, as systemd sends it."""
        assert self._process is not None
        self._process.terminate()

    def runs(self) -> bool:
        """Whether Ray's own command lives: it ends when one of its processes does."""
        return self._process is not None and self._process.poll() is None

    def stands(self) -> bool:
        """Whether Ray runs there with all that it needs. Where its start has failed, it is started again."""
        if not self.runs():
            self.kill()
            self.start()
        return {"raylet", "DashboardAgent"} <= self.roles().keys()

    def run(self, words: Sequence[str], timeout: float = 60) -> "subprocess.CompletedProcess[str]":
        """A command on this node."""
        return subprocess.run(self.place.command(words), env=self._environment, cwd=self.folder, text=True,
                              capture_output=True, timeout=timeout, check=False)  # fmt: skip

    def roles(self) -> dict[str, list[int]]:
        """What runs here, with its pids."""
        return serve.pids_by_role(self.place.processes())
