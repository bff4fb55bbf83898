"""The floor: what a callback costs where nothing but HTTP and SQLite is in its way.

uvicorn and SQLite (WAL, synchronous=FULL) with group commit in one process: each callback updates its
task's row and its batch's, and is answered after COMMIT. What arrives in one turn of the event loop is a
group. No Ray, no signatures, no rules, no recovery, no other processes.

    python -m bench.floor PORT FILE BATCHES TASKS asgi|route

`asgi` is the least that can be: one ASGI callable, no routing. `route` is the same behind an ordinary route of
FastAPI with a pydantic model, as a service would be written.
"""

import asyncio
import contextlib
import sqlite3
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Final

import fastapi
import msgspec
import pydantic
import uvicorn

SCHEMA: Final = """
CREATE TABLE batches (id TEXT PRIMARY KEY, completed INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE TABLE tasks (
    batch TEXT NOT NULL, task TEXT NOT NULL, status TEXT NOT NULL, output TEXT, name TEXT, size INTEGER,
    performance TEXT, PRIMARY KEY (batch, task)
) WITHOUT ROWID;
"""
UPDATE_TASK: Final = """
UPDATE tasks SET status = 'completed', output = ?, name = ?, size = ?, performance = ? WHERE batch = ? AND task = ?
"""
UPDATE_BATCH: Final = "UPDATE batches SET completed = completed + ? WHERE id = ?"


class Report(msgspec.Struct):
    """The callback of a worker."""

    task_id: str
    batch_id: str
    status: str
    output_r2_key: str
    output_file_name: str
    output_file_size: int
    performance: dict[str, Any]


class Floor:
    """The ASGI application."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA synchronous=FULL")
        self._waiting: list[tuple[Report, asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one callback after its commit."""
        if scope["type"] != "http":
            return
        message = await receive()
        body = message["body"]
        while message.get("more_body"):
            message = await receive()
            body += message["body"]
        if scope["method"] == "POST":
            await self.keep(msgspec.json.decode(body, type=Report))
        answer = b'{"ok":true,"received":true}'
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    def keep(self, report: Report) -> "asyncio.Future[None]":
        """Ends after the commit."""
        loop = asyncio.get_running_loop()
        kept: asyncio.Future[None] = loop.create_future()
        self._waiting.append((report, kept))
        if self._writer is None or self._writer.done():
            self._writer = loop.create_task(self._write())
        return kept

    async def _write(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            self._commit([report for report, _ in group])
            for _, kept in group:
                if not kept.done():
                    kept.set_result(None)

    def _commit(self, group: list[Report]) -> None:
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        db.executemany(
            UPDATE_TASK,
            [
                (
                    one.output_r2_key,
                    one.output_file_name,
                    one.output_file_size,
                    msgspec.json.encode(one.performance).decode(),
                    one.batch_id,
                    one.task_id,
                )
                for one in group
            ],
        )
        counts = Counter(one.batch_id for one in group)
        db.executemany(UPDATE_BATCH, [(count, batch) for batch, count in counts.items()])
        db.execute("COMMIT")


class Body(pydantic.BaseModel):
    """The same callback, as FastAPI takes it."""

    task_id: str
    batch_id: str
    status: str
    output_r2_key: str
    output_file_name: str
    output_file_size: int
    performance: dict[str, Any]


def with_routes(floor: Floor) -> fastapi.FastAPI:
    """The floor behind routes."""
    app = fastapi.FastAPI()

    @app.get("/")
    async def root() -> dict[str, bool]:
        return {"ok": True}

    @app.post("/callback/{batch}/{task}")
    async def callback(batch: str, task: str, body: Body) -> dict[str, bool]:
        await floor.keep(Report(**body.model_dump()))
        return {"ok": True, "received": True}

    return app


def fill(path: Path, batches: int, tasks: int) -> None:
    """A new file with its rows."""
    for old in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        old.unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.executescript(SCHEMA)
        db.executemany("INSERT INTO batches (id) VALUES (?)", [(f"b{batch}",) for batch in range(batches)])
        db.executemany(
            "INSERT INTO tasks (batch, task, status) VALUES (?, ?, 'processing')",
            [(f"b{batch}", f"b{batch}_tiff_{n}") for batch in range(batches) for n in range(tasks)],
        )
        db.commit()


def main() -> None:
    """Fill the file and serve until SIGTERM."""
    port, path, batches, tasks = int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    fill(path, batches, tasks)
    floor = Floor(path)
    uvicorn.run(
        with_routes(floor) if sys.argv[5] == "route" else floor,
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
        lifespan="off",
    )


if __name__ == "__main__":
    main()
