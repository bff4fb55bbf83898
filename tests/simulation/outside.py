"""What the service works for: the receiver of what is finished, programs and people."""

import asyncio
import json
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import httpx

from actors.channels.final_callback import FinalCallback
from actors.exports import ExportRequest
from actors.rules.events import DeliveryEnded
from actors.rules.model import Job
from actors.store import Store
from tests.simulation.archiving import Archiving
from tests.simulation.chance import Chance, Happened
from tests.simulation.checks.deliveries import DeliveryChecks
from tests.simulation.loop import current, never
from worker.kinds.mods.options import Options

if TYPE_CHECKING:
    from tests.simulation.world import World


EXPORTS_SHARE: Final = 0.08
PI: Final = "01K8W0AG70YQWM0ESYWV3FY5SR"


async def _export(wanted: ExportRequest, engine: Any) -> Any:
    return await engine.export(wanted, None)


async def _downloaded(job_id: str, engine: Any) -> Any:
    return await engine.call(job_id, {"op": "downloaded", "job": job_id})


class WatchedCallback(FinalCallback):
    """The real one. The checker is told who begins to send."""

    def __init__(self, checker: DeliveryChecks, worker_url: str, store: Store, client: httpx.AsyncClient) -> None:
        super().__init__(worker_url, store, client)
        self._checker = checker

    async def send(self, job: Job, run: int) -> DeliveryEnded:
        """As in `FinalCallback`."""
        self._checker.delivers(job.id, run, current())
        return await super().send(job, run)


class Receiver:
    """Takes final callbacks."""

    def __init__(self, chance: Chance, checker: DeliveryChecks, trace: Callable[..., None]) -> None:
        self._chance, self._checker, self._trace = chance, checker, trace
        self.is_down = False

    def channel(self, opened: Store) -> FinalCallback:
        """The real channel, over a transport that ends here."""
        client = httpx.AsyncClient(transport=httpx.MockTransport(self._answer))
        return WatchedCallback(self._checker, "http://receiver.invalid", opened, client)

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        await self._dies_now_and_then("host.dies_before")
        body = await request.aread()
        key = request.headers["Idempotency-Key"]
        batch = key.rpartition(":")[0]
        if self.is_down or self._chance.hits("receiver.fails"):
            return httpx.Response(503, text="down")
        self._trace("delivered", key)
        self._checker.received(batch, key, body)
        self._checker.accepted.add(key)
        await self._dies_now_and_then("host.dies_after")
        if self._chance.hits("receiver.answer_lost"):
            raise httpx.ReadTimeout("the answer was lost", request=request)
        return httpx.Response(200, json={"ok": True})

    async def _dies_now_and_then(self, fault: str) -> None:
        host = current()
        if host is not None and self._chance.hits(fault):
            self._trace("killed amid a final callback:", host.name)
            host.kill()
            await never()


class Operators:
    """Who creates batches, and what else people do to them and to the service while they run."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._plan = world.plan
        self.tasks = 0
        self._bodies: dict[str, dict[str, Any]] = {}
        self._sizes: dict[str, int] = {}

    async def work(self) -> None:
        """All that is planned. Returns when the last of it is done and the batches have ended, or time is up."""
        plan, world = self._plan, self._world
        size = self._size()
        await self._create("b0", size)
        for n in range(plan.choice((0, 0, 0, 0, 0, 0, 0, 0, 2, 4))):  # a burst: small ones share their hosts
            await self._create(f"c{n}", plan.randint(1, 4))
        await self._export()
        archiving = Archiving(self._world, self)
        making = archiving.begin()
        acts: list[tuple[float, str]] = []
        for _ in range(plan.choice((0, 0, 1, 1, 2, 3, 4))):
            kind = plan.choice(
                ("cancel", "cancel", "reset", "retry", "create_again", "create_other", "redeliver", "new", "clock",
                 "outage", "kill", "kill", "kill_all")
            )  # fmt: skip
            acts.append((25 * plan.random() ** 2, kind))
        if world.has_long_outage:
            acts.append((1.0, "long_outage"))
        for n, (when, kind) in enumerate(sorted(acts)):
            await asyncio.sleep(max(0.0, when - world.loop.time()))
            if world.chance.may_happen(Happened(f"plan.{kind}", n)):
                await self._act(kind, n)
        if world.chance.stream("retention").random() < 0.04 and world.chance.may_happen(Happened("plan.month", 0)):
            self._let_a_month_pass()
        if making is not None:
            await making
        until = world.loop.time() + 60
        while not world.is_over() and world.loop.time() < until:
            await asyncio.sleep(1.0)

    def _size(self) -> int:
        """Half of the batches are below 10, the mean is about 20, the largest have 200."""
        drawn = self._plan.random()
        if drawn < 0.5:
            return self._plan.randint(1, 9)
        return self._plan.randint(10, 30) if drawn < 0.93 else self._plan.randint(31, 200)

    async def _create(self, job_id: str, size: int) -> None:
        kind = self._plan.choice(("files", "files", "files", "manifest", "prefix"))
        size = min(size, self._world.at_most)
        self.tasks += size
        keys = [f"{job_id}/p{n:03}.tif" for n in range(size)]
        objects = self._world.objects.objects
        if kind == "files":
            body: dict[str, Any] = {"files": [{"r2_key": key, "file_size": 1} for key in keys]}
        elif kind == "manifest":
            objects[f"{job_id}.json"] = json.dumps(
                {"files": [{"r2_key": key, "file_size": 1} for key in keys]}
            ).encode()
            body = {"manifest_r2_key": f"{job_id}.json"}
        else:
            objects.update(dict.fromkeys(keys, b"x"))
            body = {"r2_prefix": f"{job_id}/"}
        if self._plan.random() < 0.2:
            body["phases"] = ["TIFF_CONVERSION", "NOTED"]
        self._bodies[job_id], self._sizes[job_id] = body | {"batch_id": job_id}, size
        await self._post(job_id)

    async def _post(self, job_id: str) -> None:
        raw = json.dumps(self._bodies[job_id]).encode()
        status, told = await self.insist(lambda engine: engine.create(raw, None), f"create {job_id}")
        if status == 200:
            self._world.checker.jobs.creation_answered(told[0], self._sizes[job_id])

    async def _export(self) -> None:
        """Now and then: exports alone, which share their actors, or a batch of them; one may be ended or fetched."""
        plan = self._world.chance.stream("exports")
        if plan.random() >= EXPORTS_SHARE:
            return
        is_batch = plan.random() < 0.3
        for _ in range(1 if is_batch else plan.randint(1, 6)):
            wanted = ExportRequest(
                format="mods", pis=(PI,) * (plan.randint(1, 5) if is_batch else 1), options=Options(),
                is_batch=is_batch, removes_after_download=False,
            )  # fmt: skip
            self.tasks += len(wanted.pis)
            status, told = await self.insist(partial(_export, wanted), "export")
            if status != 200:
                continue
            job, _ids = told
            self._world.checker.jobs.creation_answered(job, 0)
            await asyncio.sleep(4 * plan.random() ** 2)
            act = plan.choice(("nothing", "nothing", "cancel", "retry", "downloaded"))
            if act == "downloaded":
                self._world.checker.jobs.may_go.add(job.id)
                await self.insist(partial(_downloaded, job.id), f"downloaded {job.id}")
            elif act != "nothing":
                await self.end_or_begin(act, job.id)

    async def end_or_begin(self, act: str, job_id: str) -> None:
        book = self._world.checker.facts.books.get(job_id)
        if book is None:
            return
        run = book.job.run
        request: dict[str, Any] = {"op": "cancel", "reason": "a person said so"}
        if act == "retry":
            request = {"op": "retry", "after_run": run, "created_at": book.job.created_at}
        status, _ = await self.insist(lambda engine: engine.call(job_id, request), f"{act} {job_id}")
        if status == 200 and act == "retry":
            self._world.checker.jobs.retried(job_id, run)
        if status == 200 and act == "cancel":
            self._world.checker.jobs.ended_by_operator(job_id, run)

    async def _create_other(self, job_id: str) -> None:
        raw = json.dumps({"batch_id": job_id, "files": [{"r2_key": "other.tif", "file_size": 1}]}).encode()
        status, told = await self.insist(lambda engine: engine.create(raw, None), f"create other {job_id}")
        if status == 200:
            self._world.checker.jobs.creation_answered(told[0], 1)

    async def insist(self, act: Callable[[Any], Any], what: str) -> tuple[int, Any]:
        """As a client does: again while nobody answers."""
        self._world.trace(what, "is sent")
        for _ in range(60):
            status, told = await self._world.front.operate(act)
            self._world.trace(what, "→", status, told.get("code", "") if isinstance(told, dict) else "")
            if status not in (0, 503):
                return status, told
            await asyncio.sleep(1.0)
        return 0, None

    async def _act(self, kind: str, n: int) -> None:
        world, plan = self._world, self._plan
        job_id = plan.choice(sorted(self._bodies))
        if kind == "new":
            await self._create(f"b{n + 1}", plan.randint(1, 5))
        elif kind == "create_again":
            await self._post(job_id)
        elif kind == "create_other":
            await self._create_other(job_id)
        elif kind in ("cancel", "reset", "retry", "redeliver"):
            await self._command(kind, job_id)
        elif kind == "clock":
            self._jump(plan.choice((-3_600_000, 3_600_000, -60_000, 60_000)))
            if plan.random() < 0.5:  # as when the machine that all stand on starts again
                self._kill_all()
        elif kind == "outage":
            await self._outage(plan.choice((5.0, 60.0)), jumps=plan.random() < 0.4)
        elif kind == "long_outage":
            await self._outage(3_600.0)
        elif kind == "kill_all":
            self._kill_all()
        else:
            name = plan.choice(sorted(world.service.actors))
            world.service.actors[name].process.kill()

    async def _outage(self, seconds: float, *, jumps: bool = False) -> None:
        self._world.trace("the receiver is down for", seconds)
        self._world.receiver.is_down = True
        await asyncio.sleep(seconds)
        if jumps:  # and all alarms are an hour ahead
            self._jump(-3_600_000)
            self._kill_all()
        self._world.receiver.is_down = False

    def _jump(self, by_ms: int) -> None:
        self._world.trace("the clock jumps by", by_ms)
        self._world.service.clock.offset_ms += by_ms
        self._world.checker.facts.clock_has_jumped = True

    def _let_a_month_pass(self) -> None:
        """For whoever removes what is old; the others go on as before."""
        self._world.checker.facts.month_is_over = True
        self._jump(31 * 24 * 3_600_000)
        self._world.service.actors["maintenance"].process.kill()

    def _kill_all(self) -> None:
        actors = self._world.service.actors
        for name in sorted(actors):
            actors[name].process.kill()

    async def _command(self, kind: str, job_id: str) -> None:
        book = self._world.checker.facts.books.get(job_id)
        if book is None:
            self._world.trace(kind, job_id, "is not sent: there is no such batch yet")
            return
        run, asked_at = book.job.run, self._world.loop.time()
        request: dict[str, Any] = {
            "cancel": {"op": "cancel", "reason": "a person said so"},
            "reset": {"op": "reset"},
            "retry": {"op": "retry", "after_run": run, "created_at": book.job.created_at},
            "redeliver": {"op": "redeliver"},
        }[kind]
        status, _ = await self.insist(lambda engine: engine.call(job_id, request), f"{kind} {job_id}")
        if status == 200 and kind == "retry":
            self._world.checker.jobs.retried(job_id, run)
        if status == 200 and kind == "redeliver":
            self._world.checker.deliveries.redelivered(job_id, run, asked_at)
        if status == 200 and kind in ("cancel", "reset"):
            self._world.checker.jobs.ended_by_operator(job_id, run)
            await self._begin_again(job_id)

    async def _begin_again(self, job_id: str) -> None:
        """Who has ended a batch mostly wants it back in another way."""
        how = self._plan.choice(("retry", "retry", "create_again", "create_other", "nothing"))
        await asyncio.sleep(self._plan.choice((0.1, 0.1, 3.0)) * self._plan.random())
        if how == "retry":
            await self._command("retry", job_id)
        elif how == "create_again":
            await self._post(job_id)
        elif how == "create_other":
            await self._create_other(job_id)
