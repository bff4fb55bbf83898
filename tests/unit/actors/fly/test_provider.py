"""Machines are seen as they are, ended for good, and started from a pool; every question ends."""

import asyncio
from typing import Any

import httpx
import pytest

from actors.machines.base import MachineStatus, Pooling, ProviderUnavailable, SpawnRefused
from actors.machines.fly.looking import STUCK_S
from actors.machines.fly.provider import END_S
from actors.machines.fly.shown import STATES
from tests.unit.actors.fly.bench import Scripted, error, machine, now, ok, virtually

MISSING = error(404, "not_found: machine not found")
EXIT = {"type": "exit", "timestamp": 5, "request": {"exit_event": {"exit_code": 3, "oom_killed": False}}}
OOM = {"type": "exit", "timestamp": 9, "request": {"exit_event": {"exit_code": 137, "oom_killed": True}}}
OLDER = {"type": "exit", "timestamp": 7, "request": {"MonitorEvent": {"exit_event": {"exit_code": 4}}}}
START = {"type": "start", "timestamp": 99, "request": None}


def inspected(fly: Scripted, which: str = "one/m1") -> MachineStatus:
    return virtually(fly.provider().inspect(which))


def test_it_is_a_provider_with_a_pool() -> None:
    """The optional part of the protocol is there."""

    async def run() -> None:
        assert isinstance(Scripted(ok()).provider(), Pooling)

    virtually(run())


@pytest.mark.parametrize("state", [*STATES, "invented-later"])
def test_every_state_means_something(state: str) -> None:
    """A machine that is not booted yet counts as running, one that never will be as exited."""
    expected = {"created": "running", "starting": "running", "launch_failed": "exited", "failed": "exited"}
    status = inspected(Scripted(ok(machine(state=state))))
    assert status.state == expected.get(state, STATES.get(state, "running"))


@pytest.mark.parametrize(
    ("events", "code", "oom"),
    [
        (None, None, False),
        ([], None, False),
        ([{"type": "exit"}, {"type": "exit", "request": {}}], None, False),
        ([START, EXIT], 3, False),
        ([OLDER, EXIT], 4, False),
        ([EXIT, OOM, OLDER], 137, True),
    ],
)
def test_the_last_exit_tells_how_it_ended(events: Any, code: int | None, oom: bool) -> None:
    """Its code, and whether memory ran out; in both forms that events have."""
    status = inspected(Scripted(ok(machine(state="stopped", events=events))))
    assert (status.state, status.code, status.oom) == ("exited", code, oom)


def test_what_runs_has_no_end() -> None:
    """That it has ended before it was started again is past."""
    assert inspected(Scripted(ok(machine(events=[OOM])))) == MachineStatus(
        name="tiff-a-1", provider_id="one/m1", state="running"
    )


def test_unknown_is_never_an_error() -> None:
    """Neither an id nor a name, nor what can be neither."""
    assert inspected(Scripted(MISSING)).state == "gone"
    assert inspected(Scripted(error(404, "app not found")), "other/m1").state == "gone"
    assert inspected(Scripted(ok([])), "tiff-never-1").state == "gone"
    assert inspected(Scripted(ok(machine(state="destroyed")))).state == "gone"
    assert inspected(Scripted(error(500, "not asked")), "1:2.00").state == "gone"


def test_a_name_is_looked_for_in_all_apps() -> None:
    """Only machines of this service, and the one that is not gone."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/machines"):
            assert request.url.params["metadata.arke_service"] == "arke-1"
            assert request.url.params["metadata.arke_name"] == "tiff-a-1"
            return ok([machine("m2")] if "/two/" in request.url.path else [])
        return ok(machine("m2"))

    status = virtually(Scripted(answer).provider(apps=("one", "two")).inspect("tiff-a-1"))
    assert (status.provider_id, status.state) == ("two/m2", "running")


@pytest.mark.parametrize(
    "always", [error(503, "x"), error(429, "x"), httpx.ReadTimeout("x"), httpx.ConnectError("x"), error(401, "x"),
               error(403, "x")]
)  # fmt: skip
def test_what_cannot_be_known_is_told_as_such(always: Any) -> None:
    """Nothing follows about any machine; and the question has an end."""

    async def run() -> float:
        provider = Scripted(always).provider(part=1.0)
        for ask in (provider.inspect, provider.destroy, provider.stop, lambda _: provider.list()):
            with pytest.raises(ProviderUnavailable):
                await ask("one/m1")
        return now()

    assert virtually(run()) < 4 * (END_S + 1)


def test_what_is_no_answer_tells_nothing() -> None:
    """A proxy between may say what it likes."""
    for body in (b"", b"[]", b"{}", b"<html>", b'{"id": 5}'):
        with pytest.raises(ProviderUnavailable):
            inspected(Scripted(httpx.Response(200, content=body)))
    for body in (b"", b"{}", b"null", b"[5]"):
        with pytest.raises(ProviderUnavailable):
            virtually(Scripted(httpx.Response(200, content=body)).provider().list())


def test_a_question_that_failed_is_asked_again() -> None:
    """Errors that pass, and connections that broke."""
    fly = Scripted(error(502, "x"), httpx.ConnectError("x"), error(429, "x", Retry_After="1"), ok(machine()))
    assert inspected(fly).state == "running"


def test_a_list_has_all_of_the_service() -> None:
    """From all apps by metadata, without what is destroyed. How one ended is asked of it alone, by whom it concerns."""

    def answer(request: httpx.Request) -> httpx.Response:
        assert dict(request.url.params) == {"metadata.arke_service": "arke-1", "summary": "true"}
        if "/two/" in request.url.path:
            return ok([machine("m2", "b", "stopped"), machine("m3", "c", "destroyed")])
        return ok([machine("m1", "a", "created")])

    listed = virtually(Scripted(answer).provider(apps=("one", "two")).list())
    assert [(each.provider_id, each.name, each.state, each.code, each.oom) for each in listed] == [
        ("one/m1", "a", "running", None, False),
        ("two/m2", "b", "exited", None, False),
    ]


def test_a_list_that_lacks_an_app_is_none() -> None:
    """Else its machines would count as vanished."""

    def answer(request: httpx.Request) -> httpx.Response:
        return error(403, "no") if "/two/" in request.url.path else ok([])

    with pytest.raises(ProviderUnavailable):
        virtually(Scripted(answer).provider(apps=("one", "two")).list())


def test_destroying_is_forced_and_waited_for() -> None:
    """It returns when the machine is gone; a wait that was too short is repeated."""
    fly = Scripted(ok(), error(408, "deadline_exceeded"), ok())
    virtually(fly.provider().destroy("one/m1"))
    assert fly.asked == ["DELETE one/machines/m1", "GET one/machines/m1/wait", "GET one/machines/m1/wait"]
    assert dict(fly.requests[0].url.params) == {"force": "true"}
    assert dict(fly.requests[1].url.params) == {"state": "destroyed", "timeout": "20"}


def test_gone_already_is_success() -> None:
    """Also when it goes while it is waited for."""
    for answers in ((MISSING,), (ok(), MISSING), (error(500, "x"), MISSING)):
        virtually(Scripted(*answers).provider().destroy("one/m1"))


def test_a_machine_that_does_not_go_keeps_nobody_for_ever() -> None:
    """Invariant 5: each call ends; after five minutes it counts as lost with its host, everywhere."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/wait"):
            return error(408, "deadline_exceeded")
        if request.method == "DELETE":
            return ok()
        return ok(
            [machine(state="destroying")] if request.url.path.endswith("/machines") else machine(state="destroying")
        )

    async def run() -> None:
        provider = Scripted(answer).provider(part=1.0)
        begun = now()
        with pytest.raises(ProviderUnavailable):
            await provider.destroy("one/m1")
        assert now() - begun < END_S + 1
        assert (await provider.inspect("one/m1")).state == "running"
        await asyncio.sleep(STUCK_S)
        await provider.destroy("one/m1")
        assert (await provider.inspect("one/m1")).state == "gone"
        assert await provider.list() == []

    virtually(run())


def test_a_stopped_machine_is_started() -> None:
    """The answer is what it is then."""
    fly = Scripted(ok({"previous_state": "stopped"}), ok(machine(state="starting")))
    assert virtually(fly.provider().start("one/m1")).state == "running"
    for lost in (MISSING, error(412, "failed_precondition")):
        fly = Scripted(lost, ok(machine(state="destroyed")))
        assert virtually(fly.provider().start("one/m1")).state == "gone"
    assert virtually(Scripted(ok([])).provider().start("tiff-never-1")).state == "gone"


def test_a_start_whose_answer_was_lost_is_not_a_failure() -> None:
    """It runs already; asking again is answered 412, which tells the same."""
    active = error(412, "failed_precondition: machine still active, refusing to start")
    for lost in (httpx.ReadTimeout("x"), error(504, "x"), active):
        assert virtually(Scripted(lost, ok(machine())).provider().start("one/m1")).state == "running"
    fly = Scripted(active, ok(machine(state="stopping")), ok(), ok(machine(state="starting")))
    assert virtually(fly.provider().start("one/m1")).state == "running"


@pytest.mark.parametrize(
    ("always", "raised", "permanent"),
    [
        (error(412, "insufficient resources"), SpawnRefused, False),
        (error(409, "could not reserve resource for machine"), SpawnRefused, False),
        (error(429, "x"), SpawnRefused, False),
        (error(401, "x"), SpawnRefused, True),
        (error(422, "x"), SpawnRefused, True),
        (error(503, "x"), ProviderUnavailable, None),
    ],
)
def test_a_start_that_is_refused(always: Any, raised: type[Exception], permanent: bool | None) -> None:
    """As a creation is, but a machine has its region."""
    with pytest.raises(raised) as failure:
        virtually(Scripted(always).provider().start("one/m1"))
    assert getattr(failure.value, "permanent", None) is permanent


def test_stopping_asks_only() -> None:
    """By SIGTERM, at which a worker gives its tasks back; one at rest is let be."""
    fly = Scripted(ok())
    virtually(fly.provider().stop("one/m1"))
    assert (fly.asked, fly.body()) == (["POST one/machines/m1/stop"], {"signal": "SIGTERM"})
    virtually(Scripted(MISSING).provider().stop("one/m1"))
    virtually(Scripted(error(412, "failed_precondition"), ok(machine(state="stopped"))).provider().stop("one/m1"))


def test_waiting_is_for_a_version_and_has_an_end() -> None:
    """ "stopped" needs the instance; when the time is up the answer is what it is then."""
    fly = Scripted(ok(machine()), ok(), ok(machine(state="stopped", events=[EXIT])))
    status = virtually(fly.provider().wait("one/m1", "exited", within_s=60))
    assert (status.state, status.code) == ("exited", 3)
    assert dict(fly.requests[1].url.params) == {"state": "stopped", "instance_id": "01A", "timeout": "20"}

    async def run() -> MachineStatus:
        def answer(request: httpx.Request) -> httpx.Response:
            return error(408, "x") if request.url.path.endswith("/wait") else ok(machine(state="starting"))

        status = await Scripted(answer).provider(part=1.0).wait("one/m1", "running", within_s=50)
        assert now() < 100
        return status

    assert virtually(run()).state == "running"
    assert virtually(Scripted(MISSING).provider().wait("one/m1", "running", within_s=5)).state == "gone"
    fly = Scripted(ok(machine(state="stopped")))
    assert virtually(fly.provider().wait("one/m1", "running", within_s=5)).state == "exited"
