"""A Ray cluster of a head and two more nodes on this computer, with all that it needs, and the service on it.

The nodes are started as ray_cluster.yaml starts them, each in a network of its own (`network`), with its own folder,
certificate and Serve's proxy. On this computer itself are Postgres, Valkey where the cluster shall remember, the
balancer before the nodes, and who looks. Objects are in a folder, which all nodes of one computer have in common.
"""

import contextlib
import os
import secrets
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import httpx
import pytest

from actors.settings import Settings
from orchestrator import cluster
from tests.acceptance.cluster import audit, clocks, disks, network
from tests.acceptance.cluster.balancer import Balancer
from tests.acceptance.cluster.machine import Node
from tests.acceptance.service import HAND_KEY, ROOT, eventually, free_port
from tests.stand_ins import authority, postgres, valkey
from tests.stand_ins.receiver import Receiver

RAY: Final = (sys.executable, "-m", "ray.scripts.scripts")
GCS_PORT: Final = 6379
DASHBOARD_PORT: Final = 8265
FRONT_PORT: Final = 8787
AGENTS: Final = ("dashboard-agent-listen", "dashboard-agent-grpc", "runtime-env-agent", "metrics-export")
AGENTS_PORT: Final = 52365
"""The first of theirs. Else Ray waits for each of them to say which it has, on a busy computer in vain."""
HEAD: Final = 1
WORKERS: Final = (2, 3)
KEY: Final = "key-of-callers"
START_S: Final = 240.0
DATABASE_MB: Final = 400
OBJECTS_MB: Final = 500
QUICK: Final[Mapping[str, str]] = {
    "ALARM_DELAY_TIFF_CONVERSION": "1000",
    "ALARM_DELAY_ERROR_RETRY": "1000",
    "TASK_TIMEOUT_TIFF_CONVERSION": "10000",
    "BOOT_TIMEOUT_MS": "10000",
    "MAX_MACHINES": "2",
}
"""Short times, so that what waits for a deadline does not wait long."""


class Cluster:
    """All of it. `start` returns when the service answers."""

    def __init__(self, folder: Path, places: Sequence[network.Place], balancer: Balancer, database: postgres.Postgres,
                 memory: valkey.Valkey | None, receiver: Receiver, settings: Mapping[str, str]) -> None:  # fmt: skip
        """`memory`: where the head keeps what it must not forget; without it, it forgets with each end."""
        self.folder, self.database, self.receiver, self._memory = folder, database, receiver, memory
        self.url = balancer.url
        self.given = {
            **QUICK,
            "HOST": "0.0.0.0",
            "API_KEYS": KEY,
            "ADMIN_KEY": secrets.token_hex(16),
            "WORKER_KEYS": HAND_KEY,
            "CALLBACK_SECRET": secrets.token_hex(32),
            "DATABASE_URL": database.url,
            "DATA_DIR": str(folder / "data"),
            "ORCHESTRATOR_URL": self.url,
            "WORKER_URL": receiver.url,
            **settings,
        }
        self.settings = Settings.load(self.given)
        self.http = self.client()
        (folder / "ray_token").write_text(secrets.token_hex(32))
        # As of yesterday: it was not made in the hour before a clock is wrong.
        self._authority = authority.make(folder / "ca", clocks.of_yesterday())
        self._gcs = f"{places[0].address}:{GCS_PORT}"
        self.head, *self.workers = (self._node(number, place) for number, place in enumerate(places, HEAD))
        self._settle_nodes()
        self._ending = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise, daemon=True)
        self.restarts = 0

    @property
    def nodes(self) -> list[Node]:
        """The head first."""
        return [self.head, *self.workers]

    def client(self) -> httpx.Client:
        """For callers, who have a key."""
        return httpx.Client(base_url=self.url, timeout=30.0, trust_env=False,
                            headers={"Authorization": f"Bearer {KEY}"})  # fmt: skip

    @property
    def objects(self) -> Path:
        """The folder of the bucket."""
        return self.settings.objects_dir / self.settings.r2_bucket

    def put(self, key: str, content: bytes) -> None:
        """Put an object in."""
        path = self.objects / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    # ---- life

    def start(self) -> None:
        """The nodes, the service, and who starts the head again."""
        self._bring_up()
        self._supervisor.start()

    def end(self) -> None:
        """End all processes of the nodes."""
        self._ending.set()
        if self._supervisor.is_alive():
            self._supervisor.join(START_S)
        for node in self.nodes:
            node.kill()
        self.http.close()
        shutil.rmtree(self.settings.run_dir, ignore_errors=True)

    def _bring_up(self) -> None:
        for node in self.nodes:  # the others need to find the head
            node.start()
            eventually(node.stands, f"{node.address} stands", START_S)
        self.deploy()
        eventually(self.is_well, "the service is well", START_S)

    def forget(self) -> None:
        """From the next start of the head it remembers nothing, and with its end the cluster has ended."""
        self._memory = None
        self._settle_nodes()

    def deploy(self) -> None:
        """As the head does it: deploy/serve.yaml, as it is."""
        command = [
            sys.executable,
            "-m",
            "ray.serve.scripts",
            "deploy",
            "--address",
            f"http://127.0.0.1:{DASHBOARD_PORT}",
        ]
        said: list[str] = []

        def deployed() -> bool:
            done = self.head.run([*command, str(ROOT / "deploy/serve.yaml")])
            said.append(done.stdout + done.stderr)
            return done.returncode == 0

        try:
            eventually(deployed, "the service is deployed", START_S)
        except AssertionError as error:
            raise AssertionError(f"{error}: {said[-1]}") from error

    def is_well(self) -> bool:
        """Whether the service answers that all of it works."""
        try:
            return self.http.get("/health", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    # ---- the head's supervisor

    def _supervise(self) -> None:
        """Start the head again when it has ended, as systemd or Kubernetes do. Where it forgets, that is a new cluster:
        the other nodes are started again too, and the service is deployed, as docs/how-to/deploy-a-cluster.md says."""
        while not self._ending.wait(0.2):
            if self.head.runs():
                continue
            self.head.kill()  # what is left of it
            self.restarts += 1
            if self._memory is not None:
                self.head.start()
            else:
                for node in self.workers:
                    node.kill()
                self._bring_up()

    # ---- what a node is given

    def _node(self, number: int, place: network.Place) -> Node:
        folder = self.folder / f"n{number}"
        (folder / "h").mkdir(parents=True)
        authority.sign(self._authority, folder / "tls", place.address, "127.0.0.1")
        cluster.write_haproxy(folder / "haproxy")
        return Node(place, folder)

    def _settle_nodes(self) -> None:
        for number, node in enumerate(self.nodes, HEAD):
            node.settle(self._environment(node.folder), self._command(number, node))

    def _environment(self, folder: Path) -> dict[str, str]:
        """What ray_cluster.yaml puts into it; and places for files that on a machine of its own nobody else uses."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "ARKE_"))}
        return {
            **clean,
            **cluster.environment(folder),
            **self.given,
            "PYTHONPATH": os.pathsep.join([str(clocks.SITE), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "ray_token"),
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "h/haproxy.cfg"),
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "h/s"),
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "h/m"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder / "h"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "h/server-state"),
            "RAY_SERVE_HAPROXY_LOG_TARGET": str(folder / "h/log"),
            **clocks.environment(folder),
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "90",
            "RAY_prestart_worker_first_driver": "0",  # eight processes on each node, for nobody
            "RAY_enable_worker_prestart": "0",
            **({"RAY_REDIS_ADDRESS": self._memory.address} if self._memory is not None else {}),
        }

    def _command(self, number: int, node: Node) -> list[str]:
        common = [
            *RAY, "start", "--block", f"--node-ip-address={node.address}", f"--temp-dir={node.folder / 'r'}",
            "--object-store-memory=80000000",
            *(f"--{what}-port={AGENTS_PORT + n}" for n, what in enumerate(AGENTS)),
        ]  # fmt: skip
        if number != HEAD:
            return [*common, f"--address={self._gcs}", "--num-cpus=2"]
        memory = [f"--redis-password={self._memory.password}"] if self._memory is not None else []
        return [*common, "--head", f"--port={GCS_PORT}", "--num-cpus=0", "--dashboard-host=127.0.0.1",
                "--include-dashboard=true", *memory]  # fmt: skip

    # ---- for people

    def last_words(self) -> str:
        """The ends of its logs."""
        logs = [self.folder / "b/log", *self.folder.glob("n*/ray.log")]
        logs += self.folder.glob("n1/r/session_latest/logs/serve/controller*.log")
        logs += self.folder.glob("data/logs/*.log")
        return "\n\n".join(
            f"{path.parent.name}/{path.name}\n{path.read_text()[-2500:]}" for path in logs if path.is_file()
        )


@contextlib.contextmanager
def running(*, remembers: bool, **settings: str) -> Iterator[Cluster]:
    """A started cluster on a new database; with a failure, its logs. Skips the test where something is not there."""
    tools, server = postgres.programs(), valkey.program() if remembers else None
    if tools is None:
        pytest.skip(postgres.MISSING)
    if remembers and server is None:
        pytest.skip(valkey.MISSING)
    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="arke-m-"))  # short: sockets are below it
        folder.chmod(0o711)  # Postgres is another user
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        net, places = stack.enter_context(network.opened((HEAD, *WORKERS)))
        (folder / "p").mkdir()
        disks.mount(folder / "p/data", DATABASE_MB)
        stack.callback(disks.unmount, folder / "p/data")
        disks.mount(folder / "data/objects", OBJECTS_MB)
        stack.callback(disks.unmount, folder / "data/objects")
        database = postgres.Postgres(folder / "p", tools, host=net.here)
        stack.callback(database.stop, at_once=True)
        database.start()
        memory = valkey.Valkey(folder / "v", server, net.here) if server is not None else None
        if memory is not None:
            stack.callback(memory.close)
        receiver = Receiver(host=net.here)
        stack.callback(receiver.close)
        addresses = [place.address for place in places]
        balancer = Balancer(folder / "b", net.here, free_port(), addresses, FRONT_PORT)
        stack.callback(balancer.close)
        made = Cluster(folder, places, balancer, database, memory, receiver, settings)
        stack.callback(made.end)
        try:
            made.start()
            audit.install(database.url)
            yield made
        except BaseException:
            sys.stdout.write(made.last_words())
            raise
