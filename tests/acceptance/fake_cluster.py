"""ray_cluster.yaml on this computer: its node types on Ray's fake provider, with token and certificates as there.

The head is started as the file starts it, with ports and folders of its own; Ray's autoscaler then starts the others as
further nodes here. What is not seen: machines of a cloud, ssh, a network between nodes.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import psutil
import yaml
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

from orchestrator import cluster, processes, serve
from tests.acceptance.service import ROOT, eventually
from tests.stand_ins import authority

RAY: Final = (sys.executable, "-m", "ray.scripts.scripts")
WATCH: Final = """
import json, sys, time
import ray
ray.init(address=sys.argv[1], namespace="arke", log_to_driver=False)
while True:
    nodes = [{"id": node["NodeID"], "alive": node["Alive"]} for node in ray.nodes()]
    print(json.dumps(nodes), flush=True)
    time.sleep(0.25)
"""


class FakeCluster:
    """One cluster, from its start to the end of everything that it has started."""

    def __init__(self, **settings: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="arke-c-"))
        (self.folder / "h").mkdir()
        self.gcs, self.dashboard, self.port, *self._more = serve.free_ports(8)
        self.address = f"127.0.0.1:{self.gcs}"
        self.config: dict[str, Any] = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())
        self._own: list[subprocess.Popen[str]] = []
        self._settings = {"DATA_DIR": str(self.folder / "data"), "PORT": str(self.port),
                          "CALLBACK_SECRET": secrets.token_hex(16), **settings}  # fmt: skip
        self.nodes: list[dict[str, Any]] = []
        self.heard = 0.0
        self._make_secrets()
        self.environment = self._environment()

    def _make_secrets(self) -> None:
        authority.sign(authority.make(self.folder / "ca"), self.folder / "tls", "127.0.0.1")
        (self.folder / "ray_token").write_text(secrets.token_hex(32))

    def _environment(self) -> dict[str, str]:
        """What ray_cluster.yaml puts into it, and what several Rays on one computer need besides."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "ARKE_"))}
        return {
            **clean,
            **cluster.environment(self.folder),
            **serve._haproxy_environment(self.folder, str(serve.haproxy_binary())),
            **self._settings,
            serve.MARK: str(self.folder),
            "PYTHONPATH": str(ROOT),
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "ray_token"),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # all on 127.0.0.1
            "RAY_FAKE_CLUSTER": "1",
            "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
            "RAY_prestart_worker_first_driver": "0",  # eight processes on each node, for nobody
            "RAY_enable_worker_prestart": "0",
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "AUTOSCALER_METRIC_PORT": str(self._more[-1]),
        }

    def start(self) -> None:
        """The head, and somebody who looks which nodes there are."""
        provider = {"type": "fake_multinode", "gcs_address": self.address, "launch_multiple": True,
                    "head_node_id": FAKE_HEAD_NODE_ID}  # fmt: skip
        nothing_to_do = {name: [] for name in (
            "cluster_synced_files", "initialization_commands", "setup_commands", "head_setup_commands",
            "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands",
        )}  # fmt: skip
        config = self.folder / "autoscaling.yaml"
        config.write_text(yaml.safe_dump({**self.config, **nothing_to_do, "provider": provider, "file_mounts": {},
                                          "auth": {}}))  # fmt: skip
        client, agent, grpc, metrics = (str(port) for port in self._more[:-1])
        self._run([
            *RAY, "start", "--head", "--block", f"--port={self.gcs}", "--num-cpus=0", "--node-ip-address=127.0.0.1",
            "--dashboard-host=127.0.0.1", f"--dashboard-port={self.dashboard}", f"--autoscaling-config={config}",
            f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}",
            f"--dashboard-agent-grpc-port={grpc}", f"--metrics-export-port={metrics}",
            f"--temp-dir={self.folder / 'r'}", "--object-store-memory=100000000", "--include-dashboard=true",
        ], "head")  # fmt: skip
        eventually(lambda: (self.folder / "r/session_latest/logs/raylet.out").exists(), "the head's raylet", 60)
        watcher = self._run([sys.executable, "-c", WATCH, self.address], "watch", stdout=subprocess.PIPE)
        threading.Thread(target=self._listen, args=(watcher,), daemon=True).start()

    def _run(self, command: Sequence[str], log: str, **options: Any) -> "subprocess.Popen[str]":
        with open(self.folder / f"{log}.log", "ab") as errors:
            options.setdefault("stdout", errors)
            process = subprocess.Popen(command, env=self.environment, cwd=self.folder, text=True, stderr=errors,
                                       start_new_session=True, **options)  # fmt: skip
        self._own.append(process)
        return process

    def _listen(self, watcher: "subprocess.Popen[str]") -> None:
        assert watcher.stdout is not None
        for line in watcher.stdout:
            with contextlib.suppress(ValueError):
                self.nodes, self.heard = json.loads(line), time.monotonic()

    def alive(self, kind: str | None = None) -> set[str]:
        """Ids of the nodes that the head takes for alive; of one type, by what the autoscaler told them."""
        found = {node["id"] for node in self.nodes if node["alive"]}
        return found if kind is None else found & set(self.of_type(kind))

    def of_type(self, kind: str) -> dict[str, list[psutil.Process]]:
        """The processes of each node of this type."""
        found: dict[str, list[psutil.Process]] = {}
        for process in serve.processes_of(self.folder):
            with contextlib.suppress(psutil.Error):
                env = process.environ()
                if env.get("RAY_NODE_TYPE_NAME") == kind:
                    found.setdefault(env["RAY_OVERRIDE_NODE_ID_FOR_TESTING"], []).append(process)
        return found

    def deploy(self) -> None:
        """As the head does it, with the address of this computer in place of all, and one HAProxy for all nodes."""
        said = yaml.safe_load((ROOT / "deploy/serve.yaml").read_text())
        said |= {"proxy_location": "HeadOnly", "http_options": {"host": "127.0.0.1", "port": self.port}}
        path = self.folder / "serve.yaml"
        path.write_text(yaml.safe_dump(said))
        command = [
            sys.executable,
            "-m",
            "ray.serve.scripts",
            "deploy",
            "--address",
            f"http://127.0.0.1:{self.dashboard}",
        ]
        done = subprocess.run([*command, str(path)], env=self.environment, cwd=self.folder, text=True,
                              capture_output=True, timeout=60, check=False)  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    def status_of(self, **environment: str) -> "subprocess.CompletedProcess[str]":
        """`ray status`, with other variables than the cluster's; an empty one is taken away."""
        changed = {name: value for name, value in {**self.environment, **environment}.items() if value}
        return subprocess.run([*RAY, "status", f"--address={self.address}"], env=changed, cwd=self.folder, text=True,
                              capture_output=True, timeout=60, check=False)  # fmt: skip

    def remove(self) -> None:
        """End all that it has started, by pid, and delete its folder."""
        for process in self._own:
            process.kill()
        for _ in range(3):  # the autoscaler may just have started something
            processes.kill(serve.processes_of(self.folder))
        for process in self._own:
            process.wait(10)
            if process.stdout is not None:
                process.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def last_words(self) -> str:
        """The ends of its logs."""
        logs = [*self.folder.glob("*.log"), *self.folder.glob("r/session_latest/logs/monitor*")]
        logs += self.folder.glob("r/session_latest/logs/serve/controller*.log")
        return "\n\n".join(f"{path.name}\n{path.read_text()[-2500:]}" for path in logs if path.is_file())


def freeze(found: Mapping[str, list[psutil.Process]], node: str) -> list[psutil.Process]:
    """Stop all processes of a node where they are: for the others it is a machine that answers nothing any more."""
    for process in found[node]:
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGSTOP)
    return found[node]


@contextlib.contextmanager
def running(**settings: str) -> Iterator[FakeCluster]:
    """A started cluster; with a failure, its logs."""
    made = FakeCluster(**settings)
    try:
        made.start()
        yield made
    except BaseException:
        sys.stdout.write(made.last_words())
        raise
    finally:
        made.remove()
