"""deploy/kuberay.yaml against the published schemas of KubeRay, and against what the service itself says.

The rules in CEL (`x-kubernetes-validations`) are not evaluated: that takes an API server.
"""

import base64
import copy
import functools
import os
import re
from pathlib import Path
from typing import Any, Final

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from actors.settings import Settings
from orchestrator import cluster, serve
from tests.integration.images.dockerfile import ROOT, read

WHERE: Final = "shared/data/kuberay; set ARKE_TEST_DATA to its folder `data`"
KINDS: Final = ("RayService", "Deployment")
SECRETS: Final = {"arke", "arke-redis", "arke-ca"}


@functools.cache
def documents() -> dict[str, Any]:
    """By kind."""
    return {each["kind"]: each for each in yaml.safe_load_all((ROOT / "deploy/kuberay.yaml").read_text())}


@functools.cache
def crd(plural: str) -> Any:
    """The schema of version v1, in which fields that it does not know are wrong: an API server would drop them."""
    folder = os.environ.get("ARKE_TEST_DATA")
    if folder is None:
        pytest.skip(f"needs {WHERE}")
    text = (Path(folder) / "kuberay" / f"ray.io_{plural}.yaml").read_text()
    definition = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (version,) = (each for each in definition["spec"]["versions"] if each["name"] == "v1")
    return _closed(version["schema"]["openAPIV3Schema"])


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _closed(value) for key, value in schema.items()}
    if isinstance(made.get("properties"), dict) and not made.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    return made


def faults(schema: Any, document: Any) -> list[str]:
    """What is wrong, with its place."""
    found = jsonschema.Draft4Validator(schema).iter_errors(document)
    return [f"{'/'.join(map(str, each.absolute_path))}: {each.message[:200]}" for each in found]


def ray_service() -> Any:
    """As it is sent; `metadata` is the API server's own business."""
    return {**documents()["RayService"], "metadata": {}}


def template_schema() -> Any:
    """That of a pod's template, which the schema of a cluster contains."""
    spec = crd("rayclusters")["properties"]["spec"]
    return spec["properties"]["headGroupSpec"]["properties"]["template"]


def test_the_service_is_valid() -> None:
    """Every field is known and of its type."""
    assert faults(crd("rayservices"), ray_service()) == []


def test_its_cluster_is_valid() -> None:
    """The same by the schema of a cluster alone."""
    assert faults(crd("rayclusters"), {"spec": ray_service()["spec"]["rayClusterConfig"]}) == []


def test_the_pods_of_the_workers_are_valid() -> None:
    """By the schema of pods in that of a cluster. It keeps no labels of templates, as Kubernetes itself does."""
    template = documents()["Deployment"]["spec"]["template"]
    assert faults(template_schema(), {"spec": template["spec"]}) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "rayClusterConfig", "headGroupSpec", "template", "spec", "containers"), [{"image": "no name"}]),
        (("spec", "rayClusterConfig", "authOptions", "mode"), "password"),
        (("spec", "rayClusterConfig", "gcsFaultToleranceOptions", "redisUrl"), "unknown"),
        (("spec", "rayClusterConfig", "workerGroupSpecs", 0, "replicas"), "two"),
    ],
)
def test_what_is_wrong_would_be_found(path: tuple[Any, ...], value: Any) -> None:
    """A validator that finds nothing proves nothing."""
    document = copy.deepcopy(ray_service())
    parent = functools.reduce(lambda part, key: part[key], path[:-1], document)
    parent[path[-1]] = value
    assert faults(crd("rayservices"), document)


def test_serve_gets_what_the_other_cluster_gets() -> None:
    """One configuration, valid by Serve's own schema, with an application that can be imported."""
    said = yaml.safe_load(documents()["RayService"]["spec"]["serveConfigV2"])
    assert said == yaml.safe_load((ROOT / "deploy/serve.yaml").read_text())
    schema = ServeDeploySchema(**said)
    assert schema.applications[0].import_path == "orchestrator.serve:application"
    assert callable(serve.application)


def containers() -> list[Any]:
    """Of Ray's nodes: the head's and each group's."""
    config = documents()["RayService"]["spec"]["rayClusterConfig"]
    groups = [config["headGroupSpec"], *config["workerGroupSpecs"]]
    return [container for group in groups for container in group["template"]["spec"]["containers"]]


def plain(container: Any) -> dict[str, str]:
    """The variables that have a value in the file."""
    return {each["name"]: each["value"] for each in container["env"] if "value" in each}


def test_every_node_gets_its_settings() -> None:
    """No more and no less than `orchestrator.cluster` says, at the places of the image; the mode is the operator's."""
    wanted = cluster.environment(Path("/opt/arke"))
    assert documents()["RayService"]["spec"]["rayClusterConfig"]["authOptions"] == {"mode": wanted.pop("RAY_AUTH_MODE")}
    for container in containers():
        said = {name: value for name, value in plain(container).items() if name.startswith("RAY_") or name in wanted}
        assert said == wanted


def test_the_service_knows_its_settings() -> None:
    """Each variable that is not Ray's is one of the service, and its value is allowed."""
    known = set(Settings.load({}).masked()) | set(_setting_names())
    for container in containers():
        said = plain(container)
        names = {each["name"] for each in container["env"] if not each["name"].startswith("RAY_")}
        assert names <= known
        kept = dict.fromkeys(("API_KEYS", "ADMIN_KEY", "WORKER_KEYS", "R2_ACCESS_KEY_ID", "R2_SECRET_ACCESS_KEY"), "k")
        Settings.load(kept | {name: value for name, value in said.items() if name in known})


def _setting_names() -> list[str]:
    return re.findall(r"^\| `([A-Z0-9_]+)` \|", (ROOT / "docs/reference/settings.md").read_text(), re.MULTILINE)


def test_secrets_are_referred_to_only() -> None:
    """Every variable whose setting is secret comes from one of the secrets that the file names at its beginning."""
    secret = {field for field in _setting_names() if _is_secret(field)} | {"WORKER_KEY"}
    text = (ROOT / "deploy/kuberay.yaml").read_text()
    everything = [*containers(), *documents()["Deployment"]["spec"]["template"]["spec"]["containers"]]
    for container in everything:
        assert not secret & set(plain(container))
    referred = set(re.findall(r"(?:secretKeyRef: \{name|secretName): ([a-z-]+)", text))
    assert referred == SECRETS
    keys = set(re.findall(r"secretKeyRef: \{name: arke, key: ([a-z0-9-]+)", text))
    assert all(f"{key}," in text or f"{key}\n" in text for key in keys)
    assert not [word for word in re.findall(r"[A-Za-z0-9+/=]{40,}", text) if _decodes(word)]


def _is_secret(name: str) -> bool:
    line = re.search(rf"^\| `{name}` \|.*$", (ROOT / "docs/reference/settings.md").read_text(), re.MULTILINE)
    return line is not None and "Secret." in line[0]


def _decodes(word: str) -> bool:
    try:
        base64.b64decode(word, validate=True)
    except ValueError:
        return False
    return True


def test_images_are_the_two_targets() -> None:
    """With a version, never `latest`; nobody is root, and nobody may become it."""
    _, stages = read()
    service = documents()["RayService"]["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]
    workers = documents()["Deployment"]["spec"]["template"]["spec"]
    of_both = [*service["containers"], *service["initContainers"], *workers["containers"]]
    images = {each["image"] for each in of_both}
    assert images == {f"REGISTRY/arke-{target}:0.1.0" for target in ("orchestrator", "worker")}
    assert {"orchestrator", "worker"} <= set(stages)
    for pod in (service, workers):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 10001
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert "memory" in container["resources"]["limits"]


def test_the_authority_is_seen_by_one_container() -> None:
    """Its key could make a certificate for any node: Ray, which runs the code of others, does not have it."""
    pod = documents()["RayService"]["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]
    assert "ca" in [mount["name"] for mount in pod["initContainers"][0]["volumeMounts"]]
    assert "ca" not in [mount["name"] for mount in pod["containers"][0]["volumeMounts"]]


def test_the_worker_is_told_where_to_ask() -> None:
    """The address is that of the service which KubeRay makes for a RayService of this name."""
    (worker,) = documents()["Deployment"]["spec"]["template"]["spec"]["containers"]
    name = documents()["RayService"]["metadata"]["name"]
    address = f"http://{name}-serve-svc:8787"
    assert worker["args"] == ["--pull", address]
    assert plain(containers()[0])["ORCHESTRATOR_URL"] == address
    assert documents()["Deployment"]["spec"]["selector"]["matchLabels"]["app"] == "arke-worker"
