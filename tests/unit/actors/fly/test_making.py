"""Machines are made once, in the first place that has room, and every refusal says what to do."""

import asyncio
import json
import logging
from typing import Any

import httpx
import pytest

from actors.machines.base import MachineSpec, ProviderUnavailable, SpawnRefused
from actors.machines.fly.making import SPAWN_S
from actors.machines.fly.options import FlyOptions
from tests.stand_ins.fly.limits import Limits
from tests.unit.actors.fly.bench import (
    TOKEN,
    Scripted,
    error,
    machine,
    now,
    ok,
    options,
    spec,
    virtually,
)

TAKEN = 'already_exists: unique machine name violation, machine ID m7 already exists with name "tiff-a-1"'
FULL = error(412, "insufficient resources available to fulfill request")
CREATE, LIST = "POST one/machines", "GET one/machines"


def refused(fly: Scripted, *, wanted: MachineSpec | None = None, **changes: Any) -> SpawnRefused:
    """How the provider refuses a machine."""
    with pytest.raises(SpawnRefused) as refusal:
        virtually(fly.provider(**changes).spawn(wanted or spec()))
    return refusal.value


@pytest.mark.parametrize(
    ("token", "header"), [("abc", "Bearer abc"), ("FlyV1 fm2_a,fm2_b", "FlyV1 fm2_a,fm2_b"), ("Bearer x", "Bearer x")]
)
def test_both_forms_of_a_token_are_sent(token: str, header: str) -> None:
    """A token that begins with its scheme is the header itself."""
    fly = Scripted(ok(machine()))
    virtually(fly.provider(token=token).spawn(spec()))
    assert fly.requests[0].headers["Authorization"] == header


@pytest.mark.parametrize(
    ("kind", "memory_mb", "cpus", "has_mb"),
    [
        ("tiff", 512, 2, 1024),
        ("tiff", 2000, 2, 2048),
        ("tiff", 4096, 2, 4096),
        ("tiff", 4100, 4, 4352),
        ("tiff", 99_999, 8, 16_384),
        ("other", 9000, 2, 9216),
    ],
)
def test_a_machine_with_more_memory_has_the_processors_for_it(
    kind: str, memory_mb: int, cpus: int, has_mb: int
) -> None:
    """2 GB for a shared one and 8 GB for a performance one, in steps of 256 MB; the allowance is that of them all."""
    fly = Scripted(ok(machine()))
    virtually(fly.provider().spawn(MachineSpec(name="m", kind=kind, env={}, memory_mb=memory_mb)))
    config = fly.body()["config"]
    assert (config["guest"]["cpus"], config["guest"]["memory_mb"]) == (cpus, has_mb)
    assert config["env"].get("WORKER_CPU_BURST_S", f"{5 * cpus}") == f"{5 * cpus}"


def test_a_creation_says_all_that_a_machine_needs() -> None:
    """Byte for byte what the API gets, and the id that comes of it."""
    fly = Scripted(ok(machine("m5")))
    env = {
        "TASK_ID": "t-1", "BATCH_ID": "b-1", "MACHINE_NAME": "m-4-17",
        "CALLBACK_URL": "http://me/callback/b-1/t-1?run=2&attempt=3&sig=x",
    }  # fmt: skip
    wanted = MachineSpec(name="tiff-a-3", kind="tiff", env=env)
    assert virtually(fly.provider().spawn(wanted)) == "one/m5"
    assert str(fly.requests[0].url) == "http://fly.test/v1/apps/one/machines"
    assert fly.body() == {
        "name": "tiff-a-3",
        "region": "ord",
        "config": {
            "image": "registry.fly.io/worker:1",
            "env": {**env, "WORKER_CPU_BURST_S": "10", "WORKER_CPU_RATE": "0.125"},
            "auto_destroy": False,
            "restart": {"policy": "no"},
            "guest": {"cpu_kind": "shared", "cpus": 2, "memory_mb": 1024},
            "stop_config": {"signal": "SIGTERM", "timeout": "10s"},
            "metadata": {
                "arke_kind": "tiff", "arke_machine": "m-4-17", "arke_epoch": "4", "arke_batch": "b-1",
                "arke_task": "t-1", "arke_run": "2", "arke_attempt": "3",
                "arke_service": "arke-1", "arke_name": "tiff-a-3",
            },
        },
    }  # fmt: skip


def test_the_allowance_of_shared_processors_is_passed_on() -> None:
    """A performance machine has no such limit; what the fleet says itself counts more."""
    fly = Scripted(ok(machine("m5")))
    virtually(fly.provider().spawn(MachineSpec(name="zip-1", kind="zip", env={"A": "b"})))
    assert fly.body()["config"]["env"] == {"A": "b"}
    virtually(fly.provider().spawn(spec(WORKER_CPU_RATE="1")))
    assert fly.body(1)["config"]["env"]["WORKER_CPU_RATE"] == "1"


def test_a_kind_without_a_size_of_its_own_has_the_common_one() -> None:
    """And a machine of the pool is only prepared."""
    fly = Scripted(ok(machine("m5")))
    virtually(fly.provider().prepare(MachineSpec(name="zip-1", kind="zip", env={})))
    assert fly.body()["config"]["guest"] == {"cpu_kind": "performance", "cpus": 1, "memory_mb": 2048}
    assert fly.body()["skip_launch"] is True
    assert fly.body()["config"]["metadata"] == {"arke_kind": "zip", "arke_service": "arke-1", "arke_name": "zip-1"}


def test_retry_after_is_honoured_and_the_jitter_comes_on_top() -> None:
    """A 429 made nothing: nobody is looked up, the creation is repeated when it may be."""
    fly = Scripted(error(429, "rate limit exceeded", Retry_After="7"), ok(machine()))
    virtually(fly.provider(part=1.0).spawn(spec()))
    assert fly.asked == [CREATE, CREATE]
    assert fly.at == pytest.approx([0, 7.5], abs=0.1)


def test_what_was_perhaps_made_is_looked_up_and_adopted() -> None:
    """Invariant 3: the answer was lost; the machine is found by its name, and not made again."""
    for lost in (
        httpx.ReadTimeout("x"),
        httpx.RemoteProtocolError("x"),
        error(504, "deadline_exceeded"),
        error(500, ""),
    ):
        fly = Scripted(lost, ok([machine("m7")]))
        assert virtually(fly.provider().spawn(spec())) == "one/m7"
        assert fly.asked == [CREATE, LIST]
        assert dict(fly.requests[1].url.params) == {"metadata.arke_name": "tiff-a-1"}


def test_an_api_that_hangs_is_given_up_after_a_while() -> None:
    """The request has a bound of its own; then the name is looked up."""

    async def hangs(_: httpx.Request) -> httpx.Response:
        await asyncio.sleep(1e6)
        raise AssertionError

    fly = Scripted(hangs, ok([machine("m7")]))
    assert virtually(fly.provider().spawn(spec())) == "one/m7"
    assert fly.at == pytest.approx([0, 20])


def test_what_was_not_made_after_all_is_made() -> None:
    """The look-up finds nothing; should the first request still take effect, the second is told that the name is
    taken, and by whom."""
    fly = Scripted(httpx.ReadTimeout("x"), ok([]), error(409, TAKEN), ok(machine("m7")))
    assert virtually(fly.provider().spawn(spec())) == "one/m7"
    assert fly.asked == [CREATE, LIST, CREATE, "GET one/machines/m7"]


@pytest.mark.parametrize("status", [409, 422])
def test_a_name_that_is_taken_is_adopted(status: int) -> None:
    """By the id that the refusal names, or where it names none, by the list."""
    fly = Scripted(error(status, TAKEN), ok(machine("m7")))
    assert virtually(fly.provider().spawn(spec())) == "one/m7"
    fly = Scripted(error(status, "name tiff-a-1 is already taken"), ok([machine("m8")]))
    assert virtually(fly.provider().spawn(spec())) == "one/m8"


def test_a_machine_of_another_service_is_not_adopted() -> None:
    """It works for somebody else."""
    fly = Scripted(error(409, TAKEN), ok(machine("m7", metadata={"arke_service": "arke-2"})))
    refusal = refused(fly)
    assert refusal.permanent
    assert "set FLY_APP_NAME" in refusal.message


def test_another_region_is_asked_where_one_is_full() -> None:
    """At once; and the next machine is not asked for in the full one first, until half a minute has passed."""
    quota = error(403, "using 9 MB of memory in ord which is over the allowed quota. please consider other regions")
    memory = error(409, "aborted: could not reserve resource for machine: insufficient memory available")

    async def run(full: httpx.Response) -> list[str]:
        fly = Scripted(full, ok(machine()))
        provider = fly.provider()
        for name in ("a", "b"):
            await provider.spawn(spec(name))
        await asyncio.sleep(60)
        await provider.spawn(spec("c"))
        return [fly.body(number)["region"] for number in range(4)]

    for full in (quota, memory, FULL):
        assert virtually(run(full)) == ["ord", "iad", "iad", "ord"]


def test_when_all_regions_are_full_it_may_be_better_later() -> None:
    """The owner of the batch reads what the API said."""
    refusal = refused(Scripted(FULL))
    assert not refusal.permanent
    assert refusal.message == "Fly.io has no place for the machine: insufficient resources available to fulfill request"


def test_a_wrong_token_is_told_as_such() -> None:
    """It ends the tasks at once instead of spinning; nothing is asked twice."""
    fly = Scripted(error(401, f"unauthorized: {TOKEN}"))
    refusal = refused(fly)
    assert (refusal.permanent, refusal.message) == (True, "The Fly token is not accepted: set FLY_API_TOKEN.")
    assert len(fly.requests) == 1


@pytest.mark.parametrize(
    ("status", "said"),
    [(400, "invalid_argument"), (403, "not allowed"), (422, "invalid image identifier")],
)
def test_what_cannot_be_cured_is_permanent(status: int, said: str) -> None:
    """With the API's own words, and once only."""
    fly = Scripted(error(status, said))
    refusal = refused(fly)
    assert (refusal.permanent, refusal.message) == (True, f"Fly.io refuses the machine: {said}")
    assert len(fly.requests) == 1


def test_a_wrong_token_is_told_as_such_where_names_are_looked_for_first() -> None:
    """With several apps: a question comes before the first machine, and nothing is asked after it."""

    async def run() -> SpawnRefused:
        provider = Scripted(error(401, "unauthorized")).provider(apps=("a", "b"))
        with pytest.raises(SpawnRefused) as caught:
            await provider.spawn(spec("m"))
        return caught.value

    refusal = virtually(run())
    assert (refusal.hopeless, refusal.message) == (True, "The Fly token is not accepted: set FLY_API_TOKEN.")


def test_one_answer_does_not_make_an_app_absent_that_was_there() -> None:
    """The machine is asked for again, and those that run are not taken for gone."""
    answers = iter([ok([]), error(404, "app not found"), ok(machine()), ok([machine()])])

    async def run() -> tuple[str, int]:
        provider = Scripted(lambda _: next(answers)).provider()
        assert await provider.list() == []
        made = await provider.spawn(spec("m"))
        return made, len(await provider.list())

    made, listed = virtually(run())
    assert (made.partition("/")[0], listed) == ("one", 1)


def test_where_there_is_no_app_the_setting_is_named() -> None:
    """It ends the batch, instead of its tasks one by one; nothing is asked twice."""
    fly = Scripted(error(404, "app not found"))
    refusal = refused(fly)
    assert (refusal.permanent, refusal.hopeless) == (True, True)
    assert refusal.message == "Fly.io has no app one: create it, or set FLY_APP_NAMES to one that is there."
    assert len(fly.requests) == 1


def test_an_app_that_is_missing_holds_up_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """Neither finding nor making: the others are used, and the log names the one."""
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(f"{request.method} {request.url.path.split('/')[3]}")
        if "/apps/missing/" in request.url.path:
            return error(404, "app not found")
        return ok(machine()) if request.method == "POST" else ok([])

    async def run() -> list[str]:
        fly = Scripted(answer)
        provider = fly.provider(apps=("missing", "one"))
        return [await provider.spawn(spec(f"m{n}")) for n in range(3)] + [str(await provider.list())]

    assert [made.partition("/")[0] for made in virtually(run())] == ["one"] * 3 + ["[]"]
    assert asked.count("POST missing") == 0
    assert asked.count("GET missing") == 1
    assert caplog.text.count("app_missing app=missing") == 1


def test_an_app_that_was_there_is_not_believed_to_be_gone() -> None:
    """Its machines would be taken for dead, and their tasks be given to others."""
    answers = iter([ok([]), error(404, "app not found")])

    async def run() -> None:
        provider = Scripted(lambda _: next(answers)).provider()
        assert await provider.list() == []
        with pytest.raises(ProviderUnavailable, match="app not found"):
            await provider.list()

    virtually(run())


def test_a_short_token_garbles_nothing() -> None:
    """`t` in place of each t would tell nobody anything."""
    assert "invalid image identifier" in refused(Scripted(error(422, "invalid image identifier")), token="t").message


def test_a_refusal_repeats_no_secret_of_the_machine(caplog: pytest.LogCaptureFixture) -> None:
    """What the API echoes of a body is masked, as is the token; no log has it either."""
    caplog.set_level(logging.DEBUG)
    wanted = spec(MACHINE_TOKEN="tok-12345678", R2_SECRET_ACCESS_KEY="key-12345678")
    fly = Scripted(error(422, f"bad env tok-12345678 key-12345678 {TOKEN} {TOKEN.removeprefix('fm2_')}"))
    shown = refused(fly, wanted=wanted).message + caplog.text + repr(options()) + repr(fly.provider()) + str(options())
    for secret in ("12345678", TOKEN, TOKEN.removeprefix("fm2_")):
        assert secret not in shown


def test_a_refusal_repeats_no_signature_of_a_url() -> None:
    """The API may echo a URL as JSON writes it, or cut off."""
    url = "https://acc.example/b/p.tif?X-Amz-Expires=60&X-Amz-Signature=0123456789abcdef"
    wanted = spec(INPUT_URL=url, CALLBACK_URL="https://arke.example/callback/b/t?run=1&sig=0123456789abcdef")
    for echo in (url.replace("&", "\\u0026"), url[:-4], wanted.env["CALLBACK_URL"].replace("&", "\\u0026")):
        assert "01234567" not in refused(Scripted(error(422, f"bad env {echo}")), wanted=wanted).message


@pytest.mark.parametrize(
    ("always", "raised"),
    [
        (error(503, "unavailable"), ProviderUnavailable),
        (httpx.ReadTimeout("x"), ProviderUnavailable),
        (httpx.Response(200, content=b"garbage"), ProviderUnavailable),
        (error(429, "rate limit exceeded", Retry_After="2"), SpawnRefused),
        (error(429, "rate limit exceeded", Retry_After="999"), SpawnRefused),
        (error(500, "resource_exhausted: rate limit exceeded"), SpawnRefused),
        (httpx.ConnectError("x"), SpawnRefused),
        (error(409, "aborted: lease currently held"), SpawnRefused),
        (error(409, TAKEN), ProviderUnavailable),
    ],
)
def test_whatever_the_api_does_the_end_comes(always: Any, raised: type[Exception]) -> None:
    """Invariant 5: within the patience. A machine that may exist is not told as refused."""

    async def run() -> float:
        with pytest.raises(raised) as failure:
            await Scripted(always).provider(part=1.0).spawn(spec())
        assert not getattr(failure.value, "permanent", False)
        return now()

    assert virtually(run()) <= SPAWN_S + 1


def test_a_refused_name_is_known_to_be_nowhere() -> None:
    """The fleet destroys by name what was refused: for that nobody is asked."""

    async def run() -> None:
        fly = Scripted(FULL)
        provider = fly.provider()
        with pytest.raises(SpawnRefused):
            await provider.spawn(spec())
        asked = len(fly.requests)
        await provider.destroy("tiff-a-1")
        assert (await provider.inspect("tiff-a-1")).state == "gone"
        assert len(fly.requests) == asked

    virtually(run())


@pytest.mark.parametrize("name", ["", "a b", "a/b", "-a", "x" * 64, "ä"])
def test_a_name_that_fly_does_not_take_is_refused(name: str) -> None:
    """Nothing is asked."""
    fly = Scripted(ok(machine()))
    assert refused(fly, wanted=spec(name)).permanent
    assert fly.requests == []


class Counted:
    """An API that makes whatever it is asked for, and counts by the documented limits."""

    def __init__(self) -> None:
        self.made: dict[str, str] = {}
        self.at: list[float] = []
        self.limited = 0
        self._limits = Limits(clock=now)

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        app = request.url.path.split("/")[3]
        action = "create" if request.method == "POST" else "list"
        if self._limits.take(action, app) > 0:
            self.limited += 1
            return error(429, "rate limit exceeded", Retry_After="1")
        if action == "list":
            return ok([])
        name = json.loads(request.content)["name"]
        self.made[name] = app
        self.at.append(now())
        return ok(machine(f"id-{name}", name))


async def fill(given: FlyOptions, number: int) -> Counted:
    """Ask for so many machines at once."""
    from actors.machines.fly import FlyMachines

    fly = Counted()
    provider = FlyMachines(given, transport=httpx.MockTransport(fly))
    await asyncio.gather(*(provider.spawn(spec(f"m{n}")) for n in range(number)), return_exceptions=True)
    return fly


def test_several_apps_are_as_many_times_faster() -> None:
    """On a virtual clock: 40 machines in one app take 37 s after the burst, in two half of that, in four a quarter."""
    took = {}
    for apps in (("a",), ("a", "b"), ("a", "b", "c", "d")):
        fly = virtually(fill(options(apps=apps), 40))
        assert (len(fly.made), fly.limited) == (40, 0)
        took[len(apps)] = max(fly.at)
    assert took == pytest.approx({1: 37, 2: 17, 4: 7}, abs=0.2)


def test_who_has_no_turn_in_time_is_told_at_once() -> None:
    """A thousand at once: those beyond the patience are refused without waiting or asking, and not for good."""

    async def run() -> None:
        fly = Scripted(ok(machine()))
        provider = fly.provider()
        waiting = [asyncio.ensure_future(provider.spawn(spec(f"m{n}"))) for n in range(1000)]
        await asyncio.sleep(0.5)
        refusals = [each.exception() for each in waiting if each.done() and each.exception() is not None]
        assert len(refusals) == 1000 - 47
        assert all(isinstance(each, SpawnRefused) and not each.permanent for each in refusals)
        assert str(refusals[0]) == "Fly.io gives no machine now: its rate limit leaves no turn in time"
        await asyncio.gather(*waiting, return_exceptions=True)
        assert len(fly.requests) == 47

    virtually(run())


def test_the_fleet_can_ask_how_many_are_granted() -> None:
    """Then it begins no more than that."""

    async def run() -> list[int]:
        provider = Scripted(ok(machine())).provider(apps=("a", "b"))
        provider._making._knows_names = True
        before = provider.grants("tiff", 0, {}), provider.grants("tiff", 10, {})
        for n in range(6):
            await provider.spawn(spec(f"m{n}"))
        return [*before, provider.grants("tiff", 0, {}), provider.grants("tiff", 10, {})]

    assert virtually(run()) == [6, 26, 0, 20]


def test_kinds_share_the_turns_of_the_apps_that_they_share() -> None:
    """And no others: an app of one kind grants the other nothing."""

    async def run() -> list[int]:
        apps = {"mods": ("b", "c"), "zip": ("d",)}
        provider = Scripted(ok(machine())).provider(apps=("a", "b"), kind_apps=apps)
        before = {"mods": 2, "zip": 2}
        return [provider.grants(kind, 0, before) for kind in ("tiff", "mods", "zip")]

    assert virtually(run()) == [4, 4, 1]


def test_a_name_that_may_exist_is_not_told_as_refused() -> None:
    """Invariant 3: made once, the same again meets a full region before the API looks at the name."""

    async def run() -> None:
        provider = Scripted(ok(machine()), FULL).provider()
        await provider.spawn(spec())
        with pytest.raises(ProviderUnavailable):
            await provider.spawn(spec())

    virtually(run())


def test_with_several_apps_a_name_is_asked_for_where_it_is() -> None:
    """Invariant 3, after the death of the fleet's process: the machines of the former one are learnt once; the app
    that has the name says that it is taken, whichever app has a turn first."""

    async def run() -> tuple[str, list[str]]:
        def answer(request: httpx.Request) -> httpx.Response:
            app = request.url.path.split("/")[3]
            if request.method == "POST":
                limited = app == "two" and fly.asked.count("POST two/machines") < 2
                return (
                    error(429, "rate limit") if limited else error(409, TAKEN) if app == "two" else ok(machine("new"))
                )
            if request.url.path.endswith("/m7"):
                return ok(machine("m7"))
            return ok([machine("m7")] if app == "two" else [])

        fly = Scripted(answer)
        provider = fly.provider(apps=("one", "two"))
        first = await provider.spawn(spec())
        await provider.spawn(spec("tiff-b-1"))
        return first, fly.asked

    first, asked = virtually(run())
    assert first == "two/m7"
    assert asked == [LIST, "GET two/machines", *["POST two/machines"] * 2, "GET two/machines/m7", CREATE]


def test_the_whole_pool_is_of_one_image() -> None:
    """A tag may come to mean another image: the first answer of the registry counts, for what is prepared."""
    shown = machine("m1") | {"image_ref": {"digest": f"sha256:{'a' * 64}"}}
    fly = Scripted(ok(shown), ok(machine("m2")), ok(machine("m3")))

    async def make() -> None:
        provider = fly.provider(image="registry.fly.io/worker:1")
        for n in (1, 2):
            await provider.prepare(MachineSpec(name=f"pool-{n}", kind="tiff", env={}))
        await provider.spawn(spec())

    virtually(make())
    images = [fly.body(n)["config"]["image"] for n in range(3)]
    pinned = f"registry.fly.io/worker:1@sha256:{'a' * 64}"
    assert images == ["registry.fly.io/worker:1", pinned, "registry.fly.io/worker:1"]
