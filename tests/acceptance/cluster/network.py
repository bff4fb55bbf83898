"""A network of its own for each node of a cluster on this computer: own addresses, own ports, as on machines apart.

Each node is a network namespace with one address; a bridge joins them. What a node listens on, be it on all interfaces,
is seen by the other nodes and by this computer, and by nobody else. Whatever runs in the namespace is the node: so its
processes are found, killed and stopped.
"""

import contextlib
import ipaddress
import json
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import psutil
import pytest

NAMES: Final = Path("/run/netns")
HERE: Final = 254
"""The last number of this computer's address on the bridge."""


class Network:
    """The bridge. This computer has the address `here` on it."""

    def __init__(self) -> None:
        self.token = secrets.token_hex(3)
        self._bridge = f"arke{self.token}"
        self.net = _unused_net()
        self.here = f"{self.net}.{HERE}"
        ip("link", "add", self._bridge, "type", "bridge")
        ip("addr", "add", f"{self.here}/24", "dev", self._bridge)
        ip("link", "set", self._bridge, "up")

    def place(self, number: int) -> "Place":
        """A new namespace with the address that ends in `number`."""
        return Place(self, self._bridge, number)

    def remove(self) -> None:
        """Remove the bridge."""
        ip("link", "del", self._bridge)


class Place:
    """Where one node runs."""

    def __init__(self, network: Network, bridge: str, number: int) -> None:
        self.address = f"{network.net}.{number}"
        self._name = f"arke{network.token}-{number}"
        outer = f"av{network.token}-{number}"
        ip("netns", "add", self._name)
        ip("link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", self._name)
        ip("link", "set", outer, "master", bridge, "up")
        ip("-n", self._name, "link", "set", "lo", "up")
        ip("-n", self._name, "addr", "add", f"{self.address}/24", "dev", "eth0")
        ip("-n", self._name, "link", "set", "eth0", "up")
        ip("-n", self._name, "route", "add", "default", "via", network.here)  # Ray asks which address leads outside
        self._inode = (NAMES / self._name).stat().st_ino

    def command(self, words: Sequence[str]) -> list[str]:
        """The same command, there."""
        return ["nsenter", f"--net={NAMES / self._name}", *words]

    def processes(self) -> list[psutil.Process]:
        """All that live there, whoever started them."""
        return [process for process in psutil.process_iter() if self._has(process.pid)]

    def _has(self, pid: int) -> bool:
        try:
            return os.stat(f"/proc/{pid}/ns/net").st_ino == self._inode
        except OSError:  # it has ended
            return False

    def signal(self, number: signal.Signals) -> int:
        """Send it to every process there; how many there were."""
        found = self.processes()
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.send_signal(number)
        return len(found)

    def kill(self) -> None:
        """SIGKILL to all, until none is left: one may just have started another."""
        while found := self.processes():
            for process in found:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(found, timeout=5)

    def remove(self) -> None:
        """End what runs there, and remove it."""
        self.kill()
        ip("netns", "del", self._name)


@contextlib.contextmanager
def opened(numbers: Sequence[int]) -> Iterator[tuple[Network, list[Place]]]:
    """A network with a place for each number. Skips the test where this computer does not allow one."""
    require()
    with contextlib.ExitStack() as stack:
        network = Network()
        stack.callback(network.remove)
        places: list[Place] = []
        for number in numbers:
            places.append(network.place(number))
            stack.callback(places[-1].remove)
        yield network, places


def require() -> None:
    """Skip the test where there can be no network namespaces, and say why."""
    if missing := [tool for tool in ("ip", "nsenter") if shutil.which(tool) is None]:
        pytest.skip(f"a network for each node needs {' and '.join(missing)} (packages iproute2, util-linux)")
    if os.geteuid() != 0:
        pytest.skip("a network for each node needs root")
    name = f"arke-try-{secrets.token_hex(3)}"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"this machine allows no network namespaces: {tried.stderr.strip()}")
    ip("netns", "del", name)


def ip(*words: str) -> Any:
    """Run `ip`; what it says, as JSON."""
    done = subprocess.run(["ip", "-j", *words], capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
    return json.loads(done.stdout or "[]")


def _unused_net() -> str:
    """The first three numbers of a /24 of private addresses that nothing here is in."""
    known = [ipaddress.ip_network(route["dst"]) for route in ip("route") if route["dst"] != "default"]
    while True:
        net = f"10.{200 + secrets.randbelow(50)}.{secrets.randbelow(256)}"
        if not any(ipaddress.ip_network(f"{net}.0/24").overlaps(each) for each in known):
            return net
