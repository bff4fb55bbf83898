"""Where in a cluster actors are, as Ray is told."""

from pathlib import Path
from typing import Any

import pytest

from actors import machines, ray_actors
from actors.errors import CannotStart
from actors.machines.ray_workers import RayMachines
from actors.settings import InvalidSetting, Settings


def test_actors_are_on_all_nodes_and_outlive_each() -> None:
    """They ask for no core, and are started again wherever there is a node."""
    assert ray_actors.OPTIONS["scheduling_strategy"] == "SPREAD"
    assert (ray_actors.OPTIONS["num_cpus"], ray_actors.OPTIONS["max_restarts"]) == (0, -1)
    assert ray_actors.OPTIONS["lifetime"] == "detached"


@pytest.mark.parametrize(("cluster", "cores"), [(False, 0), (True, 1)])
def test_workers_ask_for_cores_in_a_cluster(tmp_path: Path, cluster: bool, cores: int) -> None:
    """There Ray looks for nodes that have some, and its autoscaler adds them."""
    provider: Any = machines.open_provider("ray", run_dir=tmp_path, log_dir=tmp_path, workers=3, cluster=cluster)
    assert isinstance(provider, RayMachines)
    asked: dict[str, Any] = {}

    class Class:
        def options(self, **options: Any) -> Any:
            asked.update(options)
            return self

        def remote(self, *_: Any) -> None: ...

    provider._class = Class()
    provider._make(0)
    assert (asked["num_cpus"], asked["scheduling_strategy"]) == (cores, "SPREAD")


def test_what_a_cluster_needs_is_said_before_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret that all nodes have, and certificates that can be read."""
    from actors import assembly

    given = {"ARKE_CLUSTER": "true", "DATA_DIR": str(tmp_path)}
    with pytest.raises(CannotStart, match="CALLBACK_SECRET"):
        assembly.check(Settings.load(given))
    given["CALLBACK_SECRET"] = "a secret of sixteen characters"
    monkeypatch.setenv("RAY_USE_TLS", "1")
    for name in ("RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    with pytest.raises(CannotStart, match="certificates"):
        assembly.check(Settings.load(given))
    monkeypatch.setenv("RAY_USE_TLS", "0")
    assembly.check(Settings.load(given))


def test_the_range_of_ports() -> None:
    """Two ports, the lower one first."""
    assert Settings.load({}).cluster_ports is None
    assert Settings.load({"ARKE_CLUSTER_PORTS": "21000-21009"}).cluster_ports == range(21_000, 21_010)
    for wrong in ("21000", "21009-21000", "80-90", "60000-70000", "a-b"):
        with pytest.raises(InvalidSetting, match="ARKE_CLUSTER_PORTS"):
            Settings.load({"ARKE_CLUSTER_PORTS": wrong})
