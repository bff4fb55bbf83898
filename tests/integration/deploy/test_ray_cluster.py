"""ray_cluster.yaml and deploy/fly.toml: valid by Ray's own schema, and in step with the Dockerfile and the code."""

import copy
import json
import re
import ssl
import subprocess
import time
import tomllib
from pathlib import Path
from typing import Any, Final

import jsonschema  # type: ignore[import-untyped]
import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from orchestrator import cluster, serve
from tests.integration.images.dockerfile import ROOT, read
from tests.stand_ins import authority

CONFIG: Final[dict[str, Any]] = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())


def test_ray_takes_it() -> None:
    """By its schema, which knows no other fields, and with what it makes of the file before it calls a cloud."""
    schema = json.loads((Path(ray.__file__).parent / "autoscaler/ray-schema.json").read_text())
    jsonschema.validate(CONFIG, schema)
    prepared = prepare_config(copy.deepcopy(CONFIG))
    validate_config(prepared)
    assert set(prepared["available_node_types"]) == {"ray.head.default", "converter"}


def test_machines_of_your_own_are_taken_too() -> None:
    """The guide's `provider` in place of the cloud's, without node types."""
    guide = (ROOT / "docs/how-to/deploy-a-cluster.md").read_text()
    block = re.search(r"```yaml\n(provider:\n  type: local.*?)```", guide, re.DOTALL)
    assert block is not None
    own = {key: value for key, value in copy.deepcopy(CONFIG).items()
           if key not in ("available_node_types", "head_node_type")}  # fmt: skip
    prepared = prepare_config(own | yaml.safe_load(block[1]))
    validate_config(prepared)
    assert prepared["provider"]["type"] == "local"


def test_a_wrong_field_is_found() -> None:
    """A validator that finds nothing proves nothing."""
    with pytest.raises(jsonschema.ValidationError):
        validate_config({**copy.deepcopy(CONFIG), "max_machines": 3})


def test_a_lost_node_is_replaced_and_work_scales() -> None:
    """At least two converters, so that one can be lost; room above; and the head converts nothing."""
    types = CONFIG["available_node_types"]
    assert types["converter"]["min_workers"] >= 2
    assert types["converter"]["max_workers"] == CONFIG["max_workers"] > types["converter"]["min_workers"]
    assert types[CONFIG["head_node_type"]]["resources"]["CPU"] == 0
    assert "--num-cpus=0" in " ".join(CONFIG["head_start_ray_commands"])
    assert "--autoscaling-config" in " ".join(CONFIG["head_start_ray_commands"])


def test_a_lost_node_is_found_in_half_the_time_that_is_promised() -> None:
    """Work goes on within 30 s: the checks may take 15 of them."""
    said = {name: int(value) for name, value in cluster.NODE_LOSS.items()}
    each_ms = said["RAY_health_check_period_ms"] + said["RAY_health_check_timeout_ms"]
    assert each_ms * said["RAY_health_check_failure_threshold"] <= 15_000


@pytest.mark.parametrize("commands", ["head_start_ray_commands", "worker_start_ray_commands"])
def test_every_node_has_its_settings_and_certificate_before_ray_starts(commands: str) -> None:
    """In one shell with `ray start`, and with the token."""
    *before, start = [line for line in CONFIG[commands] if "serve deploy" not in line]
    assert before[-1] == "/opt/arke/src/deploy/node_certificate.sh /opt/arke/cluster /opt/arke/tls"
    assert start.startswith("set -a; . /opt/arke/ray.env; . /opt/arke/cluster/service.env; RAY_AUTH_TOKEN_PATH=")
    setup = " ".join(CONFIG["setup_commands"])
    assert "orchestrator.cluster environment > /opt/arke/ray.env" in setup
    assert "--constraint /opt/arke/src/requirements.lock" in setup


def test_secrets_stay_out_of_the_repository_and_of_the_sources_that_are_sent() -> None:
    """The folder of the secrets is sent on its own."""
    assert "/cluster/" in (ROOT / ".gitignore").read_text().splitlines()
    assert {"/cluster", ".env", ".git", "data"} <= set(CONFIG["rsync_exclude"])
    assert CONFIG["file_mounts"]["/opt/arke/cluster"] == "./cluster"


def test_the_settings_can_be_read_by_a_shell() -> None:
    """What the nodes read is what the code says, values with spaces too."""
    lines = subprocess.run(
        ["sh", "-c", 'eval "$1"; env', "sh", "\n".join(_printed())], text=True, capture_output=True, check=True
    ).stdout.splitlines()
    assert {f"{name}={value}" for name, value in cluster.environment().items()} <= set(lines)


def _printed() -> list[str]:
    import contextlib
    import io

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert cluster.main(["environment"]) is None
    return out.getvalue().splitlines()


def test_one_machine_and_a_cluster_have_the_same_settings(tmp_path: Path) -> None:
    """What is not a matter of ports and folders; telemetry is off, HAProxy is the data plane, a token is asked for."""
    (tmp_path / "h").mkdir()
    alone = serve.ray_environment(tmp_path, "/bin/true")
    everywhere = cluster.environment()
    both = {**serve.RAY_SETTINGS, **serve.HAPROXY_SETTINGS}
    assert both.items() <= alone.items()
    assert both.items() <= everywhere.items()
    assert (both["RAY_USAGE_STATS_ENABLED"], both["RAY_SERVE_ENABLE_HA_PROXY"]) == ("0", "1")
    assert (everywhere["RAY_AUTH_MODE"], everywhere["RAY_USE_TLS"]) == ("token", "1")


def test_the_script_in_place_of_haproxy_can_be_run_by_others(tmp_path: Path) -> None:
    """In an image it is made by root, and run by somebody else."""
    path = tmp_path / "haproxy"
    assert cluster.main(["haproxy", str(path)]) is None
    assert path.stat().st_mode & 0o777 == 0o755
    assert "8404|9101" in path.read_text()
    assert str(cluster.main(["nonsense"])).startswith("usage:")


def test_certificates_are_for_one_node_and_made_by_the_authority(tmp_path: Path) -> None:
    """Its addresses are in it, the key of the authority is not beside it, and others may not read its own. A node whose
    clock is hours behind takes it for valid."""
    made, folder = authority.make(tmp_path / "ca"), tmp_path / "tls"
    authority.sign(made, folder, "10.1.2.3", "10.1.2.4")
    assert sorted(path.name for path in folder.iterdir()) == ["ca.crt", "tls.crt", "tls.key"]
    assert (folder / "tls.key").stat().st_mode & 0o077 == 0
    shown = subprocess.run(["openssl", "x509", "-in", str(folder / "tls.crt"), "-noout", "-text"],
                           check=True, capture_output=True, text=True).stdout  # fmt: skip
    assert "IP Address:10.1.2.3, IP Address:10.1.2.4" in shown
    assert "TLS Web Server Authentication, TLS Web Client Authentication" in shown
    subprocess.run(["openssl", "verify", "-CAfile", str(folder / "ca.crt"), str(folder / "tls.crt")],
                   check=True, capture_output=True)  # fmt: skip
    since = subprocess.run(["openssl", "x509", "-in", str(folder / "tls.crt"), "-noout", "-startdate"],
                           check=True, capture_output=True, text=True).stdout  # fmt: skip
    assert ssl.cert_time_to_seconds(since.strip().partition("=")[2]) < time.time() - 20 * 3600
    authority.sign(made, tmp_path / "own")  # the addresses of this computer


def test_the_app_of_fly_is_a_place_for_an_image() -> None:
    """Nothing listens, nothing is started by requests, nothing is started again; the image is the worker's."""
    said = tomllib.loads((ROOT / "deploy/fly.toml").read_text())
    assert not {"services", "http_service", "processes", "mounts", "vm", "env", "deploy", "checks"} & set(said)
    _, stages = read()
    assert said["build"]["build-target"] in stages
    assert (ROOT / "deploy" / said["build"]["dockerfile"]).resolve() == ROOT / "Dockerfile"
    assert said["restart"] == [{"policy": "never"}]
    assert said["kill_signal"] == "SIGTERM"


def test_the_app_of_fly_is_the_one_of_the_settings() -> None:
    """FLY_APP_NAME and FLY_REGION as they are by default."""
    settings = (ROOT / "docs/reference/settings.md").read_text()
    said = tomllib.loads((ROOT / "deploy/fly.toml").read_text())
    assert f"| `FLY_APP_NAME` | `{said['app']}` |" in settings
    assert f"| `FLY_REGION` | `{said['primary_region']}` |" in settings
