"""Who has archives made of files, and what becomes of the files and of the archives meanwhile."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

from actors import archives, verifying
from actors.store.catalog_rows import CatalogExport, StorageFile
from tests.simulation.chance import Happened
from tests.simulation.checks.archives import Wanted

if TYPE_CHECKING:
    from tests.simulation.outside import Operators
    from tests.simulation.world import World

ARCHIVES_SHARE: Final = 0.08
MOST: Final = 60
LARGE: Final = 20_000_000
"""What the catalog says of some sizes, so that three files are a chunk."""


@contextmanager
def small_chunks() -> Iterator[None]:
    """Some files make several chunks, pages and reads."""
    with patch.object(verifying, "CHUNK_FILES", 6), patch.object(verifying, "PAGE", 5):
        yield


async def _archive(body: dict[str, Any], engine: Any) -> Any:
    return await engine.archive(archives.understand(json.dumps(body).encode()), None)


async def _add_files(files: list[StorageFile], engine: Any) -> None:
    await engine.add_files(files)


async def _add_row(row: CatalogExport, engine: Any) -> None:
    await engine.catalog.put_export(row)


class Archiving:
    """In a few runs. All that is drawn is from a stream of its own."""

    def __init__(self, world: "World", operators: "Operators") -> None:
        self._world, self._operators = world, operators
        self._plan = world.chance.stream("archives")
        self._acts = 0

    def begin(self) -> "asyncio.Task[None] | None":
        """What is to be waited for; None where nobody wants an archive."""
        if self._plan.random() >= ARCHIVES_SHARE:
            return None
        self._world.objects.is_fickle = True
        return asyncio.get_running_loop().create_task(self._work())

    async def _work(self) -> None:
        await asyncio.gather(*(self._one(n) for n in range(self._plan.choice((1, 1, 2, 3)))))

    async def _one(self, n: int) -> None:
        await asyncio.sleep(3 * self._plan.random())
        how = self._plan.choice(("prefix", "keys", "catalog", "catalog"))
        keys = self._files(f"files/a{n}/")
        if how == "prefix":
            await self._make({"r2_prefix": f"files/a{n}/"}, Wanted(frozenset(keys), frozenset(), is_listed=False), keys)
        elif how == "keys":
            absent = [f"files/a{n}/never{m}" for m in range(self._plan.choice((0, 0, 1, 4)))]
            listed = [*keys, *absent] or [f"files/a{n}/never0"]
            self._plan.shuffle(listed)
            wanted = Wanted(frozenset(keys), frozenset(listed) - frozenset(keys), is_listed=True)
            await self._make({"keys": listed}, wanted, keys)
        else:
            await self._of_catalog(n, keys)

    def _files(self, folder: str) -> list[str]:
        drawn = self._plan.random()
        size = 0 if drawn < 0.1 else self._plan.randint(1, 12) if drawn < 0.6 else self._plan.randint(13, MOST)
        size = min(size, self._world.at_most)
        self._operators.tasks += max(1, size)
        keys = [f"{folder}{m % 3}/p{m:03}" for m in range(size)]
        for key in keys:
            self._world.objects.store(key, key.encode() + b"x" * self._plan.randint(0, 400))
        return keys

    async def _of_catalog(self, n: int, keys: list[str]) -> None:
        plan, user = self._plan, f"u{n}"
        type_ = plan.choice(("full", "blog", "category"))
        absent = [f"files/a{n}/never{m}" for m in range(plan.choice((0, 0, 2)))]
        others = {f"files/a{n}/p{m:03}-other" for m in range(3)}  # of another product and category, or deleted
        files = [
            StorageFile(
                id=f"f{n}-{m:03}", user_id=user, r2_key=key, filename=key.rpartition("/")[2],
                size_bytes=plan.choice((10, LARGE)), created_at=1,
                deleted_at=1 if type_ == "full" and key in others else None,
                product="ivy" if key in others else "blog", category="notes" if key in others else "essays",
            )
            for m, key in enumerate([*keys, *absent, *sorted(others)])
        ]  # fmt: skip
        if await self._insisted(partial(_add_files, files), f"files of {user}") != 200:
            return
        wanted = Wanted(frozenset(keys), frozenset(absent), is_listed=True)
        filters = {"category": "essays"} if type_ == "category" else {}
        if plan.random() < 0.5:
            await self._make({"user_id": user, "export_type": type_, "filter_params": filters}, wanted, keys)
            return
        export_id = f"e{n}"
        row = CatalogExport(id=export_id, user_id=user, export_type=type_, filter_params=filters, created_at=5)
        if await self._insisted(partial(_add_row, row), f"row {export_id}") == 200:
            self._world.checker.archives.wanted[export_id] = wanted
            await self._start(export_id, keys)

    async def _insisted(self, act: Any, what: str) -> int:
        return (await self._operators.insist(act, what))[0]

    async def _make(self, body: dict[str, Any], wanted: Wanted, keys: list[str]) -> None:
        status, job = await self._operators.insist(partial(_archive, body), "archive")
        if status == 200:
            self._world.checker.archives.wanted[job.id] = wanted
            self._world.checker.jobs.creation_answered(job, None)
            await self._disturb(job.id, keys)
        elif status:
            self._world.fail(f"1: an archive is refused with {status}: {job}")

    async def _start(self, export_id: str, keys: list[str]) -> None:
        """Of a row that waits. A start whose answer was lost is answered as a second one is: refused."""
        status, told = await self._operators.insist(partial(_archive, {"export_id": export_id}), f"start {export_id}")
        if status not in (0, 200, 409) or (status == 409 and export_id not in self._world.checker.facts.books):
            self._world.fail(f"1: the start of {export_id} is refused with {status}: {told}")
        if status == 200:
            self._world.checker.jobs.creation_answered(told, None)
        if status and self._plan.random() < 0.5:
            second = partial(_archive, {"export_id": export_id})
            if await self._insisted(second, f"again {export_id}") == 200:
                self._world.fail(f"1: {export_id} was started twice")
        await self._disturb(export_id, keys)

    async def _disturb(self, job_id: str, keys: list[str]) -> None:
        plan = self._plan
        for _ in range(plan.choice((0, 1, 1, 2, 3))):
            await asyncio.sleep(plan.choice((0.3, 4.0, 12.0)) * plan.random())
            act = plan.choice(("cancel", "cancel", "retry", "kill", "kill", "vanish", "come", "double"))
            self._acts += 1
            if self._world.chance.may_happen(Happened(f"plan.archive_{act}", self._acts)):
                await self._act(act, job_id, keys)

    async def _act(self, act: str, job_id: str, keys: list[str]) -> None:
        world, plan = self._world, self._plan
        if act in ("cancel", "retry"):
            if act == "cancel" and world.chance.stream("archives.cancel").random() < 0.5:
                await self._until_it_is_made(job_id)
            await self._operators.end_or_begin(act, job_id)
        elif act in ("kill", "double"):
            names = [name for name in sorted(world.service.actors) if name.startswith("archives:")]
            for name in names:
                if act == "kill":
                    world.service.actors[name].process.kill()
                else:
                    world.service.double(name)
        elif act == "vanish":
            for key in plan.sample(keys, min(len(keys), plan.randint(1, 4))):
                world.checker.archives.touched.add(key)
                world.objects.objects.pop(key, None)
        elif keys:
            key = f"{plan.choice(keys)}-new"
            world.checker.archives.touched.add(key)
            world.objects.store(key, b"new")

    async def _until_it_is_made(self, job_id: str) -> None:
        """Who cancels while workers write finds out what they leave."""
        for _ in range(40):
            book = self._world.checker.facts.books.get(job_id)
            if book is not None and book.job.tasks_in_flight:
                break
            await asyncio.sleep(0.2)
        await asyncio.sleep(2 * self._world.chance.stream("archives.cancel").random())
