"""The stand-in against Fly's own OpenAPI document: what it takes, what it refuses, and what it answers."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import jsonschema  # type: ignore[import-untyped]
import msgspec
import pytest
import yaml  # type: ignore[import-untyped]

from tests.integration.stand_ins.bench import Flies, Fly
from tests.stand_ins.fly import bodies

WHERE = "shared/data/fly/openapi-2024-01.yaml; set ARKE_TEST_DATA to its folder `data`"

SHAPES: Mapping[str, type[bodies.Body]] = {
    "CreateMachineRequest": bodies.CreateMachine,
    "UpdateMachineRequest": bodies.UpdateMachine,
    "StopRequest": bodies.StopMachine,
    "CreateLeaseRequest": bodies.CreateLease,
    "api.MachineConfig": bodies.Config,
    "api.MachineGuest": bodies.Guest,
    "api.MachineInit": bodies.Init,
    "api.MachineRestart": bodies.Restart,
    "api.StopConfig": bodies.StopConfig,
}
VALID: list[dict[str, Any]] = [
    {"config": {"image": "a"}},
    {
        "name": "tiff-0123456789abcdef-1",
        "region": "ord",
        "skip_launch": True,
        "lease_ttl": 30,
        "config": {
            "image": "registry.fly.io/worker:1",
            "env": {"TASK_ID": "t"},
            "auto_destroy": True,
            "restart": {"policy": "no"},
            "guest": {"memory_mb": 1024, "cpus": 2, "cpu_kind": "shared"},
            "metadata": {"arke_batch": "b"},
            "init": {"cmd": ["python", "-m", "worker"], "tty": False},
            "stop_config": {"signal": "SIGTERM", "timeout": "10s"},
            "services": [],
            "mounts": [],
        },
    },
    {"config": {"image": "a", "restart": {"policy": "on-failure", "max_retries": 3}, "checks": {}, "statics": []}},
]
WRONG: list[tuple[tuple[str, ...], Any]] = [
    (("name",), 1), (("region",), []), (("skip_launch",), "yes"), (("lease_ttl",), "30"), (("config",), "image"),
    (("config", "image"), 5), (("config", "env"), {"A": 1}), (("config", "auto_destroy"), "true"),
    (("config", "restart"), "no"), (("config", "restart", "policy"), "never"), (("config", "guest", "cpus"), "2"),
    (("config", "guest", "memory_mb"), 1024.5), (("config", "metadata"), {"a": None}),
    (("config", "init", "cmd"), "ls"),
    (("config", "services"), {}), (("config", "stop_config", "timeout"), 10), (("config", "mounts"), "x"),
]  # fmt: skip


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    folder = os.environ.get("ARKE_TEST_DATA")
    path = Path(folder or ".") / "fly" / "openapi-2024-01.yaml"
    if folder is None or not path.is_file():
        pytest.skip(f"needs {WHERE}")
    loaded: dict[str, Any] = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return loaded


def validator(document: dict[str, Any], schema: dict[str, Any], *, is_closed: bool = False) -> Any:
    """Checks values against a schema of the document; closed, properties that it does not name are errors."""
    components = document["components"]
    if is_closed:
        components = {"schemas": {name: _closed(part) for name, part in components["schemas"].items()}}
    return jsonschema.Draft4Validator({**schema, "components": components})


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    return schema | {"additionalProperties": False} if schema.get("properties") else schema


def put(body: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """The body with another value there."""
    first, *rest = path
    return body | {first: put(body.get(first, {}), tuple(rest), value) if rest else value}


@pytest.mark.parametrize("name", SHAPES)
def test_a_body_has_exactly_the_fields_of_the_document_with_their_types(document: dict[str, Any], name: str) -> None:
    theirs = document["components"]["schemas"][name]["properties"]
    _, components = msgspec.json.schema_components([SHAPES[name]])
    ours = components[SHAPES[name].__name__]["properties"]
    assert set(ours) == set(theirs)
    for field, schema in theirs.items():
        assert _kind(ours[field]) == _kind(schema), field


def _kind(schema: dict[str, Any]) -> tuple[str, frozenset[str]]:
    """Type and, where there are such, the permitted values."""
    permitted = frozenset(schema.get("enum", ()))
    if permitted:
        return "string", permitted
    return ("object" if {"$ref", "allOf", "anyOf"} & schema.keys() else schema["type"]), permitted


@pytest.mark.parametrize("body", VALID)
async def test_what_the_document_allows_is_taken(
    document: dict[str, Any], make_fly: Flies, body: dict[str, Any]
) -> None:
    schema = {"$ref": "#/components/schemas/CreateMachineRequest"}
    validator(document, schema, is_closed=True).validate(body)
    answer = await make_fly().http.post("arke-tiff-worker/machines", json=body)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(("path", "value"), WRONG)
async def test_what_the_document_forbids_is_refused(
    document: dict[str, Any], make_fly: Flies, path: tuple[str, ...], value: Any
) -> None:
    body = put(VALID[1], path, value)
    assert not validator(document, {"$ref": "#/components/schemas/CreateMachineRequest"}).is_valid(body)
    answer = await make_fly().http.post("arke-tiff-worker/machines", json=body)
    assert answer.status_code == 400
    validator(document, {"$ref": "#/components/schemas/ErrorResponse"}, is_closed=True).validate(answer.json())


async def test_every_answer_is_one_of_the_document(document: dict[str, Any], make_fly: Flies) -> None:
    """A machine's whole life, and each answer compared with the schema of its path, method and status."""
    fly = make_fly({"never_runs": 1.0})
    seen: set[str] = set()

    async def look(answer: httpx.Response) -> None:
        await answer.aread()
        seen.add(check(document, answer))

    fly.http.event_hooks = {"response": [look]}
    body = put(VALID[1], ("config", "auto_destroy"), False)
    machine = (await fly.http.post("arke-tiff-worker/machines", json=put(body, ("skip_launch",), False))).json()
    lease = {"fly-machine-lease-nonce": machine["nonce"]}
    await fly.ask("DELETE", machine, "/lease", headers=lease)
    await life(fly, machine)
    await fly.http.get("arke-tiff-worker")
    assert seen == {
        "Apps_show", "Machines_create", "Machines_list", "Machines_show", "Machines_update", "Machines_delete",
        "Machines_wait", "Machines_start", "Machines_stop", "Machines_restart", "Machines_list_events",
        "Machines_cordon", "Machines_uncordon", "Machines_show_metadata", "Machines_update_metadata",
        "Machines_delete_metadata", "Machines_show_lease", "Machines_create_lease", "Machines_release_lease",
    }  # fmt: skip


async def life(fly: Fly, machine: dict[str, Any]) -> None:
    """All that can be asked about one machine."""
    await fly.ask("GET", machine, "/wait", params={"state": "started", "timeout": "5"})
    await fly.ask("GET", machine)
    await fly.ask("GET", machine, "/wait", params={"state": "nonsense"})
    await fly.ask("POST", machine, "/metadata/a", json={"value": "b"})
    await fly.ask("GET", machine, "/metadata")
    await fly.ask("DELETE", machine, "/metadata/a")
    await fly.ask("POST", machine, "/cordon")
    await fly.ask("POST", machine, "/uncordon")
    lease = {"fly-machine-lease-nonce": (await fly.ask("POST", machine, "/lease", json={"ttl": 5})).json()["nonce"]}
    await fly.ask("GET", machine, "/lease")
    await fly.ask("DELETE", machine, "/lease", headers=lease)
    await fly.ask("POST", machine, "/restart", params={"timeout": "0s"})
    await fly.until(what="start", starts=2)
    await fly.ask("POST", machine, "/stop", json={"timeout": "0s", "signal": "SIGTERM"})
    await fly.reach(machine, "stopped")
    await fly.ask("POST", machine, json={"config": {"image": "b"}, "skip_launch": True})
    await fly.reach(machine, "stopped")
    await fly.ask("POST", machine, "/start")
    await fly.reach(machine, "started")
    await fly.ask("GET", machine, "/events")
    await fly.http.get("arke-tiff-worker/machines", params={"include_deleted": "true", "region": "ord"})
    await fly.ask("DELETE", machine, params={"force": "true"})


def check(document: dict[str, Any], answer: httpx.Response) -> str:
    """The operation that the document has for this request; its parameters are known, and its answer is as it says."""
    path = answer.request.url.path.removeprefix("/v1")
    operation = next(
        methods[answer.request.method.lower()] for methods in fitting(document, path, answer.request.method)
    )
    known = {parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "query"}
    assert set(answer.request.url.params) <= known | (
        {"force"} if operation["operationId"] == "Machines_delete" else set()
    )
    described = operation["responses"].get(str(answer.status_code))
    if described is None:
        assert answer.status_code >= 400, (operation["operationId"], answer.status_code)
        described = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorResponse"}}}}
    if "application/json" in described["content"]:
        validator(document, described["content"]["application/json"]["schema"], is_closed=True).validate(answer.json())
    return str(operation["operationId"])


def fitting(document: dict[str, Any], path: str, method: str) -> Iterator[dict[str, Any]]:
    """The path items that this path fits, those without variables in its last part first."""
    items = sorted(document["paths"].items(), key=lambda item: item[0].split("/")[-1].startswith("{"))
    for template, methods in items:
        pattern = re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template))
        if method.lower() in methods and re.fullmatch(pattern, path):
            yield methods
