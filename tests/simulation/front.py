"""The way in: HAProxy and the replicas behind it, without HTTP. Behind them is the real engine of the front."""

import asyncio
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from actors.errors import ArkeError
from orchestrator import auth, callback_path
from tests.simulation import transcript
from tests.simulation.checks.facts import Assignment, assignment
from tests.simulation.loop import Process
from tests.simulation.machines import batch_and_task
from tests.simulation.processes import FRONTS
from tests.simulation.zips import Zips

if TYPE_CHECKING:
    from tests.simulation.world import World


class Front:
    """A caller gets a status and a body; 0 when nobody answered."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._times = world.chance.stream("http")
        self._late: set[asyncio.Task[Any]] = set()
        self.zips = Zips(world.objects, world.checker.archives, world.chance)

    async def callback(self, url: str, body: bytes) -> tuple[int, Any]:
        """POST to a CALLBACK_URL."""
        batch, task, query = batch_and_task(url)
        what = ""
        if self._world.is_traced:
            what = transcript.callback(task, parse_qs(query.decode()), body)
            self._world.trace(what)
        self._note_report(batch, url, body)

        async def answer(engine: Any) -> tuple[int, Any]:
            status, raw, _ = await callback_path.answer(engine, batch, task, query, body)
            told = json.loads(raw)
            if status == 200:
                self._note(batch, url, body, told)
            return status, told

        status, told = await self._ask(answer)
        if self._world.is_traced:
            self._world.trace(what, transcript.answer(status, told))
        return status, told

    def _note_report(self, batch: str, url: str, body: bytes) -> None:
        try:
            said = json.loads(body)
            self._world.checker.jobs.reports(
                batch, assignment({"CALLBACK_URL": url, "TASK_ID": said["task_id"]}), said["status"]
            )
        except (ValueError, TypeError, KeyError):
            return  # garbage

    def _note(self, batch: str, url: str, body: bytes, told: dict[str, Any]) -> None:
        said = json.loads(body)
        key: Assignment = assignment({"CALLBACK_URL": url, "TASK_ID": said["task_id"]})
        self._world.checker.jobs.callback_answered(batch, key, said["status"], told)

    async def claim(self, body: dict[str, Any], token: str) -> tuple[int, Any]:
        """POST /machines/claim."""

        async def answer(engine: Any) -> tuple[int, Any]:
            internal = auth.require_machine(engine, body["machine"], f"Bearer {token}")
            told = await engine.fleet({"op": "claim", "claim": body, "internal": internal})
            for env in told["tasks"]:
                self._world.checker.facts.check_given(env)
            return 200, told

        status, told = await self._ask(answer)
        if self._world.is_traced and not (status == 200 and not told["tasks"]):
            self._world.trace("claim", body["claim"], transcript.answer(status, told))
        return status, told

    def uploaded(self, key: str) -> None:
        """A worker has stored the file of an export."""
        self._world.objects.objects[key] = b"x"
        self._world.checker.facts.uploaded_at[key] = self._world.loop.time()

    async def operate(self, act: Callable[[Any], Any]) -> tuple[int, Any]:
        """A request of a program or an operator."""

        async def answer(engine: Any) -> tuple[int, Any]:
            return 200, await act(engine)

        return await self._ask(answer)

    async def _ask(self, answer: Callable[[Any], Any]) -> tuple[int, Any]:
        chance = self._world.chance
        if chance.hits("http.twice"):
            again = self._world.loop.create_task(self._once(answer))
            self._late.add(again)
            again.add_done_callback(self._late.discard)
        if chance.hits("http.late"):
            await asyncio.sleep(15 * self._times.random())
        if chance.hits("http.lost"):
            if self._times.random() < 0.5:
                await self._once(answer)
            return 0, None
        return await self._once(answer)

    async def _once(self, answer: Callable[[Any], Any]) -> tuple[int, Any]:
        """HAProxy: a replica that dies under a request is not the caller's problem, another one gets it."""
        await asyncio.sleep(self._world.network.latency())
        for _ in range(3):
            replica = self._replica()
            if replica is None:
                break
            name, process = replica
            reply: asyncio.Future[tuple[int, Any]] = self._world.loop.create_future()
            process.at_end.append(lambda reply=reply: reply.done() or reply.set_result((-1, None)))  # type: ignore[misc]
            process.begin(self._handle(name, answer, reply))
            status, told = await reply
            if status != -1:
                await asyncio.sleep(self._world.network.latency())
                return status, told
        return 503, None

    def _replica(self) -> tuple[str, Process] | None:
        service = self._world.service
        up = [name for name in FRONTS if name in service.fronts and service.actors[name].process.is_alive]
        if not up:
            return None
        name = up[int(self._times.random() * len(up))]
        return name, service.actors[name].process

    async def _handle(self, name: str, answer: Callable[[Any], Any], reply: "asyncio.Future[tuple[int, Any]]") -> None:
        try:
            outcome = await answer(self._world.service.fronts[name])
        except ArkeError as error:
            outcome = (error.status, {"error": error.message, "code": error.code})
        except Exception as error:  # noqa: BLE001 - as a caller of the front sees it
            self._world.fail(f"1: the front answers 500: {error!r}")
            return
        if not reply.done():
            reply.set_result(outcome)
