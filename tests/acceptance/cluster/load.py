"""What a cluster does while its parts die: a batch of many tasks, small ones all the time, and workers of our own."""

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import httpx
import psycopg

from tests.acceptance.cluster import audit
from tests.acceptance.cluster.nodes import Cluster
from tests.acceptance.service import Hands, eventually

OVER: Final = "state IN ('done', 'failed', 'cancelled')"
NOT_OVER: Final = f"SELECT id FROM jobs WHERE NOT ({OVER}) OR delivery IN ('none', 'pending')"
AGAIN_S: Final = 0.2


class Standing(NamedTuple):
    """How far a job is."""

    over: bool
    completed: int


class Load:
    """Batches for as long as the block lasts. `created` has each whose creation was acknowledged, with its files."""

    def __init__(self, cluster: Cluster, picture: bytes, *, large: int, small: int = 3, most_open: int = 6) -> None:
        """`large`, `small`: tasks of a batch. No small one is created while `most_open` batches are not over."""
        self._cluster, self._picture = cluster, picture
        self._large, self._small, self._most_open = large, small, most_open
        self._over = threading.Event()
        self._prefix = f"l{time.time_ns() // 1_000_000 % 10**9}"
        self.created: dict[str, int] = {}
        self.acknowledged_at: dict[str, float] = {}
        self.refused = 0
        self.hands = Hands(cluster)
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._stream, self._one_after_another)]

    @contextlib.contextmanager
    def flowing(self) -> Iterator["Load"]:
        """It begins with a large batch under way. After the block nothing more is created; what was, goes on."""
        for thread in self._threads:
            thread.start()
        try:
            with self.hands.working():
                eventually(lambda: any(each.completed for each in self.open().values()), "a batch is under way")
                yield self
        finally:
            self._over.set()
            for thread in self._threads:
                thread.join()

    def open(self) -> dict[str, Standing]:
        """The batches that are not over. Raises psycopg.Error while the database is away."""
        return {job: each for job, each in self.standing().items() if not each.over}

    def standing(self) -> dict[str, Standing]:
        """All batches. Raises psycopg.Error while the database is away."""
        with psycopg.connect(self._cluster.database.url, connect_timeout=2) as database:
            found = database.execute(f"SELECT id, {OVER}, tasks_completed FROM jobs")  # type: ignore[call-overload]
            return {job: Standing(over, completed) for job, over, completed in found}

    def until_over(self, within_s: float) -> None:
        """Wait until everything has ended, and everybody was told. Else says what has not, row by row."""
        url = self._cluster.database.url
        with psycopg.connect(url, autocommit=True) as database:
            open_: list[str] = []

            def is_over() -> bool:
                open_[:] = [job for (job,) in database.execute(NOT_OVER)]  # type: ignore[call-overload]
                return not open_

            try:
                eventually(is_over, "every batch is over, and delivered", within_s)
            except AssertionError as error:
                rows = [f"{job}: {line}" for job in open_ for line in audit.standing_still(url, job)]
                raise AssertionError("\n".join([str(error), *rows])) from error

    def _stream(self) -> None:
        for number in itertools.count():
            while not self._over.is_set() and self._count_open() >= self._most_open:
                self._over.wait(AGAIN_S)
            if self._over.is_set():
                return
            self._create(f"{self._prefix}-s{number}", self._small)
            self._over.wait(AGAIN_S)

    def _one_after_another(self) -> None:
        for number in itertools.count():
            name = f"{self._prefix}-b{number}"
            self._create(name, self._large)
            while not self._over.is_set() and not self._is_over(name):
                self._over.wait(1)
            if self._over.is_set():
                return

    def _count_open(self) -> int:
        try:
            return len(self.open())
        except psycopg.Error:
            return self._most_open

    def _is_over(self, name: str) -> bool:
        try:
            return name not in self.open()
        except psycopg.Error:
            return False

    def _create(self, name: str, files: int) -> None:
        """Until it is acknowledged, or nothing more is wanted."""
        keys = [f"{name}/p{n:03}.tif" for n in range(files)]
        for key in keys:
            self._until_done(lambda key=key: self._cluster.put(key, self._picture))  # type: ignore[misc]
        body = {"batch_id": name, "files": [{"r2_key": key, "file_size": len(self._picture)} for key in keys]}
        with self._cluster.client() as http:
            while not self._over.is_set():
                if self._is_taken(http, body):
                    self.created[name] = files
                    self.acknowledged_at[name] = time.monotonic()
                    return
                self.refused += 1
                self._over.wait(AGAIN_S)

    def _is_taken(self, http: httpx.Client, body: dict[str, Any]) -> bool:
        try:
            return http.post("/batches", json=body, timeout=15).status_code in (200, 202)
        except httpx.HTTPError:
            return False

    def _until_done(self, write: Callable[[], None]) -> None:
        """The disk may be full."""
        while not self._over.is_set():
            try:
                return write()
            except OSError:
                self._over.wait(AGAIN_S)
