"""The HTTP of it: token, app, machine, rate limit, faults of requests, then what was asked for; answers as documented.

Beside `/v1` there are three paths for whoever tests: `GET /_log`, `GET /_counters`, `GET` and `POST /_faults`.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from tests.stand_ins.fly import bodies
from tests.stand_ins.fly.admission import Admission, Call, has_lease
from tests.stand_ins.fly.chance import Chance
from tests.stand_ins.fly.errors import Refusal, machine_not_found
from tests.stand_ins.fly.faults import FAULTS, Faults
from tests.stand_ins.fly.fleet import Fleet
from tests.stand_ins.fly.journal import Journal
from tests.stand_ins.fly.machine import Machine
from tests.stand_ins.fly.settings import REGIONS, Settings

MOST_WAIT_S: Final = 60
WAITED_FOR: Final = frozenset({"started", "stopped", "suspended", "destroyed"})
Handler = Callable[["Call"], Awaitable[Response]]


class Api:
    """The endpoints. `asgi` is the application."""

    def __init__(self, settings: Settings, fleet: Fleet, chance: Chance, faults: Faults, journal: Journal) -> None:
        self._settings = settings
        self._fleet = fleet
        self._faults = faults
        self._journal = journal
        self._admission = Admission(settings, fleet, chance, faults, journal)
        self.asgi = Starlette(routes=self._routes(), exception_handlers={HTTPException: _not_found})

    def _routes(self) -> list[Route]:
        app, one = "/v1/apps/{app}", "/v1/apps/{app}/machines/{id}"
        table: list[tuple[str, str, str, Handler]] = [
            ("GET", app, "show_app", self._show_app),
            ("POST", f"{app}/machines", "create", self._create),
            ("GET", f"{app}/machines", "list", self._list),
            ("GET", one, "get", self._get),
            ("POST", one, "update", self._update),
            ("DELETE", one, "destroy", self._destroy),
            ("GET", f"{one}/wait", "wait", self._wait),
            ("POST", f"{one}/start", "start", self._start),
            ("POST", f"{one}/stop", "stop", self._stop),
            ("POST", f"{one}/restart", "restart", self._restart),
            ("POST", f"{one}/suspend", "suspend", self._suspend),
            ("GET", f"{one}/events", "events", self._events),
            ("POST", f"{one}/cordon", "cordon", self._cordon),
            ("POST", f"{one}/uncordon", "uncordon", self._cordon),
            ("GET", f"{one}/metadata", "metadata", self._metadata),
            ("POST", f"{one}/metadata/{{key}}", "set_metadata", self._set_metadata),
            ("DELETE", f"{one}/metadata/{{key}}", "delete_metadata", self._delete_metadata),
            ("GET", f"{one}/lease", "show_lease", self._show_lease),
            ("POST", f"{one}/lease", "take_lease", self._take_lease),
            ("DELETE", f"{one}/lease", "release_lease", self._release_lease),
        ]
        routes = [Route(path, self._endpoint(action, handler), methods=[verb]) for verb, path, action, handler in table]
        return [
            *routes,
            Route("/_log", self._log, methods=["GET"]),
            Route("/_counters", self._counters, methods=["GET"]),
            Route("/_faults", self._switch, methods=["GET", "POST"]),
        ]

    # What every request goes through

    def _endpoint(self, action: str, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            self._journal.counters[f"request.{action}"] += 1
            call = Call(action, request, request.path_params["app"], await request.body())
            try:
                self._admission.admit(call)
                return await handler(call)
            except Refusal as refusal:
                return self._admission.refuse(call, refusal)

        return endpoint

    # Machines

    async def _show_app(self, call: Call) -> Response:
        organisation = {"name": self._settings.organisation, "slug": self._settings.organisation}
        return JSONResponse({"id": call.app, "name": call.app, "status": "deployed", "organization": organisation})

    async def _create(self, call: Call) -> Response:
        body = bodies.decode(call.raw, bodies.CreateMachine)
        call.env = body.config.env
        bodies.checked(body, REGIONS)
        region = body.region or "ord"
        self._admission.check_capacity(call, region, body.name)
        machine = self._fleet.create(call.app, body, _config(call.raw))
        shown = machine.as_json()
        if machine.lease_nonce is not None:
            shown["nonce"] = machine.lease_nonce
        await self._admission.lose_answer(call, machine)
        return JSONResponse(shown)

    async def _list(self, call: Call) -> Response:
        metadata = {key[len("metadata.") :]: value for key, value in call.query.items() if key.startswith("metadata.")}
        states = {state for state in call.query.get("state", "").split(",") if state}
        region = call.query.get("region")
        shown = [
            machine.as_json(summary=call.is_true("summary"))
            for machine in self._fleet.machines(call.app, include_deleted=call.is_true("include_deleted"))
            if (not region or machine.region == region)
            and (not states or machine.state in states)
            and metadata.items() <= machine.settings.metadata.items()
        ]
        return JSONResponse(shown)

    async def _get(self, call: Call) -> Response:
        return JSONResponse(call.machine.as_json())

    async def _update(self, call: Call) -> Response:
        body = bodies.decode(call.raw, bodies.UpdateMachine)
        bodies.checked(body, REGIONS)
        self._fleet.update(call.machine, body, _config(call.raw))
        return JSONResponse(call.machine.as_json())

    async def _destroy(self, call: Call) -> Response:
        self._fleet.destroy(call.machine, force=call.is_true("force"))
        return JSONResponse({"ok": True})

    async def _wait(self, call: Call) -> Response:
        machine, state = call.machine, call.query.get("state", "started")
        if state not in WAITED_FOR:
            raise Refusal(400, f"invalid_argument: state {state!r} cannot be waited for")
        if state == "stopped" and not call.query.get("instance_id"):
            raise Refusal(400, "invalid_argument: instance_id is required to wait for stopped")
        if call.query.get("instance_id", machine.instance_id) != machine.instance_id:
            raise Refusal(404, "not_found: machine has no such version")
        timeout = call.query.get("timeout", str(MOST_WAIT_S))
        if not timeout.isdecimal() or not 1 <= int(timeout) <= MOST_WAIT_S:
            raise Refusal(400, f"invalid_argument: timeout must be from 1 to {MOST_WAIT_S} seconds")
        over = {state, "destroyed"}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(int(timeout)):
                await machine.until(lambda machine: machine.state in over)
        if machine.state == state:
            return JSONResponse({"ok": True})
        if machine.state == "destroyed":
            raise machine_not_found()
        message = f"machine failed to reach desired state, {state}, currently {machine.state}"
        raise Refusal(408, f"deadline_exceeded: {message}")

    async def _start(self, call: Call) -> Response:
        self._admission.check_capacity(call, call.machine.region, call.machine.name)
        previous = self._fleet.start(call.machine)
        await self._admission.lose_answer(call, call.machine)
        return JSONResponse({"previous_state": previous, "migrated": False, "new_host": ""})

    async def _stop(self, call: Call) -> Response:
        body = bodies.decode(call.raw, bodies.StopMachine)
        config = call.machine.settings.stop_config
        default_s = bodies.seconds(config.timeout, self._settings.stop_timeout_s)
        timeout_s = bodies.seconds(body.timeout, default_s)
        self._fleet.stop(call.machine, signal=bodies.stop_signal(body.signal), timeout_s=timeout_s)
        return JSONResponse({"ok": True})

    async def _restart(self, call: Call) -> Response:
        timeout_s = bodies.seconds(call.query.get("timeout", ""), self._settings.stop_timeout_s)
        self._fleet.restart(call.machine, timeout_s=timeout_s)
        return JSONResponse({"ok": True})

    async def _suspend(self, call: Call) -> Response:
        self._fleet.suspend(call.machine)
        return JSONResponse({"ok": True})

    async def _events(self, call: Call) -> Response:
        return JSONResponse(call.machine.events)

    async def _cordon(self, call: Call) -> Response:
        call.machine.is_cordoned = call.action == "cordon"
        return JSONResponse({"ok": True})

    async def _metadata(self, call: Call) -> Response:
        return JSONResponse(call.machine.settings.metadata)

    async def _set_metadata(self, call: Call) -> Response:
        try:
            value = msgspec.json.decode(call.raw, type=dict[str, str])["value"]
        except (msgspec.MsgspecError, KeyError):
            raise Refusal(400, 'invalid_argument: the body is not {"value": text}') from None
        self._change_metadata(call.machine, {call.request.path_params["key"]: value})
        return Response(status_code=204)

    async def _delete_metadata(self, call: Call) -> Response:
        self._change_metadata(call.machine, {call.request.path_params["key"]: None})
        return Response(status_code=204)

    def _change_metadata(self, machine: Machine, changes: Mapping[str, str | None]) -> None:
        both = {**machine.settings.metadata, **changes}
        changed = {name: value for name, value in both.items() if value is not None}
        machine.settings.metadata = changed
        machine.config = machine.config | {"metadata": changed}

    async def _show_lease(self, call: Call) -> Response:
        if not has_lease(call.machine):
            raise Refusal(404, "not_found: lease not found")
        return JSONResponse(_lease(call.machine))

    async def _take_lease(self, call: Call) -> Response:
        body = bodies.decode(call.raw, bodies.CreateLease)
        self._fleet.lease(call.machine, body.ttl or MOST_WAIT_S)
        return JSONResponse(_lease(call.machine))

    async def _release_lease(self, call: Call) -> Response:
        call.machine.lease_until = 0.0
        return JSONResponse({"ok": True})

    # For whoever tests

    async def _log(self, request: Request) -> Response:
        after = request.query_params.get("after", "0")
        return PlainTextResponse(self._journal.lines(int(after) if after.isdecimal() else 0))

    async def _counters(self, request: Request) -> Response:
        return JSONResponse(self._fleet.counters())

    async def _switch(self, request: Request) -> Response:
        if request.method == "POST":
            try:
                rates = msgspec.json.decode(await request.body(), type=dict[str, float])
                self._faults.set(rates)
                self._journal.note("switched", rates=rates)
            except (msgspec.MsgspecError, ValueError) as error:
                return JSONResponse({"error": str(error)}, 400)
        return JSONResponse({"rates": self._faults.rates, "faults": dict(FAULTS)})


def _config(raw: bytes) -> dict[str, Any]:
    """A valid body's configuration as it was sent, with the size that a machine without one has."""
    config: dict[str, Any] = msgspec.json.decode(raw)["config"]
    return config | {"guest": dict(bodies.GUEST) | config.get("guest", {})}


def _lease(machine: Machine) -> dict[str, Any]:
    return {
        "nonce": machine.lease_nonce,
        "expires_at": round(machine.lease_until),
        "owner": "stand-in",
        "description": "",
        "version": machine.instance_id,
    }


async def _not_found(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return JSONResponse({"error": "no such endpoint"}, status)
