"""What stands between a request and what it asks for: token, app, machine, rate limit, lease, and faults."""

import asyncio
import hmac
import math
import time
from collections import Counter
from collections.abc import Mapping
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tests.stand_ins.fly.chance import Chance
from tests.stand_ins.fly.errors import Refusal
from tests.stand_ins.fly.faults import Faults
from tests.stand_ins.fly.fleet import Fleet
from tests.stand_ins.fly.journal import Journal, task_of
from tests.stand_ins.fly.limits import BY_APP, Limits
from tests.stand_ins.fly.machine import Machine
from tests.stand_ins.fly.settings import Settings

SERVER_ERRORS: Final = (
    (500, "internal: server error"),
    (502, "bad gateway"),
    (503, "unavailable: the service is temporarily unavailable"),
    (504, "deadline_exceeded: upstream request timeout"),
    (500, "resource_exhausted: rate limit exceeded"),
)


class Call:
    """One request to the API, as far as it has been understood."""

    def __init__(self, action: str, request: Request, app: str, raw: bytes) -> None:
        self.action = action
        self.request = request
        self.app = app
        self.raw = raw
        self.query: Mapping[str, str] = request.query_params
        self.env: Mapping[str, str] = {}
        self._machine: Machine | None = None

    @property
    def machine(self) -> Machine:
        """The machine of the path."""
        assert self._machine is not None
        return self._machine

    @machine.setter
    def machine(self, machine: Machine) -> None:
        self._machine, self.env = machine, machine.settings.env

    @property
    def who(self) -> str | None:
        """The name of the machine that there is or shall be."""
        return _name_of(self.raw) if self._machine is None else self._machine.name

    def is_true(self, name: str) -> bool:
        """A yes or no of the query. Raises Refusal 400."""
        value = self.query.get(name, "false")
        if value not in ("true", "false", "1", "0", ""):
            raise Refusal(400, f"invalid_argument: {name} is not a boolean")
        return value in ("true", "1")


class Admission:
    """Counts requests, and decides which of them get through."""

    def __init__(self, settings: Settings, fleet: Fleet, chance: Chance, faults: Faults, journal: Journal) -> None:
        self._settings = settings
        self._fleet = fleet
        self._chance = chance
        self._faults = faults
        self._journal = journal
        self._limits = Limits()
        self._tries: Counter[tuple[str, str]] = Counter()

    def admit(self, call: Call) -> None:
        """Raises Refusal for a request that gets no further. A machine that is not there is told before any limit."""
        self._authorise(call.request)
        if not self._fleet.has_app(call.app):
            raise Refusal(404, "app not found")
        if "id" in call.request.path_params:
            call.machine = self._fleet.machine(call.app, call.request.path_params["id"])
        self._limit(call)
        tries = self._try(call)
        if self._faults.hits("rate_limited", *tries):
            raise Refusal(429, "rate limit exceeded", retry_after_s=1, fault="rate_limited")
        if self._faults.hits("server_error", *tries):
            kind = int(self._chance.fraction("kind of server_error", *tries) * len(SERVER_ERRORS))
            raise Refusal(*SERVER_ERRORS[kind], fault="server_error")
        self._check_lease(call)

    def _authorise(self, request: Request) -> None:
        """Both forms are taken: `Bearer TOKEN`, and `FlyV1 TOKEN` without Bearer."""
        given = _secret(request.headers.get("Authorization", ""))
        if not hmac.compare_digest(given.encode(), _secret(f"Bearer {self._settings.token}").encode()):
            raise Refusal(401, "unauthorized: the token is missing or not valid")

    def _limit(self, call: Call) -> None:
        if not self._settings.limits or call.action == "show_app":
            return
        identifier = call.app if call.action in BY_APP else call.machine.id
        wait_s = self._limits.take(call.action, identifier)
        if wait_s > 0:
            self._journal.counters[f"limited.{call.action}"] += 1
            raise Refusal(429, "rate limit exceeded", retry_after_s=max(1, math.ceil(wait_s)))

    def _try(self, call: Call) -> tuple[object, ...]:
        """Whose request this is, and which of them: what the draws of its faults depend on."""
        who = call.who or call.app
        self._tries[call.action, who] += 1
        return call.action, who, self._tries[call.action, who]

    def _check_lease(self, call: Call) -> None:
        if call.request.method == "GET" or "id" not in call.request.path_params:
            return
        machine = call.machine
        nonce = call.request.headers.get("fly-machine-lease-nonce")
        if has_lease(machine) and nonce != machine.lease_nonce:
            raise Refusal(409, f"aborted: lease currently held, machine {machine.id}")

    def refuse(self, call: Call, refusal: Refusal) -> Response:
        """The answer, written down."""
        known = task_of(call.env)
        name = call.who
        if refusal.fault is not None:
            self._journal.note(
                "fault",
                fault=refusal.fault,
                app=call.app,
                machine=name,
                request=call.action,
                status=refusal.status,
                **known,
            )
        else:
            self._journal.note(
                "refused", app=call.app, machine=name, request=call.action, status=refusal.status, why=refusal.message
            )
        headers = {} if refusal.retry_after_s is None else {"Retry-After": str(refusal.retry_after_s)}
        return JSONResponse({"error": refusal.message}, refusal.status, headers)

    def check_capacity(self, call: Call, region: str, name: str) -> None:
        """Raises Refusal where the fault switches leave no place in that region."""
        subject = (call.action, name, self._tries[call.action, name or call.app])
        if self._faults.hits("no_capacity", *subject, region=region):
            raise Refusal(412, "insufficient resources available to fulfill request", fault="no_capacity")
        if self._faults.hits("no_memory", *subject, region=region):
            message = "could not reserve resource for machine: insufficient memory available to fulfill request"
            raise Refusal(409, f"aborted: {message}", fault="no_memory")
        if call.action == "create" and self._faults.hits("quota", *subject, region=region):
            raise Refusal(
                403,
                f'organization "{self._settings.organisation}" is using 1970176 MB of memory in {region} which is over '
                "the allowed quota. please consider other regions",
                fault="quota",
            )

    async def lose_answer(self, call: Call, machine: Machine) -> None:
        """Raises Refusal, long after the caller has given up: what was asked for is done all the same."""
        fault = f"{call.action}_times_out"
        if self._faults.hits(fault, machine.name, self._tries[call.action, machine.name], region=machine.region):
            self._journal.note(
                "fault", fault=fault, app=call.app, machine=machine.name, request=call.action, **task_of(call.env)
            )
            await asyncio.sleep(self._settings.unanswered_s)
            raise Refusal(504, "deadline_exceeded: upstream request timeout")


def has_lease(machine: Machine) -> bool:
    """Whether somebody holds it now."""
    return machine.lease_nonce is not None and machine.lease_until > time.time()


def _secret(header: str) -> str:
    for prefix in ("Bearer ", "FlyV1 "):
        header = header.removeprefix(prefix)
    return header


def _name_of(raw: bytes) -> str | None:
    """The name in a body of a creation, valid or not."""
    try:
        body = msgspec.json.decode(raw)
    except msgspec.MsgspecError:
        return None
    name = body.get("name") if isinstance(body, dict) else None
    return name if isinstance(name, str) else None
