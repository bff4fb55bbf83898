"""The Machines API as documented: who may ask, how often, and what becomes of a machine."""

import asyncio
from typing import Any

import pytest

from tests.integration.stand_ins.bench import Flies, Fly
from tests.stand_ins.fly import always

IDLE = {"never_runs": 1.0}
"""Machines that are started and stay so."""


def exit_of(machine: dict[str, Any]) -> dict[str, Any]:
    """What the newest exit event says."""
    event = next(event for event in machine["events"] if event["type"] == "exit")
    told: dict[str, Any] = event["request"]["exit_event"]
    return told


@pytest.fixture
def fly(make_fly: Flies) -> Fly:
    return make_fly(IDLE)


# Who may ask


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("Bearer fly-stand-in", 200), ("FlyV1 fly-stand-in", 200), ("Bearer FlyV1 fly-stand-in", 200),
        ("Bearer wrong", 401), ("FlyV1 wrong", 401), ("", 401),
    ],
)  # fmt: skip
async def test_both_forms_of_the_token_are_taken_and_no_other(fly: Fly, header: str, status: int) -> None:
    answer = await fly.http.get("arke-tiff-worker/machines", headers={"Authorization": header})
    assert answer.status_code == status
    assert status == 200 or "unauthorized" in answer.json()["error"]


async def test_unknown_apps_machines_and_paths_are_404(fly: Fly) -> None:
    assert (await fly.create(app="nobodys")).status_code == 404
    assert (await fly.ask("GET", {"id": "123"})).status_code == 404
    assert (await fly.http.get("arke-tiff-worker/nonsense")).json() == {"error": "no such endpoint"}
    assert (await fly.http.get("arke-tiff-worker")).json()["name"] == "arke-tiff-worker"


async def test_a_body_that_is_not_valid_is_refused_and_nothing_is_made(fly: Fly) -> None:
    answer = await fly.create(guest={"cpu_kind": "performance", "cpus": 2, "memory_mb": 1024})
    assert answer.status_code == 422
    assert "memory_mb" in answer.json()["error"]
    assert (await fly.create(guest={"cpu": 2})).status_code == 400
    assert (await fly.http.get("arke-tiff-worker/machines")).json() == []


# How often


async def test_creations_and_lists_are_limited_by_app(make_fly: Flies) -> None:
    fly = make_fly(IDLE, limits=True, apps=("arke-tiff-worker", "second"))
    assert [(await fly.create(f"m{n}")).status_code for n in range(4)] == [200, 200, 200, 429]
    assert (await fly.create("m9")).headers["Retry-After"] == "1"
    assert (await fly.create("m9", app="second")).status_code == 200
    lists = [(await fly.http.get("arke-tiff-worker/machines")).status_code for _ in range(4)]
    assert lists == [200, 200, 200, 429]


async def test_starts_are_limited_by_machine_so_many_can_start_at_once(make_fly: Flies) -> None:
    fly = make_fly(IDLE, limits=True)
    machines = [await fly.created(f"m{n}", skip_launch=True) for n in range(3)]
    for machine in machines:
        await fly.reach(machine, "stopped")
        assert (await fly.ask("POST", machine, "/start")).status_code == 200
    again = [(await fly.ask("POST", machines[0], "/start")).status_code for _ in range(3)]
    assert again == [412, 412, 429]


async def test_getting_a_machine_has_a_limit_of_its_own(make_fly: Flies) -> None:
    fly = make_fly(IDLE, limits=True)
    machine = await fly.created()
    answers = [(await fly.ask("GET", machine)).status_code for _ in range(11)]
    assert answers == [200] * 10 + [429]
    assert fly.inside.journal.counters["limited.get"] == 1


async def test_without_limits_everything_is_granted(fly: Fly) -> None:
    assert [(await fly.create(f"m{n}")).status_code for n in range(10)] == [200] * 10


# Names


async def test_a_name_is_taken_until_its_machine_is_destroyed(fly: Fly) -> None:
    machine = await fly.created("one")
    taken = await fly.create("one")
    assert taken.status_code == 409
    assert "unique machine name violation" in taken.json()["error"]
    assert machine["id"] in taken.json()["error"]
    await fly.ask("DELETE", machine, params={"force": "true"})
    await fly.reach(machine, "destroyed")
    assert (await fly.create("one")).status_code == 200


async def test_a_name_is_taken_in_its_app_only_and_the_status_can_be_422(make_fly: Flies) -> None:
    fly = make_fly(IDLE, apps=("arke-tiff-worker", "second"), name_taken_status=422)
    assert (await fly.create("one")).status_code == 200
    assert (await fly.create("one", app="second")).status_code == 200
    assert (await fly.create("one")).status_code == 422


# States


async def test_a_created_machine_is_shown_as_such_and_then_starts(fly: Fly) -> None:
    machine = await fly.created(region="iad", metadata={"arke_batch": "b"}, guest={"memory_mb": 512})
    assert machine["state"] == "created"
    assert machine["region"] == "iad"
    assert machine["config"]["guest"] == {"cpu_kind": "shared", "cpus": 1, "memory_mb": 512}
    assert machine["image_ref"]["repository"] == "worker"
    assert machine["image_ref"]["digest"].startswith("sha256:")
    assert [event["status"] for event in machine["events"]] == ["created"]
    started = await fly.reach(machine, "started")
    assert [event["status"] for event in started["events"]] == ["started", "created"]


async def test_skip_launch_makes_a_machine_that_waits_to_be_started(make_fly: Flies) -> None:
    fly = make_fly(IDLE, pull=always(0.3))
    machine = await fly.created(skip_launch=True)
    early = await fly.ask("POST", machine, "/start")
    assert early.status_code == 412, "its image is not there yet"
    assert "current state: 'created'" in early.json()["error"]
    await fly.reach(machine, "stopped")
    assert fly.told(what="start") == []
    answer = await fly.ask("POST", machine, "/start")
    assert answer.json()["previous_state"] == "stopped"
    await fly.reach(machine, "started")
    assert len(fly.told(what="pull")) == 1, "a start pulls nothing"


async def test_a_prepared_machine_may_also_stay_created(make_fly: Flies) -> None:
    fly = make_fly(IDLE, prepared_state="created")
    machine = await fly.created(skip_launch=True)
    await fly.until(what="prepared")
    assert (await fly.show(machine))["state"] == "created"
    assert (await fly.ask("POST", machine, "/start")).json()["previous_state"] == "created"


async def test_an_image_is_pulled_once_for_each_host(make_fly: Flies) -> None:
    fly = make_fly(IDLE, hosts=1)
    for n in range(3):
        await fly.reach(await fly.created(f"m{n}"), "started")
    assert len(fly.told(what="pull")) == 1
    await fly.reach(await fly.created("elsewhere", region="iad"), "started")
    await fly.reach(await fly.created("other", image="registry.fly.io/worker:2"), "started")
    assert len(fly.told(what="pull")) == 3


async def test_or_at_each_creation(make_fly: Flies) -> None:
    fly = make_fly(IDLE, hosts=1, pull_always=True)
    for n in range(3):
        await fly.reach(await fly.created(f"m{n}"), "started")
    assert len(fly.told(what="pull")) == 3


async def test_a_started_machine_is_not_started_again(fly: Fly) -> None:
    machine = await fly.created()
    await fly.reach(machine, "started")
    assert (await fly.ask("POST", machine, "/start")).status_code == 412


async def test_a_stop_is_an_exit_that_was_requested_and_kills_when_the_time_is_up(fly: Fly) -> None:
    """The program of this machine does not listen."""
    machine = await fly.created()
    await fly.reach(machine, "started")
    assert (await fly.ask("POST", machine, "/stop", json={"timeout": "0.05s"})).json() == {"ok": True}
    assert (await fly.show(machine))["state"] == "stopping"
    told = exit_of(await fly.reach(machine, "stopped"))
    assert (told["exit_code"], told["signal"], told["requested_stop"], told["oom_killed"]) == (137, 9, True, False)
    assert told["exited_at"].endswith("Z")
    assert (await fly.ask("POST", machine, "/stop")).status_code == 200, "again is no error"


async def test_a_machine_can_be_stopped_while_it_boots(make_fly: Flies) -> None:
    fly = make_fly(boot=always(60))
    machine = await fly.created()
    await fly.reach(machine, "starting")
    await fly.ask("POST", machine, "/stop")
    assert exit_of(await fly.reach(machine, "stopped"))["requested_stop"] is True


async def test_a_program_that_ends_leaves_a_stopped_machine_which_starts_anew(make_fly: Flies) -> None:
    """Without the environment of a task the worker exits with 1."""
    fly = make_fly()
    machine = await fly.reach(await fly.created(), "stopped")
    told = exit_of(machine)
    assert (told["exit_code"], told["requested_stop"]) == (1, False)
    await fly.ask("POST", machine, "/start")
    await fly.until(what="start", starts=2)
    assert len(fly.told(what="pull")) == 1
    assert (await fly.reach(machine, "stopped"))["config"] == machine["config"]


async def test_auto_destroy_destroys_a_machine_that_has_ended(make_fly: Flies) -> None:
    fly = make_fly()
    machine = await fly.created(auto_destroy=True)
    destroyed = await fly.reach(machine, "destroyed")
    assert exit_of(destroyed)["exit_code"] == 1
    assert destroyed["events"][0]["status"] == "destroyed"


async def test_a_machine_with_auto_destroy_is_seen_stopped_first(make_fly: Flies) -> None:
    fly = make_fly(IDLE)
    machine = await fly.created(auto_destroy=True)
    await fly.reach(machine, "started")
    query = {"state": "stopped", "instance_id": machine["instance_id"]}
    waiting = asyncio.ensure_future(fly.ask("GET", machine, "/wait", params=query))
    await fly.ask("POST", machine, "/stop", json={"timeout": "0s"})
    assert (await waiting).json() == {"ok": True}


@pytest.mark.parametrize(
    ("policy", "starts"),
    [({"policy": "no"}, 1), ({"policy": "on-failure", "max_retries": 2}, 3), ({"policy": "always"}, 5)],
)
async def test_the_restart_policy_begins_a_failed_program_again(
    make_fly: Flies, policy: dict[str, Any], starts: int
) -> None:
    fly = make_fly()
    machine = await fly.created(restart=policy)
    await fly.until(what="start", starts=starts)
    if policy["policy"] != "always":
        await fly.reach(machine, "stopped")
        assert len(fly.told(what="start")) == starts


async def test_a_machine_that_runs_is_destroyed_by_force_only(fly: Fly) -> None:
    machine = await fly.created()
    await fly.reach(machine, "started")
    refused = await fly.ask("DELETE", machine)
    assert refused.status_code == 412
    assert "unable to destroy machine" in refused.json()["error"]
    assert (await fly.ask("DELETE", machine, params={"force": "true"})).json() == {"ok": True}
    await fly.reach(machine, "destroyed")
    assert (await fly.ask("DELETE", machine, params={"force": "true"})).status_code == 200, "again is no error"


@pytest.mark.parametrize(("remember_s", "status"), [(60.0, 200), (0.0, 404)])
async def test_a_destroyed_machine_is_shown_for_a_while_and_listed_when_asked(
    make_fly: Flies, remember_s: float, status: int
) -> None:
    fly = make_fly(IDLE, remember_s=remember_s)
    machine = await fly.created()
    await fly.ask("DELETE", machine, params={"force": "true"})
    await fly.reach(machine, "destroyed")
    shown = await fly.ask("GET", machine)
    assert shown.status_code == status
    assert status == 404 or shown.json()["state"] == "destroyed"
    assert (await fly.http.get("arke-tiff-worker/machines")).json() == []
    deleted = await fly.http.get("arke-tiff-worker/machines", params={"include_deleted": "true"})
    assert [shown["state"] for shown in deleted.json()] == ["destroyed"]


async def test_suspended_machines_start_again_and_large_ones_are_not_suspended(fly: Fly) -> None:
    machine = await fly.created()
    await fly.reach(machine, "started")
    await fly.ask("POST", machine, "/suspend")
    await fly.reach(machine, "suspended")
    assert (await fly.ask("POST", machine, "/start")).json()["previous_state"] == "suspended"
    large = await fly.created("large", guest={"cpus": 2, "memory_mb": 4096})
    await fly.reach(large, "started")
    assert (await fly.ask("POST", large, "/suspend")).status_code == 412


async def test_a_restart_begins_the_program_again_in_the_same_version(fly: Fly) -> None:
    machine = await fly.created()
    await fly.reach(machine, "started")
    await fly.ask("POST", machine, "/restart", params={"timeout": "0"})
    await fly.until(what="start", starts=2)
    assert (await fly.show(machine))["instance_id"] == machine["instance_id"]


async def test_an_update_is_another_version(fly: Fly) -> None:
    machine = await fly.created()
    await fly.reach(machine, "started")
    body = {"config": {"image": "registry.fly.io/worker:2"}, "current_version": machine["instance_id"]}
    updated = (await fly.ask("POST", machine, json=body)).json()
    assert updated["state"] == "replacing"
    assert updated["instance_id"] != machine["instance_id"]
    await fly.until(what="start", starts=2)
    assert (await fly.ask("POST", machine, json=body)).status_code == 409, "somebody else was first"


# Waiting


async def test_wait_answers_when_the_state_is_reached(fly: Fly) -> None:
    machine = await fly.created()
    answer = await fly.ask("GET", machine, "/wait", params={"state": "started", "timeout": "5"})
    assert answer.json() == {"ok": True}
    await fly.ask("DELETE", machine, params={"force": "true"})
    assert (await fly.ask("GET", machine, "/wait", params={"state": "destroyed"})).json() == {"ok": True}


async def test_wait_gives_up_with_408_when_the_time_is_up(make_fly: Flies) -> None:
    fly = make_fly({"never_boots": 1.0})
    machine = await fly.created()
    answer = await fly.ask("GET", machine, "/wait", params={"state": "started", "timeout": "1"})
    assert answer.status_code == 408
    assert "currently starting" in answer.json()["error"]


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"state": "stopped"}, 400), ({"state": "happy"}, 400), ({"timeout": "61"}, 400), ({"timeout": "0"}, 400),
        ({"state": "started", "instance_id": "other"}, 404),
    ],
)  # fmt: skip
async def test_waits_that_make_no_sense_are_refused(fly: Fly, query: dict[str, str], status: int) -> None:
    assert (await fly.ask("GET", await fly.created(), "/wait", params=query)).status_code == status


# Finding


async def test_a_list_is_filtered_by_region_metadata_and_state(fly: Fly) -> None:
    await fly.created("a", region="ord", metadata={"arke_batch": "1", "arke_task": "x"})
    await fly.created("b", region="iad", metadata={"arke_batch": "1"})
    await fly.created("c", region="iad", skip_launch=True)
    await fly.until(what="start", machine="a")
    await fly.until(what="start", machine="b")
    await fly.until(what="prepared", machine="c")

    async def names(**query: str) -> set[str]:
        listed = await fly.http.get("arke-tiff-worker/machines", params=query)
        return {machine["name"] for machine in listed.json()}

    assert await names() == {"a", "b", "c"}
    assert await names(region="iad") == {"b", "c"}
    assert await names(**{"metadata.arke_batch": "1"}) == {"a", "b"}
    assert await names(**{"metadata.arke_batch": "1", "metadata.arke_task": "x"}) == {"a"}
    assert await names(state="stopped") == {"c"}
    summary = (await fly.http.get("arke-tiff-worker/machines", params={"summary": "true"})).json()
    assert all("config" not in machine and "events" not in machine for machine in summary)


async def test_metadata_can_be_changed_and_is_found_by_lists(fly: Fly) -> None:
    machine = await fly.created(metadata={"a": "1"})
    assert (await fly.ask("POST", machine, "/metadata/b", json={"value": "2"})).status_code == 204
    assert (await fly.ask("DELETE", machine, "/metadata/a")).status_code == 204
    assert (await fly.ask("GET", machine, "/metadata")).json() == {"b": "2"}
    assert (await fly.ask("POST", machine, "/metadata/b", json={"value": 2})).status_code == 400
    assert len((await fly.http.get("arke-tiff-worker/machines", params={"metadata.b": "2"})).json()) == 1
    assert (await fly.show(machine))["config"]["metadata"] == {"b": "2"}


async def test_a_leased_machine_is_changed_by_its_holder_only(fly: Fly) -> None:
    machine = await fly.created(lease_ttl=30)
    assert (await fly.ask("POST", machine, "/stop")).status_code == 409
    holder = {"fly-machine-lease-nonce": machine["nonce"]}
    assert (await fly.ask("GET", machine, "/lease")).json()["nonce"] == machine["nonce"]
    assert (await fly.ask("DELETE", machine, "/lease", headers=holder)).status_code == 200
    assert (await fly.ask("GET", machine, "/lease")).status_code == 404
    assert (await fly.ask("POST", machine, "/lease", json={"ttl": 30})).status_code == 200


async def test_events_and_cordons_have_paths_of_their_own(fly: Fly) -> None:
    machine = await fly.created()
    started = await fly.reach(machine, "started")
    assert (await fly.ask("GET", machine, "/events")).json() == started["events"]
    assert (await fly.ask("POST", machine, "/cordon")).json() == {"ok": True}
    assert (await fly.ask("POST", machine, "/uncordon")).json() == {"ok": True}


async def test_counters_say_what_there_was(fly: Fly) -> None:
    machine = await fly.created()
    await fly.reach(machine, "started")
    counters = (await fly.http.get("http://fly/_counters")).json()
    assert (counters["create"], counters["start"], counters["pull"]) == (1, 1, 1)
    assert counters["states"] == {"started": 1}
    assert counters["request.create"] == 1
    assert counters["machine_seconds"] >= 0
